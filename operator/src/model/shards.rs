//! A map that is cheap to copy and cheap to compare with its copy.
//!
//! A change in one Service's endpoints makes a new mesh of the old one. With 10,000 Services a plain map
//! would be copied entry by entry for each; here the entries lie in [`SHARDS`] shared maps, a copy shares
//! all of them, a write copies one, and [`Shards::differences`] skips those that are still shared.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// 10,000 entries make 40 a shard: a write copies those, a comparison looks at 256 pointers.
const SHARDS: usize = 256;

/// A map in shared pieces.
#[derive(Debug, Clone)]
pub struct Shards<K, V> {
    shards: Box<[Arc<BTreeMap<K, V>>]>,
}

impl<K: Ord + Hash + Clone, V: Clone> Shards<K, V> {
    /// The value under `key`.
    pub fn get<Q: Ord + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.shards.get(shard_of(key))?.get(key)
    }

    /// Puts `value` under `key`.
    pub fn insert(&mut self, key: K, value: V) {
        if let Some(shard) = self.shards.get_mut(shard_of(&key)) {
            Arc::make_mut(shard).insert(key, value);
        }
    }

    /// Takes out what is under `key`.
    pub fn remove<Q: Ord + Hash + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        if let Some(shard) = self.shards.get_mut(shard_of(key)).filter(|shard| shard.contains_key(key)) {
            Arc::make_mut(shard).remove(key);
        }
    }

    /// All entries, in no useful order, but always in the same.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| shard.is_empty())
    }

    /// Calls `report` with the key and both values for each key whose values are not `same`.
    pub fn differences<'a>(
        &'a self,
        previous: &'a Self,
        same: impl Fn(&V, &V) -> bool,
        mut report: impl FnMut(&'a K, Option<&'a V>, Option<&'a V>),
    ) {
        for (now, before) in self.shards.iter().zip(&previous.shards) {
            if Arc::ptr_eq(now, before) {
                continue;
            }
            for (key, value) in now.iter() {
                match before.get(key) {
                    Some(old) if same(old, value) => {}
                    old => report(key, old, Some(value)),
                }
            }
            for (key, old) in before.iter() {
                if !now.contains_key(key) {
                    report(key, Some(old), None);
                }
            }
        }
    }

    /// Takes over the shards of `previous` that are equal to the ones here, so that a later comparison skips
    /// them.
    pub fn share_with(&mut self, previous: &Self, same: impl Fn(&V, &V) -> bool) {
        for (now, before) in self.shards.iter_mut().zip(&previous.shards) {
            let equal = now.len() == before.len()
                && now
                    .iter()
                    .zip(before.iter())
                    .all(|((key, value), (old_key, old))| key == old_key && same(old, value));
            if equal {
                *now = before.clone();
            }
        }
    }
}

impl<K, V> Default for Shards<K, V> {
    fn default() -> Self {
        let empty = Arc::new(BTreeMap::new());
        Self { shards: (0..SHARDS).map(|_| empty.clone()).collect() }
    }
}

/// The hash stays in this process, so the hasher of the standard library will do.
fn shard_of<Q: Hash + ?Sized>(key: &Q) -> usize {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    usize::try_from(hasher.finish() % SHARDS as u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_shares_what_is_not_written() {
        let mut before = Shards::default();
        for key in 0..1000_u32 {
            before.insert(key, key);
        }
        let mut now = before.clone();
        now.insert(7, 70);
        now.insert(5000, 1);
        now.remove(&9);
        now.remove(&6000);
        let shared = now.shards.iter().zip(&before.shards).filter(|(now, before)| Arc::ptr_eq(now, before));
        assert!(shared.count() >= SHARDS - 3);

        let mut found = Vec::new();
        now.differences(
            &before,
            |old, new| old == new,
            |key, old, new| found.push((*key, old.copied(), new.copied())),
        );
        found.sort_unstable();
        assert_eq!(found, [(7, Some(7), Some(70)), (9, Some(9), None), (5000, None, Some(1))]);
        assert_eq!((before.len(), now.len()), (1000, 1000));
        assert_eq!((now.get(&7), now.get(&9)), (Some(&70), None));
    }

    #[test]
    fn equal_shards_are_taken_over() {
        let mut before = Shards::default();
        let mut now = Shards::default();
        for key in 0..1000_u32 {
            before.insert(key, key);
            now.insert(key, if key == 3 { 0 } else { key });
        }
        now.share_with(&before, |old, new| old == new);
        let own = now.shards.iter().zip(&before.shards).filter(|(now, before)| !Arc::ptr_eq(now, before));
        assert_eq!(own.count(), 1);
    }
}
