//! A text that is metadata of a directory, and what that is worth after a crash.
//!
//! To write a file and have it on the disk takes a sync, and a sync waits for whatever else the disk has to write. An extended
//! attribute is metadata: it goes to the disk with the file system's journal, whole, and on the file systems that [`Journal`]
//! names not later than any file that is synced after it was set. So whoever made a promise only to those who sync has
//! nothing to wait for.
//!
//! ```text
//! DIRECTORY                  attribute user.NAME: "PARTS SIDE\n", then the text's first part
//! DIRECTORY/NAME.SIDEn/      for each further part a directory with the attribute; SIDE is `a` and `b` in turn
//! ```
//!
//! ext4 keeps all attributes of a file in one block, which bounds a part. The sides let a kill between two parts leave the former
//! text. Deliberately absent: what a text says.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{XattrFlags, getxattr, removexattr, setxattr, statfs},
    io::Errno,
    ioctl::{Getter, ioctl, opcode},
};

use super::{at, open_dir, sync_dir};
use crate::sys::attributes::read as read_attribute;

/// In which order a file system brings names and attributes to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Journal {
    /// In the order in which they were made: ext4 (with its journal) and xfs. A file's sync brings all that came before it.
    Ordered,
    /// In transactions (btrfs, one in about 30 s). A file's sync brings what is new in its own transaction of the
    /// directories above it, and of an earlier transaction's directories nothing.
    Transactions,
    /// Nobody has tried, or there are no attributes: only a sync helps.
    Unknown,
}

/// The most bytes of a part, where blocks have 4 KiB: what ext4 and xfs keep within one block.
const PART: usize = 2_800;

/// Magic numbers of statfs(2).
const EXT4: u32 = 0xef53;
const XFS: u32 = 0x5846_5342;
const BTRFS: u32 = 0x9123_683e;

impl Journal {
    /// That of the file system that has the directory `dir`, in which an attribute is tried.
    pub fn of(dir: &Path) -> Self {
        let journal = match statfs(dir).map(|about| about.f_type as u32) {
            Ok(EXT4 | XFS) => Self::Ordered,
            Ok(BTRFS) => Self::Transactions,
            _ => return Self::Unknown,
        };
        let trial = "user.ovl-csi.trial";
        match setxattr(dir, trial, b"", XattrFlags::empty()).and_then(|()| removexattr(dir, trial))
        {
            Ok(()) => journal,
            Err(_) => Self::Unknown,
        }
    }

    /// Makes sure that what was made in `dir` reaches the disk no later than what is synced from here on beneath it. `newest`
    /// is the last that was made there. Costs nothing but where a transaction ended between the two.
    pub fn settle(self, dir: &Path, newest: &Path) -> io::Result<()> {
        if self != Self::Transactions {
            return Ok(());
        }
        // Directories beside the one that is synced are never brought along, and the parts of a long text are such.
        let has_parts = || fs::read_dir(dir).map(|mut names| names.any(|name| is_part(&name)));
        match (generation(dir), generation(newest), has_parts()) {
            (Ok(first), Ok(last), Ok(false)) if first == last => Ok(()),
            _ => sync_dir(dir),
        }
    }
}

/// Whether an entry may be a part of a text: others have no dot and a side in their names.
fn is_part(entry: &io::Result<fs::DirEntry>) -> bool {
    let has_side = |name: &str| name.contains(".a") || name.contains(".b");
    entry.as_ref().map_or(true, |entry| entry.file_name().to_str().is_none_or(has_side))
}

/// The transaction in which btrfs made a directory.
fn generation(dir: &Path) -> io::Result<u32> {
    // FS_IOC_GETVERSION: its number says long, and the kernel writes an int (include/uapi/linux/fs.h).
    const GET: u32 = opcode::read::<libc::c_long>(b'v', 1);
    let dir = open_dir(dir)?;
    // SAFETY: FS_IOC_GETVERSION writes an int.
    Ok(unsafe { ioctl(&dir, Getter::<GET, u32>::new()) }?)
}

