//! The errors of an overlay mount: of its plan, and of making it.

use std::io;
use std::path::PathBuf;

use crate::error::Class;
use crate::sys::mounts::{MountError, TEXT_LIMIT};

/// How many different layers the kernel takes (fs/overlayfs/params.c), data-only ones included.
pub const LAYER_LIMIT: usize = 500;

/// A rule that the spec breaks. For none of these the kernel gives a reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The stack has too many different layers.
    #[error(
        "the volume has {count} different layers, and overlayfs allows at most {LAYER_LIMIT}; squash some of them"
    )]
    TooManyLayers {
        /// The number of different layers in the stack.
        count: usize,
    },
    /// The name does not fit into the mount table.
    #[error("the overlay's name has {length} bytes; 1 to {TEXT_LIMIT} are accepted")]
    Name {
        /// The length of the name in bytes.
        length: usize,
    },
    /// Upper or work is not an absolute path without `..`.
    #[error("{} must be an absolute path without `..`", path.display())]
    Path {
        /// The path as given.
        path: PathBuf,
    },
    /// One of upper and work lies in the other.
    #[error(
        "upper {} and work {} must be side by side, not one in the other",
        upper.display(), work.display()
    )]
    Nested {
        /// The upper.
        upper: PathBuf,
        /// The work directory.
        work: PathBuf,
    },
    /// A metacopy may have been renamed, and only a redirect names the file in the layer.
    #[error("`metacopy: on` needs `redirectDir: on`; turn metacopy off too, or leave both on")]
    MetacopyNeedsRedirectDir,
    /// A file handle for NFS cannot name a file whose data are in another layer.
    #[error("`metacopy: on` and `nfsExport: on` exclude each other; turn one of them off")]
    MetacopyExcludesNfsExport,
    /// The index has the file handles that NFS exports need.
    #[error("`nfsExport: on` needs `index: on`")]
    NfsExportNeedsIndex,
    /// The option is about writes, but the volume is read-only.
    #[error("`{option}` has no effect on a read-only volume; remove it")]
    NeedsUpper {
        /// The option.
        option: &'static str,
    },
    /// The options forbid what a layer needs.
    #[error("layer {layer} has {files}, which cannot be read with `{option}`; remove `{option}`")]
    LayerNeeds {
        /// The id of the layer.
        layer: String,
        /// The kind of files in it that need the option.
        files: &'static str,
        /// The option, as a volume's attribute.
        option: &'static str,
    },
    /// The kernel lacks a feature that the option needs.
    #[error(
        "this node does not support `{option}` ({why}), which needs {needs}; remove `{option}`"
    )]
    Lacking {
        /// The option, as a volume's attribute.
        option: &'static str,
        /// The error of the probe.
        why: String,
        /// What provides the feature.
        needs: &'static str,
    },
    /// SELinux is not enabled, so the kernel would refuse a mount with a label.
    #[error("the mount option context= needs SELinux, which is not enabled on this node")]
    NoSelinux,
    /// The label has characters that would end the mount option.
    #[error(
        "the mount option context={label:?} is not a SELinux label: it is empty or has quotes or control characters"
    )]
    Label {
        /// The label as given.
        label: String,
    },
}

impl PlanError {
    /// What the failure means to the caller.
    pub fn class(&self) -> Class {
        match self {
            Self::TooManyLayers { .. }
            | Self::LayerNeeds { .. }
            | Self::Lacking { .. }
            | Self::NoSelinux => Class::Precondition,
            Self::MetacopyNeedsRedirectDir
            | Self::MetacopyExcludesNfsExport
            | Self::NfsExportNeedsIndex
            | Self::NeedsUpper { .. }
            | Self::Label { .. } => Class::Invalid,
            Self::Name { .. } | Self::Path { .. } | Self::Nested { .. } => Class::Internal,
        }
    }
}

/// An overlay mount that failed, although its plan was valid. Nothing is mounted then.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// Upper and work are on two file systems. The kernel requires one.
    #[error(
        "the work directory {} is not on the file system of the upper {}",
        work.display(), upper.display()
    )]
    OtherFileSystem {
        /// The upper.
        upper: PathBuf,
        /// The work directory.
        work: PathBuf,
    },
    /// The work directory has entries that no overlay made.
    #[error(
        "the work directory {} must be empty but has an entry {entry:?}; give the volume a work directory of its own",
        work.display()
    )]
    WorkNotEmpty {
        /// The work directory.
        work: PathBuf,
        /// The name of the first entry found.
        entry: String,
    },
    /// A volatile overlay wrote to the upper, and its marker was not removed since. So the data may be incomplete.
    #[error(
        "{} was last written by a volatile overlay and was not synced before this mount, so its files may be \
         incomplete; report this as a fault of the driver",
        upper.display()
    )]
    VolatileMarker {
        /// The upper.
        upper: PathBuf,
    },
    /// The kernel mounted a writable overlay read-only. It wrote its reason to its log only.
    #[error(
        "the kernel mounted the overlay on {} read-only, because it could not use the work directory {} \
         (immutable, full, or without extended attributes); the kernel's log has the reason",
        upper.display(), work.display()
    )]
    FellBackToReadOnly {
        /// The upper.
        upper: PathBuf,
        /// The work directory.
        work: PathBuf,
    },
    /// Upper or work could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Inspect {
        /// The path that could not be read: upper, work, or an entry in work.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The kernel refused the mount.
    #[error(transparent)]
    Mount(#[from] MountError),
}

impl OverlayError {
    /// What the failure means to the caller.
    pub fn class(&self) -> Class {
        match self {
            Self::OtherFileSystem { .. }
            | Self::WorkNotEmpty { .. }
            | Self::VolatileMarker { .. }
            | Self::FellBackToReadOnly { .. } => Class::Precondition,
            Self::Inspect { .. } => Class::Internal,
            Self::Mount(e) => e.class(),
        }
    }
}
