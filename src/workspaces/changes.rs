//! Lists what a workspace has changed: the paths at which its merged tree differs from what it was made of.
//!
//! Changed means type, mode, owner, size, mtime, target, device, extended attributes or content; of a directory only
//! mode, owner and extended attributes. Overlay's own attributes do not count, so a mere copy-up is no change. A removed
//! directory is one entry. Of an added directory each entry is listed. The list is sorted by the bytes of the path, and
//! it is kept in memory: about 150 bytes for each change.
//!
//! Deliberately absent: which names are hard links of one file, and the times of directories.

use std::collections::BTreeSet;

use crate::{
    changeset::{Change, CompareError, Comparison, Difference, EntryType, Limits, compare},
    workspaces::paths::parents,
};

/// What is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChangesOptions {
    /// Whether the directories above each change are listed too, as changed and without properties, as `docker diff`
    /// does. The root is not among them.
    pub parents: bool,
}

/// What a workspace has changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// The changes, by the bytes of their paths.
    pub list: Vec<Difference>,
    /// Their numbers.
    pub stat: Stat,
}

/// The numbers of changes, without the directories that [`ChangesOptions::parents`] adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stat {
    /// Added paths.
    pub added: u64,
    /// Changed paths.
    pub changed: u64,
    /// Removed paths. A directory is one, whatever was in it.
    pub removed: u64,
    /// Bytes of the regular files that were added or changed.
    pub bytes: u64,
}

impl Stat {
    fn count(&mut self, difference: &Difference) {
        let (count, size) = match difference.change {
            Change::Added => (&mut self.added, difference.size),
            Change::Changed => (&mut self.changed, difference.size),
            Change::Removed => (&mut self.removed, None),
        };
        *count += 1;
        self.bytes += size.unwrap_or(0);
    }
}

/// Compares what a workspace was made of (`first`) with the workspace (`second`). Times count, whatever `comparison` says.
/// Ends soon after `stop` returns true.
///
/// # Errors
/// [`CompareError`].
pub fn changes(
    comparison: Comparison<'_>,
    options: ChangesOptions,
    limits: &Limits,
    stop: &dyn Fn() -> bool,
) -> Result<Changes, CompareError> {
    let (mut list, mut stat) = (Vec::new(), Stat::default());
    compare(Comparison { times: true, ..comparison }, limits, stop, &mut |difference| {
        stat.count(&difference);
        list.push(difference);
    })?;
    if options.parents {
        add_parents(&mut list);
    }
    list.sort_unstable_by(|one, other| one.path.cmp(&other.path));
    Ok(Changes { list, stat })
}

/// Adds the directories above each change, except for the root and for what is listed already.
fn add_parents(list: &mut Vec<Difference>) {
    let above: BTreeSet<&[u8]> = list.iter().flat_map(|one| parents(&one.path)).collect();
    let listed: BTreeSet<&[u8]> = list.iter().map(|one| &one.path[..]).collect();
    let added: Vec<_> = above.difference(&listed).map(|path| parent(path)).collect();
    list.extend(added);
}

/// A directory that is listed because of what is in it.
fn parent(path: &[u8]) -> Difference {
    let (change, kind) = (Change::Changed, EntryType::Dir);
    Difference { path: path.to_vec(), change, kind, size: None, properties: Vec::new() }
}
