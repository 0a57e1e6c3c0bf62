//! Files in memory that become a tar archive with the same bytes each time: sorted, of root, and all with one time.
//!
//! Deliberately absent: files on a disk, with their owners and times.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};

/// Files by their paths. A path is relative and has no `..`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files(BTreeMap<String, File>);

/// A regular file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its permissions.
    pub mode: u32,
    /// Its content.
    pub bytes: Vec<u8>,
}

impl Files {
    /// Adds a file that every user may read, or replaces it.
    #[must_use]
    pub fn with(self, path: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.with_mode(path, 0o644, bytes)
    }

    /// Adds a program, or replaces it.
    #[must_use]
    pub fn with_program(self, path: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.with_mode(path, 0o755, bytes)
    }

    /// Adds a file with these permissions, or replaces it.
    #[must_use]
    pub fn with_mode(mut self, path: &str, mode: u32, bytes: impl Into<Vec<u8>>) -> Self {
        self.0.insert(path.to_owned(), File { mode, bytes: bytes.into() });
        self
    }

    /// The file with this path.
    ///
    /// # Errors
    /// There is none.
    pub fn get(&self, path: &str) -> Result<&File> {
        self.0.get(path).with_context(|| format!("no file {path}"))
    }

    /// All files, sorted by path.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &File)> {
        self.0.iter().map(|(path, file)| (path.as_str(), file))
    }

    /// The tar archive of the files and of the directories above them. All have this time, in seconds since 1970.
    ///
    /// # Errors
    /// A tar cannot hold a path.
    pub fn tar(&self, time: u64) -> Result<Vec<u8>> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut directories = BTreeSet::new();
        for (path, file) in &self.0 {
            let above = Path::new(path).ancestors().skip(1);
            let mut above: Vec<_> = above.filter(|dir| *dir != Path::new("")).collect();
            above.reverse();
            for dir in above {
                if directories.insert(dir) {
                    let dir = format!("{}/", dir.display());
                    append(&mut builder, &dir, tar::EntryType::Directory, 0o755, &[], time)?;
                }
            }
            append(&mut builder, path, tar::EntryType::Regular, file.mode, &file.bytes, time)?;
        }
        builder.into_inner().context("ending a tar")
    }

    /// The files of a tar archive. Directories are left out.
    ///
    /// # Errors
    /// It is no tar archive, or has an entry that is neither a file nor a directory.
    pub fn from_tar(tar: &[u8]) -> Result<Self> {
        let mut files = Self::default();
        for entry in tar::Archive::new(tar).entries().context("reading a tar")? {
            let mut entry = entry.context("reading a tar")?;
            let path = entry.path().context("a path in a tar")?.display().to_string();
            let header = entry.header();
            let (kind, mode) = (header.entry_type(), header.mode().context("a mode in a tar")?);
            if kind.is_dir() {
                continue;
            }
            anyhow::ensure!(kind.is_file(), "{path} is no file: {kind:?}");
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes)
                .with_context(|| format!("reading {path} in a tar"))?;
            files = files.with_mode(&path, mode, bytes);
        }
        Ok(files)
    }
}

fn append(
    builder: &mut tar::Builder<Vec<u8>>,
    path: &str,
    kind: tar::EntryType,
    mode: u32,
    bytes: &[u8],
    time: u64,
) -> Result<()> {
    // Without the names of a user and a group.
    let mut header = tar::Header::new_gnu();
    header.set_uid(0);
    header.set_gid(0);
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(bytes.len() as u64);
    header.set_mtime(time);
    let added = builder.append_data(&mut header, path, bytes);
    added.with_context(|| format!("putting {path} into a tar"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_additions_does_not_matter() -> Result<()> {
        let one = Files::default().with("b", "2").with_program("a/x", "1");
        let other = Files::default().with_program("a/x", "1").with("b", "2");
        assert_eq!(one.tar(7)?, other.tar(7)?);
        assert_ne!(one.tar(7)?, one.tar(8)?);
        Ok(())
    }

    #[test]
    fn directories_come_once_before_their_files_and_all_is_of_root() -> Result<()> {
        let files = Files::default().with("etc/a/y", "1").with("etc/a/x", "2").with("etc/b", "");
        let tar = files.tar(7)?;
        let mut archive = tar::Archive::new(tar.as_slice());
        let mut paths = Vec::new();
        for entry in archive.entries()? {
            let entry = entry?;
            let header = entry.header();
            assert_eq!((header.uid()?, header.gid()?, header.mtime()?), (0, 0, 7));
            assert_eq!((header.username(), header.groupname()), (Ok(Some("")), Ok(Some(""))));
            paths.push(entry.path()?.display().to_string());
        }
        assert_eq!(paths, ["etc/", "etc/a/", "etc/a/x", "etc/a/y", "etc/b"]);
        Ok(())
    }

    #[test]
    fn a_tar_is_read_as_it_was_written() -> Result<()> {
        let files = Files::default().with("LICENSE", "text").with_program("bin/ovl", "program");
        assert_eq!(Files::from_tar(&files.tar(0)?)?, files);
        assert!(Files::from_tar(b"no tar").is_err());
        Ok(())
    }
}
