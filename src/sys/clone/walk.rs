//! One round through the tree.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::File,
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, FileType, Mode, RawDir, ResolveFlags, fgetxattr, fstat, makedev, mkdirat, mknodat,
        openat, openat2, renameat, statat,
    },
    io::Errno,
};

use super::{
    CloneError, DEPTH, Round, TreeClone,
    content::{BLOCK, Content, Within},
    dress::Original,
    flush::Flush,
    memory::{ENTRY, Lent, Memory},
    seen::{Clock, Entries, Look, Node},
    take::Linked,
};
use crate::sys::{attributes::read, beneath};

/// What is listed of a directory at once.
const PIECE: usize = 32 << 10;

/// How a step goes: into one entry of an open folder.
pub(super) const STEP: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_XDEV);

/// How long direct I/O may be under way: a disk that does not answer for so long is given up by the kernel's drivers.
const LONGEST_IO: i64 = 30;

pub(super) struct Walk<'c> {
    from: OwnedFd,
    pub(super) to: OwnedFd,
    aside: OwnedFd,
    pub(super) content: &'c mut Content,
    pub(super) flush: &'c mut Flush,
    pub(super) disk: &'c File,
    memory: &'c Memory,
    pub(super) within: Within<'c>,
    pub(super) what: Round,
    /// Direct I/O that was under way when this copy began has begun since.
    direct_since: Clock,
    moved: &'c mut u64,
    most: u64,
    /// How many more entries there may be.
    left: u64,
    pub(super) round: u32,
    since: Clock,
    telling_times: bool,
    /// Where the folder that is walked lies.
    pub(super) path: Vec<u8>,
    /// Files with several names that were met in this round, by their inode's number.
    pub(super) linked: HashMap<u64, Linked>,
    /// What these take.
    pub(super) lent: Lent<'c>,
}

/// A folder of the tree and its copy, both open.
pub(super) struct Pair {
    pub(super) from: OwnedFd,
    pub(super) to: OwnedFd,
}

/// What stands under a name.
enum There {
    /// Nothing that a copy has.
    Nothing,
    Folder,
    /// What overlay takes for the absence of a name. They are names of one inode, which so changes with each new one.
    Whiteout,
    Socket,
    Other(Look),
}

impl<'c> Walk<'c> {
    pub(super) fn new(
        clone: &'c mut TreeClone,
        what: Round,
        go_on: &'c dyn Fn() -> bool,
    ) -> Result<Self, CloneError> {
        let open = |path: &Path| {
            beneath::folder(path, beneath::READ).map_err(|e| {
                let path = path.to_owned();
                CloneError::Entry { path, source: e.into() }
            })
        };
        Ok(Self {
            from: open(&clone.from)?,
            to: open(&clone.to)?,
            aside: open(&clone.aside)?,
            content: &mut clone.content,
            flush: &mut clone.flush,
            disk: &clone.disk,
            memory: &clone.memory,
            within: Within { go_on, room: clone.room.as_deref() },
            what,
            direct_since: (clone.begun.0.saturating_sub(LONGEST_IO), 0),
            moved: &mut clone.moved,
            most: clone.most,
            left: clone.most,
            round: clone.round,
            since: clone.since,
            telling_times: clone.telling_times,
            path: Vec::new(),
            linked: HashMap::new(),
            lent: clone.memory.lent(),
        })
    }

    pub(super) fn root(&mut self, seen: &mut Node) -> Result<(), CloneError> {
        let open = |fd: &OwnedFd| openat(fd, ".", beneath::READ, Mode::empty());
        let pair = open(&self.from).and_then(|from| Ok(Pair { from, to: open(&self.to)? }));
        let pair = pair.map_err(|e| self.failed(b"", e))?;
        self.folder(&pair, seen, 0)
    }

