//! What the commands of workspaces say besides their results.

use crate::{
    cli::output::say,
    layers::Unreadable,
    workspaces::{Copied, Moment},
};

/// Says what of a store could not be read.
pub(super) fn say_unreadable(unreadable: &[Unreadable]) {
    for Unreadable { path, why } in unreadable {
        say(&format!("warning: {} is not listed: {why}", path.display()));
    }
}

/// Says that a state is not one that the workspace was in, if it is so.
pub(super) fn say_copied(copied: &Copied) {
    if let Moment::Live(why) = &copied.moment {
        say(&format!("note: the changes were copied while programs could write, because {why}"));
    }
    match copied.torn {
        0 => {}
        torn => say(&format!(
            "warning: {torn} files changed during each attempt to copy them, so they mix old and new bytes; repeat the \
             command when nothing writes to them"
        )),
    }
}
