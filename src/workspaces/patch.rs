//! Writes changes as a patch that `git apply` takes: contents, modes as far as git knows them, links, new and deleted
//! files.
//!
//! What a patch cannot express is a note between the patches of two files: binary files, large files, and special files.
//! Owners, extended attributes, times, empty directories, and what lies in `.git` are left out, as git does. A file that
//! is replaced by a link or a directory is deleted and made anew. The two states of one file are in memory at a time.
//!
//! Deliberately absent: renames, and git's form of binary patches, which needs the digests of both states.

mod hunks;

use std::{
    fmt,
    io::{self, Read as _, Write},
    os::unix::fs::MetadataExt as _,
};

use super::{
    attributes::lookup,
    paths::{has_part, join},
};
use crate::{
    changeset::{Change, Difference},
    error::Class,
    format,
    sys::{
        mounts::Detached,
        tree_reader::{Entry, EntryType},
    },
};

/// The most bytes of a file whose content is compared.
const MOST: u64 = 8 << 20;
/// A NUL in so many first bytes makes a file binary, as for git.
const LOOK: usize = 8000;

/// Why a patch was not written.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// Something cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The path.
        path: String,
        /// The system's error.
        source: io::Error,
    },
    /// The output cannot be written.
    #[error("cannot write it: {0}")]
    Output(#[from] io::Error),
    /// The caller stopped it.
    #[error("it was stopped, and is not complete")]
    Stopped,
}

impl PatchError {
    /// The class of the error.
    pub fn class(&self) -> Class {
        match self {
            Self::Read { source, .. } | Self::Output(source) => Class::of_disk(source),
            Self::Stopped => Class::Unavailable,
        }
    }
}

/// Writes the changes from the tree `before` to the tree `after`. If `paths` is not empty, only changes at one of them
/// or below it are written. Ends soon after `stop` returns true. Returns the number of files that the patch does not carry:
/// binary, large and special ones. For each of them it has a line, which `git apply` skips.
///
/// # Errors
/// [`PatchError`].
pub fn patch(
    before: &Detached,
    after: &Detached,
    changes: &[Difference],
    paths: &[Vec<u8>],
    out: &mut dyn Write,
    stop: &dyn Fn() -> bool,
) -> Result<u64, PatchError> {
    let root = |tree| Entry::root(tree).map_err(reading(b"/"));
    let (before, after) = (root(before)?, root(after)?);
    let mut writer = Writer { before, after, paths, left_out: 0, out, stop };
    for change in changes {
        let is_parent = change.change == Change::Changed && change.properties.is_empty();
        if !is_parent && !change.path.is_empty() {
            writer.change(&change.path)?;
        }
    }
    writer.out.flush()?;
    Ok(writer.left_out)
}

fn reading(path: &[u8]) -> impl FnOnce(io::Error) -> PatchError + '_ {
    move |source| PatchError::Read { path: format::path(path), source }
}

/// One state of a file.
#[derive(Debug, PartialEq, Eq)]
struct File {
    /// As git writes it.
    mode: &'static str,
    content: Content,
}

#[derive(Debug, PartialEq, Eq)]
enum Content {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    /// More than [`MOST`] bytes.
    Large,
    Special,
}

struct Writer<'a> {
    before: Entry,
    after: Entry,
    paths: &'a [Vec<u8>],
    left_out: u64,
    out: &'a mut dyn Write,
    stop: &'a dyn Fn() -> bool,
}

