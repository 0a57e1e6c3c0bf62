//! Makes an overlay copy a file up, as the first write to it would.
//!
//! It is enough to open the file for writing. This changes neither its bytes nor its times (kernel doc overlayfs.rst,
//! "Non-directories"). Deliberately absent: directories, whose copy-up copies no file data, and targets of symlinks.

use std::{io, path::Path};

use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2},
    io::Errno,
};

use super::mounts::Detached;

/// Copies up the regular file at `path`, relative to the root of `tree`.
///
/// # Errors
/// - `NotFound`, `NotADirectory`, `IsADirectory`.
/// - `InvalidInput`: it is neither a file nor a directory, or a part of its path is a symlink.
/// - The errors of the copy itself, such as those of a full disk.
pub fn copy_up(tree: &Detached, path: &Path) -> io::Result<()> {
    let open = |flags| {
        let beneath = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat2(tree.descriptor(), path, flags, Mode::empty(), beneath).map_err(|e| match e {
            Errno::LOOP => unfit("a part of its path is a symlink"),
            e => e.into(),
        })
    };
    // The type is checked first, because opening a device or a pipe has other effects.
    let found = open(OFlags::PATH)?;
    match FileType::from_raw_mode(fstat(&found)?.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(Errno::ISDIR.into()),
        FileType::Symlink => return Err(unfit("it is a symlink")),
        _ => return Err(unfit("it is not a regular file")),
    }
    open(OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY)?;
    Ok(())
}

fn unfit(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::sys::{
        mounts::{LinuxMounts, Mounts},
        test_dir::TestDir,
    };

    #[test]
    fn only_regular_files_of_the_tree_are_copied_up() {
        let scratch = TestDir::new();
        let dir = scratch.dir("tree");
        scratch.file("outside", "x");
        scratch.dir("tree/directory");
        scratch.file("tree/directory/file", "x");
        symlink("directory/file", dir.join("link")).unwrap();
        symlink("directory", dir.join("way")).unwrap();
        let tree = LinuxMounts.open_dir(&dir).unwrap();
        copy_up(&tree, Path::new("directory/file")).unwrap();
        for (path, kind) in [
            ("none", io::ErrorKind::NotFound),
            ("directory", io::ErrorKind::IsADirectory),
            ("link", io::ErrorKind::InvalidInput),
            ("way/file", io::ErrorKind::InvalidInput),
            ("../outside", io::ErrorKind::CrossesDevices),
        ] {
            assert_eq!(copy_up(&tree, Path::new(path)).unwrap_err().kind(), kind, "{path}");
        }
    }
}
