//! The type, size and free space of a file system (`statfs(2)`).
//!
//! Deliberately absent: the usage of one directory. See [`quota`](super::quota) and [`du`](super::du).

use std::{io, path::Path};

use rustix::fs::statfs;

use super::durable::at;

/// What `statfs(2)` reports of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// The size in bytes.
    pub total: u64,
    /// The bytes that processes other than root's can still write.
    pub available: u64,
    /// The maximum number of inodes. 0 if the file system has no limit.
    pub inodes: u64,
    /// The number of inodes that can still be created.
    pub inodes_free: u64,
    /// The magic number of the file system type.
    magic: u64,
}

/// The magic numbers of statfs(2), and those of file systems that are or were developed outside of the kernel.
const KINDS: [(u64, &str); 20] = [
    (0xef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x0102_1994, "tmpfs"),
    (0x8584_58f6, "ramfs"),
    (0x794c_7630, "overlay"),
    (0x6175_6673, "aufs"),
    (0xf15f, "ecryptfs"),
    (0x6969, "nfs"),
    (0x2fc1_2fc1, "zfs"),
    (0xf2f5_2010, "f2fs"),
    (0xca45_1a4e, "bcachefs"),
    (0x6573_5546, "fuse"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "ceph"),
    (0x4d44, "vfat"),
    (0xe0f5_e1e2, "erofs"),
    (0x7371_7368, "squashfs"),
];

impl Space {
    /// The used part in percent, counted as the kubelet does: root's reserve counts as used.
    pub fn used_percent(&self) -> u8 {
        let free = u128::from(self.available) * 100 / u128::from(self.total.max(1));
        u8::try_from(100 - free.min(100)).unwrap_or(100)
    }

    /// A file system for tests.
    #[cfg(test)]
    pub fn with_available(total: u64, available: u64) -> Self {
        Self { total, available, inodes: 0, inodes_free: 0, magic: 0 }
    }

    /// The name of its type, such as `ext4`. `None` if its magic number is not known here.
    pub fn kind(&self) -> Option<&'static str> {
        KINDS.iter().find(|(magic, _)| *magic == self.magic).map(|(_, name)| *name)
    }
}

/// Reads the file system that holds `path`.
pub fn of(path: &Path) -> io::Result<Space> {
    let stat = statfs(path).map_err(|e| at("statfs", path)(e.into()))?;
    let block = stat.f_frsize.max(1).cast_unsigned() as u64;
    Ok(Space {
        total: stat.f_blocks.saturating_mul(block),
        available: stat.f_bavail.saturating_mul(block),
        inodes: stat.f_files,
        inodes_free: stat.f_ffree,
        // Only the low 32 bits are meaningful. On architectures with a 32-bit field, the sign extension is removed.
        magic: stat.f_type as u64 & 0xffff_ffff,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_sizes_are_read_and_an_error_names_the_path() {
        assert_eq!(of(Path::new("/proc")).unwrap().kind(), None);
        let space = of(&std::env::temp_dir()).unwrap();
        assert!(space.total > 0 && space.available <= space.total, "{space:?}");
        let missing = of(Path::new("/no/such")).unwrap_err();
        assert!(missing.to_string().contains("/no/such"), "{missing}");
    }

    #[test]
    fn the_used_percentage_includes_roots_reserve() {
        for (total, available, used) in
            [(100, 25, 75), (u64::MAX, 0, 100), (100, 100, 0), (0, 0, 100)]
        {
            let space = Space::with_available(total, available);
            assert_eq!(space.used_percent(), used);
        }
    }
}
