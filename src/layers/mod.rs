//! The node's store of layers: staged, renamed into place, opened once, never changed.
//!
//! ```text
//! <root>/                             0700: layers hold setuid programs (CVE-2021-41103)
//!   lock                              held by the one process that may write here
//!   store.json                        format and id
//!   layers/<key, hex>/layer.erofs     the layer as an EROFS image; its key is its diff id, or as `onto.rs` and `native_key` say
//!   layers/<key, hex>/diff/           or as a folder tree; a cut's key is as `cut.rs` says
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
//! Files are the truth: there is no database that could drift from them. A layer is there when its folder is there, because
//! the folder is renamed into place after everything in it is on disk (one fsync of the image, one of its description);
//! a kill or a power cut before that leaves only staging. What keeps a layer is a lease, the record of a volume (the caller tells
//! of these) or the record of an image; see `collect.rs`.
//!
//! May use: changeset, erofs, spill, sys
//!
//! Deliberately absent: registries and credentials (a layer arrives as bytes), and whatever an upper is.

mod add;
mod ages;
mod collect;
#[cfg(test)]
mod collect_tests;
mod cut;
mod description;
mod dir;
mod error;
mod images;
mod lease;
mod lower;
mod onto;
mod origins;
#[cfg(test)]
mod power_tests;
#[cfg(test)]
mod privileged_tests;
mod room;
mod roomy;
mod rounds;
mod scratch;
mod snapshots;
mod store;
#[cfg(test)]
mod tests;
mod verify;

pub use crate::changeset::{Features, Format};
pub use add::NewLayer;
pub use collect::{Collected, Marks};
pub use cut::{CutContents, StagedCut, cut_key};
pub use description::{Form, Origin, Packed, layer_key, native_key};
pub use error::{AddError, CollectError, ImagesError, LowerError, OpenError};
pub use images::{ImageDetails, ImageRecord};
pub use lease::Lease;
pub use lower::Lower;
pub use onto::{Place, chain_id};
pub use room::{DiskLimits, Room, RoomError};
pub use snapshots::{SnapshotId, SnapshotIdError, SnapshotRecord, SnapshotSource};
pub use store::{Claim, Store};
pub use verify::Finding;
