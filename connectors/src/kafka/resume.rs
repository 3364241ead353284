//! Where to go on: a pure function of what the store knows and what the brokers say.
//!
//! ```text
//!  stored position   topic and id   log's bounds        goes on
//!  none              any            [start, end]        at start, in the first life
//!  next              the same       start <= next <= end  at next
//!  next              the same       next < start        at start: records below it are gone       LOST
//!  next              the same       end < next          at start, in the next life: its end is gone LOST
//!  next              another        any                 at start, in the next life: made anew     LOST
//! ```
//!
//! Offsets order the records of a partition only while they grow, so whatever makes them begin again below
//! a position begins another life of the partition (see [`Partition`]). It begins at the log's start: where a
//! log that lost its end was cut, nobody says, and it may have grown since. Words that are read twice are the
//! same words; records that were rejected are rejected once in each life.

use super::watch::Look;
use super::{KafkaOptions, cursor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tidemill_core::commit::Beginning;
use tidemill_core::source::SourceError;
use tidemill_types::{Cursors, Gap, Partition, Positions};

/// What is stored beside a position: whose it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cursor {
    /// The topic's name.
    pub topic: String,
    /// Its id, where brokers tell one.
    pub id: Option<String>,
}

/// The offsets that a log holds, half open; its end is where readers of committed records must stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// The first.
    pub start: u64,
    /// Behind the last.
    pub end: u64,
}

/// Where the store left a partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored {
    /// Which life it was in.
    pub life: u32,
    /// Its position.
    pub next: u64,
    /// Whose it is; none if that was never stored.
    pub cursor: Option<Cursor>,
}

/// Why records are gone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Why {
    /// The log begins above the position.
    Deleted,
    /// The log ends below the position.
    EndLost,
    /// The topic has another id.
    MadeAnew,
    /// The stream is now read from a topic of another name.
    OtherTopic(String),
}

/// Where a partition is to be read on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Going {
    /// In which life.
    pub life: u32,
    /// From which offset.
    pub next: u64,
    /// What is gone before it.
    pub lost: Option<Why>,
}

/// Where to go on in one partition.
pub fn going(stored: Option<&Stored>, topic: &str, id: Option<&str>, bounds: Bounds) -> Going {
    let Some(stored) = stored else { return Going { life: 1, next: bounds.start, lost: None } };
    let anew = |why, next| Going { life: stored.life + 1, next, lost: Some(why) };
    let known = stored.cursor.as_ref();
    if let Some(cursor) = known.filter(|cursor| cursor.topic != topic) {
        return anew(Why::OtherTopic(cursor.topic.clone()), bounds.start);
    }
    let known_id = known.and_then(|cursor| cursor.id.as_deref());
    match (known_id, id) {
        (Some(old), Some(new)) if old != new => anew(Why::MadeAnew, bounds.start),
        _ if bounds.end < stored.next => anew(Why::EndLost, bounds.start),
        _ if stored.next < bounds.start => {
            Going { life: stored.life, next: bounds.start, lost: Some(Why::Deleted) }
        }
        _ => Going { life: stored.life, next: stored.next, lost: None },
    }
}

/// A partition that is read.
#[derive(Clone, PartialEq, Debug)]
pub struct Assigned {
    /// The stream's number.
    pub stream: usize,
    /// The topic.
    pub topic: String,
    /// The partition's number there.
    pub number: i32,
    /// What it is called in the store.
    pub partition: Partition,
    /// The first record to read.
    pub next: u64,
    /// Whether it was found while a run goes on: then its reader tells where it begins.
    pub late: bool,
    /// Where to end, if anywhere.
    pub end: Option<u64>,
    /// What is stored beside its position.
    pub cursor: serde_json::Value,
}

/// Records that are gone and were to be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lost {
    /// The stream's name.
    pub stream: String,
    /// The topic.
    pub topic: String,
    /// The partition as it was stored.
    pub partition: Partition,
    /// Its position.
    pub from: u64,
    /// Where its log begins and ends now; none if it is not there.
    pub bounds: Option<Bounds>,
    /// Where reading would go on.
    pub resumed: (Partition, u64),
    /// Why.
    pub why: Why,
}

impl Lost {
    /// Whether a log ends below a position.
    pub fn is_at_the_end(&self) -> bool {
        self.why == Why::EndLost
    }