    /// Brings the copy of a folder up to date, with all below it.
    fn folder(&mut self, pair: &Pair, seen: &mut Node, depth: usize) -> Result<(), CloneError> {
        if depth > DEPTH {
            return Err(CloneError::Deep { path: self.place(b"") });
        }
        let stat = fstat(&pair.from).map_err(|e| self.failed(b"", e))?;
        let is = Original { fd: pair.from.as_fd(), stat };
        let look = Look::of(&is.stat);
        // Unlike it until this is done.
        let known = seen.look.take();
        let (names, lent) = self.list(&pair.from)?;
        let entries = seen.entries.get_or_insert_default();
        let known_before = entries.len();
        let most = names.iter().filter(|byte| **byte == 0).count().max(known_before);
        self.memory.take((most - known_before) * ENTRY, self.within.go_on)?;
        let done = self.entries(pair, &names, entries, depth);
        // What was listed and is not kept: of another sort, gone meanwhile, or gone since the round before.
        self.memory.give(most.saturating_sub(entries.len()) * ENTRY);
        drop((names, lent));
        let touched = done?;
        if known != Some(look) || look.is_since(self.since) {
            seen.marks = is.dress(&pair.to).map_err(|e| self.failed(b"", e))?;
        } else if touched {
            is.set_times(&pair.to).map_err(|e| self.failed(b"", e))?;
        }
        seen.look = Some(look);
        Ok(())
    }

