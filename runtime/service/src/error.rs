//! The one error of the facade: what happened, where, and what to do, in one line.

use tidemill_core::source::SourceError;
use tidemill_core::store::StoreError;
use tidemill_core::view::ViewError;

/// Why a command ended without success.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line or a flag is wrong; the process exits with 2.
    #[error("{0}")]
    Usage(String),
    /// Anything else that went wrong; the process exits with 1.
    #[error("{0}")]
    Failed(String),
    /// Another writer has taken the store over; the process exits with 3, and is not to be started again.
    #[error("{0}")]
    Superseded(String),
    /// The command did its work and found something amiss that it has printed; the process exits
    /// with 1.
    #[error("something is amiss")]
    Amiss,
    /// Whoever read the output went away; no fault of anybody's, the process exits with 0.
    #[error("the reader of the output went away")]
    OutputClosed,
}

impl Error {
    /// A failure, from anything that can be shown.
    pub fn failed(message: impl std::fmt::Display) -> Self {
        Self::Failed(message.to_string())
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::failed(error)
    }
}

impl From<ViewError> for Error {
    fn from(error: ViewError) -> Self {
        Self::failed(error)
    }
}

impl From<SourceError> for Error {
    fn from(error: SourceError) -> Self {
        Self::failed(error)
    }
}

impl From<crate::config::ConfigError> for Error {
    fn from(error: crate::config::ConfigError) -> Self {
        match error.usage {
            true => Self::Usage(error.message),
            false => Self::Failed(error.message),
        }
    }
}