    /// What happened, for people.
    pub fn reason(&self) -> String {
        let Lost { topic, from, bounds, partition, .. } = self;
        let number = number_of(partition);
        let place = format!("topic {topic}, partition {number}");
        let (start, end) = bounds.map_or((0, 0), |bounds| (bounds.start, bounds.end));
        match &self.why {
            Why::Deleted => format!(
                "{place}: records from offset {from} to {start} were deleted before they were read (the position \
                 is {from}, the log now starts at {start} and ends at {end})"
            ),
            Why::EndLost => format!(
                "{place}: the log lost its end: the position is {from}, the log now ends at {end} (it starts at \
                 {start})"
            ),
            Why::MadeAnew => format!(
                "{place}: the topic was deleted and created again: the position {from} is of the old one, the new \
                 log starts at {start} and ends at {end}"
            ),
            Why::OtherTopic(old) => format!(
                "{place}: the position {from} of stream {} is of topic {old}, not of {topic}, whose log starts at \
                 {start} and ends at {end}",
                self.stream
            ),
        }
    }
}

fn number_of(partition: &Partition) -> u32 {
    match partition {
        Partition::Number(number, _) => *number,
        Partition::Name(_) => u32::MAX,
    }
}

/// The error that tells what is gone, and what can be done.
pub fn lost(lost: &[Lost]) -> SourceError {
    let reasons: Vec<String> = lost.iter().map(Lost::reason).collect();
    SourceError(format!(
        "Kafka no longer holds what is to be read next. {}. Bring the records back (the topic from a backup, or \
         kafka.topics as it was), or start with --accept-gap: then reading goes on behind what is gone, and the \
         gap is recorded in the root",
        reasons.join("; ")
    ))
}

/// All partitions that are to be read, and what is gone of them.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Plan {
    /// Every partition of every topic.
    pub assigned: Vec<Assigned>,
    /// What is gone.
    pub lost: Vec<Lost>,
    /// The life in which a partition that has a position is read, or will be should it come back.
    pub lives: BTreeMap<(usize, u32), u32>,
    begins: Vec<(String, Partition, u64, serde_json::Value)>,
}

impl Plan {
    /// Where to go on after positions and cursors that a root holds.
    ///
    /// # Errors
    ///
    /// When a cursor cannot be read.
    pub fn of(
        options: &KafkaOptions,
        look: &Look,
        positions: &Positions,
        cursors: &Cursors,
    ) -> Result<Self, SourceError> {
        let mut plan = Self::default();
        for (number, stream) in options.streams.iter().enumerate() {
            let Some(Some(seen)) = look.topics.get(number) else { continue };
            let Some(topic) = options.topic(stream) else { continue };
            let stored = stored(&stream.name, positions, cursors)?;
            let id = seen.id.as_deref();
            let gone = stored.keys().filter(|n| !seen.partitions.contains_key(n)).copied();
            let all: Vec<u32> = seen.partitions.keys().copied().chain(gone).collect();
            for partition in all {
                let bounds = seen.partitions.get(&partition).copied();
                let stored = stored.get(&partition);
                let going = going(stored, topic, id, bounds.unwrap_or(Bounds { start: 0, end: 0 }));
                let name = Partition::in_life(partition, going.life);
                // An id that was known and is not told now is not forgotten.
                let known =
                    stored.and_then(|stored| stored.cursor.as_ref()).and_then(|known| known.id.as_deref());
                let cursor = cursor(topic, id.or(known.filter(|_| going.lost.is_none())));
                plan.lives.insert((number, partition), going.life);
                let begins_here = going.lost.is_some() || stored.is_none();
                if let (Some(why), Some(stored)) = (going.lost, stored) {
                    plan.lost.push(Lost {
                        stream: stream.name.clone(),
                        topic: topic.to_string(),
                        partition: Partition::in_life(partition, stored.life),
                        from: stored.next,
                        bounds,
                        resumed: (name.clone(), going.next),
                        why,
                    });
                }
                // Where a partition that nobody has read begins is committed too: what is deleted from there on
                // was to be read.
                if begins_here {
                    plan.begins.push((stream.name.clone(), name.clone(), going.next, cursor.clone()));
                }
                if let (Some(_), Ok(number_there)) = (bounds, i32::try_from(partition)) {
                    plan.assigned.push(Assigned {
                        stream: number,
                        topic: topic.to_string(),
                        number: number_there,
                        partition: name,
                        next: going.next,
                        late: false,
                        end: None,
                        cursor,
                    });
                }
            }
        }
        Ok(plan)
    }

