//! A cache of the most recently used values, bounded by their size in bytes.

use std::borrow::Borrow;

/// Values by key; the least recently used ones are dropped when the limit is reached.
///
/// Lookup is linear: a few dozen entries, each of which saved a pass of a network.
pub(super) struct Recent<K, V> {
    limit_bytes: usize,
    /// The least recently used first.
    entries: Vec<Entry<K, V>>,
}

struct Entry<K, V> {
    key: K,
    value: V,
    bytes: usize,
}

impl<K, V: Clone> Recent<K, V> {
    /// An empty cache whose entries never exceed `limit_bytes` together.
    pub(super) fn new(limit_bytes: usize) -> Self {
        Recent { limit_bytes, entries: Vec::new() }
    }

    /// A clone of the value of `key`, which becomes the most recently used.
    pub(super) fn get<Q: PartialEq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let at = self.entries.iter().position(|entry| entry.key.borrow() == key)?;
        self.entries[at..].rotate_left(1);
        self.entries.last().map(|entry| entry.value.clone())
    }

    /// Keep a value of `bytes`, unless it alone exceeds the limit. `key` must not be there yet.
    pub(super) fn insert(&mut self, key: K, value: V, bytes: usize) {
        if bytes > self.limit_bytes {
            return;
        }
        while self.bytes() + bytes > self.limit_bytes {
            self.entries.remove(0);
        }
        self.entries.push(Entry { key, value, bytes });
    }

    /// Size of all entries in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.entries.iter().map(|entry| entry.bytes).sum()
    }

    /// Drop all entries.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_value_goes_first() {
        let mut recent = Recent::new(30);
        for key in ["a", "b", "c"] {
            recent.insert(key, key.to_uppercase(), 10);
        }
        assert_eq!(recent.get("a"), Some("A".to_owned()));
        recent.insert("d", "D".to_owned(), 10);
        assert_eq!(recent.get("b"), None);
        assert!(["a", "c", "d"].iter().all(|key| recent.get(key).is_some()));
        assert_eq!(recent.bytes(), 30);
    }

    #[test]
    fn the_limit_is_in_bytes() {
        let mut recent = Recent::new(30);
        recent.insert("small", 1, 10);
        recent.insert("large", 2, 25);
        assert_eq!((recent.get("small"), recent.get("large"), recent.bytes()), (None, Some(2), 25));
        // What exceeds the limit alone pushes nothing out.
        recent.insert("too large", 3, 31);
        assert_eq!((recent.get("large"), recent.get("too large")), (Some(2), None));
        recent.clear();
        assert_eq!((recent.get("large"), recent.bytes()), (None, 0));
    }
}
