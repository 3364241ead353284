//! Models: what answers requests.
//!
//! A request asks one model about one text and is named by the text's content. What comes of it, an
//! output or a final failure, is committed once; as long as that stands, the model is not asked again.

use crate::source::SourceError;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::{fmt, sync::Arc};
use tidemill_types::{ModelId, Text};

/// BLAKE3-256 of a text's UTF-8 bytes: the name of a request.
pub type TextDigest = [u8; 32];

/// One text that some row needs an answer for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Request {
    /// The request's name.
    pub digest: TextDigest,
    /// Where the text comes from.
    pub text: Text,
    /// The digest of the body that it is made from, so that a cached body can be found.
    pub body: tidemill_types::Digest,
}

/// What a request came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// The model's output.
    Vector {
        /// The embedding.
        vector: Vec<f32>,
        /// Tokens of the text.
        tokens: u64,
    },
    /// It failed for good.
    Failure {
        /// What the last attempt said.
        error: String,
        /// How many there were.
        attempts: u32,
    },
}

/// A result as an input row of the flow: which text, which model, what came of it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ResultRow {
    /// The request's name.
    pub digest: TextDigest,
    /// The model's place in the root's list of models.
    pub model: u32,
    /// Shared: arrangements hold it once.
    pub outcome: Arc<Outcome>,
}

/// What outcomes are compared by: floats by their bits, so that a retraction cancels its insertion.
type Bits<'a> = (Option<(&'a str, u32)>, u64, usize);

impl Outcome {
    fn bits(&self) -> (Bits<'_>, impl Iterator<Item = u32> + '_) {
        let (head, vector): (_, &[f32]) = match self {
            Self::Vector { vector, tokens } => ((None, *tokens, vector.len()), vector),
            Self::Failure { error, attempts } => ((Some((error.as_str(), *attempts)), 0, 0), &[]),
        };
        (head, vector.iter().map(|x| x.to_bits()))
    }
}

impl PartialEq for Outcome {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Outcome {}
impl PartialOrd for Outcome {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Outcome {
    fn cmp(&self, other: &Self) -> Ordering {
        let ((head, vector), (other_head, other_vector)) = (self.bits(), other.bits());
        head.cmp(&other_head).then_with(|| vector.cmp(other_vector))
    }
}
impl Hash for Outcome {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let (head, vector) = self.bits();
        head.hash(state);
        vector.for_each(|bits| bits.hash(state));
    }
}

/// Why one attempt failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AttemptError(pub String);

impl fmt::Display for AttemptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A model. It may panic or fail; whoever calls it retries row by row.
pub trait Model: Send + Sync {
    /// Its name and version.
    fn id(&self) -> ModelId;
    /// How many tokens it counts in a text.
    fn tokens(&self, text: &str) -> u64;
    /// How many numbers every output has, if it is always the same; whoever calls [`Model::embed`] takes
    /// an output of another length for a failed attempt.
    fn dimensions(&self) -> Option<usize> {
        None
    }
    /// Embeds texts: one outcome for each, in order.
    fn embed(&self, texts: &[&str]) -> Vec<Result<Vec<f32>, AttemptError>>;
}

/// A text to be worked on: the request and its bytes.
#[derive(Clone, Debug)]
pub struct Job {
    /// The request's name.
    pub digest: TextDigest,
    /// Its text.
    pub text: Arc<str>,
}

/// What an inference service hands back.
#[derive(Clone, Debug)]
pub struct Done {
    /// The request's name.
    pub digest: TextDigest,
    /// What it came to.
    pub outcome: Outcome,
}

/// A running inference service with a bounded queue.
pub trait Inference: Send + Sync {
    /// The model that it runs.
    fn model(&self) -> ModelId;
    /// Offers a job; `Err` gives it back when the queue is full.
    fn offer(&self, job: Job, reply: crossbeam_channel::Sender<Done>) -> Result<(), Job>;
    /// Stops after the batch in hand; jobs that still wait get no reply.
    fn stop(&self) -> Result<(), SourceError>;
}
