//! Kernel file handles: `name_to_handle_at(2)` and `open_by_handle_at(2)`.
//!
//! Deliberately absent: reading or writing a file that was opened by its handle. A handle passes by the permissions of
//! the directories above the file.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd},
};

/// The most bytes of a handle (`MAX_HANDLE_SZ`).
const MOST: usize = 128;

/// What a file system calls one inode, for as long as the inode exists. It differs for a later inode of the same number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileHandle {
    /// The form of the bytes.
    pub kind: i32,
    /// The bytes. Only the file system knows what they mean.
    pub bytes: Vec<u8>,
}

/// The kernel's `struct file_handle`.
#[repr(C)]
struct Buffer {
    bytes: u32,
    kind: i32,
    handle: [u8; MOST],
}

/// The handle of an open file, `None` if its file system has none.
pub(super) fn of(fd: impl AsFd) -> io::Result<Option<FileHandle>> {
    let mut buffer = Buffer { bytes: MOST as u32, kind: 0, handle: [0; MOST] };
    let mut mount_id: libc::c_int = 0;
    // SAFETY: the kernel reads the empty string, and writes at most `bytes` bytes of the handle, its head, and one number.
    let done = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            fd.as_fd().as_raw_fd(),
            c"".as_ptr(),
            &raw mut buffer,
            &raw mut mount_id,
            libc::AT_EMPTY_PATH,
        )
    };
    if done == 0 {
        let bytes = buffer.handle[..MOST.min(buffer.bytes as usize)].to_vec();
        return Ok(Some(FileHandle { kind: buffer.kind, bytes }));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP | libc::EOVERFLOW) => Ok(None),
        _ => Err(error),
    }
}

/// Opens the inode with `O_PATH`. `fs` is any open file of its file system. `None` if the inode does not exist any more.
///
/// # Errors
/// `PermissionDenied` without `CAP_DAC_READ_SEARCH`.
pub(super) fn open(fs: impl AsFd, handle: &FileHandle) -> io::Result<Option<OwnedFd>> {
    let mut buffer = Buffer { bytes: 0, kind: handle.kind, handle: [0; MOST] };
    let Some(space) = buffer.handle.get_mut(..handle.bytes.len()) else { return Ok(None) };
    space.copy_from_slice(&handle.bytes);
    buffer.bytes = handle.bytes.len() as u32;
    let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: the kernel reads the head of the buffer and the bytes that it counts.
    let fd = unsafe {
        libc::syscall(libc::SYS_open_by_handle_at, fs.as_fd().as_raw_fd(), &raw mut buffer, flags)
    };
    if fd >= 0 {
        // SAFETY: the kernel has just opened this descriptor, and nothing else owns it.
        return Ok(Some(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) }));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ESTALE) => Ok(None),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;
    use crate::sys::test_dir::TestDir;

    #[test]
    #[ignore = "needs root"]
    fn privileged_an_inode_is_found_by_its_handle_until_it_is_removed() {
        let scratch = TestDir::new();
        let path = scratch.file("file", "content");
        let (root, file) = (File::open(scratch.path()).unwrap(), File::open(&path).unwrap());
        let handle = of(&file).unwrap().unwrap();
        assert_ne!(of(&root).unwrap().unwrap(), handle);
        drop(file);
        fs::rename(&path, scratch.path().join("other")).unwrap();
        let found = open(&root, &handle).unwrap().unwrap();
        assert_eq!(of(&found).unwrap().unwrap(), handle);
        drop(found);
        fs::remove_file(scratch.path().join("other")).unwrap();
        assert!(open(&root, &handle).unwrap().is_none());
    }
}
