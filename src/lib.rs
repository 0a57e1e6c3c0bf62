//! ovl-csi: writable overlay volumes on read-only image layers, for Kubernetes and for the shell.
//!
//! The map, floor by floor; a room uses only what its own `//! May use:` line names, and every room may
//! use the seven files of the ground that know nothing: [`budget`], [`digest`], [`fault`], [`metrics`], [`telemetry`], [`turns`],
//! [`units`].
//!
//! ```text
//! edges    cli        arguments, the wiring of one role, exit codes
//!          csi        gRPC request -> our types -> one call -> class -> code; kubelet registration
//!          controller what the cluster wants: snapshots asked for, bound and listed
//!          agent      on its node: carries out snapshots, finds them, tells pods' Events
//! life     snapshots  cuts volumes, pushes what was cut
//!          volumes    one volume's life: states, record, lock, recovery
//! matter   layers     the node's store: staged, renamed into place, leased, collected, checked
//!          overlay    plans a mount as a typed value, then has `sys` do it
//!          image      resolves references, streams digest-checked blobs, both ways
//!          changeset  layer tar -> typed entries -> an EROFS image; an upper -> a layer's tar
//!          erofs      writes an EROFS image from a stream of entries
//! ground   sys        every syscall and every durable write, with an in-memory twin
//!          cluster    the API server: objects, watches, Events, the lease
//!          spill      maps and lists that go on in a file when they outgrow memory
//!          budget     the memory that all work shares
//!          turns      permits that namespaces take in turn
//!          digest     a checked content digest
//!          fault      the classes of failure that edges turn into codes
//!          metrics    what is counted
//!          telemetry  logs and traces
//! ```
//!
//! `ARCHITECTURE.md` tells the same with the invariants; `tests/tidy.rs` holds the code to it.

// A test fails by panicking, and deletes its own temporary folders.
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)
)]

pub mod agent;
pub mod budget;
pub mod changeset;
pub mod cli;
pub mod cluster;
pub mod controller;
pub mod csi;
pub mod digest;
pub mod erofs;
pub mod fault;
pub mod image;
pub mod layers;
pub mod metrics;
pub mod overlay;
pub mod snapshots;
pub mod spill;
pub mod sys;
pub mod telemetry;
pub mod turns;
pub mod units;
pub mod volumes;
