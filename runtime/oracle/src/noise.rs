//! The same JSON in many spellings: order of fields, spaces, escapes and repeated fields.

use super::json::{Json, quoted};
use rand::RngExt;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;

/// How a record is spelled.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    spaces: bool,
    escapes: bool,
    decoys: bool,
}

impl Style {
    /// Half of all records are plain.
    pub fn any(rng: &mut ChaCha8Rng) -> Style {
        if rng.random_bool(0.5) {
            return Style::default();
        }
        Style { spaces: rng.random_bool(0.5), escapes: rng.random_bool(0.5), decoys: rng.random_bool(0.3) }
    }
}

/// One of some things.
pub fn pick<T: Copy>(rng: &mut ChaCha8Rng, from: &[T]) -> T {
    *from.choose(rng).expect("something to pick from")
}

/// Whether, by chance, in so many of a thousand cases.
pub fn once_in(rng: &mut ChaCha8Rng, of_1000: u32) -> bool {
    rng.random_range(0..1000) < of_1000
}

/// A number as it is to be written.
pub fn number(text: &str) -> Json {
    Json::Number(text.to_string())
}

/// Arrays in arrays, `levels` deep.
pub fn deep(levels: usize) -> Json {
    (0..levels)
        .fold(Json::Array(vec![]), |inner, level| if level == 0 { inner } else { Json::Array(vec![inner]) })
}

/// A value in one of its spellings, on one line.
pub fn render(rng: &mut ChaCha8Rng, style: Style, value: &Json) -> String {
    let mut out = String::new();
    write(rng, style, value, &mut out);
    out
}

fn space(rng: &mut ChaCha8Rng, style: Style, out: &mut String) {
    if style.spaces {
        out.push_str(pick(rng, &["", "", " ", "\t", "  ", "\r"]));
    }
}

fn write(rng: &mut ChaCha8Rng, style: Style, value: &Json, out: &mut String) {
    space(rng, style, out);
    match value {
        Json::Array(items) => {
            out.push('[');
            for (place, item) in items.iter().enumerate() {
                out.push_str(if place == 0 { "" } else { "," });
                write(rng, style, item, out);
            }
            space(rng, style, out);
            out.push(']');
        }
        Json::Object(fields) => {
            let mut fields: Vec<(&String, &Json)> = fields.iter().collect();
            fields.shuffle(rng);
            out.push('{');
            for (place, (name, value)) in fields.into_iter().enumerate() {
                out.push_str(if place == 0 { "" } else { "," });
                if style.decoys && once_in(rng, 150) {
                    decoy(rng, style, name, out);
                }
                member(rng, style, name, value, out);
            }
            space(rng, style, out);
            out.push('}');
        }
        Json::Str(text) => string(rng, style, text, out),
        plain => out.push_str(&plain.text()),
    }
    space(rng, style, out);
}

fn member(rng: &mut ChaCha8Rng, style: Style, name: &str, value: &Json, out: &mut String) {
    space(rng, style, out);
    string(rng, style, name, out);
    space(rng, style, out);
    out.push(':');
    write(rng, style, value, out);
}

/// An earlier field of the same name, which does not count.
fn decoy(rng: &mut ChaCha8Rng, style: Style, name: &str, out: &mut String) {
    let other = match rng.random_range(0..5) {
        0 => Json::Null,
        1 => number("1e999"),
        2 => Json::str("not this"),
        3 => Json::Array(vec![Json::object([("role", Json::str("narrator")), ("id", number("7"))])]),
        _ => Json::object([("tool_calls", deep(3))]),
    };
    member(rng, style, name, &other, out);
    out.push(',');
}

fn string(rng: &mut ChaCha8Rng, style: Style, text: &str, out: &mut String) {
    if !style.escapes {
        out.push_str(&quoted(text));
        return;
    }
    out.push('"');
    for letter in text.chars() {
        if letter == '/' && once_in(rng, 300) {
            out.push_str("\\/");
        } else if once_in(rng, 60) {
            let upper = once_in(rng, 500);
            for unit in letter.encode_utf16(&mut [0; 2]) {
                out.push_str(&if upper { format!("\\u{unit:04X}") } else { format!("\\u{unit:04x}") });
            }
        } else {
            let one = quoted(letter.encode_utf8(&mut [0; 4]));
            out.push_str(&one[1..one.len() - 1]);
        }
    }
    out.push('"');
}
