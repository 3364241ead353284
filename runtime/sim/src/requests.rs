//! What is asked of a writer, where writers and askers are killed at any moment and the store is slow, late, or
//! carries writes out twice.
//!
//! Only the two sides of the protocol are real here: a writer does what is asked by a root of its own making,
//! after as long as the test says.

use crate::edge::SimEdge;
use crate::judge::Judge;
use crate::program::{model, program};
use crate::schedule::{Local, Process, Runner, SECOND, Schedule};
use crate::storage::{Disk, SimStore, Weather};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use tidemill_core::commit::{Beginning, InForce, claim};
use tidemill_core::edge::SharedEdge;
use tidemill_core::log::{newest_root, read_root};
use tidemill_core::store::{Created, SharedStore, StoreError};
use tidemill_core::writer::requests::{Answer, Ask, Desk, Wanted, fulfilled};
use tidemill_types::{Root, root_name};

/// What came of asking, once something has.
type Outcome = Rc<RefCell<Option<Result<Option<Answer>, StoreError>>>>;

#[derive(Clone)]
struct Bench {
    schedule: Schedule,
    local: Local,
    disk: Disk,
    on_disk: bool,
    weather: Weather,
}

fn start() -> InForce {
    let (program, models) = (program().id(), vec![model()]);
    InForce { program, models, beginning: Beginning::default(), roll_back: None }
}

impl Bench {
    fn store(&self, process: Process) -> SharedStore {
        Arc::new(SimStore {
            schedule: self.schedule.clone(),
            disk: self.disk.clone(),
            judge: Judge::new(self.disk.clone(), self.schedule.clone()),
            process,
            weather: Arc::new(Mutex::new(self.weather)),
            local: self.on_disk,
            looked_at: Default::default(),
        })
    }

    /// The clocks of any two processes differ by hours.
    fn edge(&self, process: Process) -> SharedEdge {
        SimEdge::shared(&self.schedule, process, i64::from(process) * 7_200_000)
    }

    /// A writer that claims the store; whatever it is asked takes it so long before the commit, and so long after.
    fn writer(&self, process: Process, before_us: u64, after_us: u64) -> Arc<Desk> {
        let (store, edge) = (self.store(process), self.edge(process));
        let desk = Arc::new(Desk::new(store.clone(), edge.clone()));
        let (looking, doing, schedule) = (desk.clone(), desk.clone(), self.schedule.clone());
        let own = self.local.clone();
        self.local.spawn(process, async move {
            let claimed =
                root(&store, &edge, |newest| claim(newest, store.location(), &start(), edge.stamp()));
            claimed.await;
            own.spawn(process, async move { looking.run().await });
            loop {
                let Some(taken) = doing.next().await else {
                    schedule.sleep(SECOND / 20).await;
                    continue;
                };
                let (id, wanted) = (taken.request.id.clone(), taken.request.wanted.clone());
                if taken.resumed {
                    let newest = newest_of(&store).await;
                    match fulfilled(&*store, &newest, &taken.request).await {
                        Ok(None) => {}
                        Ok(Some(answer)) => {
                            doing.answer(&id, answer).await;
                            continue;
                        }
                        Err(_) => continue,
                    }
                }
                schedule.sleep(before_us).await;
                let by = root(&store, &edge, |newest| {
                    let newest = newest.expect("a claim");
                    let epoch = newest.epoch + 1;
                    let Wanted::RollBack { to } = wanted else { panic!("only rollbacks are asked for") };
                    Root { epoch, claim: false, rolled_back_to: Some(to), ..newest.clone() }
                });
                let by = by.await;
                schedule.sleep(after_us).await;
                doing.answer(&id, Ok(wanted.done(by))).await;
            }
        });
        desk
    }

    /// Asks for a rollback to epoch 0.
    fn ask(&self, process: Process) -> Outcome {
        let (store, edge, outcome) = (self.store(process), self.edge(process), Outcome::default());
        let came = outcome.clone();
        self.local.spawn(process, async move {
            let newest = newest_of(&store).await;
            let wanted = Wanted::RollBack { to: 0 };
            let ask = Ask { store: &store, edge: &edge, newest: &newest, wanted, say: &|_| {} };
            *came.borrow_mut() = Some(ask.run().await);
        });
        outcome
    }

