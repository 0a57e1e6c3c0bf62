//! Programs that the harness builds or installs, and the versions of all of them.
//!
//! Deliberately absent: downloads of ready-made binaries, which have no common source.
//!
//! May use: machine

pub mod apt;
pub mod estargz;
pub mod golang;
pub mod installed;
pub mod pause;
pub mod programs;
pub mod prometheus;
pub mod qemu_user;
pub mod registry_2;
pub mod versions;
pub mod wine;
pub mod zig;
