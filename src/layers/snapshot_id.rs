//! The ID of a snapshot.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::sys::id_chars::is_name;

/// A snapshot's ID, which is also its CSI handle: 1 to 128 bytes of letters, digits, `.`, `_` and `-`, beginning with a
/// letter or digit, so that it is safe as one part of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct SnapshotId(String);

/// A text that is not a valid snapshot ID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a valid snapshot ID: expected 1 to 128 letters, digits, '.', '_' or '-', beginning with a \
     letter or digit"
)]
pub struct SnapshotIdError(String);

impl SnapshotId {
    /// The ID as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<SnapshotId> for String {
    fn from(id: SnapshotId) -> Self {
        id.0
    }
}

impl TryFrom<String> for SnapshotId {
    type Error = SnapshotIdError;

    fn try_from(text: String) -> Result<Self, SnapshotIdError> {
        text.parse()
    }
}

impl FromStr for SnapshotId {
    type Err = SnapshotIdError;

    fn from_str(text: &str) -> Result<Self, SnapshotIdError> {
        match is_name(text) {
            true => Ok(Self(text.to_owned())),
            false => Err(SnapshotIdError(text.chars().take(140).collect())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_id_is_a_safe_path_component() {
        for good in ["snap-0b6f", "a", &"a".repeat(128)] {
            assert_eq!(good.parse::<SnapshotId>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "a/b", "-a", ".a", "a b", "ä", &"a".repeat(129)] {
            assert!(bad.parse::<SnapshotId>().is_err(), "{bad:?}");
        }
    }
}
