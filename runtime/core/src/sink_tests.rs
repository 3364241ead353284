//! The Kafka sink's machine, driven by hand.

use super::*;
use serde_json::json;

const OURS: u64 = 3;

fn settings(tables: &[(&str, &str)]) -> SinkSettings {
    SinkSettings {
        store: "memory://x".into(),
        transactional_id: "id".into(),
        generation: OURS,
        topics: tables.iter().map(|(table, topic)| (table.to_string(), topic.to_string())).collect(),
        lag_max_ms: 60_000,
        idle_ms: 1_000,
        whole_ms: 900_000,
    }
}

fn root(epoch: Epoch, tables: &[&str]) -> Root {
    let section = json!({"offset": 0, "length": 1, "inserted": 1, "deleted": 0});
    let tables: serde_json::Map<_, _> = tables.iter().map(|t| (t.to_string(), section.clone())).collect();
    serde_json::from_value(json!({
        "format": 1, "epoch": epoch, "committed_at": "2026-01-01T00:00:00Z", "generation": OURS,
        "nonce": format!("n{epoch}"), "location": "memory://x", "claim": false, "models": [],
        "program": {"name": "", "version": "", "settings": {}}, "positions": {},
        "segments": [{"name": "s", "worker": 0, "bytes": 1, "digest": "", "tables": tables}],
        "published": null,
    }))
    .unwrap()
}

fn progress(epoch: Epoch, tables: &[(&str, &str, Epoch)]) -> Progress {
    let tables = tables.iter().map(|(table, topic, epoch)| {
        let topic = topic.to_string();
        (table.to_string(), TableProgress { topic, topic_id: None, epoch: *epoch })
    });
    Progress {
        format: 1,
        store: "memory://x".into(),
        generation: 2,
        epoch,
        nonce: format!("n{epoch}"),
        tables: tables.collect(),
    }
}

/// Opens with a progress.
fn opened(sink: &mut Sink, newest: Epoch, found: Option<Progress>) {
    opened_at(sink, newest, found, 0);
}

fn opened_at(sink: &mut Sink, newest: Epoch, found: Option<Progress>, now: i64) {
    loop {
        match sink.next(now) {
            Action::Open { .. } => sink.opened(),
            Action::LookForNewest => sink.newest_is(&root(newest, &[])),
            Action::ReadProgress => sink.progress_is(found.clone(), BTreeMap::new(), now),
            _ => return,
        }
    }
}

fn writes(sink: &mut Sink, now: i64) -> Transaction {
    match sink.next(now) {
        Action::Write(transaction) => *transaction,
        other => panic!("a transaction, not {other:?}"),
    }
}

fn steps(transaction: &Transaction) -> Vec<(&str, What)> {
    transaction.steps.iter().map(|step| (step.table.as_str(), step.what)).collect()
}

fn stopped(sink: &mut Sink, now: i64) -> String {
    if sink.next(now) == Action::LookForNewest {
        // No other writer has the store.
        sink.newest_is(&root(0, &[]));
    }
    match sink.next(now) {
        Action::Leave(End::Stopped(why)) => why,
        other => panic!("an end, not {other:?}"),
    }
}

#[test]
fn a_first_start_sends_whole_tables_as_of_the_newest_commit_and_goes_on_with_changes() {
    let mut sink = Sink::new(settings(&[("a", "ta"), ("b", "tb")]), 7, 0);
    assert_eq!(sink.next(0), Action::Open { whole: false });
    opened(&mut sink, 8, None);
    assert_eq!(sink.next(0), Action::LookInto(vec!["ta".into(), "tb".into()]));
    sink.looked_into(&[true, true]);
    assert_eq!(sink.next(0), Action::ReadRoot(8));
    sink.root_is(root(8, &[]), 0, 0);
    let first = writes(&mut sink, 0);
    assert_eq!(steps(&first), [("a", What::Whole), ("b", What::Whole)]);
    assert_eq!((first.progress.epoch, first.progress.nonce.as_str()), (8, "n8"));
    sink.written(0);
    // Such a transaction may take long, others may not.
    assert_eq!(sink.next(0), Action::Open { whole: false });
    opened(&mut sink, 10, Some(first.progress));
    assert_eq!(sink.next(0), Action::ReadRoot(8), "is it the same log?");
    sink.root_is(root(8, &[]), 0, 0);
    assert_eq!(sink.next(0), Action::ReadRoot(9));
    sink.root_is(root(9, &["c"]), 0, 0);
    assert_eq!(sink.next(0), Action::ReadRoot(10), "nothing of ours is passed over");
    sink.root_is(root(10, &["b", "c"]), 0, 0);
    assert_eq!(steps(&writes(&mut sink, 0)), [("b", What::ChangesFrom(10))]);
    sink.written(0);
    assert_eq!((sink.position(), sink.next(0)), (Some(10), Action::Wait(None)));
}

