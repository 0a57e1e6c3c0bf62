//! ovl-csi: writable overlay volumes on read-only image layers, for Kubernetes and for the shell.
//!
//! The map, tier by tier. A module uses only what its own `//! May use:` line names. Every module may use the single
//! files of the base tier, which use only each other: `backoff` and those below it in the map.
//!
//! ```text
//! edges      cli        parses arguments, wires up one role, returns exit codes
//!            kubectl    the kubectl plugin
//!            csi        gRPC request -> our types -> one call -> class -> code; registers with the kubelet
//!            controller turns VolumeSnapshots into OverlaySnapshots and contents; implements the CSI snapshot calls
//!            agent      on the node: carries out OverlaySnapshots, looks up snapshots, records Events
//! lifecycle  workspaces named stacks with a writable upper, on one machine
//!            snapshots  captures volumes; packs, squashes and pushes snapshot layers
//!            volumes    one volume's life: states, record, lock, recovery
//! storage    layers     the node's store: staged, renamed into place, leased, garbage collected, checked
//!            overlay    plans a mount as a typed value, then lets `sys` make it
//!            image      resolves references, streams digest-checked blobs in both directions
//!            changeset  layer tar -> typed entries -> an EROFS image; an upper -> a layer's tar
//!            erofs      writes an EROFS image from a stream of entries, and reads such an image
//! base       sys        every syscall that mounts and every durable write, with an in-memory fake
//!            cluster    the API server: objects, watches, Events, the leader's lease
//!            spill      maps and lists that continue in a file when they outgrow memory
//!            backoff    pauses between tries, with a random part
//!            budget     the memory that all work shares
//!            turns      permits that namespaces take in turn
//!            digest     a checked content digest
//!            dns_name   which texts are names of Kubernetes objects
//!            error      the classes of failure that edges turn into codes
//!            format     numbers and times as people read and write them
//!            http_proxy the proxies of requests: HTTPS_PROXY, HTTP_PROXY, NO_PROXY
//!            media_type media types of manifests and layers
//!            metrics    counters and histograms for Prometheus
//!            overlay_xattr  names of overlay's own extended attributes
//!            owner      a pair UID:GID
//!            quantity   quantities of Kubernetes, such as 10Gi
//!            reference  references to images, and repositories
//!            registry_name  names of registries: host and port
//!            telemetry  logs and traces
//! ```
//!
//! `ARCHITECTURE.md` has the same map with the invariants and a table of where to look. `tests/tidy.rs` checks the code against it.

// A test fails by panicking, and deletes its own temporary directories.
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)
)]

// The kubectl plugin also runs on macOS and Windows. Everything else needs Linux.
pub mod backoff;
pub mod budget;
pub mod cluster;
pub mod digest;
pub mod dns_name;
pub mod error;
pub mod format;
pub mod http_proxy;
pub mod kubectl;
pub mod media_type;
pub mod metrics;
pub mod overlay_xattr;
pub mod owner;
pub mod quantity;
pub mod reference;
pub mod registry_name;
pub mod telemetry;
pub mod turns;

#[cfg(target_os = "linux")]
pub mod agent;
#[cfg(target_os = "linux")]
pub mod changeset;
#[cfg(target_os = "linux")]
pub mod cli;
#[cfg(target_os = "linux")]
pub mod controller;
#[cfg(target_os = "linux")]
pub mod csi;
#[cfg(target_os = "linux")]
pub mod erofs;
#[cfg(all(any(test, fuzzing), target_os = "linux"))]
pub mod fuzzing;
#[cfg(target_os = "linux")]
pub mod image;
#[cfg(target_os = "linux")]
pub mod layers;
#[cfg(target_os = "linux")]
pub mod overlay;
#[cfg(target_os = "linux")]
pub mod snapshots;
#[cfg(target_os = "linux")]
pub mod spill;
#[cfg(target_os = "linux")]
pub mod sys;
#[cfg(target_os = "linux")]
pub mod volumes;
#[cfg(target_os = "linux")]
pub mod workspaces;
