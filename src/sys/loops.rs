//! Loop devices, for kernels that mount a file system image only from a block device.
//!
//! They are read-only and autoclear: the kernel frees a device when its last user ends, that is, when the process is
//! killed or the file system is unmounted. Deliberately absent: writable loop devices, and the use of a device that
//! another process set up.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

const LOOP_CTL_GET_FREE: u64 = 0x4c82;
const LOOP_CONFIGURE: u64 = 0x4c0a;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// The number of attempts to get a device. Another process may take a free device first.
const ATTEMPTS: usize = 64;

/// `struct loop_config` of include/uapi/linux/loop.h. Of its `struct loop_info64` only the fields used here have names.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    /// `lo_device` to `lo_sizelimit`
    unused: [u64; 5],
    /// `lo_number`, `lo_encrypt_type`, `lo_encrypt_key_size`
    numbers: [u32; 3],
    flags: u32,
    /// `lo_file_name`, `lo_crypt_name`, `lo_encrypt_key`
    names: [u8; 64 + 64 + 32],
    init: [u64; 2],
    reserved: [u64; 8],
}

/// A loop device. It exists until this is dropped and no mount uses it any more.
#[derive(Debug)]
pub struct Loop {
    path: PathBuf,
    _open: Option<File>,
}

impl Loop {
    /// Sets up a free loop device that reads `image`, with direct I/O if the file system of the image supports it.
    ///
    /// Needs Linux 5.8 (`LOOP_CONFIGURE`).
    ///
    /// # Errors
    /// `NotFound` if the device is missing in this container's `/dev`, and the errors of the image's file system.
    pub(super) fn over(image: &Path) -> io::Result<Self> {
        let image = File::open(image)?;
        let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control")?;
        let mut direct = LO_FLAGS_DIRECT_IO;
        for _ in 0..ATTEMPTS {
            // SAFETY: this request takes no argument.
            let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) };
            if number < 0 {
                return Err(io::Error::last_os_error());
            }
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = File::open(&path)?;
            match configure(&device, &image, direct) {
                Ok(()) => return Ok(Self { path, _open: Some(device) }),
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {}
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) && direct != 0 => direct = 0,
                Err(e) => return Err(e),
            }
        }
        Err(io::Error::from_raw_os_error(libc::EBUSY))
    }

    /// A value without a device, for the fake.
    #[cfg(test)]
    pub(super) fn named(path: &str) -> Self {
        Self { path: path.into(), _open: None }
    }

    /// The path of the device, such as `/dev/loop7`.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn configure(device: &File, image: &File, direct: u32) -> io::Result<()> {
    let config = Config {
        fd: image.as_raw_fd().cast_unsigned(),
        block_size: 0,
        unused: [0; 5],
        numbers: [0; 3],
        flags: LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR | direct,
        names: [0; 160],
        init: [0; 2],
        reserved: [0; 8],
    };
    // SAFETY: both descriptors are open. The structure has the layout that the request expects and lives through the
    // call.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &raw const config) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structure_has_the_layout_of_the_kernel_header() {
        assert_eq!((size_of::<Config>(), std::mem::offset_of!(Config, flags)), (304, 60));
    }
}
