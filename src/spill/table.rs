//! A sorted map of byte strings in a file: a redb table in one transaction that is never committed.

use std::{io, ops::Bound};

use redb::{
    Builder, Database, ReadableTable as _, StorageBackend, TableDefinition, WriteTransaction,
};

use super::{Scratch, file::File};

const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("all");

/// The map. `transaction` is the first field, because it must be dropped first.
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
    /// An empty table that keeps about `cache` bytes of its file in memory.
    pub(super) fn new(scratch: &Scratch, cache: usize) -> io::Result<Self> {
        let mut builder = Builder::new();
        builder.set_cache_size(cache);
        let backend = Backend(scratch.file()?);
        let database = builder.create_with_backend(backend).map_err(io_error)?;
        let transaction = database.begin_write().map_err(io_error)?;
        Ok(Self { transaction, _database: database })
    }

    /// Calls `read` with the value of `key`, if there is one.
    pub(super) fn get<T>(
        &self,
        key: &[u8],
        read: impl FnOnce(&[u8]) -> T,
    ) -> io::Result<Option<T>> {
        let table = self.transaction.open_table(TABLE).map_err(io_error)?;
        Ok(table.get(key).map_err(io_error)?.map(|value| read(value.value())))
    }

    /// Puts `value` under `key`; calls `read` with the value that was there.
    pub(super) fn insert<T>(
        &mut self,
        key: &[u8],
        value: &[u8],
        read: impl FnOnce(&[u8]) -> T,
    ) -> io::Result<Option<T>> {
        let mut table = self.transaction.open_table(TABLE).map_err(io_error)?;
        let before = table.insert(key, value).map_err(io_error)?;
        Ok(before.map(|value| read(value.value())))
    }

    pub(super) fn remove(&mut self, key: &[u8]) -> io::Result<bool> {
        let mut table = self.transaction.open_table(TABLE).map_err(io_error)?;
        let removed = table.remove(key).map_err(io_error)?.is_some();
        Ok(removed)
    }

    /// Calls `take` with each key from `from` (included) to `to` (excluded) and its value, in key order.
    pub(super) fn each<E: From<io::Error>>(
        &self,
        from: &[u8],
        to: &[u8],
        mut take: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let table = self.transaction.open_table(TABLE).map_err(io_error)?;
        let range = (Bound::Included(from), Bound::Excluded(to));
        for entry in table.range::<&[u8]>(range).map_err(io_error)? {
            let (key, value) = entry.map_err(io_error)?;
            take(key.value(), value.value())?;
        }
        Ok(())
    }
}

/// Converts an error of redb; an I/O error of the file keeps its kind.
fn io_error(error: impl Into<redb::Error>) -> io::Error {
    match error.into() {
        redb::Error::Io(error) => error,
        other => io::Error::other(other),
    }
}

/// A file that is never opened again, so nothing of it must reach the disk.
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