/// Opens at epoch 5 with tables that are there.
fn following() -> Sink {
    let mut sink = Sink::new(settings(&[("a", "ta")]), 5, 0);
    opened(&mut sink, 5, Some(progress(5, &[("a", "ta", 5)])));
    sink.root_is(root(5, &[]), 0, 0);
    assert_eq!(sink.next(0), Action::Wait(None));
    sink
}

#[test]
fn an_unclear_end_is_settled_by_the_progress_after_the_next_open() {
    for arrived in [false, true] {
        let mut sink = following();
        sink.committed(6, 0);
        sink.next(0);
        sink.root_is(root(6, &["a"]), 0, 0);
        let sent = writes(&mut sink, 0);
        sink.failed(Failure::Lost("fenced".into()), 0);
        assert!(matches!(sink.next(0), Action::Wait(Some(_))));
        assert_eq!(sink.next(200), Action::Open { whole: false });
        sink.opened();
        sink.newest_is(&root(6, &["a"]));
        let found = if arrived { sent.progress } else { progress(5, &[("a", "ta", 5)]) };
        sink.progress_is(Some(found), BTreeMap::new(), 200);
        sink.root_is(root(if arrived { 6 } else { 5 }, &["a"]), 0, 200);
        match arrived {
            true => assert_eq!(sink.next(200), Action::Wait(None)),
            false => assert_eq!(sink.next(200), Action::ReadRoot(6)),
        }
    }
}

#[test]
fn a_sink_that_is_shut_out_leaves_if_another_writer_has_the_store_and_opens_again_if_not() {
    let mut sink = following();
    sink.failed(Failure::Lost("fenced".into()), 0);
    assert_eq!(sink.next(200), Action::Open { whole: false });
    sink.opened();
    assert_eq!(sink.next(200), Action::LookForNewest);
    sink.newest_is(&Root { generation: OURS + 1, ..root(9, &[]) });
    assert_eq!(sink.next(200), Action::Leave(End::Superseded(OURS + 1)));
    // Nor does it send what another committed since.
    let mut sink = following();
    sink.committed(6, 0);
    sink.next(0);
    sink.root_is(Root { generation: OURS + 1, ..root(6, &["a"]) }, 0, 0);
    assert_eq!(sink.next(0), Action::Leave(End::Superseded(OURS + 1)));
}

#[test]
fn a_table_that_is_added_begins_whole_with_the_next_commit_and_one_that_comes_back_catches_up() {
    let mut sink = Sink::new(settings(&[("a", "ta"), ("b", "tb"), ("c", "tc")]), 9, 0);
    let found = progress(7, &[("a", "ta", 7), ("b", "tb", 4), ("z", "tz", 2)]);
    opened(&mut sink, 9, Some(found));
    assert_eq!(sink.next(0), Action::LookInto(vec!["tc".into()]));
    sink.looked_into(&[true]);
    sink.root_is(root(7, &[]), 0, 0);
    assert_eq!(sink.next(0), Action::ReadRoot(8));
    sink.root_is(root(8, &["a"]), 0, 0);
    let sent = writes(&mut sink, 0);
    let expected = [("a", What::ChangesFrom(8)), ("b", What::ChangesFrom(5)), ("c", What::Whole)];
    assert_eq!(steps(&sent), expected);
    let at = |table: &str| sent.progress.tables[table].epoch;
    assert_eq!(["a", "b", "c", "z"].map(at), [8, 8, 8, 2], "what is out is not forgotten");
}

