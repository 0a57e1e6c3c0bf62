//! A sorted map of bytes in a file: redb, in one transaction that is never committed.

use std::{io, ops::Bound};

use redb::{
    Builder, Database, ReadableTable as _, StorageBackend, TableDefinition, WriteTransaction,
};

use super::{Scratch, file::File};

const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("all");

/// The map. `transaction` stands first, to be dropped first.
pub(super) struct Table {
    transaction: WriteTransaction,
    _database: Database,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Table")
    }
}

impl Table {
    /// An empty one that keeps about `cache` bytes of its file in memory.
    pub(super) fn new(scratch: &Scratch, cache: usize) -> io::Result<Self> {
        let mut builder = Builder::new();
        builder.set_cache_size(cache);
        let backend = Backend(scratch.file()?);
        let database = builder.create_with_backend(backend).map_err(told)?;
        let transaction = database.begin_write().map_err(told)?;
        Ok(Self { transaction, _database: database })
    }

    /// Hands the value of `key` to `read`, if there is one.
    pub(super) fn get<T>(
        &self,
        key: &[u8],
        read: impl FnOnce(&[u8]) -> T,
    ) -> io::Result<Option<T>> {
        let table = self.transaction.open_table(TABLE).map_err(told)?;
        Ok(table.get(key).map_err(told)?.map(|value| read(value.value())))
    }

    /// Puts `value` under `key`; hands the one that was there to `read`.
    pub(super) fn insert<T>(
        &mut self,
        key: &[u8],
        value: &[u8],
        read: impl FnOnce(&[u8]) -> T,
    ) -> io::Result<Option<T>> {
        let mut table = self.transaction.open_table(TABLE).map_err(told)?;
        let before = table.insert(key, value).map_err(told)?;
        Ok(before.map(|value| read(value.value())))
    }

    pub(super) fn remove(&mut self, key: &[u8]) -> io::Result<bool> {
        let mut table = self.transaction.open_table(TABLE).map_err(told)?;
        let removed = table.remove(key).map_err(told)?.is_some();
        Ok(removed)
    }

    /// Hands everything from `from` to before `to` to `take`, sorted.
    pub(super) fn each<E: From<io::Error>>(
        &self,
        from: &[u8],
        to: &[u8],
        mut take: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let table = self.transaction.open_table(TABLE).map_err(told)?;
        let range = (Bound::Included(from), Bound::Excluded(to));
        for entry in table.range::<&[u8]>(range).map_err(told)? {
            let (key, value) = entry.map_err(told)?;
            take(key.value(), value.value())?;
        }
        Ok(())
    }
}

/// What went wrong with the file.
fn told(error: impl Into<redb::Error>) -> io::Error {
    match error.into() {
        redb::Error::Io(error) => error,
        other => io::Error::other(other),
    }
}

/// A file that nobody reads again: nothing of it has to reach the disk.
#[derive(Debug)]
struct Backend(File);

impl StorageBackend for Backend {
    fn len(&self) -> Result<u64, io::Error> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.0.write_all_at(data, offset)
    }
}
