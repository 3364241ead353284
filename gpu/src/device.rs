//! A device: an actor that owns the model and works off one lease at a time on a blocking thread.
//!
//! [`work`] is the whole policy, free of actors. A call fails as a whole when the model panics or returns
//! another number of outputs than it was given texts; nobody can say then which row is to blame, so the
//! rows are halved and no attempt is counted. A row by itself, or one that a working call has blamed, is
//! tried up to `attempts_max` times in all, after every other row of the lease has been answered.
//!
//! The actor itself dies only of a panic outside the guarded calls, or when it is killed; the scheduler
//! then takes the lease back. A panic leaves the model in use, so a model keeps no half-changed state.

use crate::{
    lease::{Desk, Lease},
    scheduler::SchedulerMessage,
};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::{
    any::Any,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering::Relaxed},
};
use tidemill_core::model::{AttemptError, Model, Outcome};

/// The longest error text that a failure keeps.
const ERROR_BYTES_MAX: usize = 1024;

/// Work off a lease.
pub(crate) struct Run(pub(crate) Arc<Lease>);

/// What a device needs; also its state.
pub(crate) struct DeviceArguments {
    pub(crate) model: Arc<dyn Model>,
    pub(crate) desk: Arc<Desk>,
    pub(crate) scheduler: ActorRef<SchedulerMessage>,
}

/// The actor.
pub(crate) struct Device;

#[ractor::async_trait]
impl Actor for Device {
    type Msg = Run;
    type State = DeviceArguments;
    type Arguments = DeviceArguments;

    async fn pre_start(
        &self,
        _: ActorRef<Run>,
        arguments: DeviceArguments,
    ) -> Result<DeviceArguments, ActorProcessingErr> {
        Ok(arguments)
    }

    async fn handle(
        &self,
        _: ActorRef<Run>,
        Run(lease): Run,
        state: &mut DeviceArguments,
    ) -> Result<(), ActorProcessingErr> {
        let number = lease.number;
        let (model, desk) = (state.model.clone(), state.desk.clone());
        tokio::task::spawn_blocking(move || work(&*model, &desk, &lease)).await?;
        state.scheduler.cast(SchedulerMessage::Finished(number))?;
        Ok(())
    }
}

/// Answers every row of a lease that is not taken back meanwhile.
pub(crate) fn work(model: &dyn Model, desk: &Desk, lease: &Lease) {
    let unexplained = || AttemptError("its device died while it was worked on".into());
    let mut unproven = Vec::new();
    let mut spans = Vec::new();
    spans.push(0..lease.len());
    while let Some(span) = spans.pop() {
        match span.len() {
            0 => {}
            _ if lease.is_claimed(span.start) => return, // Only a lease that was taken back is.
            1 => unproven.push((span.start, unexplained())),
            _ => match call(model, desk, lease, span.clone()) {
                Ok(verdicts) => unproven.extend(settle_span(desk, lease, span, verdicts)),
                Err(error) => {
                    tracing::warn!(rows = span.len(), %error, "batch failed, trying its halves");
                    let middle = span.start + span.len() / 2;
                    spans.extend([middle..span.end, span.start..middle]);
                }
            },
        }
    }
    for (place, error) in unproven {
        retry(model, desk, lease, place, error);
    }
}

/// Answers the rows that have an output; those that the model blamed have used up an attempt.
fn settle_span(
    desk: &Desk,
    lease: &Lease,
    span: Range<usize>,
    verdicts: Vec<Result<Outcome, AttemptError>>,
) -> Vec<(usize, AttemptError)> {
    let mut blamed = Vec::new();
    for (place, verdict) in span.zip(verdicts) {
        match verdict {
            Ok(outcome) => desk.settle(lease, place, outcome),
            Err(error) => {
                lease.row(place).attempts.fetch_add(1, Relaxed);
                blamed.push((place, error));
            }
        }
    }
    blamed
}

/// Tries a row by itself as often as it may still be tried; `error` is what it failed with before.
fn retry(model: &dyn Model, desk: &Desk, lease: &Lease, place: usize, mut error: AttemptError) {
    let row = lease.row(place);
    while !lease.is_claimed(place) {
        if row.attempts() >= desk.attempts_max {
            return desk.settle(lease, place, failure(error, row.attempts()));
        }
        row.attempts.fetch_add(1, Relaxed);
        let verdict = call(model, desk, lease, place..place + 1);
        match verdict.and_then(|mut verdicts| verdicts.remove(0)) {
            Ok(outcome) => return desk.settle(lease, place, outcome),
            Err(next) => error = next,
        }
    }
}

/// A final failure, its error cut to a length that can be kept.
pub(crate) fn failure(error: AttemptError, attempts: u32) -> Outcome {
    let mut error = error.0;
    error.truncate(error.floor_char_boundary(ERROR_BYTES_MAX));
    Outcome::Failure { error, attempts }
}

/// One call of the model: a verdict for each row of the span, or why the call as a whole is worth nothing.
fn call(
    model: &dyn Model,
    desk: &Desk,
    lease: &Lease,
    span: Range<usize>,
) -> Result<Vec<Result<Outcome, AttemptError>>, AttemptError> {
    let texts: Vec<&str> = span.clone().map(|place| &*lease.row(place).job.text).collect();
    desk.count(|c| &c.calls);
    let (outputs, dimensions) = guarded(|| (model.embed(&texts), model.dimensions()))?;
    if outputs.len() != texts.len() {
        return Err(AttemptError(format!(
            "the model returned {} outputs for {} texts",
            outputs.len(),
            texts.len()
        )));
    }
    let verdict = |(place, output): (usize, Result<Vec<f32>, AttemptError>)| {
        let vector = checked(output?, dimensions)?;
        let row = lease.row(place);
        let tokens = row.tokens.map_or_else(|| guarded(|| model.tokens(&row.job.text)), Ok)?;
        Ok(Outcome::Vector { vector, tokens })
    };
    Ok(span.zip(outputs).map(verdict).collect())
}

fn checked(vector: Vec<f32>, dimensions: Option<usize>) -> Result<Vec<f32>, AttemptError> {
    let expected = dimensions.unwrap_or(vector.len().max(1));
    if vector.len() != expected {
        return Err(AttemptError(format!(
            "the model returned {} numbers where {expected} are due",
            vector.len()
        )));
    }
    match vector.iter().position(|x| !x.is_finite()) {
        None => Ok(vector),
        Some(place) => {
            Err(AttemptError(format!("number {place} of the model's output is {}", vector[place])))
        }
    }
}

/// Calls into the model; a panic becomes an error.
pub(crate) fn guarded<T>(call: impl FnOnce() -> T) -> Result<T, AttemptError> {
    catch_unwind(AssertUnwindSafe(call))
        .map_err(|payload| AttemptError(format!("the model panicked: {}", panic_text(&*payload))))
}

fn panic_text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no message)")
}
