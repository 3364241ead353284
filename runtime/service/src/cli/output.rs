//! Printing: values as JSON, tables for people, and a standard output that may be closed at any time.

use crate::Error;
use base64::Engine;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use tidemill_types::{TableSchema, Value};

/// How rows are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Columns for people; long cells are cut.
    Table,
    /// One JSON object a line, whole.
    Json,
}

/// Where a command prints.
pub struct Out<'a> {
    to: Box<dyn Write + 'a>,
    /// Characters of a line for people.
    width: usize,
}

/// The width for people where there is no terminal.
const WIDTH_WITHOUT_TERMINAL: usize = 160;

impl<'a> Out<'a> {
    /// Standard output.
    pub fn stdout() -> Out<'static> {
        let width = match io::stdout().is_terminal() {
            true => {
                crossterm::terminal::size().map_or(WIDTH_WITHOUT_TERMINAL, |(columns, _)| columns as usize)
            }
            false => WIDTH_WITHOUT_TERMINAL,
        };
        Out { to: Box::new(io::BufWriter::with_capacity(1 << 16, io::stdout())), width }
    }

    /// Characters of a line for people.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Any writer, with a width for people.
    pub fn to(writer: impl Write + 'a, width: usize) -> Self {
        Self { to: Box::new(writer), width }
    }

    /// Prints a line.
    pub fn line(&mut self, text: &str) -> Result<(), Error> {
        let written = self.to.write_all(text.as_bytes()).and_then(|()| self.to.write_all(b"\n"));
        written.map_err(output_error)
    }

    /// Makes what was printed visible.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.to.flush().map_err(output_error)
    }

    /// Prints columns for people under a head; numbers to the right, long cells cut.
    pub fn grid(&mut self, head: &[&str], rows: &[Vec<String>]) -> Result<(), Error> {
        for line in grid(head, rows, self.width) {
            self.line(&line)?;
        }
        Ok(())
    }

    /// Prints rows of a table in a format.
    pub fn rows(&mut self, schema: &TableSchema, rows: &[Vec<Value>], format: Format) -> Result<(), Error> {
        let names: Vec<&str> = schema.columns.iter().map(|c| c.name.as_str()).collect();
        match format {
            Format::Json => rows.iter().try_for_each(|row| self.line(&json_row(&names, row, ""))),
            Format::Table => {
                let cells: Vec<Vec<String>> =
                    rows.iter().map(|row| row.iter().map(shown).collect()).collect();
                self.grid(&names, &cells)
            }
        }
    }
}

fn output_error(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Error::OutputClosed,
        _ => Error::failed(format!("cannot write to standard output: {error}")),
    }
}

fn json_double(x: f64, out: &mut String) {
    match serde_json::Number::from_f64(x) {
        Some(number) => write!(out, "{number}").expect("a string takes anything"),
        None => out.push_str("null"),
    }
}

/// The shortest text that gives this float back, also to a reader that goes by way of a double.
fn json_float(x: f32, out: &mut String) {
    let short = serde_json::to_string(&x).unwrap_or_default();
    match short.parse::<f64>() {
        Ok(back) if back as f32 == x => out.push_str(&short),
        _ => json_double(f64::from(x), out),
    }
}

/// Appends a text as a JSON string.
pub fn json_string(text: &str, out: &mut String) {
    out.push_str(&serde_json::to_string(text).expect("a string is always JSON"));
}

/// RFC 3339 in UTC with microseconds; `None` beyond the calendar.
pub fn rfc3339(micros: i64) -> Option<String> {
    let at = jiff::Timestamp::from_microsecond(micros).ok()?;
    Some(at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string())
}

/// Appends a value as JSON.
pub fn json_value(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Str(text) => json_string(text, out),
        Value::Text(text) => json_string(&text.digest.to_string(), out),
        Value::Long(n) => write!(out, "{n}").expect("a string takes anything"),
        Value::Int(n) => write!(out, "{n}").expect("a string takes anything"),
        Value::Double(x) => json_double(*x, out),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Bytes(bytes) => json_string(&base64::engine::general_purpose::STANDARD.encode(bytes), out),
        Value::Micros(n) => match rfc3339(*n) {
            Some(text) => json_string(&text, out),
            None => write!(out, "{n}").expect("a string takes anything"),
        },
        Value::Floats(items) => {
            out.push('[');
            for (place, item) in items.iter().enumerate() {
                out.push_str(if place == 0 { "" } else { "," });
                json_float(*item, out);
            }
            out.push(']');
        }
    }
}

/// A row as one JSON object, with `more` (members that begin with a comma) at its end.
pub fn json_row(names: &[&str], row: &[Value], more: &str) -> String {
    let mut out = String::from("{");
    for (place, (name, value)) in names.iter().zip(row).enumerate() {
        out.push_str(if place == 0 { "" } else { "," });
        json_string(name, &mut out);
        out.push(':');
        json_value(value, &mut out);
    }
    out.push_str(more);
    out.push('}');
    out
}

/// Characters of a value that people are shown before the line's width cuts it further.
const SHOWN_MAX: usize = 400;

/// A value for people: one line, no control characters.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Null => "-".to_string(),
        Value::Str(text) => {
            text.chars().take(SHOWN_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
        }
        Value::Micros(n) => rfc3339(*n).unwrap_or_else(|| n.to_string()),
        Value::Floats(items) => {
            let mut text = String::new();
            json_value(&Value::Floats(items[..items.len().min(8)].to_vec()), &mut text);
            if items.len() > 8 {
                format!("{} .. {} in all", text.trim_end_matches(']'), items.len())
            } else {
                text
            }
        }
        Value::Bytes(bytes) => {
            base64::engine::general_purpose::STANDARD.encode(&bytes[..bytes.len().min(60)])
        }
        other => {
            let mut text = String::new();
            json_value(other, &mut text);
            text.trim_matches('"').to_string()
        }
    }
}

