//! A read-only EROFS mount from an image file.
//!
//! Deliberately absent: what is in the image.

use std::path::Path;

use super::{Attrs, Detached, MountError, Mounts, Param, Request};
use crate::sys::Errno;

/// How the kernel reads an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// Straight from the file, past the page cache. Linux 6.13, where the image's file system allows it.
    DirectFile,
    /// Straight from the file (Linux 6.12); what is read is kept twice, for the image and for the files in it.
    File,
    /// By way of a loop device, which is free again when the mount goes.
    Loop,
}

/// Mounts the EROFS image at `image`, attached nowhere, in the first way that this kernel takes.
///
/// Errors: `Unsupported` on a kernel without EROFS, or that has no loop device where it needs one.
pub fn mount_image(mounts: &dyn Mounts, image: &Path) -> Result<Detached, MountError> {
    let mut mounted = mount_image_by(mounts, image, Backing::DirectFile);
    // Only EINVAL can be about `directio`: the option is unknown, or the file system cannot do it.
    if let Err(MountError::Refused { errno: Errno::EINVAL, .. }) = &mounted {
        mounted = mount_image_by(mounts, image, Backing::File);
    }
    match mounted {
        Err(MountError::Refused { errno: Errno::ENOTBLK, .. }) => {
            mount_image_by(mounts, image, Backing::Loop)
        }
        other => other,
    }
}

/// Mounts it in one way only.
pub fn mount_image_by(
    mounts: &dyn Mounts,
    image: &Path,
    backing: Backing,
) -> Result<Detached, MountError> {
    // Held until the mount holds the device itself.
    let device = match backing {
        Backing::Loop => Some(mounts.loop_over(image)?),
        Backing::DirectFile | Backing::File => None,
    };
    let Some(source) = device.as_ref().map_or(image, |device| device.path()).to_str() else {
        let why = "its path is not UTF-8";
        return Err(MountError::Dir { path: image.to_owned(), why, errno: Errno::EILSEQ });
    };
    let params = match backing {
        Backing::DirectFile => vec![Param::Flag("directio")],
        Backing::File => Vec::new(),
        // A device that is read-only has to be opened so.
        Backing::Loop => vec![Param::Flag("ro")],
    };
    let attrs = Attrs { read_only: true, nosuid: true, nodev: true, ..Attrs::default() };
    mounts.create(&Request { fs_type: "erofs", source: source.to_owned(), params, attrs })
}
