//! A read-only EROFS mount straight from an image file.
//!
//! Deliberately absent: loop devices, for kernels before 6.12.

use std::path::Path;

use super::error::unsupported;
use super::{Attrs, Detached, MountError, Mounts, Param, Request};
use crate::sys::Errno;

/// Mounts the EROFS image at `image`, attached nowhere.
///
/// The image is read past the page cache (`directio`) where its file system allows it; else what is
/// read is kept twice, for the image and for the files in it.
///
/// Errors: `Unsupported` on a kernel without EROFS, or that takes it from block devices only.
pub fn mount_image(mounts: &dyn Mounts, image: &Path) -> Result<Detached, MountError> {
    let Some(source) = image.to_str() else {
        let why = "its path is not UTF-8";
        return Err(MountError::Folder { path: image.to_owned(), why, errno: Errno::EILSEQ });
    };
    let request = |params| Request {
        fs_type: "erofs",
        source: source.to_owned(),
        params,
        attrs: Attrs { read_only: true, nosuid: true, nodev: true, noexec: false },
    };
    // Only EINVAL can be about `directio`: the option is unknown, or the file system cannot do it.
    let mounted = match mounts.create(&request(vec![Param::Flag("directio")])) {
        Err(MountError::Refused { errno: Errno::EINVAL, .. }) => {
            mounts.create(&request(Vec::new()))
        }
        other => other,
    };
    mounted.map_err(|e| match e {
        MountError::Refused { errno: errno @ Errno::ENOTBLK, .. } => unsupported(
            format!("mount the EROFS image {source} without a block device"),
            "it takes Linux 6.12 with CONFIG_EROFS_FS_BACKED_BY_FILE",
            errno,
        ),
        other => other,
    })
}
