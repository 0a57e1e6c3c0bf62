//! A text in an extended attribute (xattr) of a directory, which becomes durable without a sync of
//! its own.
//!
//! A sync is slow: it waits for everything else that the disk has to write. An xattr is metadata,
//! which the file system's journal brings to the disk as a whole. With the file systems of
//! [`Journal`], the text is on the disk no later than any file that a program writes and syncs
//! afterwards. So a crash cannot keep such a file and lose the text.
//!
//! ```text
//! DIRECTORY                  attribute user.NAME: "PARTS SIDE\n", then the text's first part
//! DIRECTORY/NAME.SIDEn/      for each further part a directory with the attribute; SIDE is `a` and `b` in turn
//! ```
//!
//! ext4 keeps all xattrs of a file in one block, which limits the size of a part. A new text is
//! written to the side that the present one does not use, and its head last: so a kill between two
//! parts leaves the former text. Deliberately absent: what a text means.

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

/// The order in which a file system brings names and attributes to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Journal {
    /// The order in which they were made: ext4 (with its journal) and xfs. The sync of a file
    /// brings everything that came before it.
    Ordered,
    /// Transactions (btrfs, one about every 30 s). The sync of a file brings the directories above
    /// it that are new in its own transaction. It brings no directory of an earlier transaction.
    Transactions,
    /// Not tested, or without attributes: only a sync makes them durable.
    Unknown,
}

/// The largest part in bytes, where blocks have 4 KiB: ext4 and xfs keep it within one block.
const PART: usize = 2_800;

/// Magic numbers of statfs(2).
const EXT4: u32 = 0xef53;
const XFS: u32 = 0x5846_5342;
const BTRFS: u32 = 0x9123_683e;

impl Journal {
    /// The order of the file system of the directory `dir`. Tests an attribute there.
    pub fn of(dir: &Path) -> Self {
        let journal = match statfs(dir).map(|about| about.f_type as u32) {
            Ok(EXT4 | XFS) => Self::Ordered,
            Ok(BTRFS) => Self::Transactions,
            _ => return Self::Unknown,
        };
        let probe = "user.ovl-csi.probe";
        match setxattr(dir, probe, b"", XattrFlags::empty()).and_then(|()| removexattr(dir, probe))
        {
            Ok(()) => journal,
            Err(_) => Self::Unknown,
        }
    }

    /// Makes sure that the entries of `dir` reach the disk no later than a file that is synced
    /// below it from now on. `newest` is the last entry that was made there. It syncs only if a
    /// transaction ended between the two, or if a text has parts.
    pub fn sync_if_needed(self, dir: &Path, newest: &Path) -> io::Result<()> {
        if self != Self::Transactions {
            return Ok(());
        }
        // A sync of a file never brings the siblings of its directories, and the parts of a long
        // text are siblings.
        let has_parts = || fs::read_dir(dir).map(|mut names| names.any(|name| is_part(&name)));
        match (generation(dir), generation(newest), has_parts()) {
            (Ok(first), Ok(last), Ok(false)) if first == last => Ok(()),
            _ => sync_dir(dir),
        }
    }
}

/// Whether an entry may be a part of a text. Other entries have no dot followed by a side in their
/// names.
fn is_part(entry: &io::Result<fs::DirEntry>) -> bool {
    let has_side = |name: &str| name.contains(".a") || name.contains(".b");
    entry.as_ref().map_or(true, |entry| entry.file_name().to_str().is_none_or(has_side))
}

/// The transaction in which btrfs made a directory.
fn generation(dir: &Path) -> io::Result<u32> {
    // FS_IOC_GETVERSION: its number encodes a long, but the kernel writes an int
    // (include/uapi/linux/fs.h).
    const GET: u32 = opcode::read::<libc::c_long>(b'v', 1);
    let dir = open_dir(dir)?;
    // SAFETY: FS_IOC_GETVERSION writes an int.
    Ok(unsafe { ioctl(&dir, Getter::<GET, u32>::new()) }?)
}

/// Replaces the text `name` of `dir`. After a kill the former or the new text is there.
pub fn put(dir: &Path, name: &str, text: &[u8]) -> io::Result<()> {
    let failed = at("keep an attribute of", dir);
    let former = read_head(dir, name)?;
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
        // Nothing refers to the directory. It is removed with `dir` at the latest.
        let former = part_of(dir, name, if side == 'a' { 'b' } else { 'a' }, n);
        let _ = fs::remove_dir(former);
    }
    Ok(())
}

/// Returns the text `name` of `dir`. `None` if there is no text or no such directory.
///
/// # Errors
/// `InvalidData` if the attribute is not one of ours, or if a part is missing.
pub fn get(dir: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    let Some(Head { further, side, first }) = read_head(dir, name)? else { return Ok(None) };
    let mut text = first;
    for n in 0..further {
        let directory = part_of(dir, name, side, n);
        let part = get_xattr(&directory, name)?.ok_or_else(|| invalid(&directory))?;
        text.extend(part);
    }
    Ok(Some(text))
}

/// Removes the text `name` of `dir`, for tests in which a text is lost.
#[cfg(test)]
pub fn remove(dir: &Path, name: &str) {
    removexattr(dir, attribute(name)).unwrap();
}

struct Head {
    further: usize,
    side: char,
    first: Vec<u8>,
}

fn read_head(dir: &Path, name: &str) -> io::Result<Option<Head>> {
    let Some(value) = get_xattr(dir, name)? else { return Ok(None) };
    let end = value.iter().position(|byte| *byte == b'\n').ok_or_else(|| invalid(dir))?;
    let header = std::str::from_utf8(&value[..end]).ok().and_then(|header| {
        let (further, side) = header.split_once(' ')?;
        let side = ['a', 'b'].into_iter().find(|known| side == known.to_string())?;
        Some((further.parse().ok()?, side))
    });
    let (further, side) = header.ok_or_else(|| invalid(dir))?;
    Ok(Some(Head { further, side, first: value[end + 1..].to_vec() }))
}

fn invalid(dir: &Path) -> io::Error {
    let why = format!(
        "the attribute of {} is damaged: it has an unknown format, or a part is missing",
        dir.display()
    );
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn set(dir: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    Ok(setxattr(dir, attribute(name), value, XattrFlags::empty())?)
}

fn get_xattr(dir: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    let get = |space: &mut [u8]| getxattr(dir, attribute(name), space);
    let none = [Errno::NODATA, Errno::NOENT, Errno::NOTSUP].map(|none| Some(none.raw_os_error()));
    // The attribute may be removed after its size was read.
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

/// The largest part in bytes on this file system.
fn largest(dir: &Path) -> io::Result<usize> {
    let block = statfs(dir).map_err(|e| at("stat the file system of", dir)(e.into()))?.f_bsize;
    // This leaves space for the names and for the labels that security modules set.
    Ok(PART.min(usize::try_from(block).unwrap_or(0) * 7 / 10).max(400))
}

#[cfg(test)]
#[path = "xattr_text_tests.rs"]
mod tests;
