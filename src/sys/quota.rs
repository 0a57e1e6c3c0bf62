//! Project quotas of XFS, ext4 and f2fs: limits on the content of one directory.
//!
//! A directory and everything created in it belong to a project, which is a number. The file system counts the usage of
//! the project, and refuses writes beyond its limit with EDQUOT or ENOSPC. ext4 exempts processes with
//! CAP_SYS_RESOURCE. Overlay drops this capability from the credentials that it writes with, so in a volume the limit
//! holds for root too.
//!
//! These file systems support the generic commands of `quotactl_fd(2)` (Linux 5.14; fs/quota/quota.c). So there is one
//! code path for all, and the block device need not be found.
//!
//! Deliberately absent: the choice of limits, and which project numbers are free.

use std::{
    ffi::c_void,
    fs::File,
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, RawFd},
    path::{Path, PathBuf},
};

use rustix::{
    ioctl::{Getter, Setter, ioctl, opcode},
    rand::{GetRandomFlags, getrandom},
};

/// The limits of a project. `None` means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quota {
    /// Disk space in bytes. The kernel counts it in KiB, rounded up.
    pub bytes: Option<u64>,
    /// Files, directories and everything else that has an inode.
    pub inodes: Option<u64>,
}

/// The usage of a project or a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProjectUsage {
    /// Disk space in bytes.
    pub bytes: u64,
    /// Files, directories and everything else that has an inode.
    pub inodes: u64,
}

/// The project quotas of one file system.
#[derive(Debug)]
pub struct Projects {
    /// Any directory of the file system.
    directory: PathBuf,
}

impl Projects {
    /// Opens the project quotas of the file system that holds `directory`.
    ///
    /// # Errors
    /// A sentence that says why the file system enforces no project quotas, and how to change that.
    pub fn probe(directory: &Path) -> Result<Self, String> {
        let shown = directory.display();
        let mut state = QuotaState { version: 1, ..QuotaState::default() };
        let result = File::open(directory)
            .and_then(|dir| quotactl(&dir, Q_XGETQSTATV, 0, (&raw mut state).cast()));
        match result {
            Ok(()) if state.flags & ENFORCED != 0 => Ok(Self { directory: directory.to_owned() }),
            Ok(()) if state.flags & COUNTED != 0 => Err(format!(
                "the file system of {shown} counts the usage of projects but enforces no limits: mount it with prjquota"
            )),
            Err(e) if e.raw_os_error() == Some(libc::ENOSYS) && !quotas_built_in() => Err(
                "this kernel is built without quotas: boot a kernel with CONFIG_QUOTA and CONFIG_QUOTACTL".to_owned(),
            ),
            // Without quotas the kernel returns ENOSYS, ESRCH or ENOTSUP, depending on the file system.
            Ok(()) | Err(_) => Err(format!(
                "the file system of {shown} has no project quotas: use XFS, or ext4 made with -O quota,project, and \
                 mount it with prjquota"
            )),
        }
    }

    /// Puts the empty `directory` and everything that is created in it later into project `id`.
    ///
    /// A rename between two directories of different projects fails with EXDEV. So an upper and its work directory must
    /// belong to the same project.
    pub fn assign(&self, directory: &Path, id: u32) -> io::Result<()> {
        let dir = File::open(directory)?;
        let mut attributes = xattr_of(&dir)?;
        attributes.project = id;
        attributes.flags |= PROJECT_INHERIT;
        set_xattr(&dir, attributes)
    }

    /// Sets the limits of project `id`, replacing its earlier limits. A limit of 0 becomes the smallest one, 1 KiB or
    /// 1 inode, because 0 means no limit to the kernel.
    pub fn limit(&self, id: u32, quota: Quota) -> io::Result<()> {
        let mut block = QuotaBlock {
            block_hard: quota.bytes.map_or(0, |bytes| bytes.div_ceil(1024).max(1)),
            inode_hard: quota.inodes.map_or(0, |inodes| inodes.max(1)),
            valid: BLOCK_LIMITS | INODE_LIMITS,
            ..QuotaBlock::default()
        };
        (block.block_soft, block.inode_soft) = (block.block_hard, block.inode_hard);
        self.quotactl(Q_SETQUOTA, id, (&raw mut block).cast())
    }

