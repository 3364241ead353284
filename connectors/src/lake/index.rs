//! The index of a table's published rows, from key to place: `key digest -> (file, position)`.
//!
//! A slot takes 24 bytes and one of control. A hash table doubles, so that right after growing half of
//! it is empty; the keys are therefore spread over shards of unequal shares, whose moments of growth
//! lie apart: at any size the whole takes about 41 bytes an entry.

use hashbrown::HashMap;
use tidemill_types::Digest;

/// A row's place in the lake.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Place {
    /// The number of the data file within its table.
    pub file: u32,
    /// The position in that file.
    pub position: u32,
}

/// A digest aligned to 8 bytes: a 16-byte alignment would cost a third more.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Packed([u64; 2]);

impl From<Digest> for Packed {
    fn from(digest: Digest) -> Self {
        Self([(digest.0 >> 64) as u64, digest.0 as u64])
    }
}

impl From<Packed> for Digest {
    fn from(Packed([high, low]): Packed) -> Self {
        Self(u128::from(high) << 64 | u128::from(low))
    }
}

const SHARDS: usize = 16;

/// The places of a table's rows by key.
pub(super) struct KeyIndex {
    shards: [HashMap<Packed, Place>; SHARDS],
}

impl Default for KeyIndex {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| HashMap::new()) }
    }
}

/// The shard of a key: shard `i` holds the digests whose leading bits, as a fraction `x` of one, have
/// `i/16 <= log2(1 + x) < (i+1)/16`, so that the shares grow from shard to shard by the same factor.
fn shard(key: Packed) -> usize {
    let fraction = (key.0[0] >> 32) as f64 / 4_294_967_296.0;
    (((1.0 + fraction).log2() * SHARDS as f64) as usize).min(SHARDS - 1)
}

impl KeyIndex {
    pub fn get(&self, key: Digest) -> Option<Place> {
        let key = Packed::from(key);
        self.shards[shard(key)].get(&key).copied()
    }

    /// Sets a key's place; the one that it had.
    pub fn insert(&mut self, key: Digest, place: Place) -> Option<Place> {
        let key = Packed::from(key);
        self.shards[shard(key)].insert(key, place)
    }

    pub fn remove(&mut self, key: Digest) -> Option<Place> {
        let key = Packed::from(key);
        self.shards[shard(key)].remove(&key)
    }

    /// All entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (Digest, Place)> + '_ {
        self.shards.iter().flatten().map(|(key, place)| (Digest::from(*key), *place))
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.shards.iter().map(HashMap::len).sum()
    }

    /// Memory taken, in bytes.
    pub fn bytes(&self) -> usize {
        self.shards.iter().map(HashMap::allocation_size).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_takes_at_most_48_bytes() {
        let mut index = KeyIndex::default();
        for n in 0..200_000u32 {
            index.insert(Digest::of(&n.to_le_bytes()), Place { file: 1, position: n });
            if n > 20_000 && n % 1000 == 0 {
                assert!(index.bytes() <= 48 * index.len(), "{} at {n}", index.bytes() / index.len());
            }
        }
        let key = Digest::of(&7u32.to_le_bytes());
        assert_eq!(index.get(key), Some(Place { file: 1, position: 7 }));
        assert_eq!(index.remove(key), Some(Place { file: 1, position: 7 }));
        assert_eq!((index.get(key), index.len()), (None, 199_999));
    }
}
