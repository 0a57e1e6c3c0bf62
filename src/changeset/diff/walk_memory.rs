//! The memory of a walk: the paths at which files with several names were packed, and the names in the directories from
//! the root to the current one. Both can move to files, and what is in memory is counted in the layer's share.

use std::io;

use super::PackError;
use crate::{
    budget::Share,
    changeset::path::parts,
    spill::{Map, Scratch, Sorted, Sorter},
    sys::tree_reader::Entry,
};

/// Bytes of memory for paths. Above it they go to a file, of which the second number of bytes stays in memory.
const PATHS: usize = 8 << 20;
const PATHS_CACHE: usize = 2 << 20;

#[derive(Debug)]
pub(super) struct WalkMemory<'s> {
    /// The path of the first packed name of each inode, by device and number.
    paths: Map<Vec<u8>>,
    scratch: Scratch,
    share: &'s Share,
    /// Bytes taken from the share.
    taken: u64,
    /// Bytes of memory of the names in the directories from the root to the current one.
    listed: usize,
}

impl<'s> WalkMemory<'s> {
    pub(super) fn new(scratch: &Scratch, share: &'s Share) -> Self {
        let (paths, scratch) = (Map::default(), scratch.clone());
        Self { paths, scratch, share, taken: 0, listed: 0 }
    }

    /// The path at which an inode was packed already. `None` if it is the first time; then `path` is recorded for it.
    pub(super) fn first(
        &mut self,
        inode: (u64, u64),
        path: &[u8],
    ) -> Result<Option<Vec<u8>>, PackError> {
        let first = self.find_or_add(inode, path).map_err(PackError::reading(path))?;
        if first.is_none() {
            self.update_share()?;
        }
        Ok(first)
    }

    fn find_or_add(
        &mut self,
        (device, inode): (u64, u64),
        path: &[u8],
    ) -> io::Result<Option<Vec<u8>>> {
        let key = [device.to_be_bytes(), inode.to_be_bytes()].concat();
        if let Some(first) = self.paths.get(&key)? {
            return Ok(Some(first));
        }
        self.paths.insert(key.into(), path.to_vec())?;
        if self.paths.memory() > PATHS {
            self.paths.spill(&self.scratch, PATHS_CACHE)?;
        }
        Ok(None)
    }

    /// A sorter for the names of the directory at `path`; pass it to [`Self::sorted`].
    pub(super) fn sorter(&self, path: &[u8]) -> Sorter {
        Sorter::of_names(&self.scratch, parts(path).count())
    }

    /// The names in byte order; pass them to [`Self::forget`] after the last one.
    pub(super) fn sorted(&mut self, names: Sorter, path: &[u8]) -> Result<Sorted, PackError> {
        let names = names.sorted().map_err(PackError::reading(path))?;
        self.listed += names.memory();
        self.update_share()?;
        Ok(names)
    }

    /// The names of the directory at `path`, in byte order.
    pub(super) fn names(&mut self, dir: &Entry, path: &[u8]) -> Result<Sorted, PackError> {
        let mut names = self.sorter(path);
        dir.names(|name| names.push(name)).map_err(PackError::reading(path))?;
        self.sorted(names, path)
    }

    /// Returns the memory of such names.
    pub(super) fn forget(&mut self, names: Sorted) -> Result<(), PackError> {
        self.listed -= names.memory();
        drop(names);
        self.update_share()
    }

    fn update_share(&mut self) -> Result<(), PackError> {
        let memory = (self.paths.memory() + self.listed) as u64;
        self.share.follow(&mut self.taken, memory).map_err(PackError::Memory)
    }
}