/// Columns that a character takes on a terminal: two for most of East Asia and for emoji.
fn char_width(c: char) -> usize {
    match c as u32 {
        0x1100..=0x115F | 0x2E80..=0xA4CF | 0xAC00..=0xD7A3 | 0xF900..=0xFAFF | 0xFE30..=0xFE6F => 2,
        0xFF00..=0xFF60 | 0xFFE0..=0xFFE6 | 0x1F300..=0x1FAFF | 0x20000..=0x3FFFD => 2,
        _ => 1,
    }
}

/// Columns that a text takes on a terminal.
pub fn text_width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

/// Cuts or fills a text to a width.
fn fitted(text: &str, width: usize, right: bool) -> String {
    let whole = text_width(text);
    if whole <= width {
        let fill = " ".repeat(width - whole);
        return if right { fill + text } else { text.to_string() + &fill };
    }
    let (mut out, mut used) = (String::new(), 0);
    for c in text.chars() {
        if used + char_width(c) + 1 > width {
            break;
        }
        used += char_width(c);
        out.push(c);
    }
    out + "…" + &" ".repeat(width.saturating_sub(used + 1))
}

/// Gives columns of these natural widths at most `total` together: the widest give first.
fn shrink(natural: &[usize], total: usize) -> Vec<usize> {
    let mut widths = natural.to_vec();
    let room = total.saturating_sub(2 * natural.len().saturating_sub(1));
    while widths.iter().sum::<usize>() > room {
        let widest = widths.iter().copied().max().unwrap_or(0);
        if widest <= 8 {
            break;
        }
        let next = widths.iter().copied().filter(|w| *w < widest).max().unwrap_or(8).max(8);
        let many = widths.iter().filter(|w| **w == widest).count();
        let over = widths.iter().sum::<usize>() - room;
        let give = over.div_ceil(many).min(widest - next).max(1);
        widths.iter_mut().filter(|w| **w == widest).for_each(|w| *w -= give);
    }
    widths
}

fn grid(head: &[&str], rows: &[Vec<String>], width: usize) -> Vec<String> {
    let natural =
        |place: usize| rows.iter().map(|row| text_width(&row[place])).chain([text_width(head[place])]).max();
    let natural: Vec<usize> = (0..head.len()).map(|place| natural(place).unwrap_or(0)).collect();
    let widths = shrink(&natural, width);
    let numeric = |place: usize| {
        let number = |row: &Vec<String>| row[place] == "-" || row[place].parse::<f64>().is_ok();
        !rows.is_empty() && rows.iter().all(number)
    };
    let right: Vec<bool> = (0..head.len()).map(numeric).collect();
    let line = |cells: Vec<&str>| {
        let cells =
            cells.into_iter().enumerate().map(|(place, cell)| fitted(cell, widths[place], right[place]));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_string()
    };
    let head = line(head.to_vec());
    [head].into_iter().chain(rows.iter().map(|row| line(row.iter().map(String::as_str).collect()))).collect()
}

/// A number of bytes for people.
pub fn human_bytes(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(value: Value) -> String {
        let mut out = String::new();
        json_value(&value, &mut out);
        out
    }

    #[test]
    fn values_are_json_of_their_kind() {
        assert_eq!(json(Value::Null), "null");
        assert_eq!(json(Value::Str("a\"\n\u{1}é".into())), "\"a\\\"\\n\\u0001é\"");
        assert_eq!(json(Value::Long(i64::MIN)), "-9223372036854775808");
        assert_eq!(json(Value::Bytes(vec![0, 255, 7])), "\"AP8H\"");
        assert_eq!(json(Value::Micros(1_795_246_598_000_000)), "\"2026-11-21T07:36:38.000000Z\"");
        assert_eq!(json(Value::Micros(-1)), "\"1969-12-31T23:59:59.999999Z\"");
        assert_eq!(json(Value::Double(0.1 + 0.2)), "0.30000000000000004");
        assert_eq!(json(Value::Double(f64::NAN)), "null");
        assert_eq!(json(Value::Floats(vec![0.1, -0.0, 1.0])), "[0.1,-0.0,1.0]");
    }

    #[test]
    fn floats_survive_a_reader_that_goes_by_way_of_a_double() {
        for bits in (0u32..0x7f80_0000).step_by(9_973) {
            let x = f32::from_bits(bits);
            let mut text = String::new();
            json_float(x, &mut text);
            assert_eq!((text.parse::<f64>().unwrap() as f32).to_bits(), bits, "{text}");
        }
    }

    #[test]
    fn a_row_keeps_the_order_of_its_columns() {
        let row = [Value::Str("z".into()), Value::Int(1)];
        assert_eq!(json_row(&["b", "a"], &row, ",\"_diff\":-1"), r#"{"b":"z","a":1,"_diff":-1}"#);
    }

    #[test]
    fn a_grid_fits_its_width_and_shows_no_control_characters() {
        let long = shown(&Value::Str(format!("x\u{1b}[31m\n{}", "y".repeat(300))));
        assert!(!long.contains('\u{1b}') && !long.contains('\n'));
        let lines = grid(&["n", "text", "other"], &[vec!["12".into(), long.clone(), long]], 60);
        assert!(lines.iter().all(|line| text_width(line) <= 60), "{lines:?}");
        assert!(lines[1].contains('…') && lines[1].starts_with("12"));
        let wide = grid(&["t"], &[vec!["漢".repeat(50)]], 20);
        assert!(text_width(&wide[1]) <= 20, "{wide:?}");
    }
}
