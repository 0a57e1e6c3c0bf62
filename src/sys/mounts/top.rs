//! Reads the topmost mount at one target, without reading the whole mount table.
//!
//! The mount table has a line for every mount of the node, and the kernel writes all lines for each reader.
//! `statmount(2)` (Linux 6.8; options since 6.11, source since 6.14) reads a single mount. Its id comes from `statx(2)`
//! of a descriptor.
//!
//! Deliberately absent: a fallback for kernels that lack any of this. Callers read the table then.

use std::ffi::OsString;
use std::mem::offset_of;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, StatxFlags, statx};

use super::{Mount, MountError, SuperOptions, directory};
use crate::sys::Errno;

/// The same number on every architecture (scripts/syscall.tbl).
const SYS_STATMOUNT: libc::c_long = 457;

/// The requested fields: STATMOUNT_SB_BASIC, MNT_BASIC, MNT_ROOT, FS_TYPE, MNT_OPTS and SB_SOURCE
/// (include/uapi/linux/mount.h).
const WANTED: u64 = 0x1 | 0x2 | 0x8 | 0x20 | 0x80 | 0x200;

/// The maximum size of the result buffer in bytes. The options of an overlay contain each of up to 500 layers.
const MAX_BUFFER: usize = 1 << 20;

/// The topmost mount at `target`, without its propagation. `Ok(Err(Unknown))` if the caller must read the table
/// instead.
pub(super) fn topmost(target: &Path) -> Result<Result<Option<Mount>, Unknown>, MountError> {
    let at = match directory::open(target) {
        Ok(at) => at,
        Err(e) if e.errno() == Some(Errno::ENOENT) => return Ok(Ok(None)),
        // If the target cannot be opened, its file system may be dead.
        Err(_) => return Ok(Err(Unknown)),
    };
    if !directory::is_mount_root(&at, target)? {
        return Ok(Ok(None));
    }
    Ok(match unique_id(&at).and_then(statmount) {
        Some(stat) => stat.mount(target).map(Some).ok_or(Unknown),
        None => Err(Unknown),
    })
}

/// This kernel does not report the mount, or not all of its fields.
#[derive(Debug)]
pub(super) struct Unknown;

/// The id of the mount that `at` is on, which is not reused before the next boot (STATX_MNT_ID_UNIQUE, Linux 6.8).
fn unique_id(at: &OwnedFd) -> Option<u64> {
    let unique = StatxFlags::from_bits_retain(0x4000);
    let stat = statx(at, "", AtFlags::EMPTY_PATH, unique).ok()?;
    (stat.stx_mask & unique.bits() != 0).then_some(stat.stx_mnt_id)
}

/// struct mnt_id_req, in its first version.
#[repr(C)]
struct IdRequest {
    size: u32,
    spare: u32,
    mount: u64,
    wanted: u64,
}

/// The fixed part of struct statmount. The texts follow it. `options`, `fs_type`, `root`, `point`, `subtype` and
/// `source` are offsets into them.
#[repr(C)]
#[derive(Clone, Copy)]
struct Head {
    size: u32,
    options: u32,
    mask: u64,
    device_major: u32,
    device_minor: u32,
    magic: u64,
    sb_flags: u32,
    fs_type: u32,
    unique_id: u64,
    unique_parent: u64,
    id: u32,
    parent: u32,
    attributes: u64,
    propagation: [u64; 4],
    root: u32,
    point: u32,
    namespace: u64,
    subtype: u32,
    source: u32,
    later: [u64; 48],
}

/// The kernel's result for one mount.
struct Statmount {
    head: Head,
    texts: Vec<u8>,
}

fn statmount(mount: u64) -> Option<Statmount> {
    let request =
        IdRequest { size: size_of::<IdRequest>() as u32, spare: 0, mount, wanted: WANTED };
    let mut size = 16 << 10;
    while size <= MAX_BUFFER {
        let mut buffer = vec![0_u64; size / size_of::<u64>()];
        // SAFETY: the request lives until the call returns, and the kernel writes at most `size` bytes to the buffer.
        let done = unsafe {
            libc::syscall(SYS_STATMOUNT, &raw const request, buffer.as_mut_ptr(), size, 0)
        };
        if done == 0 {
            // SAFETY: the buffer is larger than a Head and aligned for it, and any bytes are a valid Head.
            let head = unsafe { buffer.as_ptr().cast::<Head>().read() };
            let bytes: Vec<u8> = buffer.iter().flat_map(|word| word.to_ne_bytes()).collect();
            return Some(Statmount { head, texts: bytes[size_of::<Head>()..].to_vec() });
        }
        if Errno::last() != Errno::EOVERFLOW {
            return None;
        }
        size *= 4;
    }
    None
}

impl Statmount {
    /// Converts the result. `None` if the kernel left a field out.
    fn mount(&self, target: &Path) -> Option<Mount> {
        // The kernel also leaves the source out if it is empty.
        let Head { mask, attributes, .. } = self.head;
        let needed = WANTED & !0x200;
        if mask & needed != needed || mask & 0x200 == 0 {
            return None;
        }
        // MOUNT_ATTR_RDONLY, NOSUID, NODEV, NOEXEC, NOATIME
        let known = [(1, "ro"), (2, "nosuid"), (4, "nodev"), (8, "noexec"), (0x10, "noatime")];
        let options = known.iter().filter(|(bit, _)| attributes & bit != 0);
        Some(Mount {
            id: self.head.id.into(),
            parent: self.head.parent.into(),
            device: (self.head.device_major, self.head.device_minor),
            root: PathBuf::from(self.text(self.head.root)?),
            target: target.to_owned(),
            options: options.map(|(_, name)| (*name).to_owned()).collect(),
            propagation: Vec::new(),
            fs_type: self.text(self.head.fs_type)?.to_string_lossy().into_owned(),
            source: self.text(self.head.source)?,
            super_options: SuperOptions::raw(self.text(self.head.options)?.into_vec()),
        })
    }

    fn text(&self, at: u32) -> Option<OsString> {
        let rest = self.texts.get(usize::try_from(at).ok()?..)?;
        let end = rest.iter().position(|byte| *byte == 0)?;
        Some(OsString::from_vec(rest[..end].to_vec()))
    }
}

const _: () = assert!(size_of::<Head>() == 512 && offset_of!(Head, root) == 104);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::mounts::{LinuxMounts, Mounts as _};

    #[test]
    fn a_single_mount_has_the_same_fields_as_in_the_table() {
        let table = LinuxMounts.table().unwrap();
        for target in ["/", "/proc", "/sys", "/dev"].map(Path::new) {
            let listed = table.iter().rfind(|mount| mount.target == target);
            let (Ok(found), Some(listed)) = (topmost(target).unwrap(), listed) else { continue };
            let found = found.unwrap();
            assert_eq!((found.id, found.parent), (listed.id, listed.parent), "{target:?}");
            assert_eq!((&found.fs_type, &found.source), (&listed.fs_type, &listed.source));
            assert_eq!((&found.root, found.device), (&listed.root, listed.device));
        }
        assert!(matches!(topmost(Path::new("/proc/self/no such")), Ok(Ok(None) | Err(Unknown))));
        assert!(matches!(topmost(Path::new("/etc/nowhere/at/all")), Ok(Ok(None))));
    }
}
