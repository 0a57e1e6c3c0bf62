//! Makes a file tree name by name, each relative to the descriptor of its directory.
//!
//! Names come from untrusted sources. A name must be a single path component, is created with `O_EXCL` or an
//! equivalent, and is never followed. Attributes of a file are set through the descriptor that created it. So nothing
//! can end up outside the tree, whatever another process puts into it meanwhile. What is in the tree can be replaced by
//! a rename, and removed.
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
    AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Timespec, Timestamps,
    UTIME_OMIT, Uid, XattrFlags, chownat, fchmod, fchown, fgetxattr, fsetxattr, fstat, futimens,
    linkat, lsetxattr, makedev, mkdirat, mknodat, openat, openat2, renameat_with, statat,
    symlinkat, unlinkat, utimensat,
};

use super::{
    attributes, durable, file_handle,
    mounts::Detached,
    openat2, proc_fd,
    tree_reader::{Entry, FileHandle},
};

/// The attribute of file capabilities.
const CAPABILITIES: &str = "security.capability";

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

/// What a rename does with the new name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rename {
    /// It fails with `AlreadyExists` if the name exists.
    New,
    /// It replaces what has the name.
    Replace,
    /// It exchanges the two names.
    Exchange,
}

/// An open directory of the tree.
#[derive(Debug)]
pub struct Dir(OwnedFd);

impl Dir {
    /// Opens the directory at `path`, an absolute path without symlinks.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(openat2::dir(path, openat2::READ)?))
    }

    /// The root of a tree.
    pub fn root(tree: &Detached) -> io::Result<Self> {
        Ok(Self(openat(tree.descriptor(), ".", openat2::READ, Mode::empty())?))
    }

    /// Opens the directory at the relative `path` below this one, without following symlinks. An empty path opens this
    /// one.
    pub fn below(&self, path: &[u8]) -> io::Result<Self> {
        let path = if path.is_empty() { b"." } else { path };
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        Ok(Self(openat2(&self.0, OsStr::from_bytes(path), openat2::READ, Mode::empty(), how)?))
    }

    /// This directory, for reading.
    pub fn as_entry(&self) -> io::Result<Entry> {
        Entry::new(self.0.try_clone()?)
    }

    /// An inode of this directory's file system, under whatever name. `None` if it does not exist any more.
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_DAC_READ_SEARCH`.
    pub fn by_handle(&self, handle: &FileHandle) -> io::Result<Option<Entry>> {
        file_handle::open(&self.0, handle)?.map(Entry::new).transpose()
    }

    /// This directory as a file, for a lock or for a sync of its file system.
    pub fn as_file(&self) -> io::Result<File> {
        Ok(File::from(self.0.try_clone()?))
    }

    /// Opens an existing file for writing, without following a symlink. Does not wait for the reader of a named pipe.
    pub fn open_file(&self, name: &[u8]) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        Ok(openat2(&self.0, component(name)?, flags, Mode::empty(), how)?.into())
    }

    /// Renames an entry of this directory.
    pub fn rename(&self, from: &[u8], to: &[u8], how: Rename) -> io::Result<()> {
        let flags = match how {
            Rename::New => RenameFlags::NOREPLACE,
            Rename::Replace => RenameFlags::empty(),
            Rename::Exchange => RenameFlags::EXCHANGE,
        };
        Ok(renameat_with(&self.0, component(from)?, &self.0, component(to)?, flags)?)
    }

    /// Removes an entry that is not a directory.
    pub fn remove_file(&self, name: &[u8]) -> io::Result<()> {
        Ok(unlinkat(&self.0, component(name)?, AtFlags::empty())?)
    }

    /// Removes an entry with everything below it ([`durable::remove_tree_unsynced`]).
    pub fn remove_tree(&self, name: &[u8]) -> io::Result<()> {
        durable::remove_tree_in(self.0.try_clone()?, component(name)?)
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

    /// Like [`Dir::set_attributes`]; see [`replace_attributes`].
    pub fn replace_attributes(&self, attributes: &Attributes<'_>) -> io::Result<()> {
        replace_attributes_of(&self.0, attributes)
    }

    /// Sets the mtime of this directory.
    pub fn set_mtime(&self, mtime: (i64, u32)) -> io::Result<()> {
        Ok(futimens(&self.0, &times_of(mtime))?)
    }

    /// Changes the owner of an entry. Its set-id bits and file capabilities stay, which the kernel clears.
    pub fn set_owner(&self, name: &[u8], (uid, gid): (u32, u32)) -> io::Result<()> {
        let name = component(name)?;
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        let found = statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Ok(chownat(&self.0, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?);
        }
        // By its descriptor, because another process may put a link in its place.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(&self.0, name, flags, Mode::empty())?;
        let mode = Mode::from_raw_mode(fstat(&file)?.st_mode & 0o7777);
        let mut value = [0; 64];
        let capabilities = fgetxattr(&file, CAPABILITIES, &mut value).ok();
        fchown(&file, uid, gid)?;
        fchmod(&file, mode)?;
        match capabilities {
            Some(length) => {
                Ok(fsetxattr(&file, CAPABILITIES, &value[..length], XattrFlags::empty())?)
            }
            None => Ok(()),
        }
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

/// Sets the attributes of an open file, and removes the extended attributes that it has besides: an inherited ACL, for
/// example. The labels of security modules stay.
pub fn replace_attributes(file: &File, attributes: &Attributes<'_>) -> io::Result<()> {
    replace_attributes_of(file, attributes)
}

fn replace_attributes_of(file: impl AsFd, attributes: &Attributes<'_>) -> io::Result<()> {
    let path = proc_fd::path(&file);
    for name in attributes::names(&path)? {
        let is_kept = attributes.xattrs.iter().any(|(kept, _)| *kept == name);
        if !is_kept && !attributes::is_label(&name) {
            attributes::remove_xattr(&path, &name)?;
        }
    }
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
    times_of(attributes.mtime)
}

/// An mtime. The access time stays.
fn times_of((seconds, nanos): (i64, u32)) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanos.into() },
    }
}
