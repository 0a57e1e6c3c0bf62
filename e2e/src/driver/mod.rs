//! The driver of this checkout: built, and run as a process of this machine.
//!
//! Deliberately absent: clusters.
//!
//! May use: machine, toolchain

mod build;
mod crates;
mod cross;
pub mod process;
mod zigbuild;

pub use build::{cargo, ensure_target, plugin, program, sources, static_target};
pub use crates::CrateProgram;
pub use cross::{CrossCargo, private_dirs};
pub use zigbuild::cargo_zigbuild;
