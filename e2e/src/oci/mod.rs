//! As much of the OCI distribution specification as the tests need: HTTP, small images, a registry in memory.
//!
//! May use: nothing

pub mod http;
pub mod image;
pub mod registry;
