//! The fields of the three streams: what each must be, and where a record has it.
//!
//! One table a stream says it all; the checks walk it in order. A field stands at the top level under
//! its own name unless the settings map it to a JSON pointer, and then only there. `ref` is mapped
//! whole: `file` and `id` stand inside what the pointer leads to.

use super::settings::FlywheelSettings;
use tidemill_core::source::Reject;
use tidemill_operators::json::{Captures, Json, JsonKind, Pointers};

/// A stream of the flywheel; its place in [`Stream::ALL`] is its number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stream {
    /// Agent trajectories.
    Trajectories,
    /// Model calls.
    Calls,
    /// Scores of either.
    Scores,
}

impl Stream {
    /// All streams by number.
    pub const ALL: [Stream; 3] = [Stream::Trajectories, Stream::Calls, Stream::Scores];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Trajectories => "trajectories",
            Self::Calls => "calls",
            Self::Scores => "scores",
        }
    }

    /// The stream of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stream| stream.name() == name)
    }

    /// Its number.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The beginnings of the names of its files.
    pub fn file_prefixes(self) -> &'static [&'static str] {
        match self {
            Self::Trajectories => &["trajectories"],
            Self::Calls => &["calls", "chat_logs"],
            Self::Scores => &["scores", "evals"],
        }
    }

    /// Its fields; the first is the identity.
    pub fn fields(self) -> &'static [Field] {
        match self {
            Self::Trajectories => TRAJECTORIES,
            Self::Calls => CALLS,
            Self::Scores => SCORES,
        }
    }
}

/// What a field's value must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// A string.
    String,
    /// A number that is finite in 64 bits.
    Number,
    /// A number without point and exponent that fits in 32 bits.
    Int,
    /// An array of objects.
    Objects,
    /// An object with `file`, one of the streams' file names, and `id`, a string.
    Reference,
    /// Any value.
    Anything,
}

/// One field of a stream.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// What it must be.
    pub shape: Shape,
    /// Whether it must be there.
    pub required: bool,
    /// Whether it may be null.
    pub nullable: bool,
}

const fn required(name: &'static str, shape: Shape) -> Field {
    Field { name, shape, required: true, nullable: false }
}

const fn nullable(name: &'static str, shape: Shape) -> Field {
    Field { name, shape, required: true, nullable: true }
}

const fn optional(name: &'static str, shape: Shape) -> Field {
    Field { name, shape, required: false, nullable: true }
}

const TRAJECTORIES: &[Field] = &[
    required("id", Shape::String),
    required("task_id", Shape::String),
    required("messages", Shape::Objects),
    optional("agent", Shape::String),
    optional("model", Shape::String),
    optional("outcome", Shape::String),
    optional("tenant", Shape::String),
    optional("user_id", Shape::String),
    optional("ts", Shape::String),
    optional("reward", Shape::Number),
    optional("tools", Shape::Anything),
];

const CALLS: &[Field] = &[
    required("request_id", Shape::String),
    nullable("prompt", Shape::Objects),
    nullable("response", Shape::String),
    optional("model", Shape::String),
    optional("session_id", Shape::String),
    optional("tenant", Shape::String),
    optional("user_id", Shape::String),
    optional("ts", Shape::String),
    optional("reasoning", Shape::String),
    optional("status", Shape::Int),
    optional("response_tool_calls", Shape::Objects),
    optional("tools", Shape::Anything),
];

const SCORES: &[Field] = &[
    required("row_id", Shape::String),
    required("metric", Shape::String),
    optional("score", Shape::Number),
    optional("ref", Shape::Reference),
    optional("judge", Shape::String),
    optional("judge_type", Shape::String),
];

/// The stream whose rows a `ref` to this file means.
pub fn referenced(file: &str) -> Option<Stream> {
    match file {
        "trajectories" => Some(Stream::Trajectories),
        "calls" | "chat_logs" => Some(Stream::Calls),
        _ => None,
    }
}

fn missing(message: String) -> Reject {
    Reject { code: "missing_field", message }
}

fn wrong(message: String) -> Reject {
    Reject { code: "wrong_type", message }
}

/// Where a stream's fields stand.
#[derive(Clone, Debug)]
pub struct FieldMap {
    stream: Stream,
    /// The fields' pointers in their order, then that of `_deleted`.
    pointers: Pointers,
    places: Vec<String>,
}

impl FieldMap {
    /// The map of a stream under checked settings.
    pub fn new(stream: Stream, settings: &FlywheelSettings) -> Self {
        let mapped = settings.fields.get(stream.name());
        let place = |field: &Field| match mapped.and_then(|fields| fields.get(field.name)) {
            Some(pointer) => pointer.clone(),
            None => format!("/{}", field.name),
        };
        let mut places: Vec<String> = stream.fields().iter().map(place).collect();
        places.push("/_deleted".to_string());
        let pointers = Pointers::new(&places).expect("checked settings hold pointers");
        Self { stream, pointers, places }
    }

    /// Validates a value whole and finds its fields. Rejects: `not_json`, `not_object`.
    pub fn find<'a>(&self, value: &'a [u8]) -> Result<Found<'a, '_>, Reject> {
        let not_json = |error: tidemill_operators::json::JsonError| Reject {
            code: "not_json",
            message: format!("the value is not valid JSON: {error}"),
        };
        let captures = self.pointers.scan(value).map_err(not_json)?;
        let kind = captures.root().kind();
        if kind != JsonKind::Object {
            let message = format!("the value must be an object, found {}", kind.described());
            return Err(Reject { code: "not_object", message });
        }
        Ok(Found { map: self, captures })
    }
}

