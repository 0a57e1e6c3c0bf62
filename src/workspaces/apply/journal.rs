//! What an interrupted apply leaves in the directory: the file `.ovl-apply`, and entries `.ovl-apply.*` with names of
//! their own. The next apply reads the file, removes the entries, and goes on.
//!
//! The records, each ended by a NUL:
//!
//! | record | meaning |
//! |---|---|
//! | `d` path | a directory that can have temporary entries |
//! | `n` path | a path that the copy has added |
//! | `i` inode | an inode that apply is about to change, or to add or remove a name of |
//! | `o` inode ctime path | something that apply has written |
//!
//! Another user's file of this name is not read, because its records would hide conflicts.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs::File,
    io::{self, Read as _, Write as _},
    os::unix::fs::MetadataExt as _,
};

use super::{error::ApplyError, request::Written};
use crate::sys::{
    Errno,
    clock::Time,
    host,
    tree::{Dir, Rename},
    tree_reader::EntryType,
};

/// The name of the file, and the prefix of temporary names.
pub(super) const NAME: &[u8] = b".ovl-apply";
/// The most bytes of the file that are read.
const MOST: u64 = 256 << 20;

/// What an earlier apply, which was interrupted, has recorded.
#[derive(Debug, Default)]
pub(super) struct Earlier {
    pub(super) dirs: BTreeSet<Vec<u8>>,
    pub(super) new: HashSet<Vec<u8>>,
    pub(super) touched: HashSet<u64>,
    pub(super) written: HashMap<(u64, Time), Vec<u8>>,
}

impl Earlier {
    /// Reads the records in the directory `root`. None if there is no file.
    pub(super) fn read(root: &Dir) -> Result<Self, ApplyError> {
        let mut text = Vec::new();
        let read = || {
            let Some(file) = root.as_entry()?.entry(NAME)? else { return Ok(Vec::new()) };
            let metadata = file.metadata()?;
            let is_ours = file.entry_type() == EntryType::File
                && metadata.uid() == host::effective_uid()
                && metadata.nlink() == 1;
            if is_ours {
                file.open()?.take(MOST).read_to_end(&mut text)?;
            }
            Ok(text)
        };
        let text = read().map_err(ApplyError::reading(NAME))?;
        let mut found = Self::default();
        // A record that a crash has truncated has no NUL.
        let mut records: Vec<_> = text.split(|byte| *byte == 0).collect();
        records.pop();
        for record in records {
            found.parse(record);
        }
        Ok(found)
    }

    /// What it has written.
    pub(super) fn all_written(&self) -> impl Iterator<Item = Written> {
        self.written.iter().map(|((inode, ctime), path)| {
            let (path, inode, ctime) = (path.clone(), *inode, *ctime);
            Written { path, inode, ctime }
        })
    }

    /// Whether there is nothing to go on with.
    pub(super) fn is_empty(&self) -> bool {
        self.dirs.is_empty()
    }

    fn parse(&mut self, record: &[u8]) {
        match record {
            [b'd', path @ ..] => drop(self.dirs.insert(path.to_vec())),
            [b'n', path @ ..] => drop(self.new.insert(path.to_vec())),
            [b'i', inode @ ..] => self.touched.extend(number::<u64>(inode)),
            [b'o', rest @ ..] => {
                let mut parts = rest.splitn(4, |byte| *byte == b' ');
                let (inode, seconds) = (parts.next(), parts.next());
                let (nanos, path) = (parts.next(), parts.next());
                let inode = inode.and_then(number);
                let time = seconds.and_then(number).zip(nanos.and_then(number));
                if let (Some(inode), Some(time), Some(path)) = (inode, time, path) {
                    self.written.insert((inode, time), path.to_vec());
                }
            }
            _ => {}
        }
    }

    /// Removes the temporary entries.
    pub(super) fn clean(&self, root: &Dir) -> Result<(), ApplyError> {
        for path in &self.dirs {
            match root.below(path).and_then(|dir| clean(&dir)) {
                Ok(()) => {}
                // The directory itself was renamed, or replaced.
                Err(e) if is_gone(&e) => {}
                Err(e) => return Err(ApplyError::writing(path)(e)),
            }
        }
        Ok(())
    }
}

fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Whether a path does not lead to a directory any more, without links and on the same file system.
pub(super) fn is_gone(error: &io::Error) -> bool {
    let gone = [Errno::ENOENT, Errno::ENOTDIR, Errno::ELOOP, Errno::EXDEV];
    gone.iter().any(|errno| error.raw_os_error() == Some(*errno as i32))
}

fn clean(dir: &Dir) -> io::Result<()> {
    let mut names = Vec::new();
    dir.as_entry()?.names(|name| {
        if is_temporary(name) {
            names.push(name.to_vec());
        }
        Ok(())
    })?;
    names.iter().try_for_each(|name| dir.remove_tree(name))
}

/// Whether a name is a temporary one.
pub(super) fn is_temporary(name: &[u8]) -> bool {
    name.strip_prefix(NAME).is_some_and(|rest| rest.starts_with(b"."))
}

/// Whether a path is an apply's own.
pub(super) fn is_own(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').any(|part| part == NAME || is_temporary(part))
}

/// A new temporary name.
pub(super) fn temporary() -> Vec<u8> {
    [NAME, format!(".{:016x}", fastrand::u64(..)).as_bytes()].concat()
}

/// The file of the present apply.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
}

impl Journal {
    /// Replaces the file, with the records of an earlier apply and those of this one.
    pub(super) fn start(
        root: &Dir,
        earlier: &Earlier,
        dirs: &BTreeSet<Vec<u8>>,
        new: &[&[u8]],
    ) -> Result<Self, ApplyError> {
        let make = || {
            let name = temporary();
            let mut journal = Self { file: root.file(&name)? };
            let mut text = Vec::new();
            let root_dir = BTreeSet::from([Vec::new()]);
            for path in earlier.dirs.iter().chain(dirs).chain(&root_dir) {
                push(&mut text, b'd', path);
            }
            for path in earlier.new.iter().map(|path| &path[..]).chain(new.iter().copied()) {
                push(&mut text, b'n', path);
            }
            for inode in &earlier.touched {
                push(&mut text, b'i', inode.to_string().as_bytes());
            }
            for ((inode, ctime), path) in &earlier.written {
                push(&mut text, b'o', &written(*inode, *ctime, path));
            }
            journal.file.write_all(&text)?;
            root.rename(&name, NAME, Rename::Replace)?;
            Ok(journal)
        };
        make().map_err(ApplyError::writing(NAME))
    }

    /// Records an inode before its first change.
    pub(super) fn touches(&mut self, inode: u64) -> Result<(), ApplyError> {
        self.add(b'i', inode.to_string().as_bytes())
    }

    /// Records what was written.
    pub(super) fn wrote(&mut self, one: &Written) -> Result<(), ApplyError> {
        self.add(b'o', &written(one.inode, one.ctime, &one.path))
    }

    fn add(&mut self, tag: u8, record: &[u8]) -> Result<(), ApplyError> {
        let mut text = Vec::new();
        push(&mut text, tag, record);
        self.file.write_all(&text).map_err(ApplyError::writing(NAME))
    }
}

fn push(text: &mut Vec<u8>, tag: u8, record: &[u8]) {
    text.push(tag);
    text.extend_from_slice(record);
    text.push(0);
}

fn written(inode: u64, (seconds, nanos): Time, path: &[u8]) -> Vec<u8> {
    [format!("{inode} {seconds} {nanos} ").as_bytes(), path].concat()
}
