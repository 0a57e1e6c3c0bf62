//! The node's layer store: a layer is staged, renamed into place, opened once and never changed.
//!
//! ```text
//! <root>/                             0700: layers hold setuid programs (CVE-2021-41103)
//!   lock                              locked by the processes that use the store: see `store_lock.rs`
//!   store.json                        format and id
//!   features.json                     what the kernel and the disk can do; owned by the module `workspaces`
//!   layers/<key, hex>/layer.erofs     the layer as an EROFS image; for its key see `key.rs`
//!   layers/<key, hex>/diff/           or the layer as a directory tree; snapshot layers: see `snapshot_layer.rs`
//!   layers/<key, hex>/layer.json      the layer's metadata, with the digest of its content; it never changes, except that
//!                                     a layer without a digest gets one
//!   layers/<key, hex>/origins.json    the repositories that delivered its bytes; replaced whole for a new one
//!   staging/<n>/                      a layer that is being added or removed; entries of an earlier process are
//!                                     removed in the background
//!   staging/process-<pid>/<n>/        the same, of a process that shares the store
//!   leases/<key, hex>                 in a shared store: which layers have a lease
//!   reservations/process-<pid>        in a shared store: the disk space that a process has reserved
//!   images/<manifest digest, hex>.json  an image's layers, the references that resolve to it, its last use, and the
//!                                     config fields that a snapshot needs
//!   snapshots/<id>.json               the layer stacks of snapshots
//!   workspaces/<name>/workspace.json  the layers and the named states of a workspace
//!   steps/<key, hex>.json             the layer that a command has made of a state
//!   workspaces/<name>/                the rest of it is owned by the module `workspaces`
//!   quarantine/<name>/                damaged layers and records that `ovl fsck --repair` has moved: see `quarantine.rs`
//!   spare/                            in a shared store: space for commands that free space: see `spare.rs`
//!   frozen/                           owned by the module `snapshots`
//!   starts/                           owned by the module `snapshots`
//!   volumes/                          owned by the module `volumes`
//!   lowers/                           owned by `sys::mounts`: where kernels before 6.15 need layers attached
//! ```
//!
//! The files are the only state: there is no database that could drift from them. A layer exists when its directory
//! exists, because the directory is renamed into place after everything in it is on disk (one fsync of each of its
//! files). A kill or a power cut before that leaves only a staging directory. A layer is kept by a lease, by
//! the record of a volume (the caller passes these), by the record of a snapshot, of a workspace or of an image; see
//! `gc.rs`.
//!
//! **Alone or shared.** `ovl node` has its store alone. Commands share a store, each for a short time. Both have the same
//! files and the same code. A process that is alone may keep in memory what is on the disk; one that shares may not. This
//! is the whole difference (`access.rs`):
//!
//! | | alone: an exclusive lock | shared: a shared lock |
//! |---|---|---|
//! | staging | `staging/` | a directory in it, locked by its process. One that no process has locked is removed |
//! | temporary file of a record | beside the record; removed at the next start | in the process's own staging directory |
//! | records of images and snapshots, origins | read at the start or once, then in memory | read when they are used |
//! | writers of one directory of records | take turns by a mutex | and by the lock of the directory. Readers take it too |
//! | last use of an image | written by the next round | written at once, at most once an hour |
//! | leases | in memory | in memory, and a locked file for each layer: `lease_files.rs` |
//! | rounds of garbage collection | one at a time by a mutex | and by the lock of `leases/` |
//! | reservations of disk space | in memory | in memory, and a locked file for each process: `shared_reservations.rs` |
//! | age of a layer | by the monotonic clock | by the wall clock |
//!
//! Two processes may add one layer at the same time: one of them renames it into place, and the other one finds it there.
//! All locks are those of open files (`sys::flock`), so a kill leaves none. What a killed process leaves in staging,
//! `leases/` and `reservations/` has no lock, and any other process removes it.
//!
//! In a shared store the limits of captures hold for each process by itself, and `frozen/`, `starts/`, `volumes/` and
//! `lowers/` must not be used: their owners know one process only.
//!
//! A [`Store`] holds one value for each of its parts, and no part knows the store:
//!
//! | field | what it does |
//! |---|---|
//! | `layers` | finds, opens, adds and removes layers |
//! | `origins` | keeps the repositories that delivered each layer |
//! | `leases` | keeps layers from garbage collection |
//! | `images`, `snapshots`, `workspaces` | keep the records |
//! | `disk` | reserves space |
//! | `staging` | holds what is being added or removed, and the store's lock |
//!
//! May use: changeset, erofs, spill, sys
//!
//! Deliberately absent: registries and credentials (a layer arrives as bytes), and the format of an upper.

mod access;
mod add;
mod add_with_layers_below;
mod ages;
mod content_digest;
mod dir;
mod error;
mod fsck;
mod gc;
mod gc_stats;
#[cfg(test)]
mod gc_tests;
mod image_file;
mod image_record;
mod images;
mod key;
mod known_image;
mod layer_dirs;
mod layer_meta;
mod layer_storage;
mod lease;
mod lease_files;
mod lock_holders;
mod mounted_layer;
#[cfg(test)]
mod power_tests;
#[cfg(test)]
mod privileged_tests;
mod provenance;
mod quarantine;
mod reader;
mod reservation;
mod reserve_error;
mod reserved_file;
mod rounds;
mod sealed_layer;
mod shared_reservations;
#[cfg(test)]
mod shared_tests;
mod snapshot_id;
mod snapshot_layer;
mod snapshots;
mod spare;
mod staging;
mod step_records;
mod store;
mod store_lock;
mod stored_layers;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod verify;
mod workspace_record;
mod workspace_records;

pub use crate::changeset::LayerFeatures;
pub use add::NewLayer;
pub use add_with_layers_below::Place;
pub use content_digest::ContentDigest;
pub use error::{AddError, CollectError, ImagesError, LowerError, OpenError};
pub use fsck::{Fault, FsckProgress, FsckReport, Subject, Unchecked};
pub use gc::{Roots, Watermarks};
pub use gc_stats::{GcStats, RemovedImage};
pub use image_record::{ImageDetails, ImageRecord};
pub use images::ImageRecords;
pub use key::{ChainId, LayerKey};
pub use layer_meta::SnapshotContents;
pub use layer_storage::LayerStorage;
pub use lease::{Lease, Leases};
pub use lock_holders::LockHolders;
pub use mounted_layer::OpenLayer;
pub use provenance::{Origin, Origins, PackedBlob};
pub use quarantine::quarantined_workspace;
pub use reader::{LayerInfo, Read, StoreReader, Totals, Unreadable};
pub use reservation::{DiskLimits, DiskSpace, Reservation};
pub use reserve_error::{FREE_DISK, ReserveError};
pub use snapshot_id::SnapshotId;
pub use snapshot_layer::StagedSnapshot;
pub use snapshots::{SnapshotRecord, SnapshotRecords, SnapshotSource};
pub use staging::Staging;
pub use step_records::{StepKey, StepRecords};
pub use store::{Store, StoreSettings};
pub use store_lock::StoreLock;
pub use stored_layers::Layers;
pub use verify::DamagedLayer;
pub use workspace_record::{NamedState, StateName, WorkspaceBase, WorkspaceName, WorkspaceRecord};
pub use workspace_records::WorkspaceRecords;
