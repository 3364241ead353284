//! How a run shows what it is doing: a block of lines that is drawn again on a terminal, one plain line
//! a second elsewhere.

use super::output::human_bytes;
use crossterm::QueueableCommand;
use crossterm::cursor::{MoveToColumn, MoveUp};
use crossterm::terminal::{Clear, ClearType};
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

/// What a run knows of itself at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// Since the start.
    pub elapsed: Duration,
    /// Records read since the start.
    pub records: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// Records a second, over the last seconds.
    pub records_per_second: f64,
    /// Bytes a second, over the last seconds.
    pub bytes_per_second: f64,
    /// Commits of this run.
    pub commits: u64,
    /// Publications of this run.
    pub publications: u64,
    /// The newest committed epoch.
    pub epoch: Option<u64>,
    /// The median time of a commit, from the closing of the epoch to the root.
    pub commit_p50: Option<Duration>,
    /// The time of the last commit.
    pub commit_last: Option<Duration>,
    /// The epoch of the newest publication that a root names.
    pub published: Option<u64>,
    /// The age of the oldest commit that no publication holds yet.
    pub publication_lag: Duration,
    /// Requests without a result.
    pub pending: u64,
    /// Results since the start.
    pub judged: u64,
    /// From the reading of the newest committed record to its commit.
    pub freshness: Option<Duration>,
    /// Rows by table, in the program's order; those of `_state.*` left out.
    pub tables: Vec<(String, u64)>,
    /// Records that no commit covers yet, where sources have ends.
    pub source_lag: Option<u64>,
    /// The epoch up to which everything is in Kafka, where tables are sent there.
    pub sent: Option<u64>,
    /// Why the sources pause, while they do.
    pub paused: Option<String>,
}

/// A time for people.
fn span(time: Duration) -> String {
    match time.as_millis() {
        _ if time.is_zero() => "0 ms".to_string(),
        0..10 => format!("{:.1} ms", time.as_secs_f64() * 1e3),
        10..1_000 => format!("{} ms", time.as_millis()),
        1_000..120_000 => format!("{:.1} s", time.as_secs_f64()),
        _ => format!("{} min", time.as_secs() / 60),
    }
}

fn or_dash<T>(value: Option<T>, show: impl Fn(T) -> String) -> String {
    value.map_or_else(|| "-".to_string(), show)
}

impl Progress {
    /// The moment in one line.
    pub fn line(&self) -> String {
        let paused = self.paused.as_ref().map(|why| format!(" paused: {why}")).unwrap_or_default();
        let tables = self.tables.iter().map(|(table, rows)| format!(" {table} {rows}")).collect::<String>();
        let tables = if tables.is_empty() { tables } else { format!(":{tables}") };
        let behind = self.source_lag.map(|records| format!(" behind {records}")).unwrap_or_default();
        let sent = self.sent.map(|epoch| format!(" sent {epoch}")).unwrap_or_default();
        format!(
            "{:.0}s records {} ({:.0}/s){behind} input {} ({}/s) epoch {} commit {} lag {}{sent} pending {} judged {} fresh {} rows {}{tables}{paused}",
            self.elapsed.as_secs_f64(),
            self.records,
            self.records_per_second,
            human_bytes(self.bytes),
            human_bytes(self.bytes_per_second as u64),
            or_dash(self.epoch, |n| n.to_string()),
            or_dash(self.commit_p50, span),
            span(self.publication_lag),
            self.pending,
            self.judged,
            or_dash(self.freshness, span),
            self.tables.iter().map(|(_, rows)| rows).sum::<u64>(),
        )
    }

    /// The moment as a block of lines of at most `width` characters.
    pub fn block(&self, width: usize) -> Vec<String> {
        let behind = self.source_lag.map(|records| format!("   {records} behind")).unwrap_or_default();
        let mut lines = vec![
            format!(
                "{:>6.1}s in      {} records, {}   {:.0} records/s, {}/s{behind}",
                self.elapsed.as_secs_f64(),
                self.records,
                human_bytes(self.bytes),
                self.records_per_second,
                human_bytes(self.bytes_per_second as u64)
            ),
            format!(
                "        log     epoch {}   commit {} median, {} last",
                or_dash(self.epoch, |n| n.to_string()),
                or_dash(self.commit_p50, span),
                or_dash(self.commit_last, span)
            ),
            format!("        fresh   {} from reading to commit", or_dash(self.freshness, span)),
            format!(
                "        lake    published epoch {}   lag {}",
                or_dash(self.published, |n| n.to_string()),
                span(self.publication_lag)
            ),
            format!("        model   {} pending   {} judged", self.pending, self.judged),
        ];
        lines.extend(self.sent.map(|epoch| format!("        kafka   sent epoch {epoch}")));
        lines.extend(self.paused.as_ref().map(|why| format!("        paused  {why}")));
        lines.extend(self.rows_of_tables(width));
        lines.into_iter().map(|line| line.chars().take(width.saturating_sub(1)).collect()).collect()
    }

