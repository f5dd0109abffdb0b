//! Lists and maps of documents that a stranger wrote, bounded while they are parsed.
//!
//! A document is bounded by its bytes, but a list of four million of them can be more than a million texts, each of many times
//! the memory that it has bytes in the document; and some of this is kept for as long as the image is.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::digest::Digest;

/// Of one list or map. Images have some tens.
const ENTRIES_MAX: usize = 4096;
/// Of the texts in one list or map, in bytes. A kernel takes less for a command line and its environment together.
const TEXT_LEN_MAX: usize = 2 << 20;

/// How much text a value holds, in bytes.
pub(crate) trait Weigh {
    fn weight(&self) -> usize {
        0
    }
}

impl Weigh for String {
    fn weight(&self) -> usize {
        self.len()
    }
}

impl Weigh for Digest {}
impl Weigh for IgnoredAny {}

/// A list of a bounded number of entries with a bounded amount of text.
#[derive(Debug)]
pub(crate) struct List<T>(pub(crate) Vec<T>);

/// A map of a bounded number of entries with a bounded amount of text. Where a key repeats, the last one counts.
#[derive(Debug)]
pub(crate) struct Entries<V>(pub(crate) BTreeMap<String, V>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<V> Default for Entries<V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

/// What one list or map may still hold.
struct Room {
    entries: usize,
    text_len: usize,
}

impl Room {
    fn new() -> Self {
        Self { entries: ENTRIES_MAX, text_len: TEXT_LEN_MAX }
    }

    fn take<E: Error>(&mut self, weight: usize) -> Result<(), E> {
        let Some(entries) = self.entries.checked_sub(1) else {
            return Err(E::custom(format_args!("more than {ENTRIES_MAX} entries in one list")));
        };
        let Some(text_len) = self.text_len.checked_sub(weight) else {
            return Err(E::custom(format_args!("more than {TEXT_LEN_MAX} bytes of text in one list")));
        };
        (self.entries, self.text_len) = (entries, text_len);
        Ok(())
    }
}

struct Reading<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de> + Weigh> Visitor<'de> for Reading<List<T>> {
    type Value = List<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<List<T>, A::Error> {
        let (mut room, mut list) = (Room::new(), Vec::new());
        while let Some(value) = access.next_element::<T>()? {
            room.take(value.weight())?;
            list.push(value);
        }
        Ok(List(list))
    }
}

impl<'de, V: Deserialize<'de> + Weigh> Visitor<'de> for Reading<Entries<V>> {
    type Value = Entries<V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Entries<V>, A::Error> {
        let (mut room, mut map) = (Room::new(), BTreeMap::new());
        while let Some((key, value)) = access.next_entry::<String, V>()? {
            room.take(key.len() + value.weight())?;
            map.insert(key, value);
        }
        Ok(Entries(map))
    }
}

impl<'de, T: Deserialize<'de> + Weigh> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Reading::<Self>(PhantomData))
    }
}

impl<'de, V: Deserialize<'de> + Weigh> Deserialize<'de> for Entries<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Reading::<Self>(PhantomData))
    }
}
