//! A sorted map and a list, which their owner moves to a file when they have outgrown memory.

use std::{collections::BTreeMap, io, ops::Bound};

use super::{Scratch, allocation, table::Table};

/// A value of a map or a list.
pub trait Value: Sized {
    /// Appends the value as bytes.
    fn encode(&self, out: &mut Vec<u8>);
    /// Reads what [`Value::encode`] wrote; `None` for other bytes.
    fn decode(bytes: &[u8]) -> Option<Self>;
    /// Bytes of memory that it takes in addition to its own size.
    fn memory(&self) -> usize {
        0
    }
}

impl Value for u32 {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        Some(Self::from_le_bytes(bytes.try_into().ok()?))
    }
}

impl Value for Vec<u8> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        Some(bytes.to_vec())
    }

    fn memory(&self) -> usize {
        allocation(self.len())
    }
}

fn encoded(value: &impl Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.encode(&mut bytes);
    bytes
}

fn decoded<V: Value>(bytes: &[u8]) -> io::Result<V> {
    V::decode(bytes).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Values by keys of bytes.
#[derive(Debug)]
pub struct Map<V> {
    state: MapState<V>,
    len: u64,
    /// Bytes of keys and values in memory, without the tree's nodes.
    bytes: usize,
}

#[derive(Debug)]
enum MapState<V> {
    Memory(BTreeMap<Box<[u8]>, V>),
    File { table: Box<Table>, cache: usize },
}

impl<V> Default for Map<V> {
    fn default() -> Self {
        Self { state: MapState::Memory(BTreeMap::new()), len: 0, bytes: 0 }
    }
}

impl<V: Value + Clone> Map<V> {
    /// The number of keys.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of memory in use: the worst case of a common allocator, or the cache of the file.
    pub fn memory(&self) -> usize {
        match &self.state {
            // At worst, nodes are half full and have parents.
            MapState::Memory(map) => {
                map.len() * (size_of::<Box<[u8]>>() + size_of::<V>()) * 5 / 2 + self.bytes
            }
            MapState::File { cache, .. } => *cache,
        }
    }

    /// Moves the map to a file, of which about `cache` bytes stay in memory. Does nothing if it is in a file already.
    ///
    /// # Errors
    /// The file cannot be made or written. The map must not be used after that.
    pub fn spill(&mut self, scratch: &Scratch, cache: usize) -> io::Result<()> {
        let MapState::Memory(map) = &mut self.state else { return Ok(()) };
        let mut table = Box::new(Table::new(scratch, cache)?);
        while let Some((key, value)) = map.pop_first() {
            table.insert(&key, &encoded(&value), |_| ())?;
        }
        self.state = MapState::File { table, cache };
        self.bytes = 0;
        Ok(())
    }

    /// The value of `key`, if it is in the map.
    pub fn get(&self, key: &[u8]) -> io::Result<Option<V>> {
        match &self.state {
            MapState::Memory(map) => Ok(map.get(key).cloned()),
            MapState::File { table, .. } => table.get(key, decoded)?.transpose(),
        }
    }

    /// Puts `value` under `key`; returns the value that was there.
    pub fn insert(&mut self, key: Box<[u8]>, value: V) -> io::Result<Option<V>> {
        let before = match &mut self.state {
            MapState::Memory(map) => {
                self.bytes += value.memory();
                let len = key.len();
                let before = map.insert(key, value);
                match &before {
                    Some(before) => self.bytes -= before.memory(),
                    None => self.bytes += allocation(len),
                }
                before
            }
            MapState::File { table, .. } => {
                table.insert(&key, &encoded(&value), decoded)?.transpose()?
            }
        };
        self.len += u64::from(before.is_none());
        Ok(before)
    }

    /// Removes `key`, if it is there.
    pub fn remove(&mut self, key: &[u8]) -> io::Result<()> {
        let removed = match &mut self.state {
            MapState::Memory(map) => {
                let value = map.remove(key);
                if let Some(value) = &value {
                    self.bytes -= value.memory() + allocation(key.len());
                }
                value.is_some()
            }
            MapState::File { table, .. } => table.remove(key)?,
        };
        self.len -= u64::from(removed);
        Ok(())
    }

    /// Calls `take` with each key from `from` (included) to `to` (excluded) and its value, in key order.
    ///
    /// # Errors
    /// Reading the file fails, or `take` fails, which ends the loop.
    pub fn each<E: From<io::Error>>(
        &self,
        from: &[u8],
        to: &[u8],
        mut take: impl FnMut(&[u8], &V) -> Result<(), E>,
    ) -> Result<(), E> {
        match &self.state {
            MapState::Memory(map) => map
                .range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)))
                .try_for_each(|(key, value)| take(key, value)),
            MapState::File { table, .. } => {
                table.each(from, to, |key, value| take(key, &decoded(value)?))
            }
        }
    }
}