    /// What the first commit records: what is gone, and where reading begins.
    pub fn beginning(&self) -> Beginning {
        let mut beginning = Beginning::default();
        for lost in &self.lost {
            beginning.gaps.push(Gap {
                epoch: 0,
                stream: lost.stream.clone(),
                partition: lost.partition.to_string(),
                from: lost.from,
                to: lost.resumed.1,
                resumed_in: lost.resumed.0.to_string(),
                reason: lost.reason(),
            });
        }
        for (stream, partition, next, cursor) in &self.begins {
            let (stream, partition) = (stream.clone(), partition.to_string());
            beginning.positions.entry(stream.clone()).or_default().insert(partition.clone(), *next);
            beginning.cursors.entry(stream).or_default().insert(partition, cursor.clone());
        }
        beginning
    }
}

/// What a root knows of a stream's Kafka partitions: of each number its last life.
fn stored(
    stream: &str,
    positions: &Positions,
    cursors: &Cursors,
) -> Result<BTreeMap<u32, Stored>, SourceError> {
    let mut found: BTreeMap<u32, Stored> = BTreeMap::new();
    for (text, next) in positions.get(stream).into_iter().flatten() {
        let partition = Partition::parse(text);
        let Partition::Number(number, _) = &partition else { continue };
        let cursor = cursors.get(stream).and_then(|cursors| cursors.get(text));
        let cursor = cursor.map(Cursor::deserialize).transpose().map_err(|error| {
            SourceError(format!(
                "the store's position of stream {stream}, partition {text} cannot be gone on from: {error}; the \
                 store was written by another release"
            ))
        })?;
        let this = Stored { life: partition.life(), next: *next, cursor };
        let last = found.entry(*number).or_insert_with(|| this.clone());
        if last.life < this.life {
            *last = this;
        }
    }
    Ok(found)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::watch::SeenTopic;
    use super::*;
    use std::sync::Arc;
    use tidemill_core::source::StreamSpec;

    const LOG: Bounds = Bounds { start: 10, end: 20 };

    fn cursor_of(topic: &str, id: Option<&str>) -> Option<Cursor> {
        Some(Cursor { topic: topic.into(), id: id.map(str::to_string) })
    }

    /// Where to go on in topic `t` with id `a` from a position: life, offset, what is gone.
    fn from(next: u64, cursor: Option<Cursor>, id: Option<&str>) -> (u32, u64, Option<Why>) {
        let going = going(Some(&Stored { life: 1, next, cursor }), "t", id, LOG);
        (going.life, going.next, going.lost)
    }

    #[test]
    fn a_partition_without_a_position_starts_at_its_logs_start() {
        assert_eq!(going(None, "t", Some("a"), LOG), Going { life: 1, next: 10, lost: None });
    }

    #[test]
    fn a_position_that_the_log_holds_is_gone_on_from() {
        for next in [10, 15, 20] {
            for cursor in [cursor_of("t", Some("a")), cursor_of("t", None), None] {
                for id in [Some("a"), None] {
                    assert_eq!(from(next, cursor.clone(), id), (1, next, None));
                }
            }
        }
    }

    #[test]
    fn a_log_that_starts_above_the_position_has_lost_what_lies_between() {
        for cursor in [cursor_of("t", Some("a")), None] {
            assert_eq!(from(9, cursor, Some("a")), (1, 10, Some(Why::Deleted)));
        }
    }

    #[test]
    fn a_log_that_ends_below_the_position_begins_another_life() {
        for (known, id) in [(Some("a"), Some("a")), (None, Some("a")), (Some("a"), None)] {
            assert_eq!(from(21, cursor_of("t", known), id), (2, 10, Some(Why::EndLost)));
        }
    }

    #[test]
    fn another_id_or_another_name_is_another_topic_wherever_the_position_lies() {
        for next in [0, 15, 99] {
            assert_eq!(from(next, cursor_of("t", Some("b")), Some("a")), (2, 10, Some(Why::MadeAnew)));
            let other = from(next, cursor_of("u", Some("a")), Some("a"));
            assert_eq!(other, (2, 10, Some(Why::OtherTopic("u".into()))));
        }
    }

    pub(in super::super) fn options() -> KafkaOptions {
        let stream = |name: &str| StreamSpec {
            name: name.into(),
            topic: name.into(),
            file_prefixes: Vec::new(),
            value_bytes_max: 1,
        };
        KafkaOptions {
            connection: Default::default(),
            group: "g".into(),
            streams: vec![stream("s"), stream("unread")],
            topics: BTreeMap::from([("unread".into(), String::new())]),
            drain: false,
            accept_gap: false,
            fetched_bytes_max: 1,
            now: Arc::new(String::new),
            stopwatch: Arc::new(|| 0),
            waits: Arc::new(|_| {}),
        }
    }

    fn look(id: &str, partitions: &[(u32, Bounds)]) -> Look {
        let partitions = partitions.iter().copied().collect();
        Look { topics: vec![Some(SeenTopic { id: Some(id.into()), partitions }), None] }
    }

    fn plan(id: &str, partitions: &[(u32, Bounds)], stored: &[(&str, u64, &str)]) -> Plan {
        let at = stored.iter().map(|(partition, next, _)| (partition.to_string(), *next)).collect();
        let of =
            stored.iter().map(|(partition, _, id)| (partition.to_string(), cursor("s", Some(id)))).collect();
        let positions = Positions::from([("s".to_string(), at)]);
        let cursors = Cursors::from([("s".to_string(), of)]);
        Plan::of(&options(), &look(id, partitions), &positions, &cursors).unwrap()
    }

    #[test]
    fn a_plan_goes_on_in_the_last_life_of_each_partition_and_takes_new_ones_from_their_start() {
        let stored = [("0", 7, "old"), ("0@2", 12, "a"), ("a.jsonl", 3, "")];
        let plan = plan("a", &[(0, LOG), (1, LOG)], &stored);
        let going: Vec<(&str, u64)> =
            plan.assigned.iter().map(|one| (one.partition.text(), one.next)).collect();
        assert_eq!(going, [("0@2", 12), ("1", 10)]);
        let beginning = plan.beginning();
        assert_eq!((plan.lost, beginning.gaps), (vec![], vec![]));
        assert_eq!(beginning.positions["s"], BTreeMap::from([("1".to_string(), 10)]));
    }

    #[test]
    fn an_id_that_is_not_told_at_one_start_is_still_known_at_the_next() {
        let stored = [("0", 12, "a")];
        let positions =
            Positions::from([("s".to_string(), BTreeMap::from([("0".to_string(), stored[0].1)]))]);
        let cursors =
            Cursors::from([("s".to_string(), BTreeMap::from([("0".to_string(), cursor("s", Some("a")))]))]);
        let mut look = look("a", &[(0, LOG)]);
        look.topics[0].as_mut().unwrap().id = None;
        let plan = Plan::of(&options(), &look, &positions, &cursors).unwrap();
        assert_eq!(plan.assigned[0].cursor, cursor("s", Some("a")));
    }

    #[test]
    fn what_is_gone_is_skipped_to_where_reading_goes_on_and_old_positions_stay() {
        let plan = plan("b", &[(0, LOG)], &[("0", 15, "a"), ("1", 4, "a")]);
        let beginning = plan.beginning();
        let positions = BTreeMap::from([("0@2".to_string(), 10), ("1@2".to_string(), 0)]);
        assert_eq!(beginning.positions["s"], positions);
        assert_eq!(beginning.cursors["s"]["0@2"], cursor("s", Some("b")));
        let gaps: Vec<(&str, u64, &str, u64)> =
            beginning.gaps.iter().map(|gap| (&*gap.partition, gap.from, &*gap.resumed_in, gap.to)).collect();
        // The second partition is not there any more; should it come back, it is read from its start.
        assert_eq!(gaps, [("0", 15, "0@2", 10), ("1", 4, "1@2", 0)]);
        assert_eq!(plan.lives, BTreeMap::from([((0, 0), 2), ((0, 1), 2)]));
        assert_eq!(plan.assigned.len(), 1);
        let message = lost(&plan.lost).to_string();
        for part in ["topic s, partition 0", "position 15", "--accept-gap"] {
            assert!(message.contains(part), "{message}");
        }
    }
}
