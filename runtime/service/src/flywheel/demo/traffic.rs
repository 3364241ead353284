//! Who does what when: an endless sequence of timed records that depends on its seed alone.
//!
//! An agenda holds what is still to happen, in order of time. Tasks and sessions arrive at a steady pace
//! and put their tries and calls on the agenda; a try puts on it what comes later of it: scores, a
//! person's verdict, a correction, a copy, a deletion. What is late is made at once and waits as a line.

use super::broken::spoilt;
use super::records::{CallRecord, FILES, File, Message, Record, Trajectory, deletion, line, timestamp};
use super::talk::{AGENTS, Agent, Grade, Task};
use super::texts::Texts;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value as Json;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// Microseconds of a second.
const SECOND: u64 = 1_000_000;
/// New tasks a second; each is tried about three times.
const TASKS_PER_SECOND: u64 = 120;
/// New sessions a second; each has about two calls.
const SESSIONS_PER_SECOND: u64 = 180;
/// When the second region begins to log.
const EU_BEGINS: u64 = 2 * SECOND;
/// Of each file, one in so many records is followed by a broken one.
const BROKEN_EVERY: usize = 200;
/// Questions that sessions ask again.
const QUESTIONS_KEPT: usize = 40;

const TENANTS: [&str; 3] = ["acme", "borealis", "cumulus"];
const TENANTS_EU: [&str; 2] = ["delta-eu", "fjord-eu"];

/// Something that is still to happen.
enum Event {
    /// A task arrives.
    Task,
    /// A task is tried for the nth time.
    Try(Rc<Task>, usize),
    /// A conversation begins.
    Session,
    /// A record is written.
    Line(File, String),
}

/// A record that judges may look at.
pub(super) struct Subject {
    /// Which stream's.
    pub file: &'static str,
    /// Its identity.
    pub id: String,
    /// How good it is in truth.
    pub grade: Grade,
    /// Whether a program can check it.
    pub checkable: bool,
}

/// The sequence; see the module.
pub struct Traffic {
    pub(super) rng: ChaCha8Rng,
    texts: Texts,
    agenda: BTreeMap<(u64, u64), Event>,
    /// How many events were ever put on the agenda: what is due at one time happens in their order.
    events: u64,
    ready: VecDeque<Record>,
    written: [usize; FILES.len()],
    tasks: u64,
    sessions: u64,
    calls: u64,
    pub(super) scores: u64,
    questions: VecDeque<Rc<Task>>,
}

impl Iterator for Traffic {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        while self.ready.is_empty() {
            let ((at, _), event) = self.agenda.pop_first()?;
            match event {
                Event::Task => self.task(at),
                Event::Try(task, n) => self.attempt(at, &task, n),
                Event::Session => self.session(at),
                Event::Line(file, line) => self.write(at, file, line),
            }
        }
        self.ready.pop_front()
    }
}

