//! What the harness needs of the machine: processes, the cache, the lock, mounts, progress on the screen.
//!
//! Deliberately absent: Kubernetes, containers and images.
//!
//! May use: nothing

pub mod background;
pub mod cache;
pub mod harness;
pub mod lock;
pub mod mounts;
pub mod process;
pub mod progress;
pub mod wait;
