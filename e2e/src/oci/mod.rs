//! As much of the OCI specifications as tests and releases need: HTTP, small images, a registry in memory, image layouts.
//!
//! May use: nothing

pub mod files;
pub mod http;
pub mod image;
pub mod layout;
pub mod registry;
