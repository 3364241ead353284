//! The sink beside a real Kafka: whatever is killed, a consumer of committed records sees every commit of a table
//! once and in order, and folds what the store shows.

mod support;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::time::Duration;
use support::broker::Broker;
use support::mill::{Mill, refused};
use support::sunk::{self, epochs_of, hold, hold_progress, wait_for};
use tidemill_oracle::traffic::{self, Step};

const ID: &str = "mill";
/// Tables that are sent: bodies, texts that are cut out of them, figures that change often, and vectors.
const TABLES: [(&str, &str); 5] = [
    ("raw.calls", "calls-out"),
    ("train.sft", "sft-out"),
    ("curated.samples", "samples-out"),
    ("evals.summary", "summary-out"),
    ("ai.embeddings", "embeddings-out"),
];

/// A mill that reads a folder and sends tables to a broker.
fn sinking(mut mill: Mill, broker: &Broker, tables: &[(&str, &str)]) -> Mill {
    sink(&mut mill, broker, tables);
    mill
}

/// Lets later starts send tables to a broker.
fn sink(mill: &mut Mill, broker: &Broker, tables: &[(&str, &str)]) {
    mill.set("sink-brokers", &broker.address);
    mill.set("sink-transactional-id", ID);
    mill.set("sink-partitions", "3");
    for (table, topic) in tables {
        send_to(mill, table, topic);
    }
}

fn send_to(mill: &mut Mill, table: &str, topic: &str) {
    mill.set(&format!("sink-topics-{}", table.replace('.', "-")), topic);
}

fn names<'a>(tables: &[(&'a str, &str)]) -> Vec<&'a str> {
    tables.iter().map(|(table, _)| *table).collect()
}

/// Holds all topics at the end and at some epochs before it; how many records there are.
fn hold_all(broker: &Broker, mill: &Mill, tables: &[(&str, &str)]) -> usize {
    let epochs = hold_progress(broker, mill, ID, &names(tables));
    let hold_one = |(table, topic): &(&str, &str)| {
        let epochs = epochs_of(broker, ID, table, topic);
        let some = epochs.iter().copied().step_by(epochs.len().div_ceil(6));
        let some: Vec<u64> = some.chain(epochs.last().copied()).collect();
        hold(broker, mill, table, topic, &some).len()
    };
    let records = tables.iter().map(hold_one).sum();
    eprintln!("{} epochs in {records} records of {} topics", epochs.len(), tables.len());
    records
}

/// A call by its id; without an answer it is a deletion.
fn call(id: &str, answer: Option<&str>) -> Step {
    let line = match answer {
        Some(answer) => {
            json!({"request_id": id, "prompt": [{"role": "user", "content": "go on"}], "response": answer})
        }
        None => json!({"request_id": id, "_deleted": true}),
    };
    Step { file: "calls.jsonl".to_string(), append: (line.to_string() + "\n").into_bytes() }
}

#[test]
fn a_drained_run_has_sent_its_tables_and_the_next_one_sends_what_changed() {
    let Some(broker) = Broker::start() else { return };
    let mill = sinking(Mill::for_traffic(51), &broker, &TABLES);
    let steps = traffic::steps(51, traffic::SMALL);
    let (first, second) = steps.split_at(steps.len() / 2);
    mill.write(first);
    mill.drain(2);
    let before = hold_all(&broker, &mill, &TABLES);
    mill.drain(1);
    assert_eq!(hold_all(&broker, &mill, &TABLES), before, "nothing changed");
    mill.write(second);
    mill.drain(2);
    assert!(hold_all(&broker, &mill, &TABLES) > before);
}

