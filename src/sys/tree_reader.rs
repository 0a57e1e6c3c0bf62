//! Looks into a tree, one name at a time.
//!
//! Every step goes from what is open to one of its entries; nothing is followed, and no step leaves the tree or its mount.
//! Deliberately absent: what a name's absence or a mark means in a stack of trees.

use std::{
    ffi::OsStr,
    fs::{File, Metadata},
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        Dir, FileType, Mode, OFlags, ResolveFlags, SeekFrom, Stat, fstat, getxattr, openat,
        openat2, readlinkat, seek,
    },
    io::Errno,
};

use super::{attributes, mounts::Detached};

/// The most pieces that a file with holes is told in; what lies behind the last is one more.
const PIECES: usize = 10_000;

/// Something in a tree, held by its descriptor, which neither reads nor writes.
#[derive(Debug)]
pub struct Entry {
    fd: OwnedFd,
    stat: Stat,
}

/// What it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryType {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// What overlay takes for the absence of a name: a character device 0:0.
    Whiteout,
    /// Any other character device, by major and minor number.
    CharDevice(u32, u32),
    /// A block device, by major and minor number.
    BlockDevice(u32, u32),
    /// A socket's name.
    Socket,
}

impl Entry {
    /// The root of a tree.
    pub fn root(tree: &Detached) -> io::Result<Self> {
        Self::new(tree.descriptor().try_clone()?)
    }

