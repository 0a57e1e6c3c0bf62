//! Makes a tree of files name by name, each from the descriptor of its folder.
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

use super::beneath;

/// What a file is apart from its content.
#[derive(Debug, Clone, Copy)]
pub struct Dress<'a> {
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

/// A folder of the tree, open.
#[derive(Debug)]
pub struct Folder(OwnedFd);

impl Folder {
    /// The folder at `path`, absolute and without symlinks.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(beneath::folder(path, beneath::READ)?))
    }

    /// The folder at `path` below this one; none of its parts is followed if it is a link.
    pub fn below(&self, path: &[u8]) -> io::Result<Self> {
        let path = if path.is_empty() { b"." } else { path };
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        Ok(Self(openat2(&self.0, OsStr::from_bytes(path), beneath::READ, Mode::empty(), how)?))
    }

    /// Makes a folder in this one.
    pub fn folder(&self, name: &[u8]) -> io::Result<Self> {
        mkdirat(&self.0, part(name)?, Mode::RWXU)?;
        Ok(Self(openat(&self.0, part(name)?, beneath::READ, Mode::empty())?))
    }

    /// Makes an empty file, open for writing.
    pub fn file(&self, name: &[u8]) -> io::Result<File> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(&self.0, part(name)?, flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    /// Makes a symbolic link.
    pub fn symlink(&self, name: &[u8], target: &[u8], dress: &Dress<'_>) -> io::Result<()> {
        symlinkat(OsStr::from_bytes(target), &self.0, part(name)?)?;
        self.dress_name(name, dress)
    }

    /// Makes what has a name and no content.
    pub fn node(&self, name: &[u8], node: Node, dress: &Dress<'_>) -> io::Result<()> {
        let (kind, number) = match node {
            Node::Fifo => (FileType::Fifo, 0),
            Node::Socket => (FileType::Socket, 0),
            Node::CharDevice(major, minor) => (FileType::CharacterDevice, makedev(major, minor)),
            Node::BlockDevice(major, minor) => (FileType::BlockDevice, makedev(major, minor)),
        };
        mknodat(&self.0, part(name)?, kind, Mode::RUSR, number)?;
        self.dress_name(name, dress)?;
        // To open one would wait, or do what its device does; its mode is set by name, and no link can stand there.
        Ok(rustix::fs::chmodat(&self.0, part(name)?, mode(dress), AtFlags::empty())?)
    }

    /// Makes what overlay takes for the absence of a name: a character device 0:0.
    pub fn whiteout(&self, name: &[u8]) -> io::Result<()> {
        Ok(mknodat(&self.0, part(name)?, FileType::CharacterDevice, Mode::empty(), makedev(0, 0))?)
    }

    /// Gives the file `from` in the folder `of` one more name here.
    pub fn link(&self, name: &[u8], of: &Self, from: &[u8]) -> io::Result<()> {
        Ok(linkat(&of.0, part(from)?, &self.0, part(name)?, AtFlags::empty())?)
    }

    /// Dresses the folder itself; its time last, after everything in it was made.
    pub fn dress(&self, dress: &Dress<'_>) -> io::Result<()> {
        put_on(&self.0, dress)
    }

    /// Dresses what is no file and no folder.
    fn dress_name(&self, name: &[u8], dress: &Dress<'_>) -> io::Result<()> {
        let name = part(name)?;
        chownat(&self.0, name, Some(uid(dress)), Some(gid(dress)), AtFlags::SYMLINK_NOFOLLOW)?;
        // There is no `setxattrat` before Linux 6.13; through the folder's descriptor no part of this path is a stranger's
        // but the last, which is not followed.
        let path = PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd())).join(name);
        for (key, value) in dress.xattrs {
            lsetxattr(&path, key.as_slice(), value, XattrFlags::empty())?;
        }
        Ok(utimensat(&self.0, name, &times(dress), AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

/// Dresses a file that is open.
pub fn dress(file: &File, dress: &Dress<'_>) -> io::Result<()> {
    put_on(file, dress)
}

fn put_on(file: impl AsFd, dress: &Dress<'_>) -> io::Result<()> {
    fchown(&file, Some(uid(dress)), Some(gid(dress)))?;
    // After the owner, whose change takes set-id bits and capabilities away.
    fchmod(&file, mode(dress))?;
    for (key, value) in dress.xattrs {
        fsetxattr(&file, key.as_slice(), value, XattrFlags::empty())?;
    }
    Ok(futimens(&file, &times(dress))?)
}

fn part(name: &[u8]) -> io::Result<&OsStr> {
    match name {
        b"" | b"." | b".." => Err(io::ErrorKind::InvalidInput.into()),
        name if name.contains(&b'/') => Err(io::ErrorKind::InvalidInput.into()),
        name => Ok(OsStr::from_bytes(name)),
    }
}

fn uid(dress: &Dress<'_>) -> Uid {
    Uid::from_raw(dress.uid)
}

fn gid(dress: &Dress<'_>) -> Gid {
    Gid::from_raw(dress.gid)
}

fn mode(dress: &Dress<'_>) -> Mode {
    Mode::from_raw_mode(u32::from(dress.mode) & 0o7777)
}

fn times(dress: &Dress<'_>) -> Timestamps {
    let (seconds, nanos) = dress.mtime;
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanos.into() },
    }
}
