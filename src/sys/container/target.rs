//! Finds the mount points of a container in the root of this process.
//!
//! Nothing is made in the tree itself, where it would look like a change of the user. What is missing is made only in a
//! file system that belongs to the container, such as its `/run`.

use std::{
    ffi::OsString,
    fs, io,
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
};

use rustix::fs::{FileType, Mode, OFlags, fstat, mkdirat, openat};

use super::attach::open_exact;

/// The most symlinks of one look-up, as in path_resolution(7).
const LINKS: usize = 40;

/// What a mount point is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A file, for the mount of a file.
    File,
}

/// Opens the mount point at the absolute path `path`. Symlinks are followed.
///
/// If it is missing and would lie in a file system whose device number is in `own`, it is made there, with its parents.
///
/// # Errors
/// `NotFound` if it is missing elsewhere. `NotADirectory`, `IsADirectory` if it is of another kind.
pub fn find_target(path: &Path, kind: Kind, own: &[u64]) -> io::Result<OwnedFd> {
    let (found, missing) = locate(path)?;
    let mut target = open_exact(&found)?;
    if let Some((last, parents)) = missing.split_last() {
        if !own.contains(&fstat(&target)?.st_dev) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mode = Mode::from_raw_mode(0o755);
        for parent in parents {
            mkdirat(&target, parent, mode)?;
            target = openat(&target, parent, DIR, Mode::empty())?;
        }
        match kind {
            Kind::Directory => mkdirat(&target, last, mode)?,
            Kind::File => drop(openat(&target, last, NEW, Mode::from_raw_mode(0o644))?),
        }
        target = openat(&target, last, PATH, Mode::empty())?;
    }
    let is_dir = FileType::from_raw_mode(fstat(&target)?.st_mode) == FileType::Directory;
    match kind {
        Kind::Directory if !is_dir => Err(io::ErrorKind::NotADirectory.into()),
        Kind::File if is_dir => Err(io::ErrorKind::IsADirectory.into()),
        _ => Ok(target),
    }
}

const PATH: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const DIR: OFlags = PATH.union(OFlags::DIRECTORY);
const NEW: OFlags = OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::CLOEXEC);

/// The part of a path that exists, without symlinks, and the names that are missing after it.
fn locate(path: &Path) -> io::Result<(PathBuf, Vec<OsString>)> {
    let (mut found, mut links) = (PathBuf::from("/"), 0);
    let mut next: Vec<OsString> = reversed(path);
    while let Some(name) = next.pop() {
        if name == ".." {
            found.pop();
            continue;
        }
        let entry = found.join(&name);
        match fs::symlink_metadata(&entry) {
            Ok(metadata) if metadata.is_symlink() => {
                links += 1;
                if links > LINKS {
                    return Err(io::Error::from_raw_os_error(libc::ELOOP));
                }
                let to = fs::read_link(&entry)?;
                if to.is_absolute() {
                    found = PathBuf::from("/");
                }
                next.extend(reversed(&to));
            }
            Ok(_) => found = entry,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                next.push(name);
                next.reverse();
                let leaves = next.iter().any(|name| name == "..");
                return if leaves { Err(e) } else { Ok((found, next)) };
            }
            Err(e) => return Err(e),
        }
    }
    Ok((found, Vec::new()))
}

/// The names of a path, last first.
fn reversed(path: &Path) -> Vec<OsString> {
    let names = path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;
    use crate::sys::test_dir::TestDir;

    fn device(path: &Path) -> u64 {
        fs::metadata(path).unwrap().dev()
    }

    #[test]
    fn a_path_is_followed_to_what_exists() {
        let dir = TestDir::new();
        let real = dir.dir("a/b");
        symlink("a", dir.path().join("relative")).unwrap();
        symlink(dir.dir("a"), dir.path().join("absolute")).unwrap();
        symlink("../a/b/../new", dir.dir("links").join("dangling")).unwrap();
        for link in ["relative", "absolute", "links/../a"] {
            let found = locate(&dir.path().join(link).join("b")).unwrap();
            assert_eq!(found, (real.clone(), vec![]), "{link}");
        }
        let found = locate(&dir.path().join("links/dangling/x")).unwrap();
        assert_eq!(found, (dir.path().join("a"), vec!["new".into(), "x".into()]));
        assert_eq!(locate(Path::new("/../..")).unwrap(), (PathBuf::from("/"), vec![]));
        let up = locate(&dir.path().join("missing/../a")).unwrap_err();
        assert_eq!(up.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_loop_of_symlinks_is_an_error() {
        let dir = TestDir::new();
        symlink("loop", dir.path().join("loop")).unwrap();
        let error = locate(&dir.path().join("loop")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
    }

    #[test]
    fn a_missing_target_is_made_only_in_a_file_system_of_the_container() {
        let dir = TestDir::new();
        let (file, under) = (dir.path().join("x/y/file"), dir.path().join("x/z"));
        let missing = find_target(&file, Kind::File, &[]).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        assert!(!dir.path().join("x").exists());
        let own = [device(dir.path())];
        find_target(&file, Kind::File, &own).unwrap();
        find_target(&under, Kind::Directory, &own).unwrap();
        assert!(file.is_file() && under.is_dir());
        let wrong = find_target(&under, Kind::File, &own).unwrap_err();
        assert_eq!(wrong.kind(), io::ErrorKind::IsADirectory);
        let wrong = find_target(&file, Kind::Directory, &own).unwrap_err();
        assert_eq!(wrong.kind(), io::ErrorKind::NotADirectory);
    }
}
