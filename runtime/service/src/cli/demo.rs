//! `demo`: made-up traffic in a folder, the whole program over it, and then what came of it.

use super::engine::{self, Until};
use super::output::Out;
use super::run::{Shown, last_words, prepare, start_log};
use super::show::first_row;
use super::{App, Call, Demo, DemoOptions, StoreReader, Tables};
use crate::Error;
use crate::config::Resolved;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Says that a folder was made by a demo, so that the next may replace it.
const MARK: &str = ".made-by-demo";

/// `demo`
pub fn demo(call: &Call<'_>, out: &mut Out<'_>) -> Result<(), Error> {
    let traffic = call.app.demo.clone().ok_or_else(|| Error::Usage("this program has no demo".into()))?;
    let folder = call.matches.get_one::<PathBuf>("dir").cloned().unwrap_or_default();
    let mut resolved = call.resolved()?;
    let (input, store) = fresh(&folder)?;
    resolved.settings.input_dir = Some(input.clone());
    let store = resolved.settings.store.url.get_or_insert(store.display().to_string()).clone();
    start_log(&resolved.settings.log.level);
    let lasts = Duration::from_secs(call.number("seconds").unwrap_or(20));
    out.line(&format!("traffic goes to {}, tables to {store}, for {} s", input.display(), lasts.as_secs()))?;
    out.flush()?;
    let seed = call.number("seed").unwrap_or(1);
    let words = turn(call.app, traffic.as_ref(), &resolved, DemoOptions { folder: &input, seed, lasts })?;
    out.line(&words)?;
    report(call.app, &store, out)
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
    options: DemoOptions<'_>,
) -> Result<String, Error> {
    let shown = Shown::stdout();
    let written = Arc::new(AtomicBool::new(false));
    let settings = prepare(resolved, Until::DrainedOnce(written.clone()), shown.sink())?;
    let program = (app.program)(&resolved.settings.program).map_err(Error::Failed)?;
    let stop = AtomicBool::new(false);
    let (ended, traffic) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let ended = traffic.write(options, &stop);
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
fn report(app: &App, store: &str, out: &mut Out<'_>) -> Result<(), Error> {
    let reader = StoreReader::open(app, store)?;
    let tables = reader.tables(None)?;
    out.line("")?;
    let mut rows = Vec::new();
    for size in tables.sizes()?.into_iter().filter(|size| !size.table.starts_with("_state.")) {
        let place = format!("{}/tables/{}", reader.store.location(), size.table);
        rows.push(vec![size.table, size.rows.to_string(), place]);
    }
    out.grid(&["table", "rows", "place"], &rows)?;
    for table in app.hooks.showcase() {
        if let Some(row) = first_row(&tables, table)? {
            out.line(&format!("\none row of {table}:\n{row}"))?;
        }
    }
    out.line("")?;
    for line in app.hooks.story(&reader)?.into_iter().chain(app.hooks.summary(&tables as &dyn Tables)?) {
        out.line(&line)?;
    }
    next(app, store, &tables, out)
}

fn next(app: &App, store: &str, tables: &super::reader::StoreTables, out: &mut Out<'_>) -> Result<(), Error> {
    let name = app.name;
    let table =
        app.hooks.showcase().into_iter().next().or_else(|| tables.schemas().first().map(|s| s.name.as_str()));
    out.line(&format!("\nwhat to try next:\n  {name} tables --store {store}"))?;
    let Some(table) = table else { return Ok(()) };
    out.line(&format!("  {name} show {table} --store {store} --limit 3"))?;
    out.line(&format!("  {name} log --last --store {store}"))?;
    let (location, _) = tables.metadata_location(table)?;
    out.line(&format!(
        "  python3 -c \"from pyiceberg.table import StaticTable; \
         print(StaticTable.from_metadata('{location}').scan(limit=3).to_arrow())\"  # pip install 'pyiceberg[pyarrow]'"
    ))?;
    out.line(&format!(
        "  duckdb -c \"INSTALL iceberg; LOAD iceberg; SELECT * FROM iceberg_scan('{location}') LIMIT 3\""
    ))
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
}