#[test]
fn a_topic_that_was_made_anew_or_has_another_name_gets_the_whole_table() {
    for (topic, id) in [("ta", "new"), ("other", "old")] {
        let mut sink = Sink::new(settings(&[("a", topic)]), 9, 0);
        let mut found = progress(7, &[("a", "ta", 7)]);
        found.tables.get_mut("a").unwrap().topic_id = Some("old".into());
        let ids = BTreeMap::from([(topic.to_string(), id.to_string())]);
        for _ in 0..2 {
            sink.opened();
            sink.newest_is(&root(9, &[]));
            sink.progress_is(Some(found.clone()), ids.clone(), 0);
        }
        assert_eq!(sink.next(0), Action::LookInto(vec![topic.into()]));
        sink.looked_into(&[true]);
        assert_eq!(sink.next(0), Action::ReadRoot(9), "nothing is needed of what the log held before");
        sink.root_is(root(9, &[]), 0, 0);
        let sent = writes(&mut sink, 0);
        assert_eq!(steps(&sent), [("a", What::Whole)]);
        assert_eq!(sent.progress.tables["a"].topic_id.as_deref(), Some(id));
    }
}

#[test]
fn topics_that_hold_something_else_and_progress_of_another_log_stop_it() {
    let mut sink = Sink::new(settings(&[("a", "ta")]), 9, 0);
    opened(&mut sink, 9, None);
    sink.looked_into(&[false]);
    let why = stopped(&mut sink, 0);
    assert!(why.contains("topic ta of table a") && why.contains("sink.transactional_id"), "{why}");

    let mut sink = Sink::new(settings(&[("a", "ta")]), 9, 0);
    opened(&mut sink, 9, Some(progress(12, &[("a", "ta", 12)])));
    assert!(stopped(&mut sink, 0).contains("set back"));

    let mut sink = Sink::new(settings(&[("a", "ta")]), 9, 0);
    opened(&mut sink, 9, Some(progress(8, &[("a", "ta", 8)])));
    sink.root_is(Root { nonce: "another".into(), ..root(8, &[]) }, 0, 0);
    assert!(stopped(&mut sink, 0).contains("not that of this store's log"));

    let mut sink = Sink::new(settings(&[("a", "ta")]), 9, 0);
    opened(&mut sink, 9, Some(Progress { format: 2, ..progress(8, &[]) }));
    assert!(stopped(&mut sink, 0).contains("format 2"));
}

#[test]
fn commits_that_touch_nothing_of_ours_move_the_progress_now_and_then_and_at_the_end() {
    let mut sink = following();
    let pass = |sink: &mut Sink, epoch: Epoch, now: i64| {
        sink.committed(epoch, now);
        assert_eq!(sink.next(now), Action::ReadRoot(epoch));
        sink.root_is(root(epoch, &["c"]), now, now);
    };
    pass(&mut sink, 6, 10);
    assert_eq!(sink.next(10), Action::Wait(Some(1_000)));
    pass(&mut sink, 7, 990);
    let sent = writes(&mut sink, 1_000);
    assert_eq!((sent.progress.epoch, sent.steps.len()), (7, 0));
    sink.written(1_000);
    pass(&mut sink, 8, 1_100);
    assert_eq!(sink.next(1_100), Action::Wait(Some(2_000)));
    sink.finish(Finish::Whole);
    assert_eq!(writes(&mut sink, 1_100).progress.epoch, 8);
    sink.written(1_100);
    assert_eq!(sink.next(1_100), Action::Leave(End::Done));
}

#[test]
fn brokers_that_are_away_are_waited_for_up_to_the_bound() {
    let mut sink = following();
    sink.committed(6, 1_000);
    sink.next(1_000);
    sink.root_is(root(6, &["a"]), 1_000, 1_000);
    sink.failed(Failure::Away("nobody answers".into()), 2_000);
    let mut now = 2_000;
    while now <= 61_000 {
        match sink.next(now) {
            Action::Wait(Some(until)) => now = until,
            Action::Open { .. } => sink.failed(Failure::Away("nobody answers".into()), now),
            other => panic!("{other:?} at {now}"),
        }
    }
    let why = stopped(&mut sink, now);
    assert!(why.contains("sink.lag_max") && why.contains("nobody answers"), "{why}");
    assert!(why.contains("behind epoch 5"), "{why}");
}