/// Replaces the text `name` of `dir`: after a kill there is the former or the new one.
pub fn put(dir: &Path, name: &str, text: &[u8]) -> io::Result<()> {
    let failed = at("keep an attribute of", dir);
    let former = head(dir, name)?;
    let side = former.as_ref().map_or('a', |former| if former.side == 'a' { 'b' } else { 'a' });
    let mut parts = text.chunks(largest(dir)?);
    let first = parts.next().unwrap_or_default();
    let further = parts.len();
    for (n, part) in parts.enumerate() {
        let directory = part_of(dir, name, side, n);
        match fs::create_dir(&directory) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(at("make", &directory)(e));
            }
            _ => set(&directory, name, part).map_err(at("keep an attribute of", &directory))?,
        }
    }
    let head = [format!("{further} {side}\n").as_bytes(), first].concat();
    set(dir, name, &head).map_err(failed)?;
    for n in 0..former.map_or(0, |former| former.further) {
        // Nothing refers to it; it goes with the directory at the latest.
        let former = part_of(dir, name, if side == 'a' { 'b' } else { 'a' }, n);
        let _ = fs::remove_dir(former);
    }
    Ok(())
}

/// The text `name` of `dir`; `None` where there is none, or no such directory.
///
/// Errors: `InvalidData` where it is not one of ours, or a part of it is missing.
pub fn get(dir: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    let Some(Head { further, side, first }) = head(dir, name)? else { return Ok(None) };
    let mut text = first;
    for n in 0..further {
        let directory = part_of(dir, name, side, n);
        let part = get_xattr(&directory, name)?.ok_or_else(|| strange(&directory))?;
        text.extend(part);
    }
    Ok(Some(text))
}

/// Removes the text `name` of `dir`, for tests that lose one.
#[cfg(test)]
pub fn remove(dir: &Path, name: &str) {
    removexattr(dir, attribute(name)).unwrap();
}

struct Head {
    further: usize,
    side: char,
    first: Vec<u8>,
}

fn head(dir: &Path, name: &str) -> io::Result<Option<Head>> {
    let Some(value) = get_xattr(dir, name)? else { return Ok(None) };
    let end = value.iter().position(|byte| *byte == b'\n').ok_or_else(|| strange(dir))?;
    let said = std::str::from_utf8(&value[..end]).ok().and_then(|said| {
        let (further, side) = said.split_once(' ')?;
        let side = ['a', 'b'].into_iter().find(|known| side == known.to_string())?;
        Some((further.parse().ok()?, side))
    });
    let (further, side) = said.ok_or_else(|| strange(dir))?;
    Ok(Some(Head { further, side, first: value[end + 1..].to_vec() }))
}

fn strange(dir: &Path) -> io::Error {
    let why =
        format!("the attribute of {} is not one of ours, or a part is missing", dir.display());
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn set(dir: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    Ok(setxattr(dir, attribute(name), value, XattrFlags::empty())?)
}

fn get_xattr(dir: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    let get = |space: &mut [u8]| getxattr(dir, attribute(name), space);
    let none = [Errno::NODATA, Errno::NOENT, Errno::NOTSUP].map(|none| Some(none.raw_os_error()));
    // It may go after its size was asked for.
    let read = get(&mut []).map_err(io::Error::from).and_then(|_| read_attribute(get));
    match read {
        Err(e) if none.contains(&e.raw_os_error()) => Ok(None),
        read => read.map(Some).map_err(at("read the attribute of", dir)),
    }
}

fn attribute(name: &str) -> String {
    format!("user.ovl-csi.{name}")
}

fn part_of(dir: &Path, name: &str, side: char, n: usize) -> PathBuf {
    dir.join(format!("{name}.{side}{n}"))
}

/// The most bytes of a part on this file system.
fn largest(dir: &Path) -> io::Result<usize> {
    let block = statfs(dir).map_err(|e| at("stat the file system of", dir)(e.into()))?.f_bsize;
    // With room for the names and for what labels others set.
    Ok(PART.min(usize::try_from(block).unwrap_or(0) * 7 / 10).max(400))
}

#[cfg(test)]
#[path = "note_tests.rs"]
mod tests;