    /// The usage of project `id`. Zero if the file system does not know the project.
    pub fn usage(&self, id: u32) -> io::Result<ProjectUsage> {
        let mut block = QuotaBlock::default();
        match self.quotactl(Q_GETQUOTA, id, (&raw mut block).cast()) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(ProjectUsage::default()),
            Err(e) => Err(e),
            Ok(()) => Ok(ProjectUsage { bytes: block.space, inodes: block.inodes }),
        }
    }

    /// Removes the limits of project `id`. Its files stay.
    pub fn remove_limits(&self, id: u32) -> io::Result<()> {
        self.limit(id, Quota::default())
    }

    fn quotactl(&self, command: u32, id: u32, data: *mut c_void) -> io::Result<()> {
        quotactl(&File::open(&self.directory)?, command, id, data)
    }
}

/// Returns an unpredictable number.
pub fn random_id() -> io::Result<u32> {
    let mut bytes = [0; 4];
    // The kernel always fills small requests completely (getrandom(2)).
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(u32::from_ne_bytes(bytes))
}

/// Clears the flag by which new entries of the directory `dir` inherit its project. With the flag, entries of another
/// project cannot be moved there. Returns whether the flag was set.
pub(super) fn stop_inheriting(dir: impl AsFd) -> io::Result<bool> {
    let mut attributes = xattr_of(&dir)?;
    let was_set = attributes.flags & PROJECT_INHERIT != 0;
    attributes.flags &= !PROJECT_INHERIT;
    if was_set {
        set_xattr(&dir, attributes)?;
    }
    Ok(was_set)
}

/// Reads a file's extended flags and project (`FS_IOC_FSGETXATTR`).
fn xattr_of(file: impl AsFd) -> io::Result<FsXattr> {
    const GET: u32 = opcode::read::<FsXattr>(b'X', 31);
    // SAFETY: FS_IOC_FSGETXATTR fills a struct fsxattr, whose layout FsXattr has.
    Ok(unsafe { ioctl(file, Getter::<GET, FsXattr>::new()) }?)
}

fn set_xattr(file: impl AsFd, attributes: FsXattr) -> io::Result<()> {
    const SET: u32 = opcode::write::<FsXattr>(b'X', 32);
    // SAFETY: FS_IOC_FSSETXATTR reads a struct fsxattr.
    Ok(unsafe { ioctl(file, Setter::<SET, FsXattr>::new(attributes)) }?)
}

/// Whether the kernel has `quotactl_fd(2)`. If it does, it refuses the invalid descriptor and not the call.
fn quotas_built_in() -> bool {
    let none: RawFd = -1;
    let result = call(none, Q_GETQUOTA, 0, MaybeUninit::<QuotaBlock>::uninit().as_mut_ptr().cast());
    result.is_err_and(|e| e.raw_os_error() != Some(libc::ENOSYS))
}

fn quotactl(dir: &File, command: u32, id: u32, data: *mut c_void) -> io::Result<()> {
    call(dir.as_raw_fd(), command, id, data)
}