/// Values by their number, from 0 on.
#[derive(Debug)]
pub struct List<V> {
    state: ListState<V>,
    len: usize,
    /// Bytes of the values in memory, in addition to their own size.
    bytes: usize,
}

#[derive(Debug)]
enum ListState<V> {
    Memory(Vec<V>),
    File { table: Box<Table>, cache: usize },
}

impl<V> Default for List<V> {
    fn default() -> Self {
        Self { state: ListState::Memory(Vec::new()), len: 0, bytes: 0 }
    }
}

impl<V: Value> List<V> {
    /// The number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of memory in use at worst: a vector doubles its capacity.
    pub fn memory(&self) -> usize {
        match &self.state {
            ListState::Memory(list) => 2 * list.len() * size_of::<V>() + self.bytes,
            ListState::File { cache, .. } => *cache,
        }
    }

    /// Moves the list to a file, like [`Map::spill`].
    pub fn spill(&mut self, scratch: &Scratch, cache: usize) -> io::Result<()> {
        let ListState::Memory(list) = &mut self.state else { return Ok(()) };
        let mut table = Box::new(Table::new(scratch, cache)?);
        for (number, value) in std::mem::take(list).into_iter().enumerate() {
            table.insert(&key(number), &encoded(&value), |_| ())?;
        }
        self.state = ListState::File { table, cache };
        self.bytes = 0;
        Ok(())
    }

    /// Appends a value; returns its number.
    pub fn push(&mut self, value: V) -> io::Result<usize> {
        let number = self.len;
        match &mut self.state {
            ListState::Memory(list) => {
                self.bytes += value.memory();
                list.push(value);
            }
            ListState::File { table, .. } => {
                table.insert(&key(number), &encoded(&value), |_| ())?;
            }
        }
        self.len += 1;
        Ok(number)
    }

    /// Calls `read` with the value of this number.
    ///
    /// # Errors
    /// The file cannot be read; `NotFound` for a number that no value has.
    pub fn read<T>(&self, number: usize, read: impl FnOnce(&V) -> T) -> io::Result<T> {
        let value = match &self.state {
            ListState::Memory(list) => list.get(number).map(|value| Ok(read(value))),
            ListState::File { table, .. } => table
                .get(&key(number), decoded)?
                .map(|value: io::Result<V>| value.map(|value| read(&value))),
        };
        value.unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()))
    }

    /// Calls `change` with the value of this number, to change it in place.
    ///
    /// # Errors
    /// As [`List::read`].
    pub fn change<T>(&mut self, number: usize, change: impl FnOnce(&mut V) -> T) -> io::Result<T> {
        match &mut self.state {
            ListState::Memory(list) => {
                let value = list.get_mut(number).ok_or(io::ErrorKind::NotFound)?;
                let before = value.memory();
                let changed = change(value);
                self.bytes = self.bytes - before + value.memory();
                Ok(changed)
            }
            ListState::File { table, .. } => {
                let value = table.get(&key(number), decoded::<V>)?;
                let mut value = value.ok_or(io::ErrorKind::NotFound)??;
                let changed = change(&mut value);
                table.insert(&key(number), &encoded(&value), |_| ())?;
                Ok(changed)
            }
        }
    }
}

fn key(number: usize) -> [u8; 8] {
    (number as u64).to_be_bytes()
}
