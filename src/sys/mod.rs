//! Every syscall that mounts and every write that must survive a power cut.
//!
//! [`durable`] changes files so that a crash at any line leaves the old state or the new one;
//! [`mounts`] makes, attaches and lists mounts behind a trait with an in-memory twin;
//! [`attributes`] dresses one directory like another; [`targets`] makes and removes what mounts are
//! attached to; [`limits`] asks for what the process may have, [`memory`] says how much memory that is; [`quota`] limits what a directory may hold, [`walk`] counts what
//! it holds, [`space`] says what a file system has left; [`copy_up`] readies a file of an overlay for writing, [`tree`] makes
//! whole trees, [`inside`] looks into one, [`clone`] copies one that is written to and [`freezer`] stops who writes; [`machine`] and [`trials`] say what kernel and file system can do, [`aside`] keeps trials apart;
//! [`blocking`] runs all of that beside the async workers, and [`name`] says which texts may become names.
//! `unsafe` may appear in this room only. Deliberately absent: what any file or mount is *for*; this room knows
//! no layer, no volume and no record.
//!
//! May use: spill

pub mod attributes;
pub mod blocking;
pub mod clone;
pub mod copy_up;
pub mod du;
pub mod durable;
pub mod freezer;
pub mod fs_probe;
pub mod host;
pub mod id_chars;
pub mod limits;
pub mod memory;
pub mod mount_target;
pub mod mounts;
pub mod private_mntns;
pub mod quota;
pub mod statfs;
pub mod tree;
pub mod tree_reader;

mod loops;
mod openat2;
#[cfg(test)]
pub mod scratch;
mod userns;

pub use nix::errno::Errno;

/// The kernel's error number under its own name: `rustix` gives the calls, `nix` the names.
fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}
