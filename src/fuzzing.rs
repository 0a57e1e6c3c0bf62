//! The fuzz targets: each is a function of bytes that panics on a fault. `cargo fuzz` runs them without an end (`fuzz/`),
//! and the tests here run each one over its seeds and over mutations of them.
//!
//! Each module has its targets in a file `fuzzing.rs`, because most parsers are private. They are compiled for tests and
//! for `cargo fuzz` alone. No target reads or writes a file of the host, except through a memory file.

pub use crate::{
    changeset::fuzzing::{differential, pax, tar, whiteout},
    csi::fuzzing::csi_request,
    erofs::fuzzing::{erofs, erofs_damaged},
    image::fuzzing::{hosts_toml, manifest, pull_secret, reference},
    sys::mounts::fuzzing::mountinfo,
    workspaces::container::fuzzing::users,
};

/// A fuzz target. It returns whether the bytes are accepted.
pub type Target = fn(&[u8]) -> bool;

/// All targets by their names: the names of the files in `fuzz/fuzz_targets` and of the directories in `fuzz/seeds`.
pub const TARGETS: [(&str, Target); 13] = [
    ("csi_request", csi_request),
    ("differential", differential),
    ("erofs", erofs),
    ("erofs_damaged", erofs_damaged),
    ("hosts_toml", hosts_toml),
    ("manifest", manifest),
    ("mountinfo", mountinfo),
    ("pax", pax),
    ("pull_secret", pull_secret),
    ("reference", reference),
    ("tar", tar),
    ("users", users),
    ("whiteout", whiteout),
];

#[cfg(test)]
#[path = "fuzzing_tests.rs"]
mod tests;
