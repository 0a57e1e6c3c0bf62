//! The image puller: resolves references at registries, and fetches and unpacks the layers that the store does not have.
//!
//! ```text
//! reference ─► record of the image in the store, and the pod may use each of its layers ──────────────► layers
//!                 │ otherwise
//!                 ▼
//!              resolve at the registry ─► each layer that is missing, or that the pod may not use: ──► layers
//!                                         single flight ─► lane ─► space reserved ─► fetch and unpack
//! ```
//!
//! | file | what it does |
//! |---|---|
//! | `puller.rs` | [`ImagePuller`]: the pull of a stack of images |
//! | `image_policy.rs` | the images that a namespace may name |
//! | `authorization.rs`, `auth_cache.rs` | who may use a layer of the store without a download; the credentials that registries accepted lately |
//! | `local_images.rs` | images whose layers are all in the store |
//! | `single_flight.rs` | `LayerFetcher`: one fetch of a layer for all volumes that need it |
//! | `cross_layer_links.rs` | layers that can be unpacked only with the layers below them |
//! | `negative_cache.rs` | bad layers, which are not fetched again for a while |
//! | `lanes.rs` | the limits of what runs at a time; slow registries do not delay others |
//! | `progress.rs`, `progress_reader.rs` | the bytes that have arrived, and whether a registry is slow |
//!
//! Deliberately absent: volumes, whose pulls are tasks in the background (`pull_jobs.rs` above); how a layer is
//! unpacked, and when it is removed (`layers`).

mod auth_cache;
mod authorization;
mod cross_layer_links;
mod error;
mod image_policy;
mod lanes;
mod local_images;
mod negative_cache;
mod progress;
mod progress_reader;
mod puller;
mod single_flight;

pub use authorization::Requester;
pub use error::PullError;
pub use image_policy::{ImagePolicy, PolicyError};
pub use progress::Progress;
pub use puller::{ImagePuller, PulledLayers};
