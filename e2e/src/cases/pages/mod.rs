//! What the repository shows to users, on a cluster: the examples in `deploy/examples`.

mod examples;

use crate::cases::case::Case;

/// All of them.
pub const ALL: &[Case] = &[examples::CASE];
