//! The name of a volume's mount: the source that the mount table shows.

use super::VolumeId;
use crate::{layers::Store, overlay, sys::mounts::Mount};

/// The name of a volume's mount. It names the store, because another store of this node may have
/// a volume with the same id.
pub(super) fn mount_name(store: &Store, id: &VolumeId) -> String {
    format!("ovl-csi:{id}@{}", store.id())
}

/// Whether a mount has the volume's name. An earlier version named no store. Only that name identifies a read-only
/// volume that it mounted.
pub(super) fn is_named(mount: &Mount, store: &Store, id: &VolumeId) -> bool {
    overlay::is_named(mount, &mount_name(store, id))
        || overlay::is_named(mount, &format!("ovl-csi:{id}")) && !overlay::has_upper(mount)
}
