//! What was seen of a tree: for each entry about 150 bytes and its name.

use std::{collections::BTreeMap, mem::MaybeUninit};

use rustix::fs::{FileType, Stat};

use super::Cloned;

/// A point in the file systems' time: seconds and nanoseconds since 1970.
pub(super) type Clock = (i64, u32);

/// Everything changed after it.
pub(super) const DAWN: Clock = (i64::MIN, 0);

/// The time that an inode would get that is changed now: that of the last tick, never later.
pub(super) fn now() -> Clock {
    let mut now = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: it writes one timespec to the address that it is given, which has room for one.
    let told = unsafe { libc::clock_gettime(libc::CLOCK_REALTIME_COARSE, now.as_mut_ptr()) };
    if told < 0 {
        // Everything that was ever seen will be taken again.
        return DAWN;
    }
    // SAFETY: the call succeeded, so it has written it.
    let now = unsafe { now.assume_init() };
    #[allow(clippy::useless_conversion, reason = "on some machines it has 32 bits")]
    (i64::from(now.tv_sec), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// What tells one state of an inode from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) ino: u64,
    pub(super) size: u64,
    changed: Clock,
    written: Clock,
    pub(super) mode: u32,
    pub(super) links: u32,
}

impl Look {
    /// That of every whiteout: nothing of it matters.
    pub(super) const WHITEOUT: Self =
        Self { ino: 0, size: 0, changed: DAWN, written: DAWN, mode: libc::S_IFCHR, links: 0 };

    pub(super) fn of(stat: &Stat) -> Self {
        #[allow(clippy::useless_conversion, reason = "on some machines these have 32 bits")]
        Self {
            ino: stat.st_ino,
            size: stat.st_size.cast_unsigned(),
            changed: (i64::from(stat.st_ctime), nanos(stat.st_ctime_nsec)),
            written: (i64::from(stat.st_mtime), nanos(stat.st_mtime_nsec)),
            mode: stat.st_mode,
            links: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        }
    }

    /// Whether it changed at this time or later.
    pub(super) fn is_since(&self, since: Clock) -> bool {
        self.changed >= since
    }

    pub(super) fn sort(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }
}

#[allow(clippy::useless_conversion, reason = "on some machines it has 32 bits")]
fn nanos(nanos: impl TryInto<u32>) -> u32 {
    nanos.try_into().unwrap_or(0)
}

/// Overlay's marks on something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Marks {
    pub(super) metacopy: bool,
    pub(super) redirect: bool,
}

/// How a file's bytes were taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Taken {
    /// Not all of them were in memory before, so it may have been written to by direct I/O.
    pub(super) maybe_direct: bool,
    /// It changed meanwhile.
    pub(super) torn: bool,
}

/// One entry of the copy, and how the tree's looked when it was taken.
#[derive(Debug, Default)]
pub(super) struct Node {
    /// `None` while the copy is not like what it was taken of: then it is not to be taken for the same.
    pub(super) look: Option<Look>,
    /// What it takes on the disk, without holes.
    pub(super) bytes: u64,
    /// The round in which it was last there.
    pub(super) round: u32,
    pub(super) marks: Marks,
    pub(super) taken: Taken,
    /// Of a folder: its entries.
    pub(super) entries: Option<Box<Entries>>,
}

/// The entries of one folder.
pub(super) type Entries = BTreeMap<Box<[u8]>, Node>;

impl Node {
    pub(super) fn is_folder(&self) -> bool {
        self.entries.is_some()
    }

    /// How many entries lie in it. As deep as a tree may be.
    pub(super) fn below(&self) -> usize {
        let all = self.entries.iter().flat_map(|entries| entries.values());
        all.map(|entry| 1 + entry.below()).sum()
    }

    /// Adds what lies in it. As deep as a tree may be.
    pub(super) fn add_to(&self, sum: &mut Cloned) {
        sum.bytes += self.bytes;
        sum.metacopy |= self.marks.metacopy;
        sum.redirect |= self.marks.redirect;
        sum.torn += u64::from(self.taken.torn);
        for entry in self.entries.iter().flat_map(|entries| entries.values()) {
            sum.entries += 1;
            entry.add_to(sum);
        }
    }
}

/// What a file takes on its disk, as far as it is no hole, shared among its names.
pub(super) fn bytes(stat: &Stat) -> u64 {
    #[allow(clippy::useless_conversion, reason = "on some machines it has 32 bits")]
    let names = u64::from(stat.st_nlink).max(1);
    allocated(stat) / names
}

/// What a file takes on its disk, as far as it is no hole.
pub(super) fn allocated(stat: &Stat) -> u64 {
    let taken = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
    // A file system may have set room aside behind a file's end.
    taken.min(stat.st_size.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 500,000 entries must fit a node's memory.
    #[test]
    fn an_entry_is_small() {
        let (node, name) = (size_of::<Node>(), size_of::<Box<[u8]>>());
        // A B-tree's nodes are at least half full, and an allocation of a name takes up to 16 bytes more.
        assert!(node + name <= 128, "{node} + {name}");
    }

    #[test]
    fn the_clock_goes() {
        let before = now();
        assert!(before.0 > 1_700_000_000 && before <= now());
    }
}
