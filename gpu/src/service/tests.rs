//! The service under models that fail, panic, lie and hang, and under devices that die.

use super::*;
use crate::Lexical;
use crossbeam_channel::unbounded;
use std::{collections::HashMap, sync::atomic::AtomicUsize};
use tidemill_core::model::{AttemptError, Outcome};
use tokio::runtime::Runtime;

type Outputs = Vec<Result<Vec<f32>, AttemptError>>;

const WAIT: Duration = Duration::from_secs(20);

/// A model of two dimensions that does what a test says.
struct Scripted<F>(F);

impl<F: Fn(&[&str]) -> Outputs + Send + Sync> Model for Scripted<F> {
    fn id(&self) -> ModelId {
        ModelId { model: "scripted".into(), version: "1".into() }
    }

    fn tokens(&self, text: &str) -> u64 {
        assert_ne!(text, "uncountable");
        text.len() as u64
    }

    fn dimensions(&self) -> Option<usize> {
        Some(2)
    }

    fn embed(&self, texts: &[&str]) -> Outputs {
        (self.0)(texts)
    }
}

/// The right answers.
fn right(texts: &[&str]) -> Outputs {
    texts.iter().map(|text| Ok(vec![text.len() as f32, 1.0])).collect()
}

/// The number of a call, from 0.
#[derive(Default)]
struct Calls(AtomicUsize);

