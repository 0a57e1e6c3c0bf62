//! The specification of an overlay mount, and the rules that it must keep.
//!
//! The checks here change nothing and need no disk. Deliberately absent: rules that need a look at the disk;
//! `Upper::check` has those.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Feature, Features, LAYER_LIMIT, Lower, Options, Stack, Upper, Xino};
use crate::error::Class;
use crate::owner::Owner;
use crate::sys::mounts::{Detached, Param, Request, TEXT_LIMIT};

/// The request for an overlay, not yet checked.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The source that the mount table shows: 1 to [`TEXT_LIMIT`] bytes.
    pub name: String,
    /// The read-only layers.
    pub stack: Stack,
    /// Where writes go. Without it the overlay is read-only.
    pub upper: Option<Upper>,
    /// The user and group who appear to own the layers' files of root. `None`: root.
    pub owner: Option<Owner>,
    /// The mount options.
    pub options: Options,
}

/// A [`Spec`] that keeps every rule that can be checked without a disk.
#[derive(Debug, Clone)]
pub struct Plan {
    spec: Spec,
    null_uuid: bool,
}

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

impl Plan {
    /// Checks every rule that needs no disk.
    ///
    /// # Errors
    /// The first rule that the spec breaks.
    pub fn new(spec: Spec) -> Result<Self, PlanError> {
        if spec.name.is_empty() || spec.name.len() > TEXT_LIMIT {
            return Err(PlanError::Name { length: spec.name.len() });
        }
        if let Some(upper) = &spec.upper {
            upper.check_paths()?;
        }
        spec.options.check(spec.upper.is_some())?;
        for lower in spec.stack.top_first() {
            if let Some((files, option)) = spec.options.forbids(lower.needs) {
                return Err(PlanError::LayerNeeds { layer: lower.id.clone(), files, option });
            }
        }
        Ok(Self { spec, null_uuid: true })
    }

    /// Adapts the plan to a kernel that has these features.
    ///
    /// # Errors
    /// [`PlanError::Lacking`] where the kernel lacks a feature that an option needs; [`PlanError::NoSelinux`].
    pub fn on(self, features: &Features) -> Result<Self, PlanError> {
        let Options { volatile, metacopy, redirect_dir, index, nfs_export, xino, context, .. } =
            &self.spec.options;
        let wanted = [
            (*volatile, "volatile", Feature::Volatile),
            (*metacopy, "metacopy", Feature::Metacopy),
            (*redirect_dir, "redirectDir", Feature::RedirectDir),
            (*index, "index", Feature::Index),
            (*nfs_export, "nfsExport", Feature::NfsExport),
            (*xino == Xino::On, "xino", Feature::Xino),
            (self.spec.owner.is_some(), "owner", Feature::MappedLayers),
        ];
        for (_, option, feature) in wanted.into_iter().filter(|(wanted, ..)| *wanted) {
            if let Err(why) = features.get(feature) {
                return Err(PlanError::Lacking { option, why, needs: features.fix(feature) });
            }
        }
        if context.is_some() && !features.selinux() {
            return Err(PlanError::NoSelinux);
        }
        Ok(Self { null_uuid: features.has(Feature::NullUuid), ..self })
    }

    /// Where writes go. `None` for a read-only overlay.
    pub(super) fn upper(&self) -> Option<&Upper> {
        self.spec.upper.as_ref()
    }

    /// The apparent owner of a layer's files of root. `None` where the layer is not mapped.
    pub(super) fn owner_of(&self, lower: &Lower) -> Option<Owner> {
        self.spec.owner.filter(|_| lower.mapped)
    }

    /// The layers in the kernel's order: top first.
    pub(super) fn top_first(&self) -> impl Iterator<Item = &Lower> {
        self.spec.stack.top_first()
    }

    /// How many empty layers to add. The kernel requires one layer below an upper, and two without an upper.
    pub(super) fn missing_layers(&self) -> usize {
        let required: usize = if self.spec.upper.is_some() { 1 } else { 2 };
        required.saturating_sub(self.spec.stack.len())
    }

    /// The mount request. `writable` is the opened upper and work; `layers` are top first.
    pub(super) fn request(
        &self,
        writable: Option<(Arc<Detached>, Arc<Detached>)>,
        layers: Vec<Arc<Detached>>,
    ) -> Request {
        let Spec { name, options, .. } = &self.spec;
        let read_only = writable.is_none();
        let mut params: Vec<Param> =
            layers.into_iter().map(|tree| Param::Tree("lowerdir+", tree)).collect();
        if let Some((upper, work)) = writable {
            params.push(Param::Tree("upperdir", upper));
            params.push(Param::Tree("workdir", work));
        }
        params.extend(options.params(self.null_uuid));
        Request {
            fs_type: "overlay",
            source: name.clone(),
            params,
            attrs: options.attrs(read_only),
        }
    }
}
