//! Every syscall that mounts and every write that must survive a power cut.
//!
//! [`durable`] changes files so that a crash at any line leaves the old state or the new one;
//! [`mounts`] makes, attaches and lists mounts behind a trait with an in-memory twin;
//! [`attributes`] dresses one folder like another; [`targets`] makes and removes what mounts are
//! attached to; [`limits`] asks for what the process may have.
//! `unsafe` may appear in this room only. Deliberately absent: what any file or mount is *for*; this room knows
//! no layer, no volume and no record.
//!
//! May use: nothing

pub mod attributes;
pub mod durable;
pub mod limits;
pub mod mounts;
pub mod targets;

mod beneath;
#[cfg(test)]
pub mod scratch;

pub use nix::errno::Errno;

/// The kernel's error number under its own name: `rustix` gives the calls, `nix` the names.
fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}