    /// As many tables on a line as fit.
    fn rows_of_tables(&self, width: usize) -> Vec<String> {
        let name = self.tables.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let cells = self.tables.iter().map(|(table, rows)| format!("{table:<name$} {rows:>9}"));
        let cells: Vec<String> = cells.collect();
        let per_line = ((width.saturating_sub(8)) / (name + 13)).max(1);
        cells.chunks(per_line).map(|row| format!("        {}", row.join("   "))).collect()
    }
}

/// Shows progress until it is finished.
pub struct Display {
    out: Box<dyn Write + Send>,
    terminal: bool,
    drawn: u16,
    last: Option<Duration>,
}

/// The least time between two plain lines.
const PLAIN_EVERY: Duration = Duration::from_secs(1);

impl Display {
    /// On standard output: a live block on a terminal, plain lines elsewhere.
    pub fn stdout() -> Self {
        Self { out: Box::new(io::stdout()), terminal: io::stdout().is_terminal(), drawn: 0, last: None }
    }

    /// Plain lines into any writer.
    pub fn plain(out: impl Write + Send + 'static) -> Self {
        Self { out: Box::new(out), terminal: false, drawn: 0, last: None }
    }

    /// Shows a moment. Call it as often as you like; plain lines come at most once a second. A closed
    /// output is no reason to stop a run, so nothing is returned.
    pub fn show(&mut self, progress: &Progress) {
        let due = self.last.is_none_or(|last| progress.elapsed >= last + PLAIN_EVERY);
        let shown = match self.terminal {
            true => self.draw(progress),
            false if due => writeln!(self.out, "{}", progress.line()).and_then(|()| self.out.flush()),
            false => return,
        };
        self.last = Some(progress.elapsed);
        // Whoever looked at it has gone; the run goes on.
        let _ = shown;
    }

    /// Shows the last moment and leaves it standing.
    pub fn finish(&mut self, progress: &Progress) {
        self.last = None;
        self.show(progress);
        self.drawn = 0;
    }

    fn draw(&mut self, progress: &Progress) -> io::Result<()> {
        let (columns, rows) = crossterm::terminal::size().unwrap_or((80, 24));
        let mut lines = progress.block(columns as usize);
        lines.truncate(rows.saturating_sub(1).max(1) as usize);
        // One write a picture, over the last one and not after clearing it, so that nothing flickers.
        let mut picture = Vec::new();
        if self.drawn > 0 {
            picture.queue(MoveUp(self.drawn))?;
        }
        picture.queue(MoveToColumn(0))?;
        for line in &lines {
            write!(picture, "{line}")?;
            picture.queue(Clear(ClearType::UntilNewLine))?.write_all(b"\n")?;
        }
        picture.queue(Clear(ClearType::FromCursorDown))?;
        self.drawn = lines.len() as u16;
        self.out.write_all(&picture)?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn progress(ms: u64) -> Progress {
        Progress {
            elapsed: Duration::from_millis(ms),
            records: 1234,
            bytes: 5_600_000,
            epoch: Some(17),
            commit_p50: Some(Duration::from_micros(4_200)),
            tables: (0..13).map(|n| (format!("some.table{n}"), n * 1000)).collect(),
            ..Progress::default()
        }
    }

    #[test]
    fn plain_lines_come_at_most_once_a_second_and_the_last_always() {
        let to = Shared::default();
        let mut display = Display::plain(to.clone());
        for ms in [0, 100, 900, 1000, 1500, 2100] {
            display.show(&progress(ms));
        }
        display.finish(&progress(2200));
        let text = String::from_utf8(to.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(text.contains("epoch 17 commit 4.2 ms") && !text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn a_block_fits_its_width_and_shows_every_table() {
        for width in [30, 80, 200] {
            let block = progress(50).block(width);
            assert!(block.iter().all(|line| line.chars().count() < width), "{block:?}");
        }
        let block = progress(50).block(120).join("\n");
        assert!((0..13).all(|n| block.contains(&format!("some.table{n} "))), "{block}");
    }
}