impl Traffic {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Self {
        let mut traffic = Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            texts: Texts::load(),
            agenda: BTreeMap::new(),
            events: 0,
            ready: VecDeque::new(),
            written: [0; FILES.len()],
            tasks: 0,
            sessions: 0,
            calls: 0,
            scores: 0,
            questions: VecDeque::new(),
        };
        traffic.plan(0, Event::Task);
        traffic.plan(0, Event::Session);
        traffic
    }

    fn plan(&mut self, at: u64, event: Event) {
        self.events += 1;
        self.agenda.insert((at, self.events), event);
    }

    /// Puts a record on the agenda.
    pub(super) fn later(&mut self, at: u64, file: File, line: String) {
        self.plan(at, Event::Line(file, line));
    }

    /// Whether something happens that does so many times in 1000.
    pub(super) fn happens(&mut self, in_1000: u32) -> bool {
        self.rng.random_range(0..1000) < in_1000
    }

    /// A time that is so many milliseconds after another.
    pub(super) fn after(&mut self, at: u64, milliseconds: std::ops::Range<u64>) -> u64 {
        at + self.rng.random_range(milliseconds.start * 1000..milliseconds.end * 1000)
    }

    /// A pace of about so many a second.
    fn next_of(&mut self, at: u64, per_second: u64) -> u64 {
        let mean = SECOND / per_second;
        at + self.rng.random_range(mean / 2..mean * 3 / 2)
    }

    fn write(&mut self, at: u64, file: File, line: String) {
        let written = &mut self.written[file as usize];
        *written += 1;
        let broken = (*written % BROKEN_EVERY == BROKEN_EVERY / 4)
            .then(|| spoilt(file, &line, *written / BROKEN_EVERY));
        self.ready.push_back(Record { at, file, line });
        self.ready.extend(broken.map(|line| Record { at, file, line }));
    }

    fn tenant(&mut self, at: u64) -> &'static str {
        match at >= EU_BEGINS && self.happens(250) {
            true => TENANTS_EU[self.rng.random_range(0..TENANTS_EU.len())],
            false => TENANTS[self.rng.random_range(0..TENANTS.len())],
        }
    }

    fn task(&mut self, at: u64) {
        let next = self.next_of(at, TASKS_PER_SECOND);
        self.plan(next, Event::Task);
        self.tasks += 1;
        let tenant = self.tenant(at);
        let task = Rc::new(Task::draw(&mut self.rng, &self.texts, self.tasks, tenant));
        for n in 0..self.rng.random_range(2..5) {
            let when = self.after(at, 0..1200);
            self.plan(when, Event::Try(task.clone(), n));
        }
    }

    fn attempt(&mut self, at: u64, task: &Rc<Task>, n: usize) {
        let agent = &AGENTS[(task.number as usize + n) % AGENTS.len()];
        let grade = agent.grade(&mut self.rng);
        let id = format!("run-{:05}-{}", task.number, n + 1);
        let crashed = self.happens(20);
        let messages = match crashed {
            true => task.opening.clone(),
            false => task.conversation(&mut self.rng, &self.texts, agent, grade),
        };
        let record = Trajectory {
            id: id.clone(),
            task_id: task.name(&self.texts),
            agent: agent.name,
            model: agent.model,
            outcome: match grade {
                _ if crashed => "crashed",
                Grade::Good => "solved",
                Grade::Fair => "handed over",
                Grade::Poor => "closed",
            },
            reward: if crashed { None } else { self.reported(grade) },
            tenant: task.tenant,
            user_id: task.user_id.clone(),
            ts: timestamp(at),
            messages,
            tools: task.tools.clone(),
        };
        let file = match TENANTS_EU.contains(&task.tenant) {
            true => File::TrajectoriesEu,
            false => File::Trajectories,
        };
        self.write(at, file, line(&record));
        self.what_becomes_of(at, file, record);
        let checkable = matches!(self.texts.domains[task.topic.0].name.as_str(), "coding" | "data");
        self.judged(at, &Subject { file: "trajectories", id, grade, checkable });
    }

    /// What an agent says of its own work: often nothing, sometimes too much.
    fn reported(&mut self, grade: Grade) -> Option<f64> {
        let (low, high) = match grade {
            Grade::Good => (80, 101),
            Grade::Fair => (40, 75),
            Grade::Poor if self.happens(200) => (85, 101),
            Grade::Poor => (0, 30),
        };
        let reward = f64::from(self.rng.random_range(low..high)) / 100.0;
        (!self.happens(250)).then_some(reward)
    }

    /// Corrections, copies and deletions of a trajectory.
    fn what_becomes_of(&mut self, at: u64, file: File, mut record: Trajectory) {
        match self.rng.random_range(0..1000) {
            0..20 => {
                let when = self.after(at, 800..3000);
                (record.outcome, record.reward) = ("reopened", Some(0.2));
                record.ts = timestamp(when);
                self.later(when, file, line(&record));
            }
            20..35 => {
                let when = self.after(at, 200..2000);
                record.id = format!("{}-again", record.id);
                self.later(when, file, line(&record));
            }
            35..47 => {
                let when = self.after(at, 1000..4000);
                self.later(when, file, deletion("id", &record.id));
            }
            47..52 if file == File::TrajectoriesEu => {
                let when = self.after(at, 100..1000);
                record.outcome = "moved";
                self.later(when, File::Trajectories, line(&record));
            }
            _ => {}
        }
    }

    fn session(&mut self, at: u64) {
        let next = self.next_of(at, SESSIONS_PER_SECOND);
        self.plan(next, Event::Session);
        self.sessions += 1;
        let task = self.question(at);
        let agent = AGENTS[self.rng.random_range(0..AGENTS.len())];
        let (mut at, mut prompt) = (at, task.opening.clone());
        for _ in 0..self.rng.random_range(1..4) {
            let (record, grade) = self.call(at, &task, &agent, prompt.clone());
            let answered = record.response.is_some() || record.response_tool_calls.is_some();
            prompt.extend(self.turn(&task, &record));
            let id = record.request_id.clone();
            let file = File::Calls;
            self.later(at, file, line(&record));
            if !answered {
                break;
            }
            if self.happens(10) {
                let when = self.after(at, 500..3000);
                self.later(when, file, deletion("request_id", &id));
            }
            if self.happens(20) {
                let when = self.after(at, 100..1500);
                let copy = CallRecord { request_id: format!("{id}-retry"), ..record };
                self.later(when, file, line(&copy));
            }
            self.judged(at, &Subject { file: "calls", id, grade, checkable: false });
            at = self.after(at, 300..1500);
        }
    }

    /// A question: often one that was asked before, word for word.
    fn question(&mut self, at: u64) -> Rc<Task> {
        let known = self.questions.len();
        if known == QUESTIONS_KEPT && self.happens(600) {
            return self.questions[self.rng.random_range(0..known)].clone();
        }
        let tenant = self.tenant(at);
        let task = Rc::new(Task::draw(&mut self.rng, &self.texts, self.sessions, tenant));
        self.questions.push_back(task.clone());
        if self.questions.len() > QUESTIONS_KEPT {
            self.questions.pop_front();
        }
        task
    }

    fn call(&mut self, at: u64, task: &Task, agent: &Agent, prompt: Vec<Message>) -> (CallRecord, Grade) {
        self.calls += 1;
        let grade = agent.grade(&mut self.rng);
        let failed = self.happens(30);
        let first = prompt.len() == task.opening.len();
        let looks_up = first && !task.tools.is_null() && self.happens(350);
        let tool_calls = (looks_up && !failed).then(|| {
            task.tool_call(&self.texts, &format!("call_{:08x}", self.rng.random_range(0..u32::MAX)))
        });
        let next = prompt.last().and_then(|last| task.follow_answer(&self.texts, last));
        let answer = match next.filter(|_| grade == Grade::Good) {
            Some(answer) => answer,
            None => task.answer(&mut self.rng, &self.texts, grade),
        };
        let thinks = agent.name == "atlas" && self.happens(400);
        let record = CallRecord {
            request_id: format!("req-{:06}", self.calls),
            session_id: format!("ses-{:05}", self.sessions),
            model: agent.model,
            status: if failed { [429, 500, 503][self.rng.random_range(0..3)] } else { 200 },
            tenant: task.tenant,
            user_id: task.user_id.clone(),
            ts: timestamp(at),
            prompt,
            response: (!failed && tool_calls.is_none()).then_some(answer),
            response_tool_calls: tool_calls,
            reasoning: thinks.then(|| {
                task.facts.fill(
                    "The user asks about {subject}. I should answer from the record, in a few sentences.",
                )
            }),
            tools: task.tools.clone(),
        };
        (record, grade)
    }

    /// What a call adds to the prompt of the next: its answer, and what the tool or the user says to it.
    fn turn(&mut self, task: &Task, record: &CallRecord) -> [Message; 2] {
        if let Some(calls) = &record.response_tool_calls {
            let id = calls[0]["id"].as_str().map(str::to_string);
            let asked = Message {
                content: Json::Null,
                tool_calls: Some(calls.clone()),
                ..Message::text("assistant", "")
            };
            let result = Message::text("tool", task.tool_result(&self.texts));
            return [asked, Message { tool_call_id: id, ..result }];
        }
        let answered = Message::text("assistant", record.response.clone().unwrap_or_default());
        [answered, Message::text("user", task.follow_up(&mut self.rng, &self.texts).0)]
    }
}