#[test]
fn a_row_is_json_as_it_is_shown_and_a_deletion_is_null() {
    let Some(broker) = Broker::start() else { return };
    let mill = sinking(Mill::new(&json!({})), &broker, &[("raw.calls", "calls-out")]);
    let long = "tide ".repeat(200_000);
    mill.write(&[call("a", Some("one")), call("b", Some(&long))]);
    mill.drain(1);
    mill.write(&[call("a", None), call("b", Some("two"))]);
    mill.drain(1);
    let records = hold(&broker, &mill, "raw.calls", "calls-out", &[]);
    let of = |id: &str| {
        let key = json!({"request_id": id}).to_string();
        let of = records.iter().filter(|record| record.key == key);
        of.map(|record| (record.diff, record.value.clone())).collect::<Vec<_>>()
    };
    assert_eq!(
        of("a").iter().map(|(diff, value)| (*diff, value.is_some())).collect::<Vec<_>>(),
        [(1, true), (-1, false)]
    );
    assert_eq!(of("b").iter().map(|(diff, _)| *diff).collect::<Vec<_>>(), [1, -1, 1]);
    let row: Value = serde_json::from_str(of("b")[0].1.as_ref().expect("a row")).expect("JSON");
    assert!(row.to_string().contains(&long));
    hold_all(&broker, &mill, &[("raw.calls", "calls-out")]);
}

/// What a run is asked for over HTTP.
fn ask(address: &str, path: &str) -> String {
    let mut to = std::net::TcpStream::connect(address).expect("a listener");
    write!(to, "GET {path} HTTP/1.1\r\nHost: mill\r\n\r\n").expect("a request");
    let mut answer = String::new();
    to.read_to_string(&mut answer).expect("an answer");
    answer
}

/// An address that nobody listens at.
fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").to_string()
}

fn epoch(root: &Value) -> u64 {
    root["epoch"].as_u64().expect("an epoch")
}

fn generation(mill: &Mill) -> u64 {
    mill.newest().map_or(0, |root| root["generation"].as_u64().expect("a number"))
}

/// How often a test kills: its own number, or, for a longer search, what `KILLS=100` says.
fn kills(own: usize) -> usize {
    let given = std::env::var("KILLS").ok();
    given.map_or(own, |given| given.parse().unwrap_or_else(|_| panic!("KILLS is {given}; give a number")))
}

/// One run of a mill that ends by SIGKILL, mostly while it sends what it makes of the second half of these steps; what
/// happens to the broker before depends on the number.
fn run_and_kill(
    mill: &Mill,
    broker: &Broker,
    steps: &[Step],
    workers: usize,
    number: usize,
    rng: &mut ChaCha8Rng,
) {
    let before = generation(mill);
    let running = mill.tail(workers);
    let (first, second) = steps.split_at(steps.len() / 2);
    let later = |one: &Value| one["generation"].as_u64() > Some(before);
    if rng.random_bool(0.9) {
        mill.wait_for("a claim", later);
    }
    mill.write(first);
    if rng.random_bool(0.8) {
        wait_for(broker, ID, "a progress", later);
    }
    let (pause, rest) = (rng.random_range(0..25), rng.random_range(0..900));
    std::thread::scope(|scope| {
        scope.spawn(|| mill.write_slowly(second, Duration::from_millis(pause)));
        std::thread::sleep(Duration::from_millis(rest));
        if number % 6 == 2 {
            broker.kill();
            broker.start_again();
            std::thread::sleep(Duration::from_millis(rest * 2));
        }
        if number % 6 == 5 {
            broker.kill();
        }
        running.kill();
    });
    if number % 6 == 5 {
        broker.start_again();
    }
}

/// Kills a mill again and again while it sends what it makes of a traffic, and the broker now and then.
fn killed_often(seed: u64, workers: [usize; 2], own: usize) {
    let Some(broker) = Broker::start() else { return };
    let mill = sinking(Mill::for_traffic(seed), &broker, &TABLES);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let steps = traffic::steps(seed, traffic::SMALL * own / 5);
    let parts: Vec<&[Step]> = steps.chunks(steps.len().div_ceil(kills(own + own / 5))).collect();
    for (number, part) in parts.iter().enumerate() {
        run_and_kill(&mill, &broker, part, workers[number % 2], number, &mut rng);
    }
    mill.drain(workers[0]);
    let generations: BTreeSet<u64> =
        sunk::progress(&broker, ID).iter().filter_map(|one| one["generation"].as_u64()).collect();
    let records = hold_all(&broker, &mill, &TABLES);
    let killed = parts.len();
    eprintln!("seed {seed}: {killed} kills, {} generations wrote {records} records", generations.len());
    assert!(killed >= kills(own) && generations.len() > killed / 2, "{killed} kills: {generations:?}");
}