    /// Brings the copies of a directory's entries up to date. Returns whether the directory of the copy was changed for one.
    fn entries(
        &mut self,
        pair: &Pair,
        names: &[u8],
        entries: &mut Entries,
        depth: usize,
    ) -> Result<bool, CloneError> {
        let mut touched = false;
        for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            if !(self.within.go_on)() {
                return Err(CloneError::Stopped);
            }
            touched |= self.entry(pair, name, entries, depth)?;
        }
        let gone = entries.iter().filter(|(_, node)| node.round != self.round);
        for name in gone.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.put_aside(pair, &name, entries)?;
            touched = true;
        }
        Ok(touched)
    }

    /// The names in a directory, each with a zero behind it, and the memory that they take.
    fn list(&mut self, folder: &OwnedFd) -> Result<(Vec<u8>, Lent<'c>), CloneError> {
        let mut buffer = vec![MaybeUninit::<u8>::uninit(); PIECE];
        let (mut entries, mut names) = (RawDir::new(folder, &mut buffer), Vec::new());
        let mut lent = self.memory.lent();
        while let Some(entry) = entries.next() {
            match entry {
                Ok(entry) if matches!(entry.file_name().to_bytes(), b"." | b"..") => {}
                Ok(_) if self.left == 0 => return Err(CloneError::TooMany(self.most)),
                Ok(entry) => {
                    self.left -= 1;
                    let name = entry.file_name().to_bytes_with_nul();
                    if names.len() / PIECE < (names.len() + name.len()) / PIECE {
                        lent.more(PIECE, self.within.go_on)?;
                    }
                    names.extend_from_slice(name);
                }
                // It was removed since it was opened.
                Err(Errno::NOENT) => break,
                Err(e) => return Err(self.failed(b"", e)),
            }
        }
        Ok((names, lent))
    }

    /// Brings the copy of one entry up to date. Answers whether the folder of the copy was changed for it.
    fn entry(
        &mut self,
        pair: &Pair,
        name: &[u8],
        entries: &mut Entries,
        depth: usize,
    ) -> Result<bool, CloneError> {
        if entries.get(name).is_some_and(|node| node.round == self.round) {
            // A folder whose names change while it is listed may have one twice.
            return Ok(false);
        }
        match There::at(pair, name).map_err(|e| self.failed(name, e))? {
            There::Nothing => Ok(false),
            There::Folder => self.child(pair, name, entries, depth),
            There::Whiteout => self.whiteout(pair, name, entries),
            There::Socket if depth == 0 || may_cover(&pair.from) => {
                self.whiteout(pair, name, entries)
            }
            There::Socket => Ok(false),
            There::Other(look) => {
                let telling = self.telling_times || look.sort() != FileType::RegularFile;
                let same = |node: &&mut Node| node.look == Some(look);
                if let Some(node) = entries.get_mut(name).filter(same)
                    && telling
                    && !look.is_since(self.since)
                    && !self.is_in_doubt(node, &look)
                    && !(look.links > 1 && self.is_now_another(name, &look)?)
                {
                    node.round = self.round;
                    return Ok(false);
                }
                self.take(pair, name, entries)?;
                Ok(true)
            }
        }
    }

    /// Whether a file that looks as it did may have got bytes since by direct I/O that had begun before.
    fn is_in_doubt(&self, node: &Node, look: &Look) -> bool {
        self.what != Round::Early && node.taken.maybe_direct && look.is_since(self.direct_since)
    }

    /// Whether a file that looks so may have been written to by direct I/O that is still under way.
    pub(super) fn may_be_direct(&self, look: &Look) -> bool {
        self.content.never_shares && self.telling_times && look.is_since(self.direct_since)
    }

    fn child(
        &mut self,
        pair: &Pair,
        name: &[u8],
        entries: &mut Entries,
        depth: usize,
    ) -> Result<bool, CloneError> {
        let open = |fd: &OwnedFd| openat2(fd, os(name), beneath::READ, Mode::empty(), STEP);
        let from = match open(&pair.from) {
            Ok(from) => from,
            Err(e) if is_race(e) => return Ok(false),
            Err(e) => return Err(self.failed(name, e)),
        };
        let new = !entries.get(name).is_some_and(Node::is_folder);
        if new {
            self.put_aside(pair, name, entries)?;
            self.within.takes(BLOCK).map_err(|e| self.failed(name, e))?;
            mkdirat(&pair.to, os(name), Mode::RWXU).map_err(|e| self.failed(name, e))?;
        }
        let node = entries.entry(name.into()).or_default();
        node.round = self.round;
        node.entries.get_or_insert_default();
        let to = open(&pair.to).map_err(|e| self.failed(name, e))?;
        let above = self.path.len();
        self.path = self.path_of(name);
        self.folder(&Pair { from, to }, node, depth + 1)?;
        self.path.truncate(above);
        Ok(new)
    }

    fn whiteout(
        &mut self,
        pair: &Pair,
        name: &[u8],
        entries: &mut Entries,
    ) -> Result<bool, CloneError> {
        let look = Some(Look::WHITEOUT);
        let known = entries.get_mut(name).filter(|node| node.look == look);
        if let Some(node) = known {
            node.round = self.round;
            return Ok(false);
        }
        self.put_aside(pair, name, entries)?;
        let (device, mode) = (FileType::CharacterDevice, Mode::empty());
        mknodat(&pair.to, os(name), device, mode, makedev(0, 0))
            .map_err(|e| self.failed(name, e))?;
        entries.insert(name.into(), Node { look, round: self.round, ..Node::default() });
        Ok(true)
    }

    /// Takes what was copied under a name out of the copy.
    pub(super) fn put_aside(
        &mut self,
        pair: &Pair,
        name: &[u8],
        entries: &mut Entries,
    ) -> Result<(), CloneError> {
        if entries.contains_key(name) {
            renameat(&pair.to, os(name), &self.aside, self.moved.to_string())
                .map_err(|e| self.failed(name, e))?;
            *self.moved += 1;
            let below = entries.remove(name).map_or(0, |node| node.below());
            self.memory.give(below * ENTRY);
        }
        Ok(())
    }

    pub(super) fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let parts = [&self.path[..], name].into_iter().filter(|part| !part.is_empty());
        parts.collect::<Vec<_>>().join(&b'/')
    }

    fn place(&self, name: &[u8]) -> PathBuf {
        os(&self.path_of(name)).into()
    }

    pub(super) fn failed(&self, name: &[u8], e: impl Into<io::Error>) -> CloneError {
        CloneError::Entry { path: self.place(name), source: e.into() }
    }
}

impl There {
    fn at(pair: &Pair, name: &[u8]) -> rustix::io::Result<Self> {
        let stat = match statat(&pair.from, os(name), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(Self::Nothing),
            stat => stat?,
        };
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Socket => Self::Socket,
            FileType::Directory => Self::Folder,
            FileType::CharacterDevice if stat.st_rdev == 0 => Self::Whiteout,
            _ => Self::Other(Look::of(&stat)),
        })
    }
}

/// Whether a name in this folder may cover one of a lower. Where overlay has not set that mark there is no lower to cover, nor does
/// it look for whiteouts: it would list them.
fn may_cover(folder: &OwnedFd) -> bool {
    read(|space| fgetxattr(folder, "trusted.overlay.origin", space)).is_ok()
}

/// Whether something was renamed or replaced since it was looked at: the next round finds what is there then.
pub(super) fn is_race(e: Errno) -> bool {
    matches!(e, Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
}

pub(super) fn os(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}
