//! An overlay as a value, and the rules it keeps.
//!
//! Pure: what is wrong here was wrong before anything was touched. Deliberately absent: rules that
//! only the disk can answer; `Upper::check` has those.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Feature, Features, LAYER_LIMIT, Lower, Options, Owner, Stack, Upper, Xino};
use crate::fault::Class;
use crate::sys::mounts::{Detached, Param, Request, TEXT_LIMIT};

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The source that the mount table shows, at most [`TEXT_LIMIT`] bytes.
    pub name: String,
    /// The layers.
    pub stack: Stack,
    /// Where writes go; without it the overlay is read-only.
    pub upper: Option<Upper>,
    /// Whom the layers' files of root appear to belong to.
    pub owner: Option<Owner>,
    /// The rest.
    pub options: Options,
}

/// A [`Spec`] that keeps every rule that can be checked without a disk.
#[derive(Debug, Clone)]
pub struct Plan {
    spec: Spec,
    null_uuid: bool,
}

/// A rule that the spec breaks. None of these gets a word from the kernel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Too many different layers.
    #[error(
        "the stack has {count} layers, and the kernel takes at most {LAYER_LIMIT}: squash some"
    )]
    TooManyLayers {
        /// Different layers in the stack.
        count: usize,
    },
    /// The name does not fit the mount table.
    #[error("the overlay's name has {length} bytes; 1 to {TEXT_LIMIT} are accepted")]
    Name {
        /// Its length in bytes.
        length: usize,
    },
    /// Upper or work is not given as an absolute path without `..`.
    #[error("{} has to be an absolute path without `..`", path.display())]
    Path {
        /// As given.
        path: PathBuf,
    },
    /// Upper and work lie in one another.
    #[error(
        "upper {} and work {} have to lie side by side, not one in the other",
        upper.display(), work.display()
    )]
    Nested {
        /// The upper.
        upper: PathBuf,
        /// The work folder.
        work: PathBuf,
    },
    /// A metacopy may have been renamed, and only a redirect says from where.
    #[error("metacopy=on needs redirectDir=on: turn metacopy off too, or leave both on")]
    MetacopyNeedsRedirectDir,
    /// An exported handle cannot name a file whose data lie elsewhere.
    #[error("metacopy=on and nfsExport=on exclude each other: turn one of them off")]
    MetacopyExcludesNfsExport,
    /// Handles are kept in the index.
    #[error("nfsExport=on needs index=on")]
    NfsExportNeedsIndex,
    /// The option is about writes and there are none.
    #[error("{option} has no meaning for a read-only volume: leave it out")]
    NeedsUpper {
        /// The option.
        option: &'static str,
    },
    /// The options forbid what a layer needs.
    #[error("layer {layer} has {marks}, which nobody can read with {option}: leave {option} out")]
    LayerNeeds {
        /// The layer.
        layer: String,
        /// What it has.
        marks: &'static str,
        /// The option, as a volume's attribute.
        option: &'static str,
    },
    /// The kernel was tried and lacks what the option needs.
    #[error("this node cannot do {option} ({why}): it takes {needs}, or leave {option} out")]
    Lacking {
        /// The option, as a volume's attribute.
        option: &'static str,
        /// What the kernel said when it was tried.
        why: String,
        /// What would have it.
        needs: &'static str,
    },
    /// Labels mean nothing here, and the kernel would refuse the mount.
    #[error("the mount option context= needs SELinux, which is not enabled on this node")]
    NoSelinux,
    /// The label would end its own text.
    #[error(
        "the mount option context={label:?} is no SELinux label: it has quotes or control characters"
    )]
    Label {
        /// As given.
        label: String,
    },
}

impl PlanError {
    /// What the failure means to whoever asked.
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
    pub fn new(spec: Spec) -> Result<Self, PlanError> {
        if spec.name.is_empty() || spec.name.len() > TEXT_LIMIT {
            return Err(PlanError::Name { length: spec.name.len() });
        }
        if let Some(upper) = &spec.upper {
            upper.check_paths()?;
        }
        spec.options.check(spec.upper.is_some())?;
        for lower in spec.stack.top_first() {
            if let Some((marks, option)) = spec.options.forbids(lower.needs) {
                return Err(PlanError::LayerNeeds { layer: lower.id.clone(), marks, option });
            }
        }
        Ok(Self { spec, null_uuid: true })
    }

    /// The plan for a kernel that has these features.
    ///
    /// Errors: [`PlanError::Lacking`] where it lacks one that an option needs, [`PlanError::NoSelinux`].
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
                return Err(PlanError::Lacking { option, why, needs: features.cure(feature) });
            }
        }
        if context.is_some() && !features.selinux() {
            return Err(PlanError::NoSelinux);
        }
        Ok(Self { null_uuid: features.has(Feature::NullUuid), ..self })
    }

    /// Where writes go, if anywhere.
    pub(super) fn upper(&self) -> Option<&Upper> {
        self.spec.upper.as_ref()
    }

    /// Whom a layer's files of root appear to belong to, if not to root.
    pub(super) fn owner_of(&self, lower: &Lower) -> Option<Owner> {
        self.spec.owner.filter(|_| lower.mapped)
    }

    /// The layers as they are given to the kernel.
    pub(super) fn top_first(&self) -> impl Iterator<Item = &Lower> {
        self.spec.stack.top_first()
    }

    /// How many empty layers to add: the kernel wants one beneath an upper, and two without one.
    pub(super) fn missing_layers(&self) -> usize {
        let wanted: usize = if self.spec.upper.is_some() { 1 } else { 2 };
        wanted.saturating_sub(self.spec.stack.len())
    }

    /// The whole request to the kernel, given the opened upper and work, and the layers, top first.
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
