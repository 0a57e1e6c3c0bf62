//! The features of the kernel and of the store's file system that overlay mounts use. Each one is probed.
//!
//! Deliberately absent: decisions by the kernel's release number. Distributions backport some features and leave others
//! out, so a release number is only part of the fix.

use std::{collections::BTreeMap, io, path::Path, sync::Arc};

use super::probe::ProbeDir;
use crate::sys::{
    host,
    mounts::{LegacyMounts, LinuxMounts, MountApi, MountError, Mounts},
    private_mntns,
};

/// A feature of the kernel or of the store's file system. The required ones come first ([`Self::required`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

/// The features that this kernel and the store's file system have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    mount_api: MountApi,
    selinux: bool,
    /// False where the probe could not run at all.
    probed: bool,
    /// The missing features, each with the reason.
    missing: BTreeMap<Feature, String>,
}

impl Features {
    /// Probes every feature in a new directory below `scratch`. `scratch` lies in the store, because its file system is
    /// the one that matters; it is made where it is missing.
    ///
    /// The mounts of the probe are in a private mount namespace. They end with the thread that makes them, also when
    /// this process is killed. In that case the directory stays, and the store removes it with the rest of its staging
    /// directory at the next start.
    ///
    /// # Errors
    /// The directory cannot be made or removed. It is no error if this process does not run as root: then all features
    /// are missing.
    pub fn probe(mounts: &dyn Mounts, scratch: &Path) -> io::Result<Self> {
        let probe_dir = ProbeDir::new(scratch)?;
        let found = private_mntns::run(|| Self::find(mounts, &probe_dir));
        probe_dir.remove()?;
        Ok(found.unwrap_or_else(|error| {
            let why = format!("it could not be probed: {error}");
            let missing = Feature::ALL.map(|feature| (feature, why.clone()));
            Self { probed: false, ..Self::lacking(missing) }
        }))
    }

    fn find(mounts: &dyn Mounts, probe_dir: &ProbeDir) -> Self {
        let legacy =
            |api| LegacyMounts::new(api, &probe_dir.dir(&format!("{api:?}"))?).map_err(message);
        let detached = probe_dir.detached_layers(mounts);
        let attached = legacy(MountApi::Attached)
            .and_then(|legacy| probe_dir.writable(&legacy, "attached").map(|()| legacy));
        let (mount_api, outcomes) = match (&detached, &attached) {
            (Ok(()), _) => (MountApi::Detached, probe_dir.outcomes(mounts)),
            (Err(_), Ok(legacy)) => (MountApi::Attached, probe_dir.outcomes(legacy)),
            (Err(_), Err(_)) => match legacy(MountApi::Classic) {
                Ok(legacy) => (MountApi::Classic, probe_dir.outcomes(&legacy)),
                Err(_) => (MountApi::Classic, probe_dir.outcomes(mounts)),
            },
        };
        let api_outcomes =
            [(Feature::SingleLayers, attached.map(|_| ())), (Feature::DetachedLayers, detached)];
        let missing = outcomes.into_iter().chain(api_outcomes);
        let missing = missing.filter_map(|(feature, found)| Some((feature, found.err()?)));
        Self { mount_api, ..Self::lacking(missing) }
    }

    /// A kernel that has all features but these. Each comes with the reason why it is missing.
    pub fn lacking(missing: impl IntoIterator<Item = (Feature, String)>) -> Self {
        let missing = missing.into_iter().collect();
        Self { mount_api: MountApi::Detached, selinux: host::selinux(), probed: true, missing }
    }

    /// Whether this kernel has the feature.
    pub fn has(&self, feature: Feature) -> bool {
        !self.missing.contains_key(&feature)
    }

    /// `Ok` where this kernel has the feature, else the reason why it is missing.
    pub fn get(&self, feature: Feature) -> Result<(), String> {
        self.missing.get(&feature).map_or(Ok(()), |why| Err(why.clone()))
    }

    /// What an administrator can do about a missing feature.
    pub fn fix(&self, feature: Feature) -> &'static str {
        match self.probed {
            true => feature.needs(),
            false => "run it as root, in Kubernetes in a privileged container",
        }
    }

    /// Whether SELinux is enabled on this node.
    pub fn selinux(&self) -> bool {
        self.selinux
    }

    /// The mount API by which layers are given to this kernel.
    pub fn mount_api(&self) -> MountApi {
        self.mount_api
    }

    /// The [`Mounts`] for this kernel. `lowers` is a directory of the store; kernels that need attached layers have
    /// them there. On other kernels it is not even made.
    ///
    /// # Errors
    /// `lowers` cannot be made or mounted.
    pub fn mounts(&self, lowers: &Path) -> Result<Arc<dyn Mounts>, MountError> {
        Ok(match self.mount_api {
            MountApi::Detached => Arc::new(LinuxMounts),
            api => Arc::new(LegacyMounts::new(api, lowers)?),
        })
    }
}

pub(super) fn message(error: impl std::fmt::Display) -> String {
    error.to_string()
}