    /// Waits until something came of asking, at most so long; how long it took, in seconds.
    async fn ended(&self, outcome: &Outcome, seconds: u64) -> u64 {
        let begun = self.schedule.now();
        let waited = || (self.schedule.now() - begun) / SECOND;
        while outcome.borrow().is_none() {
            assert!(waited() < seconds, "nothing came of asking within {seconds} s");
            self.sleep(0.1).await;
        }
        waited()
    }

    async fn sleep(&self, seconds: f64) {
        self.schedule.sleep((seconds * SECOND as f64) as u64).await;
    }

    /// Commits that went back.
    fn rollbacks(&self) -> usize {
        let roots = self.disk.names("catalog/");
        let roots = roots.iter().filter_map(|name| self.disk.read(name));
        let roots = roots.filter_map(|body| serde_json::from_slice::<Root>(&body).ok());
        roots.filter(|root| root.rolled_back_to.is_some()).count()
    }

    fn is_empty(&self) -> bool {
        self.disk.names("requests/").is_empty()
    }
}

/// What the store answers in the end.
async fn newest_of(store: &SharedStore) -> Root {
    loop {
        if let Ok(Some(newest)) = newest_root(&**store, None).await {
            return newest;
        }
    }
}

/// Commits a root after the newest; its epoch. Another's in its place: a claim is made anew, else the writer is
/// shut out.
async fn root(store: &SharedStore, edge: &SharedEdge, next: impl Fn(Option<&Root>) -> Root) -> u64 {
    loop {
        let Ok(newest) = newest_root(&**store, None).await else { continue };
        let root = Root { nonce: edge.stamp().nonce, ..next(newest.as_ref()) };
        let body = root.to_bytes().expect("a root");
        while !matches!(store.create(&root_name(root.epoch), body.clone().into()).await, Ok(Created::New)) {
            match read_root(&**store, root.epoch).await {
                Ok(found) if found.nonce == root.nonce => break,
                Ok(_) if root.claim => break,
                Ok(_) => futures::future::pending().await,
                Err(_) => {}
            }
        }
        let ours = read_root(&**store, root.epoch).await.is_ok_and(|found| found.nonce == root.nonce);
        if ours {
            return root.epoch;
        }
    }
}

/// Runs a test over a store that holds one commit, by a writer that is gone.
fn bench<F: Future<Output = ()> + 'static>(seed: u64, weather: Weather, test: impl Fn(Bench) -> F + 'static) {
    let schedule = Schedule::seeded(seed, false);
    let runner = Runner::new(schedule.clone());
    let on_disk = weather.late == 0;
    let bench = Bench { schedule, local: runner.local(), disk: Disk::default(), on_disk, weather };
    let first = bench.clone();
    let task = async move {
        first.writer(1, 0, 0);
        first.sleep(5.0).await;
        first.schedule.kill(1);
        test(first).await;
    };
    assert!(runner.run(task, 24 * 3600 * SECOND), "seed {seed} does not come to an end");
}

fn calm() -> Weather {
    Weather { takes_us: 2_000, ..Weather::default() }
}

fn said(outcome: &Outcome) -> Option<Answer> {
    outcome.borrow().clone().expect("something came of asking").expect("the store answers")
}

#[test]
fn where_no_writer_is_at_work_who_asks_learns_it_soon_and_leaves_nothing() {
    bench(1, calm(), |bench| async move {
        let asked = bench.ask(10);
        let seconds = bench.ended(&asked, 10).await;
        assert_eq!((said(&asked), bench.is_empty()), (None, true), "after {seconds} s");
    });
}

#[test]
fn a_busy_writer_is_waited_for_whatever_its_clock_says() {
    bench(2, calm(), |bench| async move {
        bench.writer(2, 400 * SECOND, 0);
        let asked = bench.ask(10);
        bench.ended(&asked, 500).await;
        assert_eq!(said(&asked), Some(Ok("commit 2 went back to epoch 0".into())));
        assert!(bench.is_empty() && bench.rollbacks() == 1);
    });
}

