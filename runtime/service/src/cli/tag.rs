//! `tag` and `rollback`: what people ask of the writer, or do themselves where none is at work.
//!
//! Whoever runs beside a writer asks it through the store; only when nobody takes that up is the store claimed
//! here, for one commit.

use super::output::Out;
use super::run::{Shown, prepare, start_log};
use super::{Call, StoreReader, Until};
use crate::Error;
use tidemill_connectors::edge::Tokio;
use tidemill_core::edge::SharedEdge;
use tidemill_core::writer::requests::{Ask, Wanted};
use tidemill_core::writer::{CommitsEnded, tag_alone};
use tidemill_types::Epoch;

/// `tag`: names a commit, lets a name go, or lists all names.
pub fn tag(call: &Call<'_>, out: &mut Out<'_>) -> Result<(), Error> {
    let reader = call.reader()?;
    let deletes = call.matches.get_flag("delete");
    let Some(name) = call.matches.get_one::<String>("name").cloned() else {
        if deletes {
            return Err(Error::Usage("say which tag is to go: tag NAME --delete".into()));
        }
        return list(&reader, out);
    };
    check_name(&name)?;
    let epoch = match deletes {
        true => None,
        false => Some(call.epoch("at", &reader)?.unwrap_or(reader.newest.epoch)),
    };
    let wanted = match epoch {
        Some(epoch) => Wanted::Tag { name: name.clone(), epoch },
        None => Wanted::Untag { name: name.clone() },
    };
    if let Some(done) = asked(&reader, wanted)? {
        return out.line(&done);
    }
    let edge = edge(&reader);
    let done = tag_alone(&reader.store, &edge, &name, epoch);
    let root = reader.runtime.block_on(done).map_err(|ended| match ended {
        CommitsEnded::Fenced(by) => {
            Error::Superseded(format!("{by}. `tag` shows whether it was done all the same"))
        }
        CommitsEnded::Failed(why) => Error::Failed(why),
    })?;
    out.line(&match epoch {
        Some(epoch) => format!("commit {}: epoch {epoch} is kept as {name}", root.epoch),
        None => format!("commit {}: the tag {name} is gone", root.epoch),
    })
}

/// `rollback`: makes a commit that goes back to an earlier one.
pub fn rollback(call: &Call<'_>, out: &mut Out<'_>) -> Result<(), Error> {
    let resolved = call.resolved()?;
    start_log(&resolved.settings.log);
    let reader = call.reader()?;
    let to =
        call.epoch("to", &reader)?.ok_or_else(|| Error::Usage("say where to: --to EPOCH or TAG".into()))?;
    if let Some(done) = asked(&reader, Wanted::RollBack { to })? {
        return out.line(&done);
    }
    let program = (call.app.program)(&resolved.settings.program).map_err(Error::Failed)?;
    let shown = Shown::stdout(program.as_ref());
    let mut settings = prepare(&resolved, Until::WentBack, shown.sink())?;
    settings.accept_gap = call.matches.get_flag("accept-gap");
    settings.roll_back = Some(to);
    drop(reader);
    let ended = super::engine::serve(settings, program, None);
    shown.finish();
    let ended = ended?;
    if !ended.begun {
        return Err(Error::failed("told to stop before the sources could be looked at; nothing was changed"));
    }
    out.line(&format!(
        "went back to epoch {to}; the newest commit is {}, published as of {}. A run reads the sources again from \
         there",
        ended.epoch,
        ended.published.map_or("none".to_string(), |epoch| epoch.to_string())
    ))
}

fn edge(reader: &StoreReader) -> SharedEdge {
    Tokio::shared(reader.runtime.handle().clone())
}

/// What a writer that is at work did; `None`: none is.
fn asked(reader: &StoreReader, wanted: Wanted) -> Result<Option<String>, Error> {
    let (store, edge) = (&reader.store, &edge(reader));
    let say = |what: &str| eprintln!("{what}");
    let ask = Ask { store, edge, newest: &reader.newest, wanted, say: &say };
    reader.runtime.block_on(ask.run())?.transpose().map_err(Error::Failed)
}

fn list(reader: &StoreReader, out: &mut Out<'_>) -> Result<(), Error> {
    let mut rows = Vec::new();
    for (name, tag) in &reader.newest.tags {
        let root = reader.root(Some(tag.epoch))?;
        rows.push(vec![name.clone(), tag.epoch.to_string(), root.committed_at]);
    }
    out.grid(&["tag", "epoch", "committed at"], &rows)
}

/// A name that cannot be taken for an epoch, and looks the same everywhere.
fn check_name(name: &str) -> Result<(), Error> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let good = name.len() <= 64 && name.chars().all(fits) && name.parse::<Epoch>().is_err();
    match good && !name.is_empty() {
        true => Ok(()),
        false => Err(Error::Usage(format!(
            "{name:?} cannot be a tag: take up to 64 letters, digits, `.`, `_`, `-`, and not a number alone"
        ))),
    }
}