#[test]
fn a_mill_that_is_killed_often_sends_every_commit_once_and_in_order() {
    killed_often(61, [2, 2], 15);
}

#[test]
fn a_mill_that_is_killed_and_started_with_other_numbers_of_workers_sends_every_commit_once() {
    killed_often(62, [1, 3], 6);
}

#[test]
fn a_mill_that_sleeps_while_a_successor_works_is_shut_out_and_sends_nothing_more() {
    let Some(broker) = Broker::start() else { return };
    let mill = sinking(Mill::for_traffic(71), &broker, &TABLES);
    let steps = traffic::steps(71, traffic::SMALL * 2);
    let mut parts = steps.chunks(steps.len().div_ceil(9));
    let mut next = || parts.next().expect("as many parts as are written");
    for round in 0..3 {
        let zombie = mill.tail(1);
        let before = generation(&mill);
        mill.wait_for("a claim", |root| root["generation"].as_u64() >= Some(before));
        if round > 0 {
            let theirs = generation(&mill);
            mill.write(next());
            wait_for(&broker, ID, "a progress of the first", |one| {
                one["generation"].as_u64() >= Some(theirs)
            });
        }
        // Anywhere: while it starts, in the midst of a transaction, or between two.
        mill.write_slowly(next(), Duration::from_millis(3));
        zombie.tell("STOP");
        let theirs = generation(&mill);
        let successor = mill.tail(2);
        mill.wait_for("a successor", |root| root["generation"].as_u64() > Some(theirs));
        mill.write(next());
        wait_for(&broker, ID, "a progress of the successor", |one| one["generation"].as_u64() > Some(theirs));
        zombie.tell("CONT");
        mill.write(&[call(&format!("late {round}"), Some("x"))]);
        let newest = epoch(&mill.newest().expect("a root"));
        wait_for(&broker, ID, "what came after", |one| one["epoch"].as_u64() > Some(newest));
        let (code, said) = zombie.ended();
        assert!(code == Some(3) && said.contains("another writer"), "{code:?}: {said}");
        successor.stop();
    }
    hold_all(&broker, &mill, &TABLES);
}

