//! Makes a file tree name by name, each relative to the descriptor of its directory.
//!
//! Names come from untrusted sources. A name must be a single path component, is created with `O_EXCL` or an
//! equivalent, and is never followed. Attributes of a file are set through the descriptor that created it. So nothing
//! can end up outside the tree, whatever another process puts into it meanwhile.
//!
//! Deliberately absent: the source of the names, and syncing. One `syncfs` is enough for a whole tree.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT, Uid,
    XattrFlags, chownat, fchmod, fchown, fsetxattr, futimens, linkat, lsetxattr, makedev, mkdirat,
    mknodat, openat, openat2, symlinkat, utimensat,
};

use super::{openat2, proc_fd};

/// The metadata of a file.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    /// Permission, setuid, setgid and sticky bits.
    pub mode: u16,
    /// The owner's user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// Seconds since 1970, and nanoseconds.
    pub mtime: (i64, u32),
    /// Extended attributes: pairs of name and value.
    pub xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

/// A special file: one that has no content in the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// A named pipe.
    Fifo,
    /// A Unix domain socket.
    Socket,
    /// A character device, by major and minor number.
    CharDevice(u32, u32),
    /// A block device, by major and minor number.
    BlockDevice(u32, u32),
}

/// An open directory of the tree.
#[derive(Debug)]
pub struct Dir(OwnedFd);

impl Dir {
    /// Opens the directory at `path`, an absolute path without symlinks.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(openat2::dir(path, openat2::READ)?))
    }

    /// Opens the directory at the relative `path` below this one, without following symlinks. An empty path opens this
    /// one.
    pub fn below(&self, path: &[u8]) -> io::Result<Self> {
        let path = if path.is_empty() { b"." } else { path };
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        Ok(Self(openat2(&self.0, OsStr::from_bytes(path), openat2::READ, Mode::empty(), how)?))
    }

    /// Makes a directory in this one.
    pub fn dir(&self, name: &[u8]) -> io::Result<Self> {
        mkdirat(&self.0, component(name)?, Mode::RWXU)?;
        Ok(Self(openat(&self.0, component(name)?, openat2::READ, Mode::empty())?))
    }

    /// Makes an empty file, open for writing.
    pub fn file(&self, name: &[u8]) -> io::Result<File> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(&self.0, component(name)?, flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    /// Makes a symbolic link.
    pub fn symlink(
        &self,
        name: &[u8],
        target: &[u8],
        attributes: &Attributes<'_>,
    ) -> io::Result<()> {
        symlinkat(OsStr::from_bytes(target), &self.0, component(name)?)?;
        self.set_name_attributes(name, attributes)
    }

    /// Makes a special file.
    pub fn node(&self, name: &[u8], node: Node, attributes: &Attributes<'_>) -> io::Result<()> {
        let (kind, number) = match node {
            Node::Fifo => (FileType::Fifo, 0),
            Node::Socket => (FileType::Socket, 0),
            Node::CharDevice(major, minor) => (FileType::CharacterDevice, makedev(major, minor)),
            Node::BlockDevice(major, minor) => (FileType::BlockDevice, makedev(major, minor)),
        };
        mknodat(&self.0, component(name)?, kind, Mode::RUSR, number)?;
        self.set_name_attributes(name, attributes)?;
        // The mode is set by name: opening a special file would block or act on its device. No symlink can be in its
        // place.
        Ok(rustix::fs::chmodat(&self.0, component(name)?, mode(attributes), AtFlags::empty())?)
    }

    /// Makes a whiteout, by which overlay hides a name of a lower layer: a character device 0:0.
    pub fn whiteout(&self, name: &[u8]) -> io::Result<()> {
        let name = component(name)?;
        Ok(mknodat(&self.0, name, FileType::CharacterDevice, Mode::empty(), makedev(0, 0))?)
    }

    /// Makes a hard link `name` in this directory to the file `from` in the directory `of`.
    pub fn link(&self, name: &[u8], of: &Self, from: &[u8]) -> io::Result<()> {
        Ok(linkat(&of.0, component(from)?, &self.0, component(name)?, AtFlags::empty())?)
    }

    /// Sets the attributes of this directory. Must come last: each entry made afterwards changes its mtime.
    pub fn set_attributes(&self, attributes: &Attributes<'_>) -> io::Result<()> {
        set_attributes_of(&self.0, attributes)
    }

    /// Sets the attributes, except for the mode, of a symbolic link or special file.
    fn set_name_attributes(&self, name: &[u8], attributes: &Attributes<'_>) -> io::Result<()> {
        let name = component(name)?;
        chownat(
            &self.0,
            name,
            Some(uid(attributes)),
            Some(gid(attributes)),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        // `setxattrat` needs Linux 6.13. In a path through the directory's descriptor, other processes control only the
        // last component, which is not followed.
        let path = proc_fd::path(&self.0).join(name);
        for (key, value) in attributes.xattrs {
            lsetxattr(&path, key.as_slice(), value, XattrFlags::empty())?;
        }
        Ok(utimensat(&self.0, name, &times(attributes), AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

/// Sets the attributes of an open file.
pub fn set_attributes(file: &File, attributes: &Attributes<'_>) -> io::Result<()> {
    set_attributes_of(file, attributes)
}

fn set_attributes_of(file: impl AsFd, attributes: &Attributes<'_>) -> io::Result<()> {
    fchown(&file, Some(uid(attributes)), Some(gid(attributes)))?;
    // Mode and attributes come after the owner: a change of owner clears set-id bits and file capabilities.
    fchmod(&file, mode(attributes))?;
    for (key, value) in attributes.xattrs {
        fsetxattr(&file, key.as_slice(), value, XattrFlags::empty())?;
    }
    Ok(futimens(&file, &times(attributes))?)
}

/// Checks that `name` is a single path component.
fn component(name: &[u8]) -> io::Result<&OsStr> {
    match name {
        b"" | b"." | b".." => Err(io::ErrorKind::InvalidInput.into()),
        name if name.contains(&b'/') => Err(io::ErrorKind::InvalidInput.into()),
        name => Ok(OsStr::from_bytes(name)),
    }
}

fn uid(attributes: &Attributes<'_>) -> Uid {
    Uid::from_raw(attributes.uid)
}

fn gid(attributes: &Attributes<'_>) -> Gid {
    Gid::from_raw(attributes.gid)
}

fn mode(attributes: &Attributes<'_>) -> Mode {
    Mode::from_raw_mode(u32::from(attributes.mode) & 0o7777)
}

fn times(attributes: &Attributes<'_>) -> Timestamps {
    let (seconds, nanos) = attributes.mtime;
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanos.into() },
    }
}
