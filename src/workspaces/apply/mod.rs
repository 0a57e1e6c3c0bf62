//! Carries the changes of a workspace into a directory of the machine.
//!
//! ```text
//! changes ─► check ─► journal ─► attributes of directories ─► each path, parents first ─► sync ─► journal removed
//!            conflicts, special: nothing is written
//! ```
//!
//! Another process can write to the directory meanwhile, and it can be hostile. So each path is opened from the open
//! directory and below it, without following links ([`Dir::below`]), and a name of an open directory is changed. A file
//! is written under a temporary name in the same directory, gets its owner, mode, attributes and time, and is renamed
//! over its target. A directory is made complete in the same way, and a directory to remove is renamed first. Right
//! before that the target is compared with what the check saw.
//!
//! An apply that ends early, also by a kill, leaves each path in its old or its new state, and the file `.ovl-apply`
//! ([`journal`]). The next apply removes the temporary entries and carries what is left. The attributes of directories
//! that exist come first: later, the entries that apply itself makes in them would have changed their ctime.
//!
//! Names of one file that are carried together stay names of one file ([`links`]).
//!
//! Files and new directories get the mtime that they have in the workspace. A directory that exists gets the present time if
//! entries of it change, and else keeps its own.
//!
//! Deliberately absent: the record of what was written, which the caller keeps.

mod check;
pub(super) mod choose;
mod error;
mod journal;
mod links;
mod origin;
mod plan;
mod request;
mod special;
mod top;
mod write;

use std::path::PathBuf;

pub use error::{ApplyError, Conflict, ConflictReason, Refusals, Special, SpecialReason};
pub use request::{Applied, ApplyInput, ApplyOptions, OnConflict, Written};

use crate::sys::{
    clock,
    flock::{Kind, Lock},
    tree::Dir,
    tree_reader::Entry,
};
use journal::Earlier;
use plan::Plan;

/// Carries changes into a directory. `stop` is looked at before each step.
///
/// # Errors
/// [`ApplyError`]. After [`ApplyError::Refused`] nothing was written. After each other error some changes may be carried,
/// and the rest is carried by another call with a new comparison.
pub fn apply(
    input: ApplyInput<'_>,
    options: ApplyOptions,
    stop: &dyn Fn() -> bool,
) -> Result<Applied, ApplyError> {
    let opening = |source| ApplyError::Open { dir: input.dir.to_owned(), source };
    let started = clock::now().map_err(opening)?;
    let root = Dir::open(input.dir).map_err(opening)?;
    // Shared by all descriptors of this open directory.
    let lock = root.as_file().and_then(|file| Lock::try_take(file, Kind::Exclusive));
    let lock = lock.map_err(opening)?.ok_or_else(|| ApplyError::Busy(PathBuf::from(input.dir)))?;
    let earlier = Earlier::read(&root)?;
    if !options.dry_run {
        earlier.clean(&root)?;
    }
    let after = Entry::root(input.after).map_err(ApplyError::reading(b""))?;
    let plan = Plan::new(&root, &after, &earlier, input, options)?;
    let mut applied = plan.outcome(started);
    let is_idle = plan.items.is_empty() && earlier.is_empty();
    if !(options.dry_run || is_idle) {
        applied.written = write::write(&plan, &root, &after, &earlier, input, options, stop)?;
    }
    drop(lock);
    Ok(applied)
}