impl Writer<'_> {
    /// Writes what differs at a path. A directory of which only one tree has something else is written file by file.
    fn change(&mut self, path: &[u8]) -> Result<(), PatchError> {
        let first = lookup(&self.before, path).map_err(reading(path))?;
        let second = lookup(&self.after, path).map_err(reading(path))?;
        let is_dir = |entry: &Option<Entry>| {
            entry.as_ref().is_some_and(|entry| entry.entry_type() == EntryType::Dir)
        };
        if let Some(dir) = first.as_ref().filter(|_| is_dir(&first) && !is_dir(&second)) {
            self.removed(path, dir)?;
        }
        self.file(path, first.filter(not_dir), second.filter(not_dir))
    }

    /// Writes the removal of all files in a directory.
    fn removed(&mut self, path: &[u8], dir: &Entry) -> Result<(), PatchError> {
        let mut waiting = vec![(path.to_vec(), dir.again().map_err(reading(path))?)];
        while let Some((path, entry)) = waiting.pop() {
            if not_dir(&entry) {
                self.file(&path, Some(entry), None)?;
                continue;
            }
            let mut names = Vec::new();
            let listed = entry.names(|name| {
                names.push(name.to_vec());
                Ok(())
            });
            listed.map_err(reading(&path))?;
            names.sort_unstable_by(|one, other| other.cmp(one));
            for name in names {
                let inside = join(&path, &name);
                let child = entry.entry(&name).map_err(reading(&inside))?;
                waiting.extend(child.map(|child| (inside, child)));
            }
        }
        Ok(())
    }

    fn is_wanted(&self, path: &[u8]) -> bool {
        let is_at = |wanted: &Vec<u8>| {
            let rest = path.strip_prefix(&wanted[..]);
            rest.is_some_and(|rest| wanted.is_empty() || rest.is_empty() || rest[0] == b'/')
        };
        !has_part(path, b".git") && (self.paths.is_empty() || self.paths.iter().any(is_at))
    }

    /// Writes the difference between two states of a file.
    fn file(
        &mut self,
        path: &[u8],
        first: Option<Entry>,
        second: Option<Entry>,
    ) -> Result<(), PatchError> {
        if (self.stop)() {
            return Err(PatchError::Stopped);
        }
        if !self.is_wanted(path) {
            return Ok(());
        }
        let state = |entry: Option<Entry>| entry.as_ref().map(File::of).transpose();
        let first = state(first).map_err(reading(path))?;
        let second = state(second).map_err(reading(path))?;
        match (&first, &second) {
            (Some(one), Some(other)) if one.is_link() != other.is_link() => {
                self.pair(path, Some(one), None)?;
                self.pair(path, None, Some(other))
            }
            (one, other) => self.pair(path, one.as_ref(), other.as_ref()),
        }
    }

    fn pair(
        &mut self,
        path: &[u8],
        first: Option<&File>,
        second: Option<&File>,
    ) -> Result<(), PatchError> {
        let name = |side: &str, file: Option<&File>| match file {
            Some(_) => Name::Of(join(side.as_bytes(), path)),
            None => Name::None,
        };
        let (old, new) = (name("a", first), name("b", second));
        let content = |file: Option<&File>| match file.map(|file| &file.content) {
            None => Ok(Vec::new()),
            Some(Content::Text(text)) => Ok(text.clone()),
            Some(Content::Binary(_)) => Err("Binary files"),
            Some(Content::Large) => Err("Large files"),
            Some(Content::Special) => Err("Special files"),
        };
        let (before, after) = match (content(first), content(second)) {
            (Ok(before), Ok(after)) => (before, after),
            (Err(_), _) | (_, Err(_)) if is_same(first, second) => return Ok(()),
            // The empty line keeps git from taking it for a part of the patch before it.
            (Err(what), _) | (_, Err(what)) => {
                self.left_out += 1;
                return Ok(writeln!(self.out, "\n{what} {old} and {new} differ")?);
            }
        };
        let mode = |file: Option<&File>| file.map_or("", |file| file.mode);
        let (old_mode, new_mode) = (mode(first), mode(second));
        if before == after && old_mode == new_mode {
            return Ok(());
        }
        let named = |side: &[u8]| Name::Of(join(side, path));
        writeln!(self.out, "diff --git {} {}", named(b"a"), named(b"b"))?;
        match (first, second) {
            (None, _) => writeln!(self.out, "new file mode {new_mode}")?,
            (_, None) => writeln!(self.out, "deleted file mode {old_mode}")?,
            _ if old_mode != new_mode => {
                writeln!(self.out, "old mode {old_mode}\nnew mode {new_mode}")?;
            }
            _ => {}
        }
        if before != after {
            writeln!(self.out, "--- {}{}", old, old.end())?;
            writeln!(self.out, "+++ {}{}", new, new.end())?;
            hunks::write(&before, &after, self.out)?;
        }
        Ok(())
    }
}

fn not_dir(entry: &Entry) -> bool {
    entry.entry_type() != EntryType::Dir
}

/// Whether two files that a patch cannot show are the same. Large ones are not read.
fn is_same(first: Option<&File>, second: Option<&File>) -> bool {
    first.is_some_and(|file| matches!(file.content, Content::Binary(_))) && first == second
}

impl File {
    fn of(entry: &Entry) -> io::Result<Self> {
        let metadata = entry.metadata()?;
        let mode = if metadata.mode() & 0o100 != 0 { "100755" } else { "100644" };
        Ok(match entry.entry_type() {
            EntryType::Symlink => Self { mode: "120000", content: Content::Text(entry.target()?) },
            EntryType::File if metadata.len() > MOST => Self { mode, content: Content::Large },
            EntryType::File => {
                let mut bytes = Vec::new();
                entry.open()?.take(MOST).read_to_end(&mut bytes)?;
                let is_binary = bytes[..bytes.len().min(LOOK)].contains(&0);
                let content = if is_binary { Content::Binary } else { Content::Text };
                Self { mode, content: content(bytes) }
            }
            _ => Self { mode, content: Content::Special },
        })
    }

    fn is_link(&self) -> bool {
        self.mode == "120000"
    }
}

/// A name as git writes it in a patch.
enum Name {
    None,
    Of(Vec<u8>),
}

impl Name {
    /// What follows a name in a line of its own: git ends a name with a space by a tab.
    fn end(&self) -> &'static str {
        match self {
            Self::Of(name) if name.contains(&b' ') => "\t",
            _ => "",
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Of(name) = self else { return f.write_str("/dev/null") };
        let is_plain = |byte: &u8| (b' '..0x7f).contains(byte) && !matches!(byte, b'"' | b'\\');
        match std::str::from_utf8(name) {
            Ok(text) if name.iter().all(is_plain) => return f.write_str(text),
            _ => {}
        }
        f.write_str("\"")?;
        for byte in name {
            match byte {
                b'"' => f.write_str("\\\"")?,
                b'\\' => f.write_str("\\\\")?,
                b'\n' => f.write_str("\\n")?,
                b'\t' => f.write_str("\\t")?,
                byte if is_plain(byte) => write!(f, "{}", *byte as char)?,
                byte => write!(f, "\\{byte:03o}")?,
            }
        }
        f.write_str("\"")
    }
}
