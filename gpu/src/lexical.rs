//! The model `lexical`: a bag of words as a vector, for want of an encoder.
//!
//! It counts hashed words and pairs of neighbouring words. It knows nothing of meaning: two texts are
//! near when they share words. What speaks for it is that it needs no download and no device, runs at
//! hundreds of megabytes a second on one core, and gives the same bits everywhere.
//!
//! How a text becomes a vector, which is what version [`ALGORITHM`] stands for:
//!
//! 1. A word is a run of alphanumeric characters, lowercased; a Han or Kana character is a word of its
//!    own, as such text has no spaces. Nothing is normalised first.
//! 2. A word's hash is FNV-1a with 64 bits over its bytes (of a character outside ASCII, its UTF-8
//!    bytes); a pair's mixes the two hashes in order. SplitMix64's finaliser then spreads the bits.
//! 3. The high 32 bits choose the dimension, the lowest bit the sign; each feature adds 1 or -1 there.
//! 4. With `c` the count of a dimension and `n` the sum of all `|c|`, its value is
//!    `sign(c) * sqrt(|c| / n)`: damped, so that a frequent word does not drown the rest, and of length 1,
//!    as the squares add up to 1. Without any word (or where all counts cancel) every value is 0.
//!
//! Counts are integers, and division and square root are rounded exactly by IEEE 754, so neither the
//! order of additions nor the machine shows. Beyond ASCII, what is alphanumeric and what its lower case
//! is come from the Unicode tables of the standard library: characters that a later Unicode adds begin
//! to count with the toolchain that knows them; all others stay.

use std::num::NonZeroU16;
use tidemill_core::model::{AttemptError, Model};
use tidemill_types::ModelId;

/// The part of the version that changes when the definition above does.
pub const ALGORITHM: u32 = 1;

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;
const PAIR: u64 = 0x9e37_79b9_7f4a_7c15;

/// The lower case of an ASCII alphanumeric, else 0.
const LOWER: [u8; 128] = {
    let mut table = [0; 128];
    let mut byte = 0;
    while byte < 128 {
        if (byte as u8).is_ascii_alphanumeric() {
            table[byte] = (byte as u8).to_ascii_lowercase();
        }
        byte += 1;
    }
    table
};

/// The model; its version is `<algorithm>-<dimensions>`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lexical {
    /// How many numbers a vector has. More means fewer features that share one.
    pub dimensions: NonZeroU16,
}

impl Default for Lexical {
    /// 128 dimensions.
    fn default() -> Self {
        Self { dimensions: NonZeroU16::new(128).expect("128 is not 0") }
    }
}

impl Lexical {
    /// The vector of a text.
    pub fn vector(&self, text: &str) -> Vec<f32> {
        let mut counts = vec![0i64; usize::from(self.dimensions.get())];
        let mut previous = None;
        each_word(text, |word| {
            count(&mut counts, word);
            if let Some(previous) = previous.replace(word) {
                count(&mut counts, pair(previous, word));
            }
        });
        damped(&counts)
    }
}

impl Model for Lexical {
    fn id(&self) -> ModelId {
        ModelId { model: "lexical".into(), version: format!("{ALGORITHM}-{}", self.dimensions) }
    }

    /// A quarter of the UTF-8 bytes, rounded up.
    fn tokens(&self, text: &str) -> u64 {
        (text.len() as u64).div_ceil(4)
    }

    fn dimensions(&self) -> Option<usize> {
        Some(self.dimensions.get().into())
    }

    fn embed(&self, texts: &[&str]) -> Vec<Result<Vec<f32>, AttemptError>> {
        texts.iter().map(|text| Ok(self.vector(text))).collect()
    }
}

fn damped(counts: &[i64]) -> Vec<f32> {
    let total: i64 = counts.iter().map(|c| c.abs()).sum();
    let value = |c: &i64| match c {
        0 => 0.0,
        c => ((c.abs() as f64 / total as f64).sqrt() * c.signum() as f64) as f32,
    };
    counts.iter().map(value).collect()
}

fn count(counts: &mut [i64], hash: u64) {
    let bits = spread(hash);
    let dimension = ((bits >> 32) * counts.len() as u64) >> 32;
    counts[dimension as usize] += 1 - 2 * (bits & 1) as i64;
}

fn pair(first: u64, second: u64) -> u64 {
    (first.rotate_left(23) ^ PAIR).wrapping_mul(PAIR) ^ second
}