/// The fields of one record.
#[derive(Clone, Debug)]
pub struct Found<'a, 'm> {
    map: &'m FieldMap,
    captures: Captures<'a, 'm>,
}

impl<'a> Found<'a, '_> {
    fn each(&self) -> impl Iterator<Item = (&'static Field, Option<Json<'a>>)> {
        self.map.stream.fields().iter().enumerate().map(|(place, field)| (field, self.captures.get(place)))
    }

    /// A field by name, as it was written.
    pub fn value(&self, name: &str) -> Option<Json<'a>> {
        let place = self.map.stream.fields().iter().position(|field| field.name == name);
        debug_assert!(place.is_some(), "{name} is no field of this stream");
        self.captures.get(place?)
    }

    /// A string field; `None` where it is absent or null.
    pub fn string(&self, name: &str) -> Option<std::borrow::Cow<'a, str>> {
        self.value(name)?.string()
    }

    /// Whether the top level holds `"_deleted": true`.
    pub fn is_deleted(&self) -> bool {
        let place = self.map.stream.fields().len();
        self.captures.get(place).is_some_and(|value| value.text() == "true")
    }

    /// The identity, checked alone. Rejects: `missing_field`, `wrong_type`.
    pub fn identity(&self) -> Result<std::borrow::Cow<'a, str>, Reject> {
        let field = &self.map.stream.fields()[0];
        let value = self.captures.get(0).ok_or_else(|| missing(self.absent(field)))?;
        value.string().ok_or_else(|| wrong(self.mismatch(field, "a string", value.kind().described())))
    }

    /// Checks every field. Rejects: `missing_field` of any field, then `wrong_type` of any.
    pub fn check(&self) -> Result<(), Reject> {
        for (field, value) in self.each() {
            match value {
                None if field.required => return Err(missing(self.absent(field))),
                Some(value) if field.shape == Shape::Reference => self.check_reference_whole(field, value)?,
                _ => {}
            }
        }
        for (field, value) in self.each() {
            match value {
                Some(value) if !(field.nullable && value.is_null()) => self.check_shape(field, value)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn check_reference_whole(&self, field: &Field, value: Json<'a>) -> Result<(), Reject> {
        let parts = ["file", "id"];
        for (name, part) in parts.into_iter().zip(value.pick(parts)) {
            if part.is_none() && value.kind() == JsonKind::Object {
                return Err(missing(format!("{} has no {name:?}", self.named(field))));
            }
        }
        Ok(())
    }

    fn check_shape(&self, field: &Field, value: Json<'a>) -> Result<(), Reject> {
        let kind = value.kind();
        let expect = |expected: &str, right: bool| match right {
            true => Ok(()),
            false => Err(wrong(self.mismatch(field, expected, kind.described()))),
        };
        match field.shape {
            Shape::Anything => Ok(()),
            Shape::String => expect("a string", kind == JsonKind::String),
            Shape::Number => {
                expect("a number", kind == JsonKind::Number)?;
                let finite = value.number().is_some_and(f64::is_finite);
                let message =
                    || wrong(format!("{} is beyond the range of a 64-bit float", self.named(field)));
                finite.then_some(()).ok_or_else(message)
            }
            Shape::Int => {
                expect("an integer", kind == JsonKind::Number)?;
                let message = || {
                    wrong(format!(
                        "{} must be an integer of 32 bits without point or exponent",
                        self.named(field)
                    ))
                };
                value.int().map(drop).ok_or_else(message)
            }
            Shape::Objects => {
                expect("an array of objects", kind == JsonKind::Array)?;
                let other = value.elements().find(|element| element.kind() != JsonKind::Object);
                other.map_or(Ok(()), |element| {
                    let found = format!("an array with {} in it", element.kind().described());
                    Err(wrong(self.mismatch(field, "an array of objects", &found)))
                })
            }
            Shape::Reference => {
                expect("an object", kind == JsonKind::Object)?;
                self.check_reference(field, value)
            }
        }
    }

    fn check_reference(&self, field: &Field, value: Json<'a>) -> Result<(), Reject> {
        let [file, id] = value.pick(["file", "id"]);
        let file = file.and_then(Json::string);
        if file.is_none_or(|file| referenced(&file).is_none()) {
            let message =
                format!("\"file\" of {} must be trajectories, calls or chat_logs", self.named(field));
            return Err(wrong(message));
        }
        if id.is_none_or(|id| id.kind() != JsonKind::String) {
            return Err(wrong(format!("\"id\" of {} must be a string", self.named(field))));
        }
        Ok(())
    }

    fn named(&self, field: &Field) -> String {
        let place = self.map.stream.fields().iter().position(|known| known.name == field.name);
        match place.map(|place| self.map.places[place].as_str()) {
            Some(pointer) if pointer.strip_prefix('/') != Some(field.name) => {
                format!("field {:?} (mapped to {pointer:?})", field.name)
            }
            _ => format!("field {:?}", field.name),
        }
    }

    fn absent(&self, field: &Field) -> String {
        format!("{} is missing", self.named(field))
    }

    fn mismatch(&self, field: &Field, expected: &str, found: &str) -> String {
        format!("{} must be {expected}, found {found}", self.named(field))
    }
}
