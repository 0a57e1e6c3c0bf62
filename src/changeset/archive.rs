//! Finds the members of a tar file on disk, for archives that are read in any order, and writes such archives.
//!
//! Deliberately absent: the content of the members and its meaning.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, BufReader, Seek as _, SeekFrom, Write as _},
    os::unix::fs::FileExt as _,
    path::{Component, Path},
};

use tar::{Archive, EntryType, Header};

use super::header::BLOCK;

/// Far more members than an archive of images has. (The entries of its layers are not members.)
const MEMBERS_MAX: usize = 100_000;

/// A range of bytes in the archive's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Position of the first byte.
    pub offset: u64,
    /// Length according to the header. The file may end before that.
    pub size: u64,
}

/// The regular files of the tar in `file` by name. A symbolic link to one is another name of it. Of two
/// members with one name, the last counts.
///
/// # Errors
/// The file cannot be read, or is no tar ([`io::ErrorKind::InvalidData`] and similar kinds).
pub fn members(file: &File) -> io::Result<HashMap<String, Member>> {
    let (mut found, mut links) = (HashMap::new(), Vec::new());
    let mut archive = Archive::new(BufReader::new(file));
    for (count, entry) in archive.entries_with_seek()?.enumerate() {
        if count == MEMBERS_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it has too many members"));
        }
        let entry = entry?;
        let name = entry.path()?.into_owned();
        match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => {
                let member = Member { offset: entry.raw_file_position(), size: entry.size() };
                found.extend(plain(&name).map(|name| (name, member)));
            }
            EntryType::Symlink => {
                let target = entry.link_name()?.unwrap_or_default();
                let dir = name.parent().unwrap_or(Path::new(""));
                links.push((plain(&name), plain(&dir.join(target))));
            }
            _ => {}
        }
    }
    for (name, target) in links {
        if let (Some(name), Some(target)) = (name, target)
            && let Some(member) = found.get(&target).copied()
        {
            found.insert(name, member);
        }
    }
    Ok(found)
}

/// A name without `.` and `..`; `None` if it leaves the archive or is not UTF-8.
fn plain(name: &Path) -> Option<String> {
    let mut parts = Vec::new();
    for part in name.components() {
        match part {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::ParentDir => drop(parts.pop()?),
            _ => {}
        }
    }
    Some(parts.join("/"))
}

/// Writes an archive of regular files. A member can be written before its size and its name are known.
#[derive(Debug)]
pub struct ArchiveWriter {
    file: File,
    /// Where the next member begins.
    at: u64,
    names: HashSet<String>,
}

impl ArchiveWriter {
    /// Writes into `file`, which must be empty.
    pub fn new(file: File) -> Self {
        Self { file, at: 0, names: HashSet::new() }
    }

    /// Adds a member, unless there is one of that name.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        self.add_with(|file| {
            file.write_all(content)?;
            Ok((name.to_owned(), ()))
        })
    }

    /// Adds a member whose content `write` writes to the end of the file. `write` returns its name. If there is one of that
    /// name, it stays as it is.
    ///
    /// # Errors
    /// `write` fails, or the file cannot be written.
    pub fn add_with<T, E: From<io::Error>>(
        &mut self,
        write: impl FnOnce(&mut File) -> Result<(String, T), E>,
    ) -> Result<T, E> {
        let content = self.at + BLOCK as u64;
        self.file.seek(SeekFrom::Start(content))?;
        let (name, written) = write(&mut self.file)?;
        if self.names.contains(&name) {
            return Ok(written);
        }
        let size = self.file.stream_position()? - content;
        let mut header = Header::new_ustar();
        header.set_path(&name)?;
        header.set_entry_type(EntryType::Regular);
        header.set_size(size);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        self.file.write_all_at(header.as_bytes(), self.at)?;
        // What an earlier member of the same name has left behind its end would otherwise be the padding.
        let end = (content + size).next_multiple_of(BLOCK as u64);
        let padding = end - content - size;
        self.file.write_all_at(&[0; BLOCK][..padding as usize], content + size)?;
        self.at = end;
        self.names.insert(name);
        Ok(written)
    }

    /// Ends the archive. Returns the file, which is not synced.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(self) -> io::Result<File> {
        self.file.write_all_at(&[0; 2 * BLOCK], self.at)?;
        self.file.set_len(self.at + 2 * BLOCK as u64)?;
        Ok(self.file)
    }
}

/// A tar of these files, for the tests of other modules.
#[cfg(test)]
pub(crate) fn archive_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, SeekFrom};

    use super::*;

    #[test]
    fn members_are_read_as_they_were_written_and_a_name_is_there_once() {
        let mut archive = ArchiveWriter::new(tempfile::tempfile().unwrap());
        archive.add("a", b"first").unwrap();
        // Its bytes must not show in the padding of the next member.
        archive.add("a", &[7; 3000]).unwrap();
        let written = archive.add_with(|file| {
            file.write_all(b"known later")?;
            Ok::<_, io::Error>(("dir/b".to_owned(), 11))
        });
        assert_eq!(written.unwrap(), 11);
        let mut file = archive.finish().unwrap();
        file.rewind().unwrap();
        let found = members(&file).unwrap();
        assert_eq!((found.len(), found["a"].size, found["dir/b"].size), (2, 5, 11));
        let mut all = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut all).unwrap();
        assert_eq!(all.len(), 6 * BLOCK);
        assert_eq!(all[usize::try_from(found["dir/b"].offset).unwrap()..][..11], *b"known later");
        assert!(!all.contains(&7));
    }

    #[test]
    fn files_are_found_by_their_names_and_their_links() {
        let mut tar = tar::Builder::new(tempfile::tempfile().unwrap());
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        for (name, content) in
            [("a/layer.tar", "old"), ("./a/layer.tar", "layer"), ("m.json", "[]")]
        {
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        for (name, target) in [("b/layer.tar", "../a/layer.tar"), ("c", "../../a"), ("d", "absent")]
        {
            tar.append_link(&mut header, name, target).unwrap();
        }
        let mut file = tar.into_inner().unwrap();
        file.rewind().unwrap();
        let found = members(&file).unwrap();
        let mut names: Vec<_> = found.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["a/layer.tar", "b/layer.tar", "m.json"]);
        let member = found["b/layer.tar"];
        assert_eq!(member, found["a/layer.tar"]);
        let mut content = String::new();
        file.seek(SeekFrom::Start(member.offset)).unwrap();
        file.take(member.size).read_to_string(&mut content).unwrap();
        assert_eq!(content, "layer");
    }
}
