//! The command line, whole: a program hands its [`App`] to [`main`] and has every command.
//!
//! ```text
//!  arguments ──args──> settings (config) ──> run, demo            ── the engine
//!                                       ├──> check, config        ── no store
//!                                       └──> produce              ── Kafka, no store
//!  --store URL ──reader──> tables of one epoch ──> tables, show, path, log, diff, verify, export
//! ```
//!
//! Commands return [`Error`]; this module alone turns it into a message and an exit code: 0, 1 for a
//! failure, 2 for a wrong command line, 3 for a writer that another has shut out. A panic is a bug and
//! is told in one line. Output goes through [`output::Out`], so that a reader such as `head` may leave at
//! any time.

mod app;
mod args;
mod check;
mod demo;
mod destination;
mod diff;
mod engine;
mod export;
mod folders;
mod lines;
mod log;
mod outlet;
mod output;
mod pace;
mod panic;
mod produce;
mod progress;
mod reader;
mod run;
mod show;
mod signals;
mod stats;
mod tables;
mod tag;
mod verify;
mod whole;

pub use app::{
    App, Demo, DemoOptions, Destination, Exporter, Hooks, Keyed, Keying, Line, MakeProgram, Showcase, Tables,
    Tally, key_of,
};
pub use destination::Folder;
pub use engine::{ProgressSink, RunSettings, RunSummary, Until};
pub use output::{Format, Out, human_bytes, json_row, json_value, rfc3339};
pub use panic::last_panic;
pub use progress::{Display, Progress};
pub use reader::{StoreReader, StoreTables, TableSize};
pub use tables::by_key;

use crate::Error;
use clap::ArgMatches;
use clap::error::ErrorKind;
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use tidemill_types::Epoch;

/// The exit code of a wrong command line.
const USAGE: u8 = 2;
/// The exit code of a writer that another has shut out.
const SUPERSEDED: u8 = 3;

/// Runs the command that the process was started with.
pub fn main(app: App) -> ExitCode {
    panic::install();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let environment: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    let ended =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| execute(&app, arguments, environment)));
    let ended = ended.unwrap_or_else(|_| {
        let what = last_panic().unwrap_or_default();
        let what = format!("internal error: {what}; this is a bug: report it with the command that you ran");
        Err(Error::Failed(what))
    });
    exit_code(ended)
}

fn exit_code(ended: Result<u8, Error>) -> ExitCode {
    let (code, message) = match ended {
        Ok(code) => (code, None),
        Err(Error::OutputClosed) => (0, None),
        Err(Error::Amiss) => (1, None),
        Err(Error::Failed(message)) => (1, Some(message)),
        Err(Error::Usage(message)) => (USAGE, Some(message)),
        Err(Error::Superseded(message)) => (SUPERSEDED, Some(message)),
    };
    if let Some(message) = message {
        run::tell_failure(&message);
    }
    ExitCode::from(code)
}

fn execute(app: &App, arguments: Vec<OsString>, environment: Vec<(OsString, OsString)>) -> Result<u8, Error> {
    let matches = match args::command(app, &arguments).try_get_matches_from(&arguments) {
        Ok(matches) => matches,
        Err(error) => return clap_ended(&error),
    };
    let (name, matches) =
        matches.subcommand().ok_or_else(|| Error::Usage("no command given; see --help".into()))?;
    let call = Call { app, matches, environment };
    let mut out = Out::stdout();
    let ended = match name {
        "run" => call.no_file_for_folders().and_then(|()| run::run(&call, &mut out)),
        "demo" => demo::demo(&call, &mut out),
        "produce" => produce::produce(&call, &mut out),
        "config" => run::config(&call, &mut out),
        "check" => check::check(&call, &mut out),
        "tables" => tables::tables(&call, &mut out),
        "path" => tables::path(&call, &mut out),
        "show" => show::show(&call, &mut out),
        "log" => log::log(&call, &mut out),
        "diff" => diff::diff(&call, &mut out),
        "tag" => tag::tag(&call, &mut out),
        "rollback" => tag::rollback(&call, &mut out),
        "verify" => verify::verify(&call, &mut out),
        "export" => export::export(&call, &mut out),
        other => Err(Error::Usage(format!("unknown command {other}; see --help"))),
    };
    ended.and_then(|()| out.flush()).map(|()| 0)
}

/// Help and versions are no failure; a wrong command line exits with 2 and clap's own words. Without any
/// words of the user there is no error to tell: the help alone stands on standard error.
fn clap_ended(error: &clap::Error) -> Result<u8, Error> {
    let text = error.render().to_string();
    let text = text.trim_end();
    if error.exit_code() == 0 {
        let mut out = Out::stdout();
        out.line(text)?;
        return out.flush().map(|()| 0);
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        // Nobody is left to help when standard error is closed.
        let _ = writeln!(std::io::stderr(), "{text}");
        return Ok(USAGE);
    }
    Err(Error::Usage(text.to_string()))
}

/// One call of a command.
pub struct Call<'a> {
    app: &'a App,
    matches: &'a ArgMatches,
    environment: Vec<(OsString, OsString)>,
}

impl Call<'_> {
    fn format(&self) -> Format {
        match self.matches.get_one::<String>("format").map(String::as_str) {
            Some("json") => Format::Json,
            _ => Format::Table,
        }
    }

    fn text(&self, id: &str) -> &str {
        self.matches.get_one::<String>(id).map_or("", String::as_str)
    }

    fn number(&self, id: &str) -> Option<u64> {
        self.matches.get_one::<u64>(id).copied()
    }

    fn resolved(&self) -> Result<crate::config::Resolved, Error> {
        let sources = crate::config::Sources {
            file: self.matches.get_one::<std::path::PathBuf>("config").cloned(),
            environment: self.environment.clone(),
            flags: args::given_flags(self.matches),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        };
        Ok(crate::config::resolve(&self.app.settings, &sources)?)
    }

    /// The store that the command reads, at the epoch that it names.
    fn reader(&self) -> Result<StoreReader, Error> {
        let settings = self.resolved()?.settings;
        let missing = || Error::Usage("no store: give its address with --store URL".into());
        let store = settings.store.url.ok_or_else(missing)?;
        folders::no_file_for_store(&store)?;
        StoreReader::open(self.app, &store)
    }

    /// Refuses files where a run needs folders: its input and its store.
    fn no_file_for_folders(&self) -> Result<(), Error> {
        let settings = self.resolved()?.settings;
        if let Some(input) = &settings.input_dir {
            folders::no_file(input, "give the one that the input stands in with --input DIR")?;
        }
        settings.store.url.as_deref().map_or(Ok(()), folders::no_file_for_store)
    }

    /// The epoch that an argument names, by its number or by a tag.
    fn epoch(&self, id: &str, reader: &StoreReader) -> Result<Option<Epoch>, Error> {
        let Some(text) = self.matches.get_one::<String>(id) else { return Ok(None) };
        if let Ok(epoch) = text.parse() {
            return Ok(Some(epoch));
        }
        let tag = reader.newest.tags.get(text).ok_or_else(|| {
            let known = reader.newest.tags.keys().cloned().collect::<Vec<_>>().join(", ");
            let known = if known.is_empty() { "none".to_string() } else { known };
            Error::failed(format!("{text} is neither an epoch nor a tag; tags are: {known}"))
        })?;
        Ok(Some(tag.epoch))
    }

    /// The tables at `--at`, or at the newest commit.
    fn tables(&self, reader: &StoreReader) -> Result<reader::StoreTables, Error> {
        reader.tables(self.epoch("at", reader)?)
    }
}
