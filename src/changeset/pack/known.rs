//! What a walk has to remember: where files with several names were packed, and the names of the directories on the way down. All of
//! it may outgrow memory, and what is in memory is part of the layer's share.

use std::io;

use super::PackError;
use crate::{
    budget::Share,
    changeset::path::parts,
    spill::{Map, Scratch, Sorted, Sorter},
    sys::inside::Inside,
};

/// Bytes of memory for paths; beyond them they go to a file, of which so much stays in memory.
const PATHS: usize = 8 << 20;
const PATHS_CACHE: usize = 2 << 20;

#[derive(Debug)]
pub(super) struct Known<'s> {
    /// The path of the first name of each inode, by device and number.
    paths: Map<Vec<u8>>,
    scratch: Scratch,
    share: &'s Share,
    /// Bytes taken of the share.
    taken: u64,
    /// Bytes of memory of the names in the directories on the way down.
    listed: usize,
}

impl<'s> Known<'s> {
    pub(super) fn new(scratch: &Scratch, share: &'s Share) -> Self {
        let (paths, scratch) = (Map::default(), scratch.clone());
        Self { paths, scratch, share, taken: 0, listed: 0 }
    }

    /// The path of an inode that was packed already; else it is packed at `path` now.
    pub(super) fn first(
        &mut self,
        inode: (u64, u64),
        path: &[u8],
    ) -> Result<Option<Vec<u8>>, PackError> {
        let first = self.find_or_add(inode, path).map_err(PackError::reading(path))?;
        if first.is_none() {
            self.hold()?;
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
        if self.paths.held() > PATHS {
            self.paths.spill(&self.scratch, PATHS_CACHE)?;
        }
        Ok(None)
    }

    /// What takes names of the directory at `path`, to be given to [`Known::sorted`].
    pub(super) fn sorter(&self, path: &[u8]) -> Sorter {
        Sorter::of_names(&self.scratch, parts(path).count())
    }

    /// Names in the order of their bytes, to be given to [`Known::forget`] behind the last.
    pub(super) fn sorted(&mut self, names: Sorter, path: &[u8]) -> Result<Sorted, PackError> {
        let names = names.sorted().map_err(PackError::reading(path))?;
        self.listed += names.held();
        self.hold()?;
        Ok(names)
    }

    /// The names in the directory at `path`.
    pub(super) fn names(&mut self, folder: &Inside, path: &[u8]) -> Result<Sorted, PackError> {
        let mut names = self.sorter(path);
        folder.names(|name| names.push(name)).map_err(PackError::reading(path))?;
        self.sorted(names, path)
    }

    /// The memory of such names is given back.
    pub(super) fn forget(&mut self, names: Sorted) -> Result<(), PackError> {
        self.listed -= names.held();
        drop(names);
        self.hold()
    }

    fn hold(&mut self) -> Result<(), PackError> {
        let held = (self.paths.held() + self.listed) as u64;
        self.share.follow(&mut self.taken, held).map_err(PackError::Memory)
    }
}
