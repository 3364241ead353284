//! Several sources as one: such as a folder of archives beside the topics that go on where they end.
//!
//! Each has partitions of its own, which no other names, so positions and cursors need no telling apart: a
//! source looks for its own among those of a stream. The whole is drained when all are.

use crate::commit::Beginning;
use crate::source::{Polled, RecordSink, Source, SourceError, SourceFactory, Standing};
use std::sync::atomic::AtomicBool;
use tidemill_types::{Cursors, Positions};

/// Factories whose sources are read side by side.
pub struct Combined(pub Vec<Box<dyn SourceFactory>>);

struct Share {
    sources: Vec<(Box<dyn Source>, bool)>,
}

impl Share {
    /// Another source is the first next time: the first may fill the batch.
    fn rotate(&mut self) {
        if !self.sources.is_empty() {
            self.sources.rotate_left(1);
        }
    }
}

impl Source for Share {
    fn poll(&mut self, sink: &mut dyn RecordSink) -> Result<Polled, SourceError> {
        let mut whole = Polled::Drained;
        self.rotate();
        for (source, drained) in self.sources.iter_mut().filter(|(_, drained)| !drained) {
            match source.poll(sink)? {
                Polled::Drained => *drained = true,
                Polled::Idle if whole == Polled::Drained => whole = Polled::Idle,
                Polled::Idle => {}
                Polled::More => whole = Polled::More,
            }
        }
        Ok(whole)
    }

    fn drain(&mut self) -> bool {
        // One that cannot tell its end makes the whole wait until all are idle.
        let left = self.sources.iter_mut().filter(|(_, drained)| !drained);
        let told: Vec<bool> = left.map(|(source, _)| source.drain()).collect();
        told.into_iter().all(|knows| knows)
    }
}

impl SourceFactory for Combined {
    fn begin(
        &self,
        positions: &Positions,
        cursors: &Cursors,
        stop: &AtomicBool,
    ) -> Result<Option<Beginning>, SourceError> {
        let mut all = Beginning::default();
        for factory in &self.0 {
            let Some(one) = factory.begin(positions, cursors, stop)? else { return Ok(None) };
            (all.positions, all.cursors) = one.applied_to(&all.positions, &all.cursors);
            all.gaps.extend(one.gaps);
        }
        Ok(Some(all))
    }

    fn holds(
        &self,
        earlier: (&Positions, &Cursors),
        later: (&Positions, &Cursors),
    ) -> Result<(), SourceError> {
        self.0.iter().try_for_each(|factory| factory.holds(earlier, later))
    }

    fn open(
        &self,
        worker: usize,
        workers: usize,
        positions: &Positions,
        cursors: &Cursors,
    ) -> Result<Box<dyn Source>, SourceError> {
        let opened = self.0.iter().map(|factory| factory.open(worker, workers, positions, cursors));
        let sources = opened.map(|source| source.map(|source| (source, false)));
        Ok(Box::new(Share { sources: sources.collect::<Result<_, SourceError>>()? }))
    }

    fn committed(&self, positions: &Positions) {
        self.0.iter().for_each(|factory| factory.committed(positions));
    }

    fn standing(&self) -> Standing {
        let mut whole = Standing::default();
        for one in self.0.iter().map(|factory| factory.standing()) {
            whole.lag.extend(one.lag);
            whole.waiting = whole.waiting.or(one.waiting);
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::RawRecord;
    use tidemill_types::Partition;

    /// Says these, the last for ever.
    struct Says(Vec<Polled>, bool);

    impl Source for Says {
        fn poll(&mut self, _: &mut dyn RecordSink) -> Result<Polled, SourceError> {
            Ok(if self.0.len() > 1 { self.0.remove(0) } else { self.0[0] })
        }

        fn drain(&mut self) -> bool {
            self.1
        }
    }

    struct Nowhere;

    impl RecordSink for Nowhere {
        fn record(&mut self, _: usize, _: RawRecord<'_>) -> bool {
            true
        }

        fn position(&mut self, _: usize, _: &Partition, _: u64, _: serde_json::Value) {}

        fn matters(&mut self) {}
    }

    fn share(all: Vec<Says>) -> Share {
        Share { sources: all.into_iter().map(|one| (Box::new(one) as Box<dyn Source>, false)).collect() }
    }

    #[test]
    fn the_whole_is_as_busy_as_its_busiest_and_drained_with_its_last() {
        use Polled::{Drained, Idle, More};
        let mut whole =
            share(vec![Says(vec![More, Idle, Drained], true), Says(vec![Idle, Idle, Idle, Drained], true)]);
        let said: Vec<Polled> = (0..5).map(|_| whole.poll(&mut Nowhere).unwrap()).collect();
        assert_eq!(said, [More, Idle, Idle, Drained, Drained]);
    }

    #[test]
    fn the_whole_knows_its_end_only_if_all_that_are_left_do() {
        let drains =
            |says: [bool; 2]| share(says.map(|knows| Says(vec![Polled::Idle], knows)).into()).drain();
        assert_eq!([[true, true], [true, false], [false, true]].map(drains), [true, false, false]);
    }
}
