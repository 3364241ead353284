//! What will happen to each mill of a round, decided by a seed.
//!
//! Points and faults come in turn, in an order that the seed shuffles, so that a run of a given length has met as many
//! as it could; moments and all else are drawn.

use super::faults::Fault;
use super::points::{Point, Step};
use super::trouble::{Answer, Lie};
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::time::Duration;

/// How a mill is killed.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum End {
    /// So long after what came before.
    Moment(Duration),
    /// When it meets a point for the nth time.
    At(Point, u32),
}

/// One life.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan {
    /// Worker threads.
    pub workers: usize,
    /// What happens to it before its end.
    pub fault: Option<Fault>,
    /// How long that lasts, where it has no length of its own.
    pub lasts: Duration,
    /// How late answers are in a slow spell.
    pub late: Duration,
    /// Whether it is killed while the fault lasts.
    pub within: bool,
    /// Answers that its store will give.
    pub lies: Vec<Lie>,
    /// Whether it is killed while it starts, before its first commit.
    pub early: bool,
    /// Its end.
    pub end: End,
}

/// Draws plans.
pub struct Plans {
    rng: ChaCha8Rng,
    points: Vec<Point>,
    faults: Vec<Fault>,
    answers: bool,
    workers: Vec<usize>,
    number: usize,
}

impl Plans {
    /// For a round: the points and faults that it can meet, their order by the seed of the whole run.
    pub fn new(run: u64, round: u64, mut points: Vec<Point>, faults: &[Fault], workers: &[usize]) -> Plans {
        let mut order = ChaCha8Rng::seed_from_u64(run ^ 0x0d3e);
        let rng = ChaCha8Rng::seed_from_u64(run.wrapping_add(round << 32));
        points.shuffle(&mut order);
        if !faults.contains(&Fault::Steps) {
            points.clear();
        }
        let mut acting: Vec<Fault> = faults.to_vec();
        acting.retain(|fault| !matches!(fault, Fault::Steps | Fault::Answers));
        acting.shuffle(&mut order);
        let answers = faults.contains(&Fault::Answers);
        Plans { rng, points, faults: acting, answers, workers: workers.to_vec(), number: 0 }
    }

    /// Begins elsewhere in the turns: what earlier rounds have met comes last.
    pub fn skip(&mut self, lives: usize) {
        let (points, faults) = (self.points.len().max(1), self.faults.len().max(1));
        self.points.rotate_left((lives * 2 / 3) % points);
        self.faults.rotate_left((lives / 2) % faults);
    }

    /// The next life: two of three end at a point, every second has a fault.
    pub fn draw(&mut self) -> Plan {
        let number = self.number;
        self.number += 1;
        let rng = &mut self.rng;
        let ends_at = (!self.points.is_empty() && number % 3 != 2).then(|| {
            let place = number - number / 3;
            self.points[place % self.points.len()]
        });
        let fault = (!self.faults.is_empty() && number % 2 == 1)
            .then(|| self.faults[(number / 2) % self.faults.len()]);
        let lies = if self.answers && rng.random_bool(0.7) { rng.random_range(1..4) } else { 0 };
        let lies = (0..lies).map(|_| lie(rng)).collect();
        let end = match ends_at {
            // A hint comes once in many commits, a root at once.
            Some(point) if matches!(point.0, Step::Claim | Step::Hint) => End::At(point, 1),
            Some(point) => End::At(point, rng.random_range(1..4)),
            None => End::Moment(Duration::from_millis(rng.random_range(0..900))),
        };
        Plan {
            workers: self.workers[number % self.workers.len()],
            fault,
            lasts: Duration::from_millis(rng.random_range(500..2500)),
            late: Duration::from_millis(rng.random_range(100..1500)),
            within: rng.random_bool(0.3),
            lies,
            early: ends_at.is_none() && fault.is_none() && rng.random_bool(0.4),
            end,
        }
    }

    /// A number below `most`.
    pub fn below(&mut self, most: u64) -> u64 {
        self.rng.random_range(0..most.max(1))
    }
}

/// A false answer: mostly to a root, which alone is put under a condition.
fn lie(rng: &mut ChaCha8Rng) -> Lie {
    use Answer::{Broken, Conflict, Silence, SlowDown, Taken};
    let steps = [
        Step::Root,
        Step::Root,
        Step::Root,
        Step::Claim,
        Step::Segment,
        Step::DataFile,
        Step::DeleteFile,
        Step::Index,
        Step::Manifest,
        Step::Metadata,
    ];
    let step = *steps.choose(rng).unwrap_or(&Step::Root);
    let answers = [Taken, Conflict, SlowDown, Silence, Broken];
    let answers = if matches!(step, Step::Root | Step::Claim) { &answers[..] } else { &answers[2..] };
    let answer = *answers.choose(rng).unwrap_or(&SlowDown);
    Lie { step, answer, done: rng.random_bool(0.5) }
}

#[cfg(test)]
mod tests {
    use super::super::points::Moment;
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_point_and_every_fault_has_its_turn() {
        let points: Vec<Point> = [Step::Root, Step::Segment, Step::Claim, Step::DataFile]
            .into_iter()
            .flat_map(|step| [Point(step, Moment::Before), Point(step, Moment::After)])
            .collect();
        let faults = [Fault::Steps, Fault::Pause, Fault::Broker, Fault::Answers];
        let mut plans = Plans::new(7, 0, points.clone(), &faults, &[2, 1]);
        let drawn: Vec<Plan> = (0..12).map(|_| plans.draw()).collect();
        let met: BTreeSet<Point> = drawn
            .iter()
            .filter_map(|plan| match plan.end {
                End::At(point, _) => Some(point),
                End::Moment(_) => None,
            })
            .collect();
        assert_eq!(met.len(), points.len());
        let met: BTreeSet<Fault> = drawn.iter().filter_map(|plan| plan.fault).collect();
        assert_eq!(met, BTreeSet::from([Fault::Pause, Fault::Broker]));
        let again: Vec<Plan> = {
            let mut plans = Plans::new(7, 0, points, &faults, &[2, 1]);
            (0..12).map(|_| plans.draw()).collect()
        };
        assert_eq!(drawn, again, "the seed decides all of it");
        let mut none = Plans::new(7, 0, vec![], &[], &[1]);
        assert!((0..9).all(|_| matches!(none.draw(), Plan { fault: None, end: End::Moment(_), .. })));
    }

    #[test]
    fn only_what_is_put_under_a_condition_is_told_that_its_name_is_taken() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..500 {
            let lie = lie(&mut rng);
            assert!(lie.answer.is_of_any_write() || matches!(lie.step, Step::Root | Step::Claim), "{lie}");
        }
    }
}
