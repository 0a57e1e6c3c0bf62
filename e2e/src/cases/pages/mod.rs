//! The pages of the repository on a cluster: the commands that they show, and the examples in `deploy/examples`.

mod commands;
mod examples;

use crate::cases::case::Case;

/// All of them.
pub const ALL: &[Case] = &[commands::CASE, examples::CASE];
