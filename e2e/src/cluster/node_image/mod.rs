//! A node image built only from Debian packages and Go modules, in two parts: the system (`system`:
//! Debian, then kind's own base on it) and the programs (`assemble`).
//!
//! Deliberately absent: pulling a node image, which `prerequisites` does where it can.

mod assemble;
mod programs;
mod system;

pub use assemble::assemble;
pub use programs::Programs;
pub use system::{debian, node_base};
