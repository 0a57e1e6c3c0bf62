//! Mounts EROFS images read-only.
//!
//! Deliberately absent: the content of the image.

use std::path::Path;

use super::{Attrs, Detached, MountError, Mounts, Param, Request};
use crate::sys::Errno;

/// How the kernel reads an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// From the file with direct I/O, without the page cache. Needs Linux 6.13 and support by the image's file system.
    DirectFile,
    /// From the file through the page cache (Linux 6.12). Data is cached twice: for the image and for the files in it.
    File,
    /// From a loop device, which the kernel frees after the unmount.
    Loop,
}

/// Makes a detached mount of the EROFS image at `image`, with the first [`Backing`] that this kernel supports.
///
/// # Errors
/// `Unsupported` if the kernel has no EROFS, or if it needs a loop device and has none.
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

/// Makes a detached mount of the EROFS image at `image` with the given backing.
pub fn mount_image_by(
    mounts: &dyn Mounts,
    image: &Path,
    backing: Backing,
) -> Result<Detached, MountError> {
    // Held until the mount itself holds the device.
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
        // A read-only device must be opened read-only.
        Backing::Loop => vec![Param::Flag("ro")],
    };
    let attrs = Attrs { read_only: true, nosuid: true, nodev: true, ..Attrs::default() };
    mounts.create(&Request { fs_type: "erofs", source: source.to_owned(), params, attrs })
}
