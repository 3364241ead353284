//! What would come of checked records: samples, with copies counted as the one sample that they are.
//!
//! Two rows are copies when they agree in conversation, tools and tenant, as in the flow; of one stream
//! only, since a check reads one file.

use super::facts::SampleFacts;
use crate::cli::Tally;
use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tidemill_core::source::Word;
use tidemill_types::Digest;

/// What a row says of its sample: its facts and its tenant.
type SampleOf<T> = fn(&T) -> (&Option<SampleFacts>, &Option<Arc<str>>);

/// Counts the samples of one stream: by key the last word counts, and copies are one.
pub struct Samples<T> {
    of: SampleOf<T>,
    words: HashMap<Digest, Option<Digest>>,
}

impl<T> Samples<T> {
    /// Counts by what a row says.
    pub fn of(of: SampleOf<T>) -> Self {
        Self { of, words: HashMap::new() }
    }

    /// What all copies of a row's sample share.
    fn sample(&self, key: Digest, row: &T) -> Option<Digest> {
        let (facts, tenant) = (self.of)(row);
        let facts = facts.as_ref()?;
        if !facts.text_only {
            return Some(key);
        }
        let conversation = facts.conversation().to_bytes();
        let tools = facts.tools().map(Digest::to_bytes);
        let there = [u8::from(tools.is_some()), u8::from(tenant.is_some())];
        Some(Digest::of_parts([
            conversation.as_slice(),
            there.as_slice(),
            tools.as_ref().map_or(&[][..], <[u8; 16]>::as_slice),
            tenant.as_deref().map_or(&[][..], str::as_bytes),
        ]))
    }
}

impl<T: Send + Sync + 'static> Tally for Samples<T> {
    fn words(&mut self, words: Box<dyn Any + Send>) {
        let Ok(words) = words.downcast::<Vec<(Digest, Word<T>)>>() else { return };
        for (key, word) in *words {
            match &word.value {
                Some(row) => self.words.insert(key, self.sample(key, row)),
                None => self.words.remove(&key),
            };
        }
    }

    fn result(&self) -> String {
        let samples: HashSet<&Digest> = self.words.values().flatten().collect();
        let with = self.words.values().flatten().count();
        format!(
            "{} rows, {} samples, {} copies of them",
            self.words.len(),
            samples.len(),
            with - samples.len()
        )
    }
}
