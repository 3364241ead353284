//! What the runtime relies on in timely: everything that was sent arrives.

use std::time::Duration;
use timely::dataflow::ProbeHandle;
use timely::dataflow::operators::{Exchange, Input, Probe};

/// Steps after which a record that has not arrived is taken for lost.
const STEPS_MAX: usize = 100_000;

/// 46 rejects of one epoch filled a container exactly. It was sent at once, the worker took a step, and
/// the flush at the epoch's end went no further than a counter that had nothing to report any more: the
/// container stayed in the exchange, the frontier stood still, and nothing was ever committed again.
/// (timely 0.31; mended in 0.32.)
#[test]
fn records_that_fill_their_last_container_exactly_arrive() {
    let guards = timely::execute(timely::Config::process(2), |worker| {
        let probe = ProbeHandle::new();
        let mut input = worker.dataflow(|scope| {
            let (input, records) = scope.new_input::<Vec<u64>>();
            records.exchange(|record| *record).probe_with(&probe);
            input
        });
        // A container holds 1024 of these; every remainder is tried, and some whole multiples.
        for (epoch, count) in (1..=1025).chain([2048, 3072]).enumerate() {
            let epoch = 2 * epoch as u64;
            input.advance_to(epoch + 1);
            (0..count).for_each(|record| input.send(record));
            // The advance has woken the input, which reports here what has been sent until now.
            worker.step();
            input.advance_to(epoch + 2);
            let mut steps = 0;
            while probe.less_than(input.time()) {
                worker.step_or_park(Some(Duration::from_micros(100)));
                steps += 1;
                assert!(steps < STEPS_MAX, "{count} records never arrived");
            }
        }
    });
    for ended in guards.expect("the workers start").join() {
        ended.expect("a worker ends");
    }
}