#[test]
fn brokers_that_are_away_delay_nothing_but_the_sink_which_sends_the_rows_of_every_commit_later() {
    let Some(broker) = Broker::start() else { return };
    let tables = [("raw.calls", "calls-out"), ("curated.samples", "samples-out")];
    let mut mill = sinking(Mill::new(&json!({})), &broker, &tables);
    let address = free_address();
    mill.set("http-listen", &address);
    mill.write(&[call("first", Some("one"))]);
    let running = mill.tail(1);
    wait_for(&broker, ID, "the first row", |one| one["epoch"].as_u64() > Some(0));
    broker.kill();
    // Rows come, are published, and are gone, text and all, before a broker is there to take them.
    for number in 0..12 {
        let (came, id) = (epoch(&mill.newest().expect("a root")), format!("short-lived {}", number / 2));
        mill.write(&[call(&id, (number % 2 == 0).then_some("a text of its own"))]);
        mill.wait_for("a commit", |root| epoch(root) > came);
        mill.wait_for("its publication", |root| root["published"]["epoch"].as_u64() > Some(came));
    }
    for _ in 0..200 {
        if ask(&address, "/readyz").contains("but not the sink") {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let (ready, page) = (ask(&address, "/readyz"), ask(&address, "/metrics"));
    assert!(ready.starts_with("HTTP/1.1 200") && ready.contains("but not the sink: kafka"), "{ready}");
    assert!(page.contains("tidemill_sink_waiting 1") && page.contains("tidemill_sink_stopped 0"), "{page}");
    let behind = page.lines().find(|line| line.contains("table=\"raw.calls\",view=\"sink\""));
    let behind = behind.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    assert!(behind > Some(1.0), "{behind:?}");
    let newest = epoch(&mill.newest().expect("a root"));
    broker.start_again();
    wait_for(&broker, ID, "what came meanwhile", |one| one["epoch"].as_u64() >= Some(newest - 1));
    running.stop();
    let records = sunk::records(&broker, "samples-out");
    let texts =
        records.iter().filter(|one| one.value.as_ref().is_some_and(|v| v.contains("a text of its own")));
    assert!(texts.count() >= 1, "{records:?}");
    let records = sunk::records(&broker, "calls-out");
    assert_eq!(records.iter().filter(|one| one.value.is_none()).count(), 6, "{records:?}");
    hold_all(&broker, &mill, &tables);
}

#[test]
fn beyond_its_bound_the_sink_stops_with_an_error_and_the_run_goes_on_and_ends_with_it() {
    let mut mill = Mill::new(&json!({}));
    let address = free_address();
    mill.set("http-listen", &address);
    mill.set("sink-brokers", "127.0.0.1:1");
    mill.set("sink-lag-max", "2s");
    send_to(&mut mill, "raw.calls", "calls-out");
    mill.write(&[call("a", Some("one"))]);
    let running = mill.tail(1);
    mill.wait_for("a commit", |root| root["positions"]["calls"]["calls.jsonl"] == 1);
    for _ in 0..300 {
        if running.said().contains("the Kafka sink has stopped") {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(running.said().contains("longer than sink.lag_max"), "{}", running.said());
    mill.write(&[call("b", Some("two"))]);
    mill.wait_for("a commit without a sink", |root| root["positions"]["calls"]["calls.jsonl"] == 2);
    let (ready, page) = (ask(&address, "/readyz"), ask(&address, "/metrics"));
    assert!(ready.starts_with("HTTP/1.1 200") && ready.contains("the Kafka sink has stopped"), "{ready}");
    assert!(page.contains("tidemill_sink_stopped 1"), "{page}");
    running.tell("TERM");
    let (code, said) = running.ended();
    assert!(code == Some(1) && said.contains("error: the Kafka sink has stopped"), "{said}");
    let said = refused(&mill.drain_ended(1));
    assert!(said.contains("the Kafka sink has stopped") && said.contains("sink.lag_max"), "{said}");
    // A stop does not wait for brokers that are away.
    mill.set("sink-lag-max", "1h");
    let running = mill.tail(1);
    std::thread::sleep(Duration::from_millis(1500));
    running.stop();
}

#[test]
fn tables_may_be_added_left_out_and_put_back_and_a_topic_of_another_name_begins_whole() {
    let Some(broker) = Broker::start() else { return };
    let calls = [("raw.calls", "calls-out")];
    let both = [("raw.calls", "calls-out"), ("curated.samples", "samples-out")];
    let steps = traffic::steps(81, traffic::SMALL);
    let mut parts = steps.chunks(steps.len().div_ceil(5));
    let mut mill = Mill::for_traffic(81);
    let plain = mill.flags.clone();
    let mut run_with = |mill: &mut Mill, tables: &[(&str, &str)]| {
        mill.flags.clone_from(&plain);
        mill.write(parts.next().expect("a part"));
        sink(mill, &broker, tables);
        mill.drain(2);
    };
    run_with(&mut mill, &calls);
    run_with(&mut mill, &both);
    hold_all(&broker, &mill, &both);
    run_with(&mut mill, &both[1..]);
    run_with(&mut mill, &both);
    hold_all(&broker, &mill, &both);
    let other = [("raw.calls", "calls-other"), both[1]];
    run_with(&mut mill, &other);
    hold_all(&broker, &mill, &other);
    // What stands in the old topic has no progress any more.
    sink(&mut mill, &broker, &both);
    let said = refused(&mill.drain_ended(1));
    assert!(said.contains("the topic calls-out of table raw.calls holds records"), "{said}");
    // Of an emptied name, the whole table again.
    broker.delete("calls-out");
    mill.drain(1);
    hold_all(&broker, &mill, &both);
}

#[test]
fn what_the_log_no_longer_holds_and_what_is_anothers_is_told() {
    let Some(broker) = Broker::start() else { return };
    let calls = [("raw.calls", "calls-out")];
    let mut mill = sinking(Mill::new(&json!({})), &broker, &calls);
    // What a writer believes goes by its retention, and the next one's first root stays for as long.
    mill.set("store-retention", "10s");
    mill.write(&[call("a", Some("one"))]);
    mill.drain(1);
    // Without a sink the log goes on, and forgets.
    let with = mill.flags.clone();
    mill.flags.truncate(mill.flags.iter().position(|flag| flag == "--sink-brokers").expect("a sink"));
    mill.set("store-retention", "1s");
    let last = epoch(&mill.newest().expect("a root"));
    let running = mill.tail(1);
    for number in 0..300 {
        mill.write(&[call("b", Some(&number.to_string()))]);
        std::thread::sleep(Duration::from_millis(100));
        if mill.newest().is_some_and(|root| root["log_from"].as_u64() > Some(last + 1)) {
            break;
        }
    }
    running.stop();
    mill.flags = with;
    let said = refused(&mill.drain_ended(1));
    assert!(said.contains("no longer in the log") && said.contains("empty topics"), "{said}");
    let anew = [("raw.calls", "calls-anew")];
    sink(&mut mill, &broker, &anew);
    mill.drain(1);
    hold_all(&broker, &mill, &anew);
    // Another store under the same id.
    let other = sinking(Mill::new(&json!({})), &broker, &anew);
    for number in 0..300 {
        other.write(&[call(&number.to_string(), Some("x"))]);
    }
    let said = refused(&other.drain_ended(1));
    assert!(said.contains("set back") || said.contains("not that of this store's log"), "{said}");
}

#[test]
fn what_cannot_be_is_told_before_the_store_is_claimed() {
    let mut mill = Mill::new(&json!({}));
    mill.set("sink-brokers", "127.0.0.1:1");
    let told = |mill: &Mill, arguments: &[&str]| refused(&mill.drain_with(1, arguments));
    for (arguments, said) in [
        (&["--sink-topics-raw-cals", "x"][..], "there is no table raw_cals; the tables are raw.trajectories"),
        (&["--sink-topics-raw-calls", ""], "the topic of raw.calls is \"\": give the name of a topic"),
        (&["--sink-topics-raw-calls", "a b"], "is made of letters"),
        (
            &["--sink-topics-raw-calls", "x", "--sink-topics-raw-scores", "x"],
            "is that of the table raw.calls too",
        ),
        (&["--sink-topics-raw-calls", "calls", "--kafka", "127.0.0.1:1"], "is that of the stream calls too"),
        (
            &["--sink-topics-raw-calls", "id-progress", "--sink-transactional-id", "id"],
            "is that of the progress of the sink too",
        ),
        (&["--sink-topics-raw-calls", "x", "--sink-transactional-id", "a b"], "sink.transactional_id"),
        (&["--sink-topics-raw-calls", "x", "--sink-properties-acks", "1"], "acks"),
        (
            &["--sink-topics-raw-calls", "x", "--sink-properties-isolation-level", "x"],
            "sink.properties.isolation.level cannot be set",
        ),
    ] {
        let message = told(&mill, arguments);
        assert!(message.contains(said), "{arguments:?}: {message}");
    }
    let too_long = mill.drain_with(1, &["--sink-topics-raw-calls", "x", "--sink-lag-max", "25h"]);
    let message = String::from_utf8_lossy(&too_long.stderr).to_string();
    assert!(message.contains("must not be longer than store.retention"), "{message}");
    assert_eq!(mill.newest(), None);
}
