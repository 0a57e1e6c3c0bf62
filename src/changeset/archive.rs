//! Finds the members of a tar file on disk, for archives that are read in any order.
//!
//! Deliberately absent: the content of the members and its meaning.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufReader},
    path::{Component, Path},
};

use tar::{Archive, EntryType};

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
