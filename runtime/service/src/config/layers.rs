//! Where settings come from: a TOML file, the environment, flags. Each becomes a layer of
//! `path -> (value, origin)`; a layer above replaces what one below says of the same path.

use super::ConfigError;
use super::keys::{Kind, Known, Path, dotted, folded};
use serde_json::{Map, Number, Value};
use std::{collections::BTreeMap, ffi::OsString, fmt, path::PathBuf};
use toml::de::{DeTable, DeValue};

/// Begins the name of every environment variable that is a setting.
pub const ENV_PREFIX: &str = "TIDEMILL_";

/// What to do where no known name is near.
const ALL_KNOWN: &str = "the command `config` lists all that there are";

/// Whence a value is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A line of the settings file.
    File {
        /// The file, as it was named.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
    /// An environment variable.
    Env(String),
    /// A flag, with its dashes.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => write!(f, "default"),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Env(name) => write!(f, "env {name}"),
            Origin::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// A value and whence it is.
#[derive(Clone, PartialEq, Debug)]
pub struct Entry {
    /// The value.
    pub value: Value,
    /// Whence it is.
    pub origin: Origin,
}

/// What one place says.
pub type Layer = BTreeMap<Path, Entry>;

fn line_of(text: &str, at: usize) -> usize {
    1 + text.as_bytes()[..at.min(text.len())].iter().filter(|b| **b == b'\n').count()
}

/// A TOML value as JSON; tables keep their shape. The error says what cannot be a setting.
fn to_json(value: &DeValue<'_>) -> Result<Value, String> {
    Ok(match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(n) => match i64::from_str_radix(n.as_str(), n.radix()) {
            Ok(n) => n.into(),
            Err(_) => return Err(format!("{n} is out of range")),
        },
        DeValue::Float(x) => {
            let parsed = x.as_str().replace('_', "").parse().ok().and_then(Number::from_f64);
            Value::Number(parsed.ok_or_else(|| format!("{x} is not a finite number"))?)
        }
        DeValue::Boolean(b) => Value::Bool(*b),
        DeValue::Datetime(at) => return Err(format!("{at} is a date; no setting is one")),
        DeValue::Array(items) => {
            items.iter().map(|item| to_json(item.get_ref())).collect::<Result<_, _>>()?
        }
        DeValue::Table(table) => {
            let pair = |(k, v): (&toml::Spanned<_>, &toml::Spanned<_>)| {
                Ok((
                    String::clone(&ToString::to_string(k.get_ref() as &toml::de::DeString)),
                    to_json(v.get_ref())?,
                ))
            };
            Value::Object(table.iter().map(pair).collect::<Result<Map<_, _>, String>>()?)
        }
    })
}

struct FileReader<'a> {
    known: &'a Known<'a>,
    path: &'a std::path::Path,
    text: &'a str,
    layer: Layer,
}

impl FileReader<'_> {
    fn table(&mut self, prefix: &[String], table: &DeTable<'_>) -> Result<(), ConfigError> {
        for (key, value) in table {
            let path: Path = prefix.iter().cloned().chain([key.get_ref().to_string()]).collect();
            let origin = Origin::File { path: self.path.into(), line: line_of(self.text, key.span().start) };
            match value.get_ref() {
                DeValue::Table(inner) if !self.known.holds(&path) && !inner.is_empty() => {
                    self.table(&path, inner)?
                }
                DeValue::Table(inner) if inner.is_empty() && self.known.is_table(&path) => {}
                leaf => {
                    known_or_error(self.known, &path, &origin)?;
                    let value = to_json(leaf).map_err(|e| ConfigError::of(&origin, &path, &e))?;
                    self.layer.insert(path, Entry { value, origin });
                }
            }
        }
        Ok(())
    }
}

fn known_or_error(known: &Known<'_>, path: &[String], origin: &Origin) -> Result<(), ConfigError> {
    if known.holds(path) {
        return Ok(());
    }
    let name = dotted(path);
    if known.is_table(path) {
        let such = known.first_below(path).map_or(String::new(), |first| format!(", such as `{first}`"));
        let message =
            format!("`{name}` is a section, not a value: write its settings below `[{name}]`{such}");
        return Err(ConfigError::new(origin, message));
    }
    let hint = match (known.nearest(path), known.nearest_table(path)) {
        (Some(near), _) => format!("did you mean `{near}`?"),
        (None, Some(near)) => format!("did you mean the section `[{near}]`?"),
        (None, None) => ALL_KNOWN.to_string(),
    };
    Err(ConfigError::new(origin, format!("unknown setting `{name}`; {hint}")))
}

