//! Reads a file tree, one name at a time.
//!
//! Every step goes from an open directory to one of its entries. Symlinks are not followed, and no step leaves the tree
//! or its mount. Deliberately absent: the meaning of whiteouts and of overlay's attributes in a stack of trees.

use std::{
    ffi::OsStr,
    fs::{File, Metadata},
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::PathBuf,
};

use rustix::{
    fs::{
        Dir, FileType, Mode, OFlags, ResolveFlags, SeekFrom, Stat, fstat, getxattr, openat,
        openat2, readlinkat, seek,
    },
    io::Errno,
};

use super::{attributes, data_ranges::DataRanges, file_handle, mounts::Detached, proc_fd};
pub use file_handle::FileHandle;

/// The maximum number of ranges for a file with holes. The rest of the file is one range more.
const MAX_RANGES: usize = 10_000;

/// An entry of a tree, held by an `O_PATH` descriptor, which can neither read nor write.
#[derive(Debug)]
pub struct Entry {
    fd: OwnedFd,
    stat: Stat,
}

/// The type of an entry.
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
    /// A whiteout, by which overlay hides a name of a lower layer: a character device 0:0.
    Whiteout,
    /// Any other character device, by major and minor number.
    CharDevice(u32, u32),
    /// A block device, by major and minor number.
    BlockDevice(u32, u32),
    /// A Unix domain socket.
    Socket,
}

impl Entry {
    /// The root of a tree.
    pub fn root(tree: &Detached) -> io::Result<Self> {
        Self::new(tree.descriptor().try_clone()?)
    }

    /// Opens the entry `name` of this directory. `None` if there is none.
    ///
    /// # Errors
    /// `InvalidInput` if `name` is not a single path component.
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

