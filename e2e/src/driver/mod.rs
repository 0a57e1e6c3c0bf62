//! The driver of this checkout: built, and run as a process of this machine.
//!
//! Deliberately absent: clusters.
//!
//! May use: machine, toolchain

mod build;
mod crates;
pub mod process;

pub use build::{cargo, program, sources, static_target};
pub use crates::CrateProgram;
