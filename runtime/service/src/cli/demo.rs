//! `demo`: made-up traffic in a folder or in Kafka, the whole program over it, and then what came of it.

use super::destination::{Folder, Topics};
use super::engine::{self, Until};
use super::folders::{no_file, no_file_for_store};
use super::outlet::Outlet;
use super::output::Out;
use super::run::{Shown, last_words, prepare, start_log};
use super::tables::schema_of;
use super::whole::whole_row;
use super::{App, Call, Demo, DemoOptions, StoreReader, StoreTables, Tables};
use crate::Error;
use crate::config::Resolved;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How far back the proposed `diff` looks.
const DIFF_EPOCHS: u64 = 10;

/// Says that a folder was made by a demo, so that the next may replace it.
const MARK: &str = ".made-by-demo";

/// `demo`
pub fn demo(call: &Call<'_>, out: &mut Out<'_>) -> Result<(), Error> {
    let traffic = call.app.demo.clone().ok_or_else(|| Error::Usage("this program has no demo".into()))?;
    let folder = call.matches.get_one::<PathBuf>("dir").cloned().unwrap_or_default();
    let mut resolved = call.resolved()?;
    no_file(&folder, "name another with --dir DIR")?;
    resolved.settings.store.url.as_deref().map_or(Ok(()), no_file_for_store)?;
    let kafka = resolved.settings.kafka.brokers.is_some();
    let outlet = if kafka { Some(Outlet::new(call.app, &resolved.settings)?) } else { None };
    let (input, store) = fresh(&folder)?;
    resolved.settings.input_dir = (!kafka).then(|| input.clone());
    let store = resolved.settings.store.url.get_or_insert(store.display().to_string()).clone();
    start_log(&resolved.settings.log);
    let lasts = Duration::from_secs(call.number("seconds").unwrap_or(20));
    let seed = call.number("seed").unwrap_or(1);
    let (seconds, goes_to) =
        (lasts.as_secs(), outlet.as_ref().map_or(input.display().to_string(), topics_shown));
    out.line(&format!(
        "made-up traffic (seed {seed}) goes to {goes_to} for {seconds} s, its tables to {store}"
    ))?;
    out.flush()?;
    let place = outlet.map_or(Place::Folder(input), Place::Topics);
    let stop = AtomicBool::new(false);
    let place = match place {
        Place::Folder(path) => Opened::Folder(Folder::new(path)),
        Place::Topics(outlet) => Opened::Topics(Topics::open(outlet, &stop)?),
    };
    let words = turn(call.app, traffic.as_ref(), &resolved, DemoOptions { seed, lasts }, (place, &stop))?;
    out.line(&words)?;
    report(call.app, &folder, &store, out)
}

/// Where the traffic goes.
enum Place {
    Folder(PathBuf),
    Topics(Outlet),
}

/// The same, ready to be written to: topics are there before the run looks for them.
enum Opened<'a> {
    Folder(Folder),
    Topics(Topics<'a>),
}

impl Opened<'_> {
    /// Writes all of the traffic there; in Kafka until it is acknowledged.
    fn write(self, traffic: &dyn Demo, options: DemoOptions, stop: &AtomicBool) -> Result<(), Error> {
        match self {
            Self::Folder(mut folder) => traffic.write(options, &mut folder, stop),
            Self::Topics(mut topics) => {
                traffic.write(options, &mut topics, stop)?;
                topics.finish()
            }
        }
    }
}

/// Topics for people.
fn topics_shown(outlet: &Outlet) -> String {
    let topics = (0..outlet.streams().len()).filter_map(|stream| outlet.topic(stream));
    format!("the topics {} of {}", topics.collect::<Vec<_>>().join(", "), outlet.brokers)
}

/// Empties a demo's folder; one that no demo made is left alone.
fn fresh(folder: &Path) -> Result<(PathBuf, PathBuf), Error> {
    let failed =
        |e: std::io::Error| Error::failed(format!("cannot prepare the folder {}: {e}", folder.display()));
    let (input, store, mark) = (folder.join("input"), folder.join("store"), folder.join(MARK));
    if folder.exists() && !mark.exists() && std::fs::read_dir(folder).map_err(failed)?.next().is_some() {
        let why = "is not empty and was not made by a demo; name another with --dir";
        return Err(Error::failed(format!("{} {why}", folder.display())));
    }
    for part in [&input, &store].into_iter().filter(|part| part.exists()) {
        std::fs::remove_dir_all(part).map_err(failed)?;
    }
    std::fs::create_dir_all(&input).map_err(failed)?;
    std::fs::write(&mark, "The demo replaces the folders input and store beside this file.\n")
        .map_err(failed)?;
    Ok((input, store))
}

/// Runs the program while the traffic is written, and until all of it is committed.
fn turn(
    app: &App,
    traffic: &dyn Demo,
    resolved: &Resolved,
    options: DemoOptions,
    (place, stop): (Opened<'_>, &AtomicBool),
) -> Result<String, Error> {
    let program = (app.program)(&resolved.settings.program).map_err(Error::Failed)?;
    let shown = Shown::stdout(program.as_ref());
    let written = Arc::new(AtomicBool::new(false));
    let settings = prepare(resolved, Until::DrainedOnce(written.clone()), shown.sink())?;
    let (ended, traffic) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let ended = place.write(traffic, options, stop);
            written.store(true, Ordering::Release);
            ended
        });
        let ended = engine::run(settings, program);
        stop.store(true, Ordering::Release);
        (ended, writer.join())
    });
    shown.finish();
    let summary = ended?;
    traffic.map_err(|_| Error::failed("the demo's traffic stopped by an internal error"))??;
    Ok(last_words(&summary))
}

