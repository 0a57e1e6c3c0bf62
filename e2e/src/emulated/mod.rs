//! An emulated machine with another kernel or architecture, for tests that this machine cannot run.
//!
//! ```text
//! Debian's kernel package ──┐
//! busybox, a test program ──┼── initramfs ──── qemu (no KVM) ──── the serial line ──── libtest's output
//! ext4 and XFS disks, prjquota ────────────────┘
//! ```
//!
//! Deliberately absent: a distribution. A kernel, one program and its libraries boot in seconds,
//! even with every instruction emulated.
//!
//! May use: machine, toolchain

mod arch;
mod initramfs;
mod kernel;
mod qemu;

pub use arch::Arch;
pub use initramfs::Job;
pub use kernel::Kernel;
pub use qemu::{ensure_tools, run};
