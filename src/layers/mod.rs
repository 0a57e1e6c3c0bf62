//! The node's layer store: a layer is staged, renamed into place, opened once and never changed.
//!
//! ```text
//! <root>/                             0700: layers hold setuid programs (CVE-2021-41103)
//!   lock                              held by the one process that may write here
//!   store.json                        format and id
//!   layers/<key, hex>/layer.erofs     the layer as an EROFS image; for its key see `key.rs`
//!   layers/<key, hex>/diff/           or the layer as a directory tree; snapshot layers: see `snapshot_layer.rs`
//!   layers/<key, hex>/layer.json      the layer's metadata; never changes
//!   layers/<key, hex>/origins.json    the repositories that delivered its bytes; replaced whole for a new one
//!   staging/<n>/                      a layer that is being added or removed; entries of an earlier process are
//!                                     removed in the background
//!   images/<manifest digest, hex>.json  an image's layers, the references that resolve to it, its last use, and the
//!                                     config fields that a snapshot needs
//!   snapshots/<id>.json               the layer stacks of snapshots
//!   frozen/                           owned by the module `snapshots`
//!   starts/                           owned by the module `snapshots`
//!   volumes/                          owned by the module `volumes`
//!   lowers/                           owned by `sys::mounts`: where kernels before 6.15 need layers attached
//! ```
//!
//! The files are the only state: there is no database that could drift from them. A layer exists when its directory
//! exists, because the directory is renamed into place after everything in it is on disk (one fsync of each of its
//! files). A kill or a power cut before that leaves only a staging directory. A layer is kept by a lease, by
//! the record of a volume (the caller passes these), by the record of a snapshot or by the record of an image; see
//! `gc.rs`.
//!
//! A [`Store`] holds one value for each of its parts, and no part knows the store:
//!
//! | field | what it does |
//! |---|---|
//! | `layers` | finds, opens, adds and removes layers |
//! | `origins` | keeps the repositories that delivered each layer |
//! | `leases` | keeps layers from garbage collection |
//! | `images`, `snapshots` | keep the records |
//! | `disk` | reserves space |
//! | `staging` | holds what is being added or removed, and the store's lock |
//!
//! May use: changeset, erofs, spill, sys
//!
//! Deliberately absent: registries and credentials (a layer arrives as bytes), and the format of an upper.

mod add;
mod add_with_layers_below;
mod ages;
mod dir;
mod error;
mod gc;
#[cfg(test)]
mod gc_tests;
mod image_record;
mod images;
mod key;
mod layer_dirs;
mod layer_meta;
mod lease;
mod mounted_layer;
#[cfg(test)]
mod power_tests;
#[cfg(test)]
mod privileged_tests;
mod provenance;
mod reservation;
mod reserve_error;
mod reserved_file;
mod rounds;
mod snapshot_id;
mod snapshot_layer;
mod snapshots;
mod staging;
mod store;
mod stored_layers;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod verify;

pub use crate::changeset::LayerFeatures;
pub use add::NewLayer;
pub use add_with_layers_below::Place;
pub use error::{AddError, CollectError, ImagesError, LowerError, OpenError};
pub use gc::{GcStats, Roots, Watermarks};
pub use image_record::{ImageDetails, ImageRecord};
pub use images::ImageRecords;
pub use key::{ChainId, LayerKey};
pub use layer_meta::{LayerStorage, SnapshotContents};
pub use lease::{Lease, Leases};
pub use mounted_layer::OpenLayer;
pub use provenance::{Origin, Origins, PackedBlob};
pub use reservation::{DiskLimits, DiskSpace, Reservation};
pub use reserve_error::{FREE_DISK, ReserveError};
pub use snapshot_id::SnapshotId;
pub use snapshot_layer::StagedSnapshot;
pub use snapshots::{SnapshotRecord, SnapshotRecords, SnapshotSource};
pub use staging::Staging;
pub use store::{Store, StoreLock, StoreSettings};
pub use stored_layers::Layers;
pub use verify::DamagedLayer;