impl Calls {
    fn next(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

struct Bench {
    service: InferenceService,
    runtime: Runtime,
    reply: Sender<Done>,
    replies: Receiver<Done>,
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

fn job(text: &str) -> Job {
    Job { digest: *blake3::hash(text.as_bytes()).as_bytes(), text: text.into() }
}

fn small() -> Options {
    Options { batch_rows: 8, batch_tokens: 1000, ..Options::default() }
}

impl Bench {
    fn new(model: impl Model + 'static, options: Options) -> Self {
        let runtime = runtime();
        let service = InferenceService::start(Arc::new(model), options, runtime.handle());
        let (reply, replies) = unbounded();
        Self { service: service.expect("good options"), runtime, reply, replies }
    }

    fn scripted(embed: impl Fn(&[&str]) -> Outputs + Send + Sync + 'static) -> Self {
        Self::new(Scripted(embed), small())
    }

    fn offer(&self, text: &str) -> Result<(), Job> {
        self.service.offer(job(text), self.reply.clone())
    }

    fn next(&self) -> Done {
        self.replies.recv_timeout(WAIT).expect("a reply")
    }

    /// Offers all, waits for all, stops, and checks that there was one reply for each and no more.
    fn outcomes(&self, texts: &[&str]) -> HashMap<String, Outcome> {
        texts.iter().for_each(|text| self.offer(text).expect("room in the queue"));
        let done: Vec<_> = texts.iter().map(|_| self.next()).collect();
        let metrics = self.service.metrics();
        assert_eq!((metrics.queue_rows, metrics.queue_tokens), (0, 0));
        assert_eq!(metrics.rows_done + metrics.failures, texts.len() as u64);
        self.service.stop().expect("an orderly stop");
        assert!(self.replies.try_recv().is_err(), "one reply for each job");
        let by_digest: HashMap<_, _> = done.into_iter().map(|d| (d.digest, d.outcome)).collect();
        assert_eq!(by_digest.len(), texts.len());
        texts.iter().map(|text| (text.to_string(), by_digest[&job(text).digest].clone())).collect()
    }
}

fn assert_right(text: &str, outcome: &Outcome) {
    let vector = vec![text.len() as f32, 1.0];
    assert_eq!(*outcome, Outcome::Vector { vector, tokens: text.len() as u64 }, "{text}");
}

/// All but `bad` are answered rightly; returns the failure of `bad`.
fn only_failure(outcomes: &HashMap<String, Outcome>, bad: &str) -> (String, u32) {
    outcomes.iter().filter(|(text, _)| *text != bad).for_each(|(text, outcome)| assert_right(text, outcome));
    match &outcomes[bad] {
        Outcome::Failure { error, attempts } => (error.clone(), *attempts),
        other => panic!("{bad} ended as {other:?}"),
    }
}

const TEXTS: [&str; 12] = ["a", "bb", "ccc", "dddd", "bad", "ff", "g", "h", "i", "jj", "kkkkkkkkkk", "l"];

#[test]
fn every_job_gets_the_outcome_of_its_own_text() {
    let bench = Bench::new(Lexical::default(), small());
    let texts: Vec<String> = (0..1000).map(|i| format!("text {i} {}", "word ".repeat(i % 50))).collect();
    let outcomes = bench.outcomes(&texts.iter().map(String::as_str).collect::<Vec<_>>());
    for (text, outcome) in outcomes {
        let (vector, tokens) = (Lexical::default().vector(&text), Lexical::default().tokens(&text));
        assert_eq!(outcome, Outcome::Vector { vector, tokens });
    }
}

#[test]
fn a_row_that_makes_the_model_panic_fails_alone() {
    let alone = Arc::new(Calls::default());
    let seen = alone.clone();
    let bench = Bench::scripted(move |texts| {
        if texts == ["bad"] {
            seen.next();
        }
        assert!(!texts.contains(&"bad"), "poison among {}", texts.len());
        right(texts)
    });
    let (error, attempts) = only_failure(&bench.outcomes(&TEXTS), "bad");
    assert_eq!((error.as_str(), attempts), ("the model panicked: poison among 1", 3));
    assert_eq!(alone.next(), 3, "no attempt beyond the three by itself");
}

#[test]
fn a_row_that_the_model_blames_is_tried_again_by_itself() {
    let calls = Calls::default();
    let bench = Bench::scripted(move |texts| {
        let mut outputs = right(texts);
        if let Some(place) = texts.iter().position(|&text| text == "bad") {
            outputs[place] = Err(AttemptError(format!("no. {}", calls.next())));
        }
        outputs
    });
    assert_eq!(only_failure(&bench.outcomes(&TEXTS), "bad"), ("no. 2".into(), 3));
}

#[test]
fn a_model_that_fails_now_and_then_costs_no_row() {
    let calls = Calls::default();
    let bench = Bench::scripted(move |texts| match calls.next() % 4 {
        0 => panic!("now"),
        2 => texts.iter().map(|_| Err(AttemptError("then".into()))).collect(),
        _ => right(texts),
    });
    for (text, outcome) in bench.outcomes(&TEXTS) {
        assert_right(&text, &outcome);
    }
}

#[test]
fn wrong_outputs_are_failed_attempts() {
    type Spoil = fn(&mut Outputs, usize);
    let wrong: [(Spoil, &str); 4] = [
        (|outputs, _| drop(outputs.pop()), "the model returned 0 outputs for 1 texts"),
        (|outputs, bad| outputs[bad] = Ok(vec![1.0, f32::NAN]), "number 1 of the model's output is NaN"),
        (|outputs, bad| outputs[bad] = Ok(vec![0.5; 3]), "the model returned 3 numbers where 2 are due"),
        (|outputs, bad| outputs[bad] = Ok(Vec::new()), "the model returned 0 numbers where 2 are due"),
    ];
    for (spoil, message) in wrong {
        let bench = Bench::scripted(move |texts| {
            let mut outputs = right(texts);
            if let Some(bad) = texts.iter().position(|&text| text == "bad") {
                spoil(&mut outputs, bad);
            }
            outputs
        });
        assert_eq!(only_failure(&bench.outcomes(&TEXTS), "bad"), (message.into(), 3));
    }
}

#[test]
fn a_text_whose_tokens_cannot_be_counted_fails_alone() {
    let bench = Bench::scripted(right);
    let (error, attempts) = only_failure(&bench.outcomes(&["a", "uncountable", "b"]), "uncountable");
    assert!(error.starts_with("the model panicked: "), "{error}");
    assert_eq!(attempts, 3);
}

#[test]
fn a_long_error_is_cut_between_characters() {
    let bench = Bench::scripted(|texts| texts.iter().map(|_| Err(AttemptError("€".repeat(999)))).collect());
    let Outcome::Failure { error, .. } = &bench.outcomes(&["x"])["x"] else { panic!("it fails") };
    assert_eq!(*error, "€".repeat(341));
}

/// A model whose first call reports that it began and then waits for leave.
fn gated() -> (impl Fn(&[&str]) -> Outputs + Send + Sync + 'static, Receiver<()>, Sender<()>) {
    let (began, begins) = unbounded();
    let (leave, leaves) = unbounded::<()>();
    let calls = Calls::default();
    let embed = move |texts: &[&str]| {
        if calls.next() == 0 {
            began.send(()).expect("the test listens");
            leaves.recv_timeout(WAIT).expect("the test gives leave");
        }
        right(texts)
    };
    (embed, begins, leave)
}

#[test]
fn a_full_queue_gives_the_job_back() {
    let (embed, begins, leave) = gated();
    let bench = Bench::new(Scripted(embed), Options { queue_rows_max: 3, queue_tokens_max: 10, ..small() });
    bench.offer("in hand").expect("room");
    begins.recv_timeout(WAIT).expect("a batch in hand");
    let back = bench.offer("four").expect_err("11 tokens");
    assert_eq!((back.digest, &*back.text), (job("four").digest, "four"));
    bench.offer("b").expect("room");
    bench.offer("c").expect("room");
    bench.offer("").expect_err("a fourth row");
    assert_eq!((bench.service.metrics().queue_rows, bench.service.metrics().queue_tokens), (3, 9));
    leave.send(()).expect("the model waits");
    (0..3).for_each(|_| drop(bench.next()));
    bench.offer("longer than the whole queue").expect("an empty queue takes it");
    bench.next();
}

#[test]
fn rows_of_one_length_are_answered_in_order() {
    let bench = Bench::new(Scripted(right), Options { batch_rows: 1, ..small() });
    let texts = ["q", "w", "e", "r", "t", "y"];
    texts.iter().for_each(|text| bench.offer(text).expect("room"));
    texts.iter().for_each(|text| assert_eq!(bench.next().digest, job(text).digest));
}

#[test]
fn what_waits_while_a_batch_runs_goes_together() {
    let (embed, begins, leave) = gated();
    let bench = Bench::scripted(embed);
    bench.offer("first").expect("room");
    begins.recv_timeout(WAIT).expect("a batch in hand");
    (0..8).for_each(|i| bench.offer(&i.to_string()).expect("room"));
    leave.send(()).expect("the model waits");
    (0..9).for_each(|_| drop(bench.next()));
    assert_eq!((bench.service.metrics().batches, bench.service.metrics().calls), (2, 2));
}

fn kill_device(bench: &Bench) {
    let devices = bench.service.scheduler.get_cell().get_children();
    assert_eq!(devices.len(), 1);
    devices[0].kill();
}

#[test]
fn a_killed_device_is_replaced_and_its_rows_are_answered_once() {
    let (embed, begins, leave) = gated();
    let bench = Bench::scripted(embed);
    TEXTS.iter().for_each(|text| bench.offer(text).expect("room"));
    begins.recv_timeout(WAIT).expect("a batch in hand");
    kill_device(&bench);
    let done: Vec<_> = TEXTS.iter().map(|_| bench.next()).collect();
    leave.send(()).expect("the thread of the dead device still waits");
    let digests: std::collections::HashSet<_> = done.iter().map(|done| done.digest).collect();
    assert_eq!(digests.len(), TEXTS.len());
    assert!(done.iter().all(|done| matches!(done.outcome, Outcome::Vector { .. })));
    assert_eq!(bench.service.metrics().device_restarts, 1);
    bench.service.stop().expect("an orderly stop");
    let Bench { service, runtime, reply, replies } = bench;
    drop((service, reply));
    runtime.shutdown_timeout(WAIT);
    assert!(replies.try_recv().is_err(), "the thread that outlived its device answered nothing");
}

/// A panic's payload that panics again when it is dropped, which is outside the guarded call.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("the payload of a panic panicked");
    }
}

#[test]
fn a_row_that_kills_its_device_fails_alone_too() {
    let bench = Bench::scripted(|texts| match texts.contains(&"bad") {
        true => std::panic::panic_any(Bomb),
        false => right(texts),
    });
    let outcomes = bench.outcomes(&TEXTS);
    assert_eq!(only_failure(&outcomes, "bad"), ("its device died in every attempt".into(), 3));
    let restarts = bench.service.metrics().device_restarts;
    assert!((3..=4).contains(&restarts), "{restarts} restarts: one with others at most, three alone");
}

#[test]
fn a_stop_ends_after_the_batch_in_hand() {
    let (embed, begins, leave) = gated();
    let bench = Bench::new(Scripted(embed), Options { batch_rows: 1, stop_wait: WAIT, ..small() });
    (0..3).for_each(|i| bench.offer(&i.to_string()).expect("room"));
    begins.recv_timeout(WAIT).expect("a batch in hand");
    std::thread::scope(|scope| {
        let stop = scope.spawn(|| bench.service.stop());
        while bench.service.is_running() {
            std::thread::yield_now();
        }
        leave.send(()).expect("the model waits");
        stop.join().expect("no panic").expect("an orderly stop");
    });
    assert_right("0", &bench.next().outcome);
    assert!(bench.replies.try_recv().is_err(), "what waited gets no reply");
    bench.offer("late").expect_err("it has stopped");
    bench.service.stop().expect("it may be called again");
}

#[test]
fn a_stop_says_that_a_batch_hangs() {
    let (embed, begins, leave) = gated();
    let bench = Bench::new(Scripted(embed), Options { stop_wait: Duration::from_millis(30), ..small() });
    bench.offer("hangs").expect("room");
    begins.recv_timeout(WAIT).expect("a batch in hand");
    let error = bench.service.stop().expect_err("the batch hangs").to_string();
    assert!(error.starts_with("a batch of the model scripted@1 still runs 30ms after"), "{error}");
    leave.send(()).expect("the model waits");
}

#[test]
fn a_full_reply_channel_does_not_hold_up_a_stop() {
    let bench = Bench::scripted(right);
    let (reply, replies) = bounded(1);
    (0..20).for_each(|i| bench.service.offer(job(&i.to_string()), reply.clone()).expect("room"));
    bench.service.stop().expect("an orderly stop");
    assert!(replies.try_iter().count() <= 1);
}

#[test]
fn a_receiver_that_is_gone_harms_nobody() {
    let bench = Bench::scripted(right);
    let (reply, replies) = bounded(1);
    drop(replies);
    bench.service.offer(job("unheard"), reply).expect("room");
    bench.offer("heard").expect("room");
    assert_right("heard", &bench.next().outcome);
}

#[test]
fn a_scheduler_that_is_gone_is_reported() {
    let bench = Bench::scripted(right);
    bench.offer("a").expect("room");
    bench.next();
    assert!(bench.service.is_running());
    bench.service.scheduler.get_cell().kill();
    while bench.service.is_running() {
        std::thread::yield_now();
    }
    let back = bench.offer("b").expect_err("nobody would answer it");
    assert_eq!(&*back.text, "b");
    let error = bench.service.stop().expect_err("it was not asked to end").to_string();
    assert!(error.contains("ended before it was asked to"), "{error}");
}

#[test]
fn it_starts_inside_a_runtime_too() {
    let runtime = runtime();
    let (reply, replies) = unbounded();
    let service = runtime.block_on(async {
        InferenceService::start(Arc::new(Lexical::default()), small(), &tokio::runtime::Handle::current())
    });
    let service = service.expect("good options");
    service.offer(job("text"), reply).expect("room");
    replies.recv_timeout(WAIT).expect("a reply");
    service.stop().expect("an orderly stop");
}

#[test]
fn options_that_allow_nothing_are_refused() {
    assert_eq!(Options::default().check(), Ok(()));
    let options = Options { attempts_max: 0, ..Options::default() };
    assert_eq!(options.check(), Err(OptionsError("attempts_max")));
}

#[test]
fn a_row_is_claimed_once() {
    let desk_row = |text: &str| Row {
        job: job(text),
        weight: 1,
        tokens: Some(1),
        attempts: AtomicU32::new(0),
        reply: unbounded().0,
    };
    let mut batcher = crate::Batcher::new(small().batcher());
    batcher.push(Arc::new(desk_row("a")), 1);
    batcher.push(Arc::new(desk_row("b")), 1);
    let lease = crate::lease::Lease::new(1, batcher.next_batch());
    assert!(lease.claim(0) && !lease.claim(0));
    let back = lease.take_back();
    assert_eq!(back.iter().map(|row| &*row.item.job.text).collect::<Vec<_>>(), ["b"]);
    assert!(back[0].alone && back[0].item.attempts() == 0 && lease.take_back().is_empty());
    let again = crate::lease::Lease::new(2, back);
    assert_eq!(again.take_back()[0].item.attempts(), 1, "it was alone on loan and came back");
}
