//! Makes a tree of files name by name, each from the descriptor of its directory.
//!
//! Names come from strangers. A name is one part, is made with `O_EXCL` or its like, and is never followed; whatever is set
//! on a file is set through the descriptor that made it. Nothing can so end up outside the tree, whatever else somebody put
//! into it meanwhile. Deliberately absent: where names come from, and syncing (one `syncfs` serves a whole tree).

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT, Uid,
    XattrFlags, chownat, fchmod, fchown, fsetxattr, futimens, linkat, lsetxattr, makedev, mkdirat,
    mknodat, openat, openat2, symlinkat, utimensat,
};

use super::openat2;

/// What a file is apart from its content.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    /// Permission, setuid, setgid and sticky bits.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The owning group.
    pub gid: u32,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Extended attributes by name.
    pub xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

/// What has a name and no content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
    /// A character device, by major and minor number.
    CharDevice(u32, u32),
    /// A block device, by major and minor number.
    BlockDevice(u32, u32),
}

/// A directory of the tree, open.
#[derive(Debug)]
pub struct Dir(OwnedFd);

impl Dir {
    /// The directory at `path`, absolute and without symlinks.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(openat2::dir(path, openat2::READ)?))
    }

    /// The directory at `path` below this one; none of its parts is followed if it is a link.
    pub fn below(&self, path: &[u8]) -> io::Result<Self> {
        let path = if path.is_empty() { b"." } else { path };
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        Ok(Self(openat2(&self.0, OsStr::from_bytes(path), openat2::READ, Mode::empty(), how)?))
    }

    /// Makes a directory in this one.
    pub fn dir(&self, name: &[u8]) -> io::Result<Self> {
        mkdirat(&self.0, part(name)?, Mode::RWXU)?;
        Ok(Self(openat(&self.0, part(name)?, openat2::READ, Mode::empty())?))
    }

    /// Makes an empty file, open for writing.
    pub fn file(&self, name: &[u8]) -> io::Result<File> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(&self.0, part(name)?, flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    /// Makes a symbolic link.
    pub fn symlink(
        &self,
        name: &[u8],
        target: &[u8],
        attributes: &Attributes<'_>,
    ) -> io::Result<()> {
        symlinkat(OsStr::from_bytes(target), &self.0, part(name)?)?;
        self.set_name_attributes(name, attributes)
    }

    /// Makes what has a name and no content.
    pub fn node(&self, name: &[u8], node: Node, attributes: &Attributes<'_>) -> io::Result<()> {
        let (kind, number) = match node {
            Node::Fifo => (FileType::Fifo, 0),
            Node::Socket => (FileType::Socket, 0),
            Node::CharDevice(major, minor) => (FileType::CharacterDevice, makedev(major, minor)),
            Node::BlockDevice(major, minor) => (FileType::BlockDevice, makedev(major, minor)),
        };
        mknodat(&self.0, part(name)?, kind, Mode::RUSR, number)?;
        self.set_name_attributes(name, attributes)?;
        // To open one would wait, or do what its device does; its mode is set by name, and no link can stand there.
        Ok(rustix::fs::chmodat(&self.0, part(name)?, mode(attributes), AtFlags::empty())?)
    }

    /// Makes what overlay takes for the absence of a name: a character device 0:0.
    pub fn whiteout(&self, name: &[u8]) -> io::Result<()> {
        Ok(mknodat(&self.0, part(name)?, FileType::CharacterDevice, Mode::empty(), makedev(0, 0))?)
    }

    /// Gives the file `from` in the directory `of` one more name here.
    pub fn link(&self, name: &[u8], of: &Self, from: &[u8]) -> io::Result<()> {
        Ok(linkat(&of.0, part(from)?, &self.0, part(name)?, AtFlags::empty())?)
    }

    /// Dresses the directory itself; its time last, after everything in it was made.
    pub fn set_attributes(&self, attributes: &Attributes<'_>) -> io::Result<()> {
        put_on(&self.0, attributes)
    }

    /// Dresses what is no file and no directory.
    fn set_name_attributes(&self, name: &[u8], attributes: &Attributes<'_>) -> io::Result<()> {
        let name = part(name)?;
        chownat(
            &self.0,
            name,
            Some(uid(attributes)),
            Some(gid(attributes)),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        // There is no `setxattrat` before Linux 6.13; through the directory's descriptor no part of this path is a stranger's
        // but the last, which is not followed.
        let path = PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd())).join(name);
        for (key, value) in attributes.xattrs {
            lsetxattr(&path, key.as_slice(), value, XattrFlags::empty())?;
        }
        Ok(utimensat(&self.0, name, &times(attributes), AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

/// Dresses a file that is open.
pub fn set_attributes(file: &File, attributes: &Attributes<'_>) -> io::Result<()> {
    put_on(file, attributes)
}

fn put_on(file: impl AsFd, attributes: &Attributes<'_>) -> io::Result<()> {
    fchown(&file, Some(uid(attributes)), Some(gid(attributes)))?;
    // After the owner, whose change takes set-id bits and capabilities away.
    fchmod(&file, mode(attributes))?;
    for (key, value) in attributes.xattrs {
        fsetxattr(&file, key.as_slice(), value, XattrFlags::empty())?;
    }
    Ok(futimens(&file, &times(attributes))?)
}

fn part(name: &[u8]) -> io::Result<&OsStr> {
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
