//! `run` and `config`: from settings to a run, and its last words.

use super::engine::{self, ProgressSink, RunSettings, RunSummary, Until};
use super::output::{Out, human_bytes};
use super::progress::{Display, Progress};
use super::{App, Call, StoreReader, Tables};
use crate::Error;
use crate::config::{LogSettings, Origin, Resolved};
use serde_json::Value as Json;
use std::io::{IsTerminal, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tidemill_core::program::Program;
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;

/// A display that a run's threads may feed, and the last moment that it showed.
pub struct Shown {
    last: Arc<Mutex<(Display, Progress)>>,
    order: Arc<[String]>,
}

impl Shown {
    /// On standard output, with tables in the program's order.
    pub fn stdout(program: &dyn Program) -> Self {
        let order = program.tables().into_iter().map(|schema| schema.name).collect();
        Self { last: Arc::new(Mutex::new((Display::stdout(), Progress::default()))), order }
    }

    /// Where a run reports.
    pub fn sink(&self) -> ProgressSink {
        let (last, order) = (self.last.clone(), self.order.clone());
        Arc::new(move |progress| {
            let mut progress = progress.clone();
            progress.tables.sort_by_key(|(table, _)| order.iter().position(|name| name == table));
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            last.0.show(&progress);
            last.1 = progress;
        })
    }

    /// Leaves the last moment standing.
    pub fn finish(&self) {
        let mut shown = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let last = shown.1.clone();
        if last != Progress::default() {
            shown.0.finish(&last);
        }
    }
}

/// Whether the log is lines of JSON. What else is said on standard error then goes the same way.
static LOG_IS_JSON: AtomicBool = AtomicBool::new(false);

/// Under what the client of an object store says, as information, that it tries a request again.
const RETRIES: &str = "object_store::client::retry";

/// What is logged at a level. That a store refuses requests or loses them is worth a line by itself.
fn logged(level: Level) -> Targets {
    let retries = if level == Level::ERROR { level } else { level.max(Level::INFO) };
    Targets::new().with_default(level).with_target(RETRIES, retries)
}

/// Logs on standard error from here on: lines for people, or one JSON object a line.
pub fn start_log(log: &LogSettings) {
    let logged = logged(log.level.parse().unwrap_or(Level::WARN));
    let text = tracing_subscriber::fmt().with_max_level(Level::TRACE).with_writer(std::io::stderr);
    // A second subscriber is refused; the first stays, and nothing is lost.
    if log.format == "json" {
        LOG_IS_JSON.store(true, Ordering::Release);
        let json = text.json().with_current_span(false).with_span_list(false);
        let _ = tracing::subscriber::set_global_default(json.finish().with(logged));
    } else {
        let text = text.with_ansi(std::io::stderr().is_terminal());
        let _ = tracing::subscriber::set_global_default(text.finish().with(logged));
    }
}

/// The last words of a command that failed, on standard error.
pub fn tell_failure(message: &str) {
    let message = message.trim_start_matches("error: ");
    if LOG_IS_JSON.load(Ordering::Acquire) {
        return tracing::error!("{message}");
    }
    // Nobody is left to tell when standard error is closed too.
    let _ = writeln!(std::io::stderr(), "error: {message}");
}

/// What a run needs, checked.
pub fn prepare(resolved: &Resolved, until: Until, progress: ProgressSink) -> Result<RunSettings, Error> {
    let settings = resolved.settings.clone();
    let input_dir = settings.input_dir.clone();
    if input_dir.is_none() && settings.kafka.brokers.is_none() {
        let what = "no input: give Kafka's brokers with --kafka BROKERS, or a folder with --input DIR";
        return Err(Error::Usage(what.into()));
    }
    let store_url = settings.store.url.clone();
    let store_url =
        store_url.ok_or_else(|| Error::Usage("no store: give its address with --store URL".into()))?;
    if let Some(folder) = input_dir.as_ref().filter(|folder| !folder.is_dir()) {
        return Err(Error::failed(format!("the input folder {} does not exist", folder.display())));
    }
    let model = crate::run::model(&settings.model)?;
    Ok(RunSettings {
        settings,
        input_dir,
        accept_gap: false,
        roll_back: None,
        store_url,
        model,
        until,
        progress,
    })
}

/// `run`
pub fn run(call: &Call<'_>, out: &mut Out<'_>) -> Result<(), Error> {
    let resolved = call.resolved()?;
    start_log(&resolved.settings.log);
    let until = match call.matches.get_flag("until-drained") {
        true => Until::Drained,
        false => Until::Signalled,
    };
    let program = (call.app.program)(&resolved.settings.program).map_err(Error::Failed)?;
    let shown = Shown::stdout(program.as_ref());
    let mut settings = prepare(&resolved, until, shown.sink())?;
    settings.accept_gap = call.matches.get_flag("accept-gap");
    let store = settings.store_url.clone();
    let http = listen(&resolved, out)?;
    let ended = engine::serve(settings, program, http);
    shown.finish();
    let ended = ended?;
    if !ended.begun {
        return out.line("told to stop before the sources could be read; no table was changed");
    }
    out.line(&last_words(&ended))?;
    for line in summary(call.app, &store)? {
        out.line(&line)?;
    }
    Ok(())
}

/// Takes the address of `http.listen` and prints it, since the port may be one that was free.
fn listen(resolved: &Resolved, out: &mut Out<'_>) -> Result<Option<TcpListener>, Error> {
    let Some(address) = &resolved.settings.http_listen else { return Ok(None) };
    let line = resolved.lines.iter().find(|line| line.key == "http.listen");
    let given = line.is_some_and(|line| line.origin != Origin::Default);
    let listener = crate::http::bind(address, given)?;
    let at = listener.local_addr().map_err(Error::failed)?;
    out.line(&format!("health and metrics: http://{at}/healthz, /readyz, /metrics"))?;
    out.flush()?;
    Ok(Some(listener))
}

/// One line of what a run did.
pub fn last_words(summary: &RunSummary) -> String {
    let seconds = summary.lasted.as_secs_f64();
    let rate = summary.bytes as f64 / seconds.max(1e-3);
    let commit = summary.commit.map_or(String::new(), |(p50, p99)| {
        format!(", commit {:.1} ms median, {:.1} ms p99", p50.as_secs_f64() * 1e3, p99.as_secs_f64() * 1e3)
    });
    let published =
        summary.published.map_or("nothing published".to_string(), |p| format!("published epoch {p}"));
    format!(
        "ended at epoch {}, {published}: {} records, {} in {seconds:.1} s ({}/s), {} commits, {} publications{commit}",
        summary.epoch,
        summary.records,
        human_bytes(summary.bytes),
        human_bytes(rate as u64),
        summary.commits,
        summary.publications
    )
}

/// What the program says of the newest commit; a store in memory is gone with the run.
pub fn summary(app: &App, store: &str) -> Result<Vec<String>, Error> {
    if store.starts_with("memory://") {
        return Ok(Vec::new());
    }
    let reader = StoreReader::open(app, store)?;
    let tables = reader.tables(None)?;
    app.hooks.summary(&tables as &dyn Tables)
}

/// JSON as a TOML value.
fn toml_value(value: &Json) -> String {
    match value {
        Json::Array(items) => format!("[{}]", items.iter().map(toml_value).collect::<Vec<_>>().join(", ")),
        Json::Object(members) => {
            let member = |(name, value): (&String, &Json)| {
                format!("{} = {}", crate::config::dotted(std::slice::from_ref(name)), toml_value(value))
            };
            format!("{{{}}}", members.iter().map(member).collect::<Vec<_>>().join(", "))
        }
        scalar => scalar.to_string(),
    }
}

/// `config`: every key in force and whence. What is printed is TOML that gives the same settings.
pub fn config(call: &Call<'_>, out: &mut Out<'_>) -> Result<(), Error> {
    for line in config_lines(&call.resolved()?) {
        out.line(&line)?;
    }
    Ok(())
}

fn config_lines(resolved: &Resolved) -> Vec<String> {
    let settings = resolved.lines.iter().map(|line| match &line.value {
        Json::Null => (format!("# {} is not set", line.key), &line.origin),
        value => (format!("{} = {}", line.key, toml_value(value)), &line.origin),
    });
    let settings: Vec<(String, &Origin)> = settings.collect();
    let width = settings.iter().map(|(text, _)| text.chars().count()).filter(|n| *n < 60).max().unwrap_or(0);
    settings.iter().map(|(text, origin)| format!("{text:<width$}  # {origin}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ProgramKey, ProgramSettings, Sources, resolve};

    #[test]
    fn what_config_prints_is_a_settings_file_that_gives_the_same() {
        let check = |given: &Json| {
            let mut full = serde_json::json!({"models": ["a \"b\"", "*"], "none": null, "fields": {}});
            given.as_object().unwrap().iter().for_each(|(name, value)| full[name] = value.clone());
            Ok(full)
        };
        let keys =
            ["models", "none", "fields.*.*"].map(|p| ProgramKey { path: p.into(), help: String::new() });
        let program = ProgramSettings { section: "wheel", keys: keys.into(), check: Arc::new(check) };
        let flags = vec![("store".to_string(), "x y".to_string()), ("epoch-interval".into(), "70ms".into())];
        let flags = flags.into_iter().map(|(n, v)| (n.replace("store", "store-url"), v)).collect();
        let first = resolve(&program, &Sources { flags, cores: 2, ..Sources::default() }).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("all.toml");
        std::fs::write(&file, config_lines(&first).join("\n")).unwrap();
        let again = resolve(&program, &Sources { file: Some(file), cores: 9, ..Sources::default() }).unwrap();
        assert_eq!(again.settings, first.settings);
    }
}