/// `data` must point to the struct that `command` reads or fills.
fn call(dir: RawFd, command: u32, id: u32, data: *mut c_void) -> io::Result<()> {
    let command = (command << 8) | PROJECT;
    // SAFETY: each caller in this file passes a live struct with the layout of its command (include/uapi/linux/quota.h,
    // dqblk_xfs.h), and the kernel keeps no pointer to it.
    match unsafe { libc::syscall(libc::SYS_quotactl_fd, dir, command, id, data) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

const PROJECT: u32 = 2;
const Q_GETQUOTA: u32 = 0x80_0007;
const Q_SETQUOTA: u32 = 0x80_0008;
const Q_XGETQSTATV: u32 = (b'X' as u32) << 8 | 8;

const BLOCK_LIMITS: u32 = 1;
const INODE_LIMITS: u32 = 4;

/// FS_QUOTA_PDQ_ACCT and FS_QUOTA_PDQ_ENFD.
const COUNTED: u16 = 1 << 4;
const ENFORCED: u16 = 1 << 5;

/// FS_XFLAG_PROJINHERIT.
const PROJECT_INHERIT: u32 = 0x200;

/// struct fsxattr (include/uapi/linux/fs.h).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct FsXattr {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

/// struct if_dqblk (include/uapi/linux/quota.h). Limits are in KiB, `space` is in bytes.
#[repr(C)]
#[derive(Default)]
struct QuotaBlock {
    block_hard: u64,
    block_soft: u64,
    space: u64,
    inode_hard: u64,
    inode_soft: u64,
    inodes: u64,
    block_time: u64,
    inode_time: u64,
    valid: u32,
}

/// struct fs_quota_statv (include/uapi/linux/dqblk_xfs.h). Only its first fields are used here.
#[repr(C)]
#[derive(Default)]
struct QuotaState {
    version: i8,
    padding: u8,
    flags: u16,
    in_core: u32,
    rest: [u64; 19],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structs_have_the_sizes_of_the_kernel_headers() {
        assert_eq!(size_of::<FsXattr>(), 28);
        assert_eq!(size_of::<QuotaBlock>(), 72);
        assert_eq!(size_of::<QuotaState>(), 160);
    }

    #[test]
    fn the_error_for_a_file_system_without_project_quotas_says_how_to_get_them() {
        let error = Projects::probe(Path::new("/proc")).unwrap_err();
        assert!(error.contains("prjquota") || error.contains("CONFIG_QUOTA"), "{error}");
    }

    /// `OVL_XFS` is a directory of a file system with project quotas whose limits hold for root too. The emulated
    /// machines of the harness set it.
    #[test]
    #[ignore = "needs root and a file system with project quotas"]
    fn emulated_quota_a_project_is_held_to_its_limits() {
        let parent = std::env::var_os("OVL_XFS").expect("OVL_XFS");
        let directory = tempfile::tempdir_in(parent).unwrap();
        let projects = Projects::probe(directory.path()).unwrap();
        let id = 4_242;
        let (upper, work) = (directory.path().join("upper"), directory.path().join("work"));
        for dir in [&upper, &work] {
            std::fs::create_dir(dir).unwrap();
            projects.assign(dir, id).unwrap();
        }
        projects.limit(id, Quota { bytes: Some(4 << 20), inodes: Some(20) }).unwrap();
        std::fs::write(work.join("small"), vec![1; 1 << 20]).unwrap();
        std::fs::rename(work.join("small"), upper.join("small")).unwrap();
        let full = std::fs::write(upper.join("large"), vec![1; 8 << 20]).unwrap_err();
        assert!(matches!(full.raw_os_error(), Some(libc::EDQUOT | libc::ENOSPC)), "{full}");
        std::fs::remove_file(upper.join("large")).unwrap();
        let many = (0..30).find_map(|n| std::fs::write(upper.join(n.to_string()), b"").err());
        let many = many.expect("a file beyond the limit of inodes is refused");
        assert!(matches!(many.raw_os_error(), Some(libc::EDQUOT | libc::ENOSPC)), "{many}");
        let usage = projects.usage(id).unwrap();
        assert!(usage.bytes >= 1 << 20 && usage.bytes <= 4 << 20, "{usage:?}");
        // Some kernel releases stop one inode below the limit.
        assert!((19..=20).contains(&usage.inodes), "{usage:?}");
        projects.remove_limits(id).unwrap();
        std::fs::write(upper.join("large"), vec![1; 8 << 20]).unwrap();
    }
}