    /// What stands under `name` in this directory, if anything does.
    pub fn entry(&self, name: &[u8]) -> io::Result<Option<Self>> {
        if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        match openat2(&self.fd, OsStr::from_bytes(name), flags, Mode::empty(), how) {
            Ok(fd) => Ok(Some(Self::new(fd)?)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Hands out the names in this directory, in no order. Of a name that overlay lists and does not know there is no entry.
    pub fn names(&self, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        for entry in Dir::new(openat(&self.fd, ".", flags, Mode::empty())?)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                take(name)?;
            }
        }
        Ok(())
    }

    fn new(fd: OwnedFd) -> io::Result<Self> {
        let stat = fstat(&fd)?;
        Ok(Self { fd, stat })
    }

    /// What it is.
    pub fn sort(&self) -> EntryType {
        match FileType::from_raw_mode(self.stat.st_mode) {
            FileType::RegularFile => EntryType::File,
            FileType::Directory => EntryType::Dir,
            FileType::Symlink => EntryType::Symlink,
            FileType::Fifo => EntryType::Fifo,
            FileType::CharacterDevice if self.stat.st_rdev == 0 => EntryType::Whiteout,
            FileType::CharacterDevice => EntryType::CharDevice(self.major(), self.minor()),
            FileType::BlockDevice => EntryType::BlockDevice(self.major(), self.minor()),
            // No other type is left.
            _ => EntryType::Socket,
        }
    }

    fn major(&self) -> u32 {
        rustix::fs::major(self.stat.st_rdev)
    }

    fn minor(&self) -> u32 {
        rustix::fs::minor(self.stat.st_rdev)
    }

    /// Owner, mode, size, time and the inode's number.
    pub fn metadata(&self) -> io::Result<Metadata> {
        File::from(self.fd.try_clone()?).metadata()
    }

    /// The value of an extended attribute, if it has it: overlay's own too, as the tree itself has them.
    pub fn xattr(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let missing = |e| if e == Errno::NOTSUP { Errno::NODATA } else { e };
        match attributes::read(|space| getxattr(self.name(), name, space).map_err(missing)) {
            Ok(value) => Ok(Some(value)),
            Err(e) if e.raw_os_error() == Some(Errno::NODATA.raw_os_error()) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Its extended attributes, without overlay's own.
    pub fn xattrs(&self) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let name = self.name();
        let named = attributes::names(&name)?.into_iter().map(|key| {
            let value = attributes::read(|space| getxattr(&name, &key[..], space))?;
            Ok((key, value))
        });
        named.collect()
    }

    /// The target of a symbolic link.
    pub fn target(&self) -> io::Result<Vec<u8>> {
        Ok(readlinkat(&self.fd, "", Vec::new())?.into_bytes())
    }

    /// A regular file, open for reading.
    pub fn open(&self) -> io::Result<File> {
        match self.sort() {
            EntryType::File => File::open(self.name()),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// A path that leads to it and nowhere else: such a descriptor takes no reads of its own.
    fn name(&self) -> PathBuf {
        Path::new("/proc/self/fd").join(self.fd.as_raw_fd().to_string())
    }
}

/// The parts of a file that are no holes: first byte and length. Where the file system does not tell, all of it is one. Leaves the
/// file at its begin.
pub fn data(file: &File) -> io::Result<Vec<(u64, u64)>> {
    let (size, mut at, mut found) = (file.metadata()?.len(), 0, Vec::new());
    while at < size {
        if found.len() == PIECES {
            found.push((at, size - at));
            break;
        }
        let begin = match seek(file, SeekFrom::Data(at)) {
            Ok(begin) => begin,
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL) => at,
            Err(e) => return Err(e.into()),
        };
        let end = match seek(file, SeekFrom::Hole(begin)) {
            Ok(end) => end.min(size),
            Err(Errno::INVAL | Errno::NXIO) => size,
            Err(e) => return Err(e.into()),
        };
        if end > begin {
            found.push((begin, end - begin));
        }
        at = end.max(at + 1);
    }
    seek(file, SeekFrom::Start(0))?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{FileExt as _, symlink},
    };

    use rustix::fs::{XattrFlags, fsetxattr};

    use super::*;
    use crate::sys::{
        mounts::{LinuxMounts, Mounts as _},
        scratch::Scratch,
        tree::Dir,
    };

    #[test]
    fn a_tree_is_looked_into_and_not_out_of() {
        let scratch = Scratch::new();
        let tree = scratch.dir("tree/d");
        let outside = File::open(scratch.file("outside", "secret")).unwrap();
        fsetxattr(&outside, "user.colour", b"red", XattrFlags::empty()).unwrap();
        scratch.file("tree/d/file", "content");
        symlink("../../outside", tree.join("link")).unwrap();
        symlink("..", tree.join("up")).unwrap();
        Dir::open(&tree).unwrap().whiteout(b"gone").unwrap();
        let root = LinuxMounts.open_dir(&scratch.path().join("tree")).unwrap();
        let root = Entry::root(&root).unwrap();
        let dir = root.entry(b"d").unwrap().unwrap();
        let names = |dir: &Entry| {
            let mut names = Vec::new();
            dir.names(|name| {
                names.push(name.to_vec());
                Ok(())
            })?;
            names.sort();
            Ok::<_, io::Error>(names)
        };
        assert_eq!(names(&dir).unwrap(), [&b"file"[..], b"gone", b"link", b"up"]);
        let sort = |name: &[u8]| dir.entry(name).unwrap().map(|entry| entry.sort());
        assert_eq!(sort(b"file"), Some(EntryType::File));
        assert_eq!(sort(b"link"), Some(EntryType::Symlink));
        assert_eq!(sort(b"gone"), Some(EntryType::Whiteout));
        assert_eq!(sort(b"none"), None);
        let link = dir.entry(b"link").unwrap().unwrap();
        assert_eq!(link.target().unwrap(), b"../../outside");
        assert_eq!(link.metadata().unwrap().len(), 13);
        // Its own, not those of what it leads to.
        assert_eq!(link.xattrs().unwrap(), []);
        link.open().unwrap_err();
        dir.entry(b"up").unwrap().unwrap().entry(b"d").unwrap_err();
        names(&link).unwrap_err();
        for name in ["..", ".", "", "d/file", "/"] {
            root.entry(name.as_bytes()).unwrap_err();
        }
        let file = dir.entry(b"file").unwrap().unwrap();
        assert_eq!(io::read_to_string(file.open().unwrap()).unwrap(), "content");
        assert_eq!(file.xattr("user.colour").unwrap(), None);
    }

    #[test]
    fn the_data_of_a_file_is_what_is_no_hole() {
        let scratch = Scratch::new();
        let file = |name: &str| File::create_new(scratch.path().join(name)).unwrap();
        assert_eq!(data(&file("empty")).unwrap(), []);
        let holes = file("holes");
        holes.write_all_at(b"x", 1 << 20).unwrap();
        holes.set_len(4 << 20).unwrap();
        let found = data(&holes).unwrap();
        assert!(found.iter().any(|(at, len)| (*at..at + len).contains(&(1 << 20))), "{found:?}");
        assert!(found.iter().all(|(at, len)| at + len <= 4 << 20), "{found:?}");
        fs::write(scratch.path().join("full"), "full").unwrap();
        assert_eq!(data(&File::open(scratch.path().join("full")).unwrap()).unwrap(), [(0, 4)]);
    }
}
