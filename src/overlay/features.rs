//! What kernel and file system can do for an overlay, each thing found out by trying it.
//!
//! Deliberately absent: release numbers as an answer. Distributions carry features back and leave others out, so a number is only
//! part of the advice.

use std::{collections::BTreeMap, io, path::Path, sync::Arc};

use super::trial::Bench;
use crate::sys::{
    aside, machine,
    mounts::{LinuxMounts, MountError, Mounts, OlderMounts, Way},
};

/// Something that can be there or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feature {
    /// An overlay that takes writes, in any way, on this file system.
    Overlay,
    /// A folder's listing says what each entry is.
    EntryTypes,
    /// A rename leaves overlay's whiteout behind.
    Whiteouts,
    /// Extended attributes that begin with `trusted.`.
    TrustedAttributes,
    /// Layers one by one (`lowerdir+`).
    SingleLayers,
    /// Layers, upper and work by descriptor, and layers that are attached nowhere.
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
    /// Layers whose owners are mapped.
    MappedLayers,
    /// EROFS images, in any way.
    Erofs,
    /// EROFS images from a file, without a loop device.
    ErofsFile,
    /// EROFS images past the page cache.
    ErofsDirect,
}

impl Feature {
    /// All of them, in the order in which they are shown.
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

    /// Its name, one word.
    pub fn name(self) -> &'static str {
        self.described().0
    }

    /// What has it: a kernel, or something to change.
    pub fn needs(self) -> &'static str {
        self.described().1
    }

    /// Whether no volume can be had without it.
    pub fn required(self) -> bool {
        self <= Self::TrustedAttributes
    }

    fn described(self) -> (&'static str, &'static str) {
        match self {
            Self::Overlay => ("overlay", "CONFIG_OVERLAY_FS, and ext4, xfs or btrfs beneath"),
            Self::EntryTypes => ("d_type", "a disk made with it (mkfs.xfs -n ftype=1), or ext4"),
            Self::Whiteouts => ("whiteout", "RENAME_WHITEOUT: ext4, xfs or btrfs beneath"),
            Self::TrustedAttributes => ("trusted-xattr", "ext4, xfs, btrfs, or tmpfs of Linux 6.6"),
            Self::SingleLayers => ("lowerdir+", "Linux 6.8; else layers go by mount(2)"),
            Self::DetachedLayers => ("detached-layers", "Linux 6.15; else each is attached once"),
            Self::Volatile => ("volatile", "Linux 5.10"),
            Self::Metacopy => ("metacopy", "Linux 4.19, and trusted.* attributes"),
            Self::RedirectDir => ("redirect_dir", "Linux 4.10, and trusted.* attributes"),
            Self::Index => ("index", "Linux 4.13, and a disk with file handles"),
            Self::NfsExport => ("nfs_export", "Linux 4.16, and a disk with file handles"),
            Self::Xino => ("xino", "Linux 4.17, and a disk whose inode numbers leave room"),
            Self::NullUuid => ("uuid=null", "Linux 6.6; before, nothing is marked anyway"),
            Self::MappedLayers => ("idmap", "Linux 5.19, and user.max_user_namespaces above 0"),
            Self::Erofs => ("erofs", "CONFIG_EROFS_FS; else layers are unpacked to folders"),
            Self::ErofsFile => ("erofs-file", "Linux 6.12 and CONFIG_EROFS_FS_BACKED_BY_FILE"),
            Self::ErofsDirect => ("erofs-directio", "Linux 6.13, and a disk with direct I/O"),
        }
    }
}

/// What was found here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    way: Way,
    selinux: bool,
    tried: bool,
    missing: BTreeMap<Feature, String>,
}

impl Features {
    /// Tries everything in a new folder beneath `scratch`, which lies in the store (its file system is what matters) and is made
    /// where it is not there.
    ///
    /// What is mounted for it is seen by nobody and goes with the thread that does it, also when this process is killed; then the
    /// folder is left, which the store removes with the rest of its staging at the next start.
    ///
    /// Errors: the folder cannot be made or removed. A process that is not root's finds nothing.
    pub fn probe(mounts: &dyn Mounts, scratch: &Path) -> io::Result<Self> {
        let bench = Bench::new(scratch)?;
        let found = aside::run(|| Self::find(mounts, &bench));
        bench.remove()?;
        Ok(found.unwrap_or_else(|error| {
            let why = format!("it could not be tried: {error}");
            let missing = Feature::ALL.map(|feature| (feature, why.clone()));
            Self { tried: false, ..Self::lacking(missing) }
        }))
    }

    fn find(mounts: &dyn Mounts, bench: &Bench) -> Self {
        let older = |way| OlderMounts::new(way, &bench.folder(&format!("{way:?}"))?).map_err(told);
        let detached = bench.detached_layers(mounts);
        let attached = older(Way::Attached)
            .and_then(|older| bench.writable(&older, "attached").map(|()| older));
        let (way, outcomes) = match (&detached, &attached) {
            (Ok(()), _) => (Way::Detached, bench.outcomes(mounts)),
            (Err(_), Ok(older)) => (Way::Attached, bench.outcomes(older)),
            (Err(_), Err(_)) => match older(Way::Classic) {
                Ok(older) => (Way::Classic, bench.outcomes(&older)),
                Err(_) => (Way::Classic, bench.outcomes(mounts)),
            },
        };
        let hows =
            [(Feature::SingleLayers, attached.map(|_| ())), (Feature::DetachedLayers, detached)];
        let missing = outcomes.into_iter().chain(hows);
        let missing = missing.filter_map(|(feature, found)| Some((feature, found.err()?)));
        Self { way, ..Self::lacking(missing) }
    }

    /// A kernel that has everything but these, each with the reason.
    pub fn lacking(missing: impl IntoIterator<Item = (Feature, String)>) -> Self {
        let missing = missing.into_iter().collect();
        Self { way: Way::Detached, selinux: machine::selinux(), tried: true, missing }
    }

    /// Whether it is there.
    pub fn has(&self, feature: Feature) -> bool {
        !self.missing.contains_key(&feature)
    }

    /// That it is there, or why not.
    pub fn get(&self, feature: Feature) -> Result<(), String> {
        self.missing.get(&feature).map_or(Ok(()), |why| Err(why.clone()))
    }

    /// What to do about its absence.
    pub fn cure(&self, feature: Feature) -> &'static str {
        match self.tried {
            true => feature.needs(),
            false => "run it as root, in Kubernetes in a privileged container",
        }
    }

    /// Whether SELinux is on.
    pub fn selinux(&self) -> bool {
        self.selinux
    }

    /// How layers are handed to this kernel.
    pub fn way(&self) -> Way {
        self.way
    }

    /// The mounts for this kernel. `lowers` is a folder of the store for the kernels that want layers attached; on others it is
    /// not even made.
    pub fn mounts(&self, lowers: &Path) -> Result<Arc<dyn Mounts>, MountError> {
        Ok(match self.way {
            Way::Detached => Arc::new(LinuxMounts),
            way => Arc::new(OlderMounts::new(way, lowers)?),
        })
    }
}

pub(super) fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}
