//! The annotations of a VolumeSnapshot that its users write and read.

/// The annotation with which a user selects the volume of a VolumeSnapshot: `<pod>/<volume>`.
pub const SOURCE: &str = "ovl.csi.dev/source";

/// The progress: a [phase](super::overlay_snapshot::Phase) of an OverlaySnapshot, or `Refused` or `Pending`.
pub const PHASE: &str = "ovl.csi.dev/phase";
/// What went wrong, or what is under way.
pub const MESSAGE: &str = "ovl.csi.dev/message";
/// The name of the driver that has the snapshot.
pub const DRIVER: &str = "ovl.csi.dev/driver";
/// The node that captured the volume.
pub const NODE: &str = "ovl.csi.dev/node";
/// The pushed image, `registry/repository@digest`.
pub const IMAGE: &str = "ovl.csi.dev/image";
/// The VolumeSnapshot of the same namespace from which the volume started.
pub const PARENT: &str = "ovl.csi.dev/parent";
/// The uid of that VolumeSnapshot. Another one may have the name later.
pub const PARENT_UID: &str = "ovl.csi.dev/parent-uid";
/// The VolumeSnapshotClass, also where the VolumeSnapshot names none.
pub const CLASS: &str = "ovl.csi.dev/class";
/// The number of entries in the newest layer.
pub const ENTRIES: &str = "ovl.csi.dev/entries";
/// The bytes of the files in the newest layer.
pub const BYTES: &str = "ovl.csi.dev/bytes";
/// The number of layers in the whole stack.
pub const LAYERS: &str = "ovl.csi.dev/layers";
/// The number of layers above the layers of the images.
pub const OWN_LAYERS: &str = "ovl.csi.dev/own-layers";
/// The bytes that it takes in the registry, without the layers of the images.
pub const PUSHED_BYTES: &str = "ovl.csi.dev/pushed-bytes";
/// How long the pod was frozen, such as `12.3ms`.
pub const FROZEN: &str = "ovl.csi.dev/frozen";
/// The deletion policy of the VolumeSnapshotContent: `Delete` or `Retain`.
pub const DELETION_POLICY: &str = "ovl.csi.dev/deletion-policy";

/// All that the controller writes, for users who may not read OverlaySnapshots.
pub const ALL: [&str; 15] = [
    PHASE,
    MESSAGE,
    DRIVER,
    NODE,
    IMAGE,
    PARENT,
    PARENT_UID,
    CLASS,
    ENTRIES,
    BYTES,
    LAYERS,
    OWN_LAYERS,
    PUSHED_BYTES,
    FROZEN,
    DELETION_POLICY,
];

/// The value of [`PHASE`] for a VolumeSnapshot that waits for its pod or for its node.
pub const PENDING: &str = "Pending";
/// The value of [`PHASE`] for a VolumeSnapshot that the controller does not accept. The message says why, and the reason
/// may end.
pub const REFUSED: &str = "Refused";