#[test]
fn what_a_killed_writer_had_taken_up_is_done_by_the_next_one_once() {
    // Killed before its commit, and between the commit and the answer.
    for (before, after) in [(1000, 0), (0, 1000)] {
        bench(3, calm(), move |bench| async move {
            bench.writer(2, before * SECOND, after * SECOND);
            bench.sleep(1.0).await;
            let asked = bench.ask(10);
            bench.sleep(5.0).await;
            assert_eq!(bench.rollbacks(), usize::from(before == 0));
            bench.schedule.kill(2);
            bench.sleep(60.0).await;
            bench.writer(3, SECOND, 0);
            bench.ended(&asked, 20).await;
            let by = if before == 0 { 2 } else { 3 };
            assert_eq!(said(&asked), Some(Ok(format!("commit {by} went back to epoch 0"))));
            assert!(bench.is_empty() && bench.rollbacks() == 1);
        });
    }
}

#[test]
fn who_asks_hears_of_a_writer_that_is_gone_for_good() {
    for done in [false, true] {
        bench(4, calm(), move |bench| async move {
            bench.writer(2, if done { 0 } else { 1000 * SECOND }, 1000 * SECOND);
            let asked = bench.ask(10);
            bench.sleep(5.0).await;
            bench.schedule.kill(2);
            bench.ended(&asked, 200).await;
            match said(&asked) {
                Some(Ok(by)) if done => assert_eq!(by, "commit 2 went back to epoch 0"),
                Some(Err(why)) if !done => assert!(why.contains("has not been heard of for 18"), "{why}"),
                other => panic!("{other:?}"),
            }
            assert!(bench.is_empty());
        });
    }
}

#[test]
fn what_somebody_asked_who_is_gone_is_not_done_and_not_kept() {
    bench(5, calm(), |bench| async move {
        // Nobody has taken it up by then.
        let asked = bench.ask(10);
        bench.sleep(1.0).await;
        bench.schedule.kill(10);
        assert!(!bench.is_empty());
        bench.sleep(3600.0).await;
        bench.writer(2, 0, 0);
        bench.sleep(100.0).await;
        assert!(asked.borrow().is_none() && bench.is_empty() && bench.rollbacks() == 0);
        // It was wanted of a writer that died.
        bench.schedule.kill(2);
        bench.writer(3, 1000 * SECOND, 0);
        bench.sleep(1.0).await;
        bench.ask(11);
        bench.sleep(3.0).await;
        bench.schedule.kill(11);
        bench.schedule.kill(3);
        bench.writer(4, 0, 0);
        bench.sleep(100.0).await;
        assert!(bench.is_empty() && bench.rollbacks() == 0);
        // The writer goes on with what was wanted of it; nobody reads the answer.
        bench.writer(5, 10 * SECOND, 0);
        bench.schedule.kill(4);
        bench.sleep(1.0).await;
        bench.ask(12);
        bench.sleep(3.0).await;
        bench.schedule.kill(12);
        bench.sleep(20.0).await;
        assert!(!bench.is_empty() && bench.rollbacks() == 1);
        bench.sleep(700.0).await;
        assert!(bench.is_empty() && bench.rollbacks() == 1);
    });
}

#[test]
fn what_a_writer_gives_back_is_for_the_next_one_or_for_who_asked() {
    // It is given back before its commit, and between the commit and the answer.
    for (next, done) in [(false, false), (true, false), (false, true), (true, true)] {
        bench(6, calm(), move |bench| async move {
            let desk = bench.writer(2, if done { 0 } else { 1000 * SECOND }, 1000 * SECOND);
            let asked = bench.ask(10);
            bench.sleep(5.0).await;
            desk.leave().await;
            bench.schedule.kill(2);
            if next {
                bench.sleep(2.0).await;
                bench.writer(3, 0, 0);
            }
            bench.ended(&asked, 20).await;
            let by = if done { 2 } else { 3 };
            let told = (next || done).then(|| Ok(format!("commit {by} went back to epoch 0")));
            assert_eq!(said(&asked), told, "next: {next}, done: {done}");
            assert_eq!(bench.rollbacks(), usize::from(next || done));
            assert!(bench.is_empty());
        });
    }
}

