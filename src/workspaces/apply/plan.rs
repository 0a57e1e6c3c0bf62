//! The changes that are carried, after all checks.
//!
//! Deliberately absent: every write.

use std::collections::HashSet;

use super::{
    check::{Check, Found},
    error::{ApplyError, Conflict, Refusals, Special, SpecialReason},
    journal::{self, Earlier},
    request::{Applied, ApplyInput, ApplyOptions, OnConflict},
    special,
};
use crate::{
    changeset::{Change, Difference, EntryType},
    sys::{clock::Time, tree::Dir, tree_reader::Entry},
    workspaces::{attributes::lookup, paths::has_part},
};

/// One change to carry.
#[derive(Debug)]
pub(super) struct Item<'a> {
    pub(super) change: &'a Difference,
    /// What the directory had there.
    pub(super) found: Option<Found>,
    /// Whether the path is new, so that it gets the owner of the directory.
    pub(super) is_new: bool,
}

impl Item<'_> {
    pub(super) fn path(&self) -> &[u8] {
        &self.change.path
    }

    /// Whether only the attributes of a directory that exists are set.
    pub(super) fn is_attributes(&self) -> bool {
        let is_dir = self.found.is_some_and(|found| found.is_dir);
        is_dir && self.change.change != Change::Removed && self.change.kind == EntryType::Dir
    }

    /// Whether the file has other names, which a rename over it does not change.
    pub(super) fn has_links(&self) -> bool {
        self.found.is_some_and(|found| !found.is_dir && found.links > 1)
    }
}

/// All changes to carry, by the bytes of their paths, so that a directory comes before what is in it.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) items: Vec<Item<'a>>,
    /// The owner of new files.
    pub(super) owner: (u32, u32),
    kept: Vec<Conflict>,
    left_out: Vec<Vec<u8>>,
    other_owner: Vec<Vec<u8>>,
    in_place: bool,
}

impl<'a> Plan<'a> {
    /// Checks all changes.
    pub(super) fn new(
        root: &Dir,
        after: &Entry,
        earlier: &Earlier,
        input: ApplyInput<'a>,
        options: ApplyOptions,
    ) -> Result<Self, ApplyError> {
        let (mut list, mut left_out) = (Vec::new(), Vec::new());
        for one in input.changes {
            // Directories that are listed only because of what is in them.
            let is_parent = one.change == Change::Changed && one.properties.is_empty();
            if !options.git && has_part(&one.path, b".git") {
                left_out.push(one.path.clone());
            } else if !is_parent && !journal::is_own(&one.path) {
                list.push(one);
            }
        }
        list.sort_by(|one, other| one.path.cmp(&other.path));
        let owner = root.as_entry().and_then(|root| Found::of(&root));
        let owner = owner.map_err(ApplyError::reading(b""))?.owner;
        let own: HashSet<(u64, Time)> = input.own.iter().map(|it| (it.inode, it.ctime)).collect();
        let mut check = Check::new(root, input, &own, earlier, options.git, &list);
        let mut refusals = Refusals { dir: input.dir.to_owned(), ..Refusals::default() };
        let (mut items, mut kept, mut other_owner) = (Vec::new(), Vec::new(), Vec::new());
        for &change in &list {
            let before = refusals.conflicts.len();
            let found = check.path(change, &mut refusals.conflicts)?;
            let reading = || ApplyError::reading(&change.path);
            if let Some(found) = found
                && check.is_applied(change, &found, owner).map_err(reading())?
            {
                refusals.conflicts.truncate(before);
                other_owner.push(change.path.clone());
                continue;
            }
            match options.on_conflict {
                OnConflict::Refuse => {}
                OnConflict::Theirs if refusals.conflicts.len() > before => {
                    kept.extend(refusals.conflicts.drain(before..));
                    check.keeps(&change.path);
                    continue;
                }
                OnConflict::Theirs => {}
                OnConflict::Ours => {
                    let mut hard = refusals.conflicts.split_off(before);
                    hard.retain(|conflict| !conflict.reason.is_choice());
                    refusals.conflicts.extend(hard);
                }
            }
            if change.change == Change::Removed && found.is_none() {
                continue;
            }
            if !options.special && change.change != Change::Removed {
                let reason = special_reason(after, input, change)?;
                let path = &change.path;
                refusals
                    .special
                    .extend(reason.map(|reason| Special { path: path.clone(), reason }));
            }
            let is_new = change.change == Change::Added || earlier.new.contains(&change.path);
            if is_new && owner_of(after, &change.path)?.is_some_and(|of| of != owner) {
                other_owner.push(change.path.clone());
            }
            items.push(Item { change, found, is_new });
        }
        if !refusals.is_empty() {
            return Err(ApplyError::Refused(refusals));
        }
        Ok(Self { items, owner, kept, left_out, other_owner, in_place: options.in_place })
    }

    /// What is carried.
    pub(super) fn outcome(&self, started: Time) -> Applied {
        let is_lost = |item: &&Item<'_>| {
            item.has_links() && !(self.in_place && item.change.kind == EntryType::File)
        };
        let carried = self.items.iter().map(|item| item.change.clone()).collect();
        let replaced = self.items.iter().filter(|item| item.change.change != Change::Removed);
        let lost_links = replaced.filter(is_lost).map(|item| item.path().to_vec()).collect();
        let (kept, left_out) = (self.kept.clone(), self.left_out.clone());
        let (other_owner, written) = (self.other_owner.clone(), Vec::new());
        Applied { started, carried, kept, left_out, lost_links, other_owner, written }
    }
}

/// The owner of a path in the workspace.
fn owner_of(after: &Entry, path: &[u8]) -> Result<Option<(u32, u32)>, ApplyError> {
    let found = lookup(after, path).and_then(|entry| entry.as_ref().map(Found::of).transpose());
    Ok(found.map_err(ApplyError::reading(path))?.map(|found| found.owner))
}

fn special_reason(
    after: &Entry,
    input: ApplyInput<'_>,
    change: &Difference,
) -> Result<Option<SpecialReason>, ApplyError> {
    let path = &change.path;
    let reason = || match lookup(after, path)? {
        Some(entry) => special::reason(after, input.dir, path, &entry),
        None => Ok(None),
    };
    reason().map_err(ApplyError::reading(path))
}
