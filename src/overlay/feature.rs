//! One feature: its name, and what provides it.

use serde::{Deserialize, Serialize};

/// A feature of the kernel or of the store's file system. The required ones come first ([`Self::required`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Feature {
    /// A writable overlay on this file system, with any of the mount APIs.
    Overlay,
    /// The listing of a directory has the type of each entry (`d_type`).
    EntryTypes,
    /// A rename can leave a whiteout of overlay behind (`RENAME_WHITEOUT`).
    Whiteouts,
    /// Extended attributes whose names begin with `trusted.`.
    TrustedAttributes,
    /// Layers are given one by one (`lowerdir+`).
    SingleLayers,
    /// Layers, upper and work are given by descriptor, and layers need not be attached.
    DetachedLayers,
    /// `volatile`
    Volatile,
    /// `metacopy=on`
    Metacopy,
    /// `redirect_dir=on`
    RedirectDir,
    /// `index=on`
    Index,
    /// `nfs_export=on`
    NfsExport,
    /// `xino=on`
    Xino,
    /// `uuid=null`
    NullUuid,
    /// Layers whose owners are mapped (idmapped mounts).
    MappedLayers,
    /// EROFS images, from a file or on a loop device.
    Erofs,
    /// EROFS images from a file, without a loop device.
    ErofsFile,
    /// EROFS images that are read with direct I/O, past the page cache of the image file.
    ErofsDirect,
}

impl Feature {
    /// All features, in the order in which `ovl check` lists them.
    pub const ALL: [Self; 17] = [
        Self::Overlay,
        Self::EntryTypes,
        Self::Whiteouts,
        Self::TrustedAttributes,
        Self::SingleLayers,
        Self::DetachedLayers,
        Self::Volatile,
        Self::Metacopy,
        Self::RedirectDir,
        Self::Index,
        Self::NfsExport,
        Self::Xino,
        Self::NullUuid,
        Self::MappedLayers,
        Self::Erofs,
        Self::ErofsFile,
        Self::ErofsDirect,
    ];

    /// Its name in the report of `ovl check`, one word.
    pub fn name(self) -> &'static str {
        self.description().0
    }

    /// What provides it: a kernel release, a kernel option, or a file system.
    pub fn needs(self) -> &'static str {
        self.description().1
    }

    /// Whether no volume can be made without it.
    pub fn required(self) -> bool {
        self <= Self::TrustedAttributes
    }

    /// What works where the kernel has it, for the report of `ovl check`.
    pub fn meaning(self) -> &'static str {
        self.description().2
    }

    fn description(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Overlay => (
                "overlay",
                "CONFIG_OVERLAY_FS, and ext4, xfs or btrfs as the disk",
                "overlays can be mounted with uppers in the store",
            ),
            Self::EntryTypes => (
                "d_type",
                "a disk made with it (mkfs.xfs -n ftype=1), or ext4",
                "directory entries have a type",
            ),
            Self::Whiteouts => (
                "whiteout",
                "RENAME_WHITEOUT: ext4, xfs or btrfs as the disk",
                "pods can delete files of layers",
            ),
            Self::TrustedAttributes => (
                "trusted-xattr",
                "ext4, xfs, btrfs, or tmpfs of Linux 6.6",
                "the disk stores overlay's own attributes",
            ),
            Self::SingleLayers => (
                "lowerdir+",
                "Linux 6.8; without it, mount(2) is used",
                "layers are given to the kernel one by one",
            ),
            Self::DetachedLayers => (
                "detached-layers",
                "Linux 6.15; without it, each layer is attached once",
                "layers need no mount point",
            ),
            Self::Volatile => ("volatile", "Linux 5.10", "attribute volatile"),
            Self::Metacopy => {
                ("metacopy", "Linux 4.19, and trusted.* attributes", "attribute metacopy")
            }
            Self::RedirectDir => {
                ("redirect_dir", "Linux 4.10, and trusted.* attributes", "attribute redirectDir")
            }
            Self::Index => ("index", "Linux 4.13, and a disk with file handles", "attribute index"),
            Self::NfsExport => {
                ("nfs_export", "Linux 4.16, and a disk with file handles", "attribute nfsExport")
            }
            Self::Xino => (
                "xino",
                "Linux 4.17, and a disk whose inode numbers have unused bits",
                "attribute xino",
            ),
            Self::NullUuid => (
                "uuid=null",
                "Linux 6.6; older kernels write no uuid to the upper",
                "the kernel writes no uuid to the upper",
            ),
            Self::MappedLayers => {
                ("idmap", "Linux 5.19, and user.max_user_namespaces above 0", "attribute owner")
            }
            Self::Erofs => (
                "erofs",
                "CONFIG_EROFS_FS; without it, layers are unpacked to directories",
                "layers are EROFS images",
            ),
            Self::ErofsFile => (
                "erofs-file",
                "Linux 6.12 and CONFIG_EROFS_FS_BACKED_BY_FILE",
                "EROFS images are mounted without loop devices",
            ),
            Self::ErofsDirect => (
                "erofs-directio",
                "Linux 6.13, and a disk with direct I/O",
                "EROFS images are read without a second copy in the page cache",
            ),
        }
    }
}
