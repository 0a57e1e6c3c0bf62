//! The ID of a snapshot.

use crate::sys::id_chars::id_type;

id_type! {
    /// A snapshot's ID, which is also its CSI handle. It is safe as one part of a path.
    SnapshotId, "snapshot ID"
}
