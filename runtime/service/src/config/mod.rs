//! Settings: typed, layered, strict.
//!
//! ```text
//! defaults  <  --config FILE  <  TIDEMILL_A__B_C  <  --a-b-c
//! ```
//!
//! Key `a.b_c` has one name in each place, derived by one rule. A name that is not known is an error
//! that says where it stands and which known name is near: a mistyped setting never passes for a
//! default. Every value is checked before anything is opened. The program's settings stand in a section
//! of its own; the library checks their names against the program's list and leaves their meaning to it.
//! Nothing below this module reads a file or the environment for settings.

mod keys;
mod layers;
mod near;
mod settings;
mod values;

pub use keys::{
    CheckSettings, KEYS, Key, Kind, Known, Path, ProgramKey, ProgramSettings, dotted, flag, folded,
};
pub use layers::{ENV_PREFIX, Entry, Layer, Origin};
pub use near::nearest;
pub use settings::{
    EpochSettings, KafkaSettings, LakeSettings, Line, LogSettings, MemorySettings, ModelSettings, Resolved,
    Settings, SinkSettings, Sources, StoreSettings, address_is_local, resolve,
};
pub use values::{parse_bytes, parse_duration};

/// A setting is unknown or wrong; the message says where it stands and what to do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ConfigError {
    /// Where, what, and what to do.
    pub message: String,
    /// Whether a flag is to blame, so that it counts as a usage error.
    pub usage: bool,
}

impl ConfigError {
    fn new(origin: &Origin, message: String) -> Self {
        let message = match origin {
            Origin::Default => message,
            Origin::Env(name) => format!("environment variable {name}: {message}"),
            Origin::Flag(name) => format!("{name}: {message}"),
            Origin::File { .. } => format!("{origin}: {message}"),
        };
        Self { message, usage: matches!(origin, Origin::Flag(_)) }
    }

    fn of(origin: &Origin, path: &[String], message: &str) -> Self {
        Self::new(origin, format!("`{}`: {message}", dotted(path)))
    }
}