    /// Calls `visit` with each name in this directory, in no particular order.
    ///
    /// An overlay may list a name that does not exist. [`Entry::entry`] returns `None` for it.
    pub fn names(&self, mut visit: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        for entry in Dir::new(openat(&self.fd, ".", flags, Mode::empty())?)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                visit(name)?;
            }
        }
        Ok(())
    }

    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        let stat = fstat(&fd)?;
        Ok(Self { fd, stat })
    }

    /// The same entry, with its metadata as it is now.
    pub fn again(&self) -> io::Result<Self> {
        Self::new(self.fd.try_clone()?)
    }

    /// The type of the entry.
    pub fn entry_type(&self) -> EntryType {
        match FileType::from_raw_mode(self.stat.st_mode) {
            FileType::RegularFile => EntryType::File,
            FileType::Directory => EntryType::Dir,
            FileType::Symlink => EntryType::Symlink,
            FileType::Fifo => EntryType::Fifo,
            FileType::CharacterDevice if self.stat.st_rdev == 0 => EntryType::Whiteout,
            FileType::CharacterDevice => EntryType::CharDevice(self.major(), self.minor()),
            FileType::BlockDevice => EntryType::BlockDevice(self.major(), self.minor()),
            // Linux has no other type.
            _ => EntryType::Socket,
        }
    }

    fn major(&self) -> u32 {
        rustix::fs::major(self.stat.st_rdev)
    }

    fn minor(&self) -> u32 {
        rustix::fs::minor(self.stat.st_rdev)
    }

    /// Owner, mode, size, times and inode number.
    pub fn metadata(&self) -> io::Result<Metadata> {
        File::from(self.fd.try_clone()?).metadata()
    }

    /// The value of an extended attribute, `None` if the entry does not have it. Also reads overlay's own attributes,
    /// as they are in this tree.
    pub fn xattr(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let missing = |e| if e == Errno::NOTSUP { Errno::NODATA } else { e };
        match attributes::read(|buffer| getxattr(self.proc_path(), name, buffer).map_err(missing)) {
            Ok(value) => Ok(Some(value)),
            Err(e) if e.raw_os_error() == Some(Errno::NODATA.raw_os_error()) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The extended attributes of the entry, without overlay's own: pairs of name and value.
    pub fn xattrs(&self) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        attributes::xattrs(&self.proc_path())
    }

    /// Overlay's own extended attributes, as they are in this tree: pairs of name and value.
    pub fn overlay_xattrs(&self) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        attributes::overlay_xattrs(&self.proc_path())
    }

    /// The handle by which the file system finds this entry under any name. `None` if the file system has none.
    pub fn handle(&self) -> io::Result<Option<FileHandle>> {
        file_handle::of(&self.fd)
    }

    /// Whether a relative path leads out of this directory, also through symlinks. A path that ends at a missing name
    /// does not.
    pub fn leads_out(&self, path: &[u8]) -> io::Result<bool> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        match openat2(
            &self.fd,
            OsStr::from_bytes(path),
            flags,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
        ) {
            // Too many symlinks, and the links of /proc.
            Err(Errno::XDEV | Errno::LOOP) => Ok(true),
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// The target of a symbolic link.
    pub fn target(&self) -> io::Result<Vec<u8>> {
        Ok(readlinkat(&self.fd, "", Vec::new())?.into_bytes())
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// `InvalidInput` if the entry is not a regular file.
    pub fn open(&self) -> io::Result<File> {
        match self.entry_type() {
            EntryType::File => File::open(self.proc_path()),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// A path that always leads to this entry. Needed because an `O_PATH` descriptor itself cannot be read.
    fn proc_path(&self) -> PathBuf {
        proc_fd::path(&self.fd)
    }
}

/// The ranges of a file that are not holes: offset and length in bytes. A single range if the file system does not
/// report holes. Sets the file's position to its start.
pub fn data_ranges(file: &File) -> io::Result<Vec<(u64, u64)>> {
    let (size, mut ranges) = (file.metadata()?.len(), Vec::new());
    for range in DataRanges::of(file, size) {
        let (start, end) = range?;
        if ranges.len() == MAX_RANGES {
            ranges.push((start, size - start));
            break;
        }
        ranges.push((start, end - start));
    }
    seek(file, SeekFrom::Start(0))?;
    Ok(ranges)
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
        test_dir::TestDir,
        tree::Dir,
    };

    #[test]
    fn entries_of_a_tree_are_read_and_nothing_outside_of_it() {
        let scratch = TestDir::new();
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
        let entry_type = |name: &[u8]| dir.entry(name).unwrap().map(|entry| entry.entry_type());
        assert_eq!(entry_type(b"file"), Some(EntryType::File));
        assert_eq!(entry_type(b"link"), Some(EntryType::Symlink));
        assert_eq!(entry_type(b"gone"), Some(EntryType::Whiteout));
        assert_eq!(entry_type(b"none"), None);
        let link = dir.entry(b"link").unwrap().unwrap();
        assert_eq!(link.target().unwrap(), b"../../outside");
        assert_eq!(link.metadata().unwrap().len(), 13);
        // The attributes of the link, not those of its target.
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
    fn the_data_ranges_of_a_file_leave_out_holes() {
        let scratch = TestDir::new();
        let file = |name: &str| File::create_new(scratch.path().join(name)).unwrap();
        assert_eq!(data_ranges(&file("empty")).unwrap(), []);
        let holes = file("holes");
        holes.write_all_at(b"x", 1 << 20).unwrap();
        holes.set_len(4 << 20).unwrap();
        let found = data_ranges(&holes).unwrap();
        assert!(found.iter().any(|(at, len)| (*at..at + len).contains(&(1 << 20))), "{found:?}");
        assert!(found.iter().all(|(at, len)| at + len <= 4 << 20), "{found:?}");
        fs::write(scratch.path().join("full"), "full").unwrap();
        assert_eq!(
            data_ranges(&File::open(scratch.path().join("full")).unwrap()).unwrap(),
            [(0, 4)]
        );
    }
}
