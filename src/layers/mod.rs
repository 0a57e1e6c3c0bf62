//! The node's store of layers: staged, renamed into place, opened once, never changed.
//!
//! ```text
//! <root>/                             0700: layers hold setuid programs (CVE-2021-41103)
//!   lock                              held by the one process that may write here
//!   store.json                        format and id
//!   layers/<key, hex>/layer.erofs     the layer as an EROFS image; its key is its diff id, or as `onto.rs` and `native_key` say
//!   layers/<key, hex>/diff/           or as a directory tree; a cut's key is as `cut.rs` says
//!   layers/<key, hex>/layer.json      what it is; never changes
//!   layers/<key, hex>/origins.json    who has delivered its bytes; replaced whole when somebody else does
//!   staging/<n>/                      a layer being made or removed; what an earlier process left goes while this one serves
//!   images/<manifest digest, hex>.json  which layers an image has, the references that mean it, its last use, the
//!                                     config fields that a snapshot needs
//!   snapshots/<id>.json               stacks that were cut out of volumes
//!   frozen/                           of the room of snapshots
//!   starts/                           of the room of snapshots
//!   volumes/                          the room of that name
//! ```
//!
//! Files are the truth: there is no database that could drift from them. A layer is there when its directory is there, because
//! the directory is renamed into place after everything in it is on disk (one fsync of the image, one of its description);
//! a kill or a power cut before that leaves only staging. What keeps a layer is a lease, the record of a volume (the caller tells
//! of these) or the record of an image; see `collect.rs`.
//!
//! May use: changeset, erofs, spill, sys
//!
//! Deliberately absent: registries and credentials (a layer arrives as bytes), and whatever an upper is.

mod add;
mod ages;
mod dir;
mod error;
mod gc;
#[cfg(test)]
mod gc_tests;
mod images;
mod layer_meta;
mod lease;
mod mounted_layer;
mod parent_layers;
#[cfg(test)]
mod power_tests;
#[cfg(test)]
mod privileged_tests;
mod provenance;
mod reservation;
mod reserved_file;
mod rounds;
mod scratch;
mod snapshot_layer;
mod snapshots;
mod store;
#[cfg(test)]
mod tests;
mod verify;

pub use crate::changeset::{Features, Format};
pub use add::NewLayer;
pub use error::{AddError, CollectError, ImagesError, LowerError, OpenError};
pub use gc::{GcStats, Watermarks};
pub use images::{ImageDetails, ImageRecord};
pub use layer_meta::{LayerFormat, Origin, Packed, layer_key, native_key};
pub use lease::Lease;
pub use mounted_layer::Lower;
pub use parent_layers::{Place, chain_id};
pub use reservation::{DiskLimits, Reservation, ReserveError};
pub use snapshot_layer::{SnapshotContents, StagedSnapshot, snapshot_key};
pub use snapshots::{SnapshotId, SnapshotIdError, SnapshotRecord, SnapshotSource};
pub use store::{Store, StoreLock};
pub use verify::Finding;