/// Every table, a row of each showcase, the program's own words, and what to try next.
fn report(app: &App, folder: &Path, store: &str, out: &mut Out<'_>) -> Result<(), Error> {
    let reader = StoreReader::open(app, store)?;
    let tables = reader.tables(None)?;
    out.line(&format!("\nall tables as of commit {}:", tables.epoch()))?;
    let mut rows = Vec::new();
    for size in tables.sizes()?.into_iter().filter(|size| !size.table.starts_with("_state.")) {
        let place = format!("{}/tables/{}", store.trim_end_matches('/'), size.table);
        rows.push(vec![size.table, size.rows.to_string(), place]);
    }
    out.grid(&["table", "rows", "place"], &rows)?;
    for (table, row) in app.hooks.showcase(&tables)? {
        match row {
            Some(row) => {
                let (title, width) = (format!("\none row of {table}:"), out.width());
                whole_row(out, &title, schema_of(&tables, table)?, &row, width)?;
            }
            None => out.line(&format!("\n{table} has no row yet; let the demo run longer"))?,
        }
    }
    out.line("")?;
    for line in app.hooks.story(&reader)?.into_iter().chain(app.hooks.summary(&tables as &dyn Tables)?) {
        out.line(&line)?;
    }
    out.line("\nwhat to try next:")?;
    for line in next(app, folder, store, &reader, &tables)? {
        out.line(&format!("  {line}"))?;
    }
    Ok(())
}

/// Commands that work as they stand when they are pasted where the demo was started.
fn next(
    app: &App,
    folder: &Path,
    store: &str,
    reader: &StoreReader,
    tables: &StoreTables,
) -> Result<Vec<String>, Error> {
    let (name, at) = (invocation(app.name), shell(store));
    let export = app.hooks.exports().into_iter().next();
    let first = tables.schemas().first().map(|schema| schema.name.clone()).unwrap_or_default();
    let table = export.as_ref().map_or(first, |export| export.table().to_string());
    let epoch = tables.epoch();
    let since = epoch.saturating_sub(DIFF_EPOCHS).max(reader.oldest()?);
    let mut lines = vec![
        format!("{name} tables --store {at}"),
        format!("{name} show {table} --store {at} --limit 3 --format json"),
        format!("{name} diff {table} --store {at} --from {since} --to {epoch}"),
        format!("{name} log --store {at} --last"),
        format!("{name} verify --store {at} --recompute"),
    ];
    lines.extend(export.map(|export| {
        let to = shell(&folder.join("export").display().to_string());
        format!("{name} export {table} --store {at} --format {} --out {to}", export.format())
    }));
    if store.starts_with("memory://") {
        return Ok(vec![format!("{name} demo  # with tables that stay")]);
    }
    let (location, _) = tables.metadata_location(&table)?;
    let python = "import sys; from pyiceberg.table import StaticTable; \
                  print(StaticTable.from_metadata(sys.argv[1]).scan(limit=3).to_arrow().to_pylist())";
    let sql = format!(
        "INSTALL iceberg; LOAD iceberg; SELECT * FROM iceberg_scan('{}') LIMIT 3",
        location.replace('\'', "''")
    );
    lines.push("pip install 'pyiceberg[pyarrow]'".to_string());
    lines.push(format!("python3 -c \"{python}\" {}", shell(&location)));
    lines.push(format!("duckdb -c {}", double_quoted(&sql)));
    Ok(lines)
}

/// How to start this program again from here: by its name where that finds it, else by its path.
fn invocation(name: &str) -> String {
    let Ok(program) = std::env::current_exe() else { return name.to_string() };
    let found = std::env::var_os("PATH").and_then(|path| {
        let mut places = std::env::split_paths(&path).map(|folder| folder.join(name));
        places.find(|place| place.is_file())
    });
    let same =
        |place: PathBuf| place.canonicalize().is_ok_and(|place| Some(place) == program.canonicalize().ok());
    if found.is_some_and(same) {
        return name.to_string();
    }
    let here = std::env::current_dir().ok();
    let near = here.as_ref().and_then(|here| program.strip_prefix(here).ok());
    match near {
        // A shell looks a bare name up elsewhere.
        Some(near) if near.components().count() == 1 => shell(&format!("./{}", near.display())),
        near => shell(&near.unwrap_or(&program).display().to_string()),
    }
}

/// A word as a shell takes it.
fn shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_string(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// A text in double quotes, as a shell takes it.
fn double_quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        if matches!(c, '"' | '$' | '`' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_folder_that_a_demo_made_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let mine = folder.path().join("mine");
        std::fs::create_dir(&mine).unwrap();
        std::fs::write(mine.join("notes"), "keep").unwrap();
        assert!(fresh(&mine).unwrap_err().to_string().contains("--dir"));
        assert!(mine.join("notes").exists());
        let demo = folder.path().join("demo");
        let (input, _) = fresh(&demo).unwrap();
        std::fs::write(input.join("a.jsonl"), "x").unwrap();
        fresh(&demo).unwrap();
        assert!(input.exists() && !input.join("a.jsonl").exists());
    }

    #[test]
    fn words_reach_a_program_through_the_shell_as_they_are() {
        for word in ["demo/store", "my demo", "it's $HOME", "a\"b`c\\d", ""] {
            for quoted in [shell(word), double_quoted(word)] {
                let script = format!("printf %s {quoted}");
                let said = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
                assert_eq!(String::from_utf8(said.stdout).unwrap(), word, "{quoted}");
            }
        }
    }
}
