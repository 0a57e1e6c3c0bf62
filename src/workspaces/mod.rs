//! Workspaces: named stacks with a writable upper, on one machine and without a cluster.
//!
//! A *tree* stands on the layers of images. A *copy* stands on one directory of the machine, which is used in place and
//! goes on living.
//!
//! ```text
//! <store>/workspaces/<name>/workspace.json   the record: base, own layers, states with names
//! <store>/workspaces/<name>/upper/           what was written since the last state; made by a mount
//! <store>/workspaces/<name>/work/            overlay's work directory
//! <store>/workspaces/<name>/sealing/         an upper that becomes a layer
//! <store>/workspaces/<name>/frozen.json      the cgroups that a capture has frozen
//! <store>/workspaces/<name>/merged/          where the workspace is mounted without a path
//!
//!                    snapshot: the upper becomes a layer
//!            ┌──────────────────────────────────────────────┐
//!            ▼                                              │
//!   layers `below`  ──── mount: a new upper on them ──►  an upper
//!            ▲                                              │
//!            └──────────────────────────────────────────────┘
//!                    clean, rollback: the upper is removed
//! ```
//!
//! A state is a list of own layers. A snapshot gives the present state a name. The state to which a clean returns is
//! `current` in the record. A layer is made only when there is an upper, so several names can mean one state.
//!
//! Whether a workspace is mounted is always read from the kernel ([`mount_namespaces`](crate::sys::mount_namespaces)),
//! never from a record. A command has the lock of the workspace while it changes it: `flock` of the directory.
//!
//! | file | what it does |
//! |---|---|
//! | `open`, `known_features` | opens a store for commands |
//! | `name` | the names that users write |
//! | `create`, `checks`, `sources`, `fetching` | new workspaces, what is refused, where layers come from, and how far they are |
//! | `lock` | one workspace, locked |
//! | `mounted` | mounts, and where the workspace is mounted |
//! | `states`, `scrub` | snapshot, rollback, clean, remove; scrub |
//! | `capture`, `copied` | a state of a mounted workspace |
//! | `programs`, `freeze` | which programs can be frozen for that, and until when |
//! | `view` | states as read-only trees |
//! | `fork`, `list`, `gc` | the commands of these names |
//! | `listed_states` | the states of one workspace, as `list` shows them |
//! | `fsck` | what is done about faults of a store |
//! | `chains`, `stack` | the states of a store by ChainID, and the states that the commands of layers name |
//! | `images` | the images of a store, and layers that are applied by hand |
//! | `status`, `metadata` | what a storage driver says of itself and of a stack, read without a lock |
//! | `outgoing` | states as images in files and in registries |
//! | `changes`, `patch` | what differs between two trees, as a list and as a patch |
//! | `error`, `explain` | why a command failed, and what that says to people |
//! | `apply`, `export` | changes and trees, written into a directory |
//! | `container` | runs a command in namespaces of its own; it knows no workspace |
//!
//! May use: layers, overlay, changeset, image, snapshots, sys
//!
//! Deliberately absent: arguments, and words for people (`cli`).

mod applied;
mod apply;
mod attributes;
mod capture;
#[cfg(test)]
mod carry_tests;
mod chains;
mod changes;
mod checks;
mod compared;
pub mod container;
mod copied;
mod create;
mod error;
mod explain;
mod export;
mod fetching;
mod fork;
mod freeze;
mod fsck;
#[cfg(test)]
mod fsck_tests;
mod gc;
mod image_config;
mod images;
mod known_features;
mod list;
mod listed_states;
mod lock;
mod metadata;
#[cfg(test)]
mod model_tests;
mod mounted;
mod name;
mod open;
mod outgoing;
mod patch;
mod paths;
mod programs;
mod run;
mod scrub;
mod sources;
mod stack;
mod states;
mod status;
mod step;
#[cfg(test)]
mod testing;
mod view;

pub use applied::ApplyFailure;
pub use apply::{
    Applied, ApplyError, ApplyOptions, Conflict, ConflictReason, OnConflict, Refusals, Special,
    SpecialReason,
};
pub use chains::{Chain, ChainError, Chains};
pub use changes::{Changes, ChangesOptions, Stat};
pub use compared::{Against, Compared, ExportFailure};
pub use copied::{Copied, Moment, NotFrozen};
pub use create::{CreateOptions, CreatedCopy};
pub use error::{InUse, WorkspaceError};
pub use export::ExportError;
pub use fetching::Fetching;
pub use fsck::Repaired;
pub use images::{ListedImage, images};
pub use known_features::remember_features;
pub use list::Listed;
pub use listed_states::{ListedLayer, ListedState};
pub use lock::{OnLocked, Workspace};
pub use metadata::{LowerDir, Metadata, metadata};
pub use mounted::Live;
pub use name::{NameAt, NameError};
pub use open::Workspaces;
pub use outgoing::{Destination, OutgoingError, OutgoingImage, Sent};
pub use patch::{PatchError, patch};
pub use run::{RunError, RunOptions};
pub use scrub::ScrubError;
pub use sources::{Source, Stacked};
pub use stack::{LayerSize, Parent, State};
pub use states::Taken;
pub use status::{Status, status};
pub use step::{How, StepError, Stepped};
pub use view::Trees;