#[test]
fn a_writer_that_commits_and_takes_nothing_up_is_not_taken_for_gone() {
    bench(7, calm(), |bench| async move {
        let (store, edge, schedule) = (bench.store(2), bench.edge(2), bench.schedule.clone());
        bench.local.spawn(2, async move {
            loop {
                root(&store, &edge, |newest| claim(newest, "", &start(), edge.stamp())).await;
                schedule.sleep(SECOND).await;
            }
        });
        let asked = bench.ask(10);
        bench.ended(&asked, 60).await;
        let why = said(&asked).expect("an answer").expect_err("an error");
        assert!(why.contains("a writer is at work"), "{why}");
        assert!(bench.is_empty());
    });
}

/// A store may carry a put out a second time, late.
#[test]
fn what_was_answered_and_comes_again_is_not_done_again() {
    bench(8, calm(), |bench| async move {
        bench.writer(2, 10 * SECOND, 0);
        bench.sleep(1.0).await;
        let asked = bench.ask(10);
        bench.sleep(5.0).await;
        let of = |name: &String| name.ends_with(".json") && !name.contains("answer");
        let names = bench.disk.names("requests/").into_iter().filter(of);
        let request: Vec<_> = names.filter_map(|name| Some((bench.disk.read(&name)?, name))).collect();
        assert_eq!(request.len(), 1);
        bench.ended(&asked, 30).await;
        assert!(matches!(said(&asked), Some(Ok(_))) && bench.is_empty());
        // While it is remembered that the answer was there, and long after.
        for seconds in [700.0, 30.0] {
            for (body, name) in &request {
                bench.store(11).put(name, body.clone()).await.expect("the store answers");
            }
            bench.sleep(seconds).await;
            assert_eq!((bench.rollbacks(), bench.disk.names("requests/")), (1, Vec::new()));
        }
    });
}

/// Writers are killed at any moment. What who asked was told is what came, and it came once at most.
#[test]
fn whoever_dies_when_nothing_is_done_twice_and_nobody_is_told_what_is_not_so() {
    let counted = Rc::new(RefCell::new((0, 0, 0)));
    for seed in 0..300 {
        let counting = counted.clone();
        let faults = Weather { late: 30, twice: 60, lag_us: 2 * SECOND, takes_us: 60_000, ..calm() };
        let weather = if seed % 3 == 0 { calm() } else { faults };
        bench(seed, weather, move |bench| {
            let counting = counting.clone();
            async move {
                let pick = |up_to: u64| bench.schedule.pick(0..up_to);
                let asked = bench.ask(100);
                if seed % 5 == 0 {
                    bench.schedule.sleep(pick(100 * SECOND)).await;
                }
                let mut process = 1;
                while asked.borrow().is_none() && process < 6 {
                    process += 1;
                    bench.writer(process, pick(8) * SECOND, pick(8) * SECOND);
                    bench.schedule.sleep(pick(40 * SECOND)).await;
                    bench.schedule.kill(process);
                    bench.schedule.sleep(pick(20 * SECOND)).await;
                }
                bench.writer(process + 1, 0, 0);
                bench.ended(&asked, 400).await;
                let told = asked.borrow().clone();
                // Whatever is late arrives.
                bench.sleep(200.0).await;
                let done = bench.rollbacks();
                assert!(done <= 1, "seed {seed}: {done} rollbacks");
                let mut counts = counting.borrow_mut();
                counts.2 += process;
                match told {
                    Some(Ok(Some(Ok(_)))) => {
                        counts.0 += 1;
                        assert_eq!(done, 1, "seed {seed}");
                    }
                    Some(Ok(None)) => {
                        counts.1 += 1;
                        assert_eq!(done, 0, "seed {seed}: who asks may do it now");
                    }
                    _ => {}
                }
            }
        });
    }
    let (done, nobody, killed) = *counted.borrow();
    assert!(
        done > 150 && nobody > 5 && killed > 600,
        "tame: {done} done, {nobody} by nobody, {killed} killed"
    );
}
