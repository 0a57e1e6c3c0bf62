//! The ID of a snapshot.

use std::io;

use crate::sys::{host, id_chars::id_type};

id_type! {
    /// A snapshot's ID, which is also its CSI handle. It is safe as one part of a path.
    SnapshotId, "snapshot ID"
}

impl SnapshotId {
    /// An ID that no other snapshot has: `<kind>-<UUID>`.
    ///
    /// # Errors
    /// The kernel gives no UUID, or `kind` cannot be a part of an ID.
    pub fn unique(kind: &str) -> io::Result<Self> {
        format!("{kind}-{}", host::random_uuid()?).parse().map_err(io::Error::other)
    }
}
