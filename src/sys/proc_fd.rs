//! Paths of open files in `/proc/self/fd`.

use std::{
    os::fd::{AsFd, AsRawFd as _},
    path::PathBuf,
};

/// The directory of this process's open files, each under the number of its descriptor.
pub(super) const DIR: &str = "/proc/self/fd";

/// A path that always leads to the open file `fd`, also after it is renamed. Valid in this process, and until `fd` is
/// closed. An `O_PATH` descriptor itself cannot be read; its path can.
pub(super) fn path(fd: impl AsFd) -> PathBuf {
    PathBuf::from(format!("{DIR}/{}", fd.as_fd().as_raw_fd()))
}
