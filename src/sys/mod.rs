//! The Linux layer of the driver: mounts, durable writes, quotas, cgroups and file trees.
//!
//! - [`durable`] changes files so that a crash at any line leaves either the old state or the new one.
//! - [`flock`] locks files between processes.
//! - [`mounts`] makes, attaches and lists mounts, behind a trait with an in-memory fake.
//! - [`mount_namespaces`] finds mounts in the namespaces of other processes.
//! - [`mount_target`] makes and removes the directories that mounts are attached to.
//! - [`attributes`] copies owner, mode and extended attributes from one directory to another.
//! - [`limits`] raises the limits of the process, [`memory`] reads its memory limit.
//! - [`quota`] limits the content of a directory, [`du`] counts it, [`statfs`] reads the free space of a file system.
//! - [`subvolumes`] finds those of btrfs.
//! - [`tree`] makes file trees, [`tree_reader`] reads them, [`clone`] copies a tree that is being written to.
//! - [`copy_up`] makes an overlay copy a file up, [`freezer`] stops the writers of a tree.
//! - [`container`] starts a process in namespaces of its own.
//! - [`clock`] reads the clock of file times.
//! - [`host`] and [`fs_probe`] find out what the kernel and a file system can do.
//! - [`private_mntns`] runs probes in a mount namespace of their own.
//! - [`blocking`] runs blocking calls outside of the async worker threads.
//! - [`id_chars`] checks which texts may become file names.
//!
//! Only this module may contain `unsafe` code. Deliberately absent: the purpose of a file or a mount. This module knows
//! no layers, no volumes and no records.
//!
//! May use: spill

pub mod attributes;
pub mod blocking;
pub mod clock;
pub mod clone;
pub mod container;
pub mod copy_up;
pub mod du;
pub mod durable;
pub mod flock;
pub mod freezer;
pub mod fs_probe;
pub mod host;
pub mod id_chars;
pub mod limits;
pub mod memory;
pub mod mount_namespaces;
pub mod mount_target;
pub mod mounts;
pub mod private_mntns;
pub mod quota;
pub mod statfs;
pub mod subvolumes;
pub mod tree;
pub mod tree_reader;
pub mod tree_size;

mod data_ranges;
mod file_handle;
mod loops;
mod openat2;
mod proc_fd;
#[cfg(test)]
pub mod test_dir;
mod userns;

pub use nix::errno::Errno;

/// Converts an error of `rustix`, which makes the system calls, to the type of `nix`, which has names for the numbers.
fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}