#[test]
fn a_start_has_the_whole_bound_before_it_however_old_its_commits_are() {
    let mut sink = Sink::new(settings(&[("a", "ta")]), 9, 1_000_000);
    opened_at(&mut sink, 9, Some(progress(8, &[("a", "ta", 8)])), 1_000_000);
    sink.root_is(root(8, &[]), 5, 1_000_000);
    assert_eq!(sink.next(1_000_000), Action::ReadRoot(9));
    sink.root_is(root(9, &["a"]), 10, 1_000_000);
    assert!(matches!(sink.next(1_060_000), Action::Write(_)));
    assert_eq!(sink.unsent(), Some(10));
    assert!(stopped(&mut sink, 1_060_001).contains("sink.lag_max"));
}

/// What was sent counted as waiting while the producer was made anew after whole tables.
#[test]
fn what_is_sent_waits_no_more_while_the_next_producer_is_made() {
    let mut sink = Sink::new(settings(&[("a", "ta")]), 9, 0);
    opened(&mut sink, 9, None);
    sink.looked_into(&[true]);
    sink.root_is(root(9, &[]), 0, 0);
    sink.next(0);
    sink.written(59_000);
    assert_eq!(sink.next(61_000), Action::Open { whole: false });
    sink.committed(10, 61_000);
    assert_eq!(sink.next(120_000), Action::Open { whole: false });
    assert!(stopped(&mut sink, 121_001).contains("sink.lag_max"));
}

#[test]
fn a_sink_that_has_nothing_to_send_is_never_late() {
    let mut sink = following();
    assert_eq!(sink.next(10_000_000), Action::Wait(None));
    assert_eq!(sink.unsent(), None);
}

/// A writer that woke up after its retention said that the log lacked what it needed, and not why.
#[test]
fn a_sink_whose_log_went_on_without_it_leaves_it_to_the_other() {
    let mut sink = following();
    sink.committed(6, 0);
    assert_eq!(sink.next(0), Action::ReadRoot(6));
    sink.failed(Failure::Gone, 0);
    assert_eq!(sink.next(0), Action::LookForNewest);
    let theirs = Root { generation: 9, ..root(90, &[]) };
    sink.newest_is(&theirs);
    assert_eq!(sink.next(0), Action::Leave(End::Superseded(9)));
}

#[test]
fn what_the_log_no_longer_holds_stops_it() {
    let mut sink = following();
    sink.committed(6, 0);
    assert_eq!(sink.next(0), Action::ReadRoot(6));
    sink.failed(Failure::Gone, 0);
    assert_eq!(sink.next(0), Action::LookForNewest, "another writer may have moved on");
    let why = stopped(&mut sink, 0);
    assert!(why.contains("after epoch 5 is no longer in the log"), "{why}");
}

#[test]
fn a_stop_ends_it_where_brokers_are_away_and_a_drain_does_not() {
    for (how, ends) in [(Finish::WhileThere, true), (Finish::Whole, false)] {
        let mut sink = following();
        sink.committed(6, 0);
        sink.finish(how);
        sink.failed(Failure::Away("nobody".into()), 0);
        assert_eq!(matches!(sink.next(0), Action::Leave(End::Unfinished(_))), ends);
    }
}

#[test]
fn whole_tables_that_do_not_fit_a_transaction_stop_it_and_a_failing_store_does_not() {
    let whole = || {
        let mut sink = Sink::new(SinkSettings { lag_max_ms: i64::MAX, ..settings(&[("a", "ta")]) }, 9, 0);
        opened(&mut sink, 9, None);
        sink.looked_into(&[true]);
        sink.root_is(root(9, &[]), 0, 0);
        assert!(matches!(sink.next(0), Action::Write(_)));
        sink
    };
    let mut sink = whole();
    sink.failed(Failure::Lost("timed out".into()), 900_000);
    assert!(stopped(&mut sink, 900_000).contains("transaction.timeout.ms"));
    let mut sink = whole();
    sink.failed(Failure::Store("a time-out".into()), 10);
    assert_eq!(sink.next(1_000), Action::Open { whole: true });
    let mut sink = following();
    sink.committed(6, 0);
    sink.failed(Failure::Store("a time-out".into()), 10);
    assert_eq!(sink.next(1_000), Action::ReadRoot(6), "the producer is as good as before");
}