/// The layer of a settings file.
pub fn from_file(known: &Known<'_>, path: &std::path::Path) -> Result<Layer, ConfigError> {
    let unread = |e| ConfigError {
        message: format!("cannot read the settings file {}: {e}", path.display()),
        usage: false,
    };
    let text = std::fs::read_to_string(path).map_err(unread)?;
    from_toml(known, path, &text)
}

/// The layer of a settings file's text.
pub fn from_toml(known: &Known<'_>, path: &std::path::Path, text: &str) -> Result<Layer, ConfigError> {
    let table = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(text, span.start));
        ConfigError::new(&Origin::File { path: path.into(), line }, format!("not TOML: {}", error.message()))
    })?;
    let mut reader = FileReader { known, path, text, layer: Layer::new() };
    reader.table(&[], table.get_ref())?;
    Ok(reader.layer)
}

/// A flag's or a variable's text as a value: of the library's settings by their kind, of the
/// program's as TOML where it is TOML, else as it stands.
fn from_text(path: &[String], text: &str) -> Value {
    match Known::key(path).map(|key| key.kind) {
        Some(Kind::Count { .. } | Kind::Bytes { .. }) => match text.parse::<u64>() {
            Ok(n) => n.into(),
            Err(_) => text.into(),
        },
        Some(_) => text.into(),
        None => {
            let parsed = DeValue::parse(text).ok().and_then(|value| to_json(value.get_ref()).ok());
            parsed.unwrap_or_else(|| text.into())
        }
    }
}

/// The layer of environment variables; those without [`ENV_PREFIX`] are not looked at.
pub fn from_env(
    known: &Known<'_>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Layer, ConfigError> {
    let mut layer = Layer::new();
    for (name, text) in variables {
        let name = name.to_string_lossy();
        let Some(rest) = name.strip_prefix(ENV_PREFIX) else { continue };
        let segments: Path = rest.split("__").map(str::to_lowercase).collect();
        let path = known.unfold(&folded(&segments.join("."))).filter(|path| path.len() == segments.len());
        let origin = Origin::Env(name.to_string());
        let Some(path) = path else {
            return Err(ConfigError::new(&origin, unknown_variable(known, &segments)));
        };
        let Some(text) = text.to_str() else {
            let message = "its value is not UTF-8 text; set it anew or unset it".to_string();
            return Err(ConfigError::new(&origin, message));
        };
        layer.insert(path.clone(), Entry { value: from_text(&path, text), origin });
    }
    Ok(layer)
}

/// What to say of a variable that is no setting, and what to do.
fn unknown_variable(known: &Known<'_>, segments: &[String]) -> String {
    let variable = |name: String| format!("{ENV_PREFIX}{}", name.replace('.', "__").to_uppercase());
    if let Some(first) = known.first_below(segments) {
        let such = variable(first);
        return format!("this is a section, not a setting; set one of its settings, such as {such}");
    }
    match known.nearest(segments) {
        Some(near) => format!("unknown setting; did you mean {}? (unset it otherwise)", variable(near)),
        None => format!("unknown setting; unset it ({ALL_KNOWN})"),
    }
}

/// The layer of flags, given as `(name without dashes, value)`.
pub fn from_flags(known: &Known<'_>, flags: &[(String, String)]) -> Result<Layer, ConfigError> {
    let mut layer = Layer::new();
    for (name, text) in flags {
        let origin = Origin::Flag(format!("--{name}"));
        let Some(path) = known.unfold(&folded(name)) else {
            let near = known.nearest(&[name.replace('-', ".")]);
            let hint = near.map(|near| format!("did you mean --{}?", super::keys::flag(&near)));
            let hint = hint.unwrap_or_else(|| ALL_KNOWN.to_string());
            return Err(ConfigError::new(&origin, format!("unknown flag; {hint}")));
        };
        layer.insert(path.clone(), Entry { value: from_text(&path, text), origin });
    }
    Ok(layer)
}