/// The finaliser of SplitMix64.
fn spread(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

fn fnv(hash: u64, byte: u8) -> u64 {
    (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME)
}

/// Calls `f` with the hash of each word, in order.
fn each_word(text: &str, mut f: impl FnMut(u64)) {
    let bytes = text.as_bytes();
    let mut at = 0;
    let mut word: Option<u64> = None;
    while let Some(&byte) = bytes.get(at) {
        if byte.is_ascii() {
            at += 1;
            match LOWER[usize::from(byte)] {
                0 => word.take().into_iter().for_each(&mut f),
                lower => word = Some(fnv(word.unwrap_or(FNV_OFFSET), lower)),
            }
            continue;
        }
        let character = text[at..].chars().next().expect("`at` is a boundary before the end");
        at += character.len_utf8();
        if !character.is_alphanumeric() {
            word.take().into_iter().for_each(&mut f);
        } else if is_word_by_itself(character) {
            word.take().into_iter().for_each(&mut f);
            f(extended(FNV_OFFSET, character));
        } else {
            word = Some(extended(word.unwrap_or(FNV_OFFSET), character));
        }
    }
    word.into_iter().for_each(f);
}

/// A hash with the lower case of a character added.
fn extended(hash: u64, character: char) -> u64 {
    character.to_lowercase().fold(hash, |hash, lower| {
        let mut utf8 = [0; 4];
        lower.encode_utf8(&mut utf8).bytes().fold(hash, fnv)
    })
}

/// Hiragana and Katakana, and the blocks of Han ideographs.
fn is_word_by_itself(character: char) -> bool {
    matches!(u32::from(character), 0x3040..=0x30ff | 0x3400..=0x9fff | 0xf900..=0xfaff | 0x20000..=0x3ffff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lexical(dimensions: u16) -> Lexical {
        Lexical { dimensions: NonZeroU16::new(dimensions).expect("tests use positive numbers") }
    }

    fn words(text: &str) -> Vec<u64> {
        let mut words = Vec::new();
        each_word(text, |word| words.push(word));
        words
    }

    fn cosine(a: &str, b: &str) -> f32 {
        let (a, b) = (Lexical::default().vector(a), Lexical::default().vector(b));
        a.iter().zip(&b).map(|(x, y)| x * y).sum()
    }

    #[test]
    fn the_version_covers_the_dimensions() {
        let id = Lexical::default().id();
        assert_eq!((id.model.as_str(), id.version.as_str()), ("lexical", "1-128"));
        assert_eq!(lexical(7).id().version, "1-7");
        assert_eq!(lexical(7).vector("a").len(), 7);
        assert_eq!(lexical(7).dimensions(), Some(7));
    }

    #[test]
    fn tokens_are_a_quarter_of_the_bytes_rounded_up() {
        let tokens = ["", "a", "abcd", "abcde", "éé"].map(|text| Lexical::default().tokens(text));
        assert_eq!(tokens, [0, 1, 1, 2, 1]);
    }

    #[test]
    fn a_text_without_words_is_the_zero_vector() {
        assert_eq!(lexical(4).vector(""), [0.0; 4]);
        assert_eq!(lexical(4).vector(" -- \u{2014} \u{1f600}!"), [0.0; 4]);
    }

    #[test]
    fn words_are_split_and_lowercased_beyond_ascii_too() {
        assert_eq!(words("Don't STOP"), words("don t--stop"));
        assert_eq!(words("ÉCOLE Straße"), words("école, straße"));
        assert_eq!(words("naïve").len(), 1);
        assert_eq!(words("漢字かな x漢").len(), 6);
        assert_eq!(words("a1 1a").len(), 2);
    }

    #[test]
    fn the_hash_of_a_word_is_the_published_fnv_1a() {
        assert_eq!(words("foobar"), [0x8594_4171_f739_67e8]);
    }

    #[test]
    fn version_1_is_what_it_always_was() {
        let bits: Vec<u32> = lexical(8).vector(GOLDEN_TEXT).iter().map(|x| x.to_bits()).collect();
        assert_eq!(bits, GOLDEN_BITS);
    }

    const GOLDEN_TEXT: &str = "The mill turns with the tide, Müller; the tide turns. 潮";
    const GOLDEN_BITS: [u32; 8] =
        [0xbef15bef, 0x00000000, 0x00000000, 0x00000000, 0xbf2aaaab, 0x3eaaaaab, 0x00000000, 0xbef15bef];

    #[test]
    fn texts_that_share_words_are_nearer() {
        let question = "How do I sort a list of numbers in Python?";
        let answer = "To sort a list of numbers in Python, call sorted on the list.";
        let other = "Grease the hinges before winter, then check every bolt twice.";
        assert!(cosine(question, question) > 0.999);
        assert!(cosine(question, answer) > cosine(question, other) + 0.2);
    }

    #[test]
    fn the_order_of_words_counts() {
        assert_ne!(Lexical::default().vector("dog bites man"), Lexical::default().vector("man bites dog"));
    }

    proptest! {
        #[test]
        fn every_vector_is_finite_and_of_length_one_or_zero(text in "\\PC{0,80}", dimensions in 1..300u16) {
            let vector = lexical(dimensions).vector(&text);
            prop_assert_eq!(vector.len(), usize::from(dimensions));
            let length: f32 = vector.iter().map(|x| x * x).sum();
            prop_assert!((length - 1.0).abs() < 1e-4 || length == 0.0);
        }
    }
}
