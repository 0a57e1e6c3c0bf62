//! The specification of an overlay mount, and the rules that it must keep.
//!
//! The checks here change nothing and need no disk. Deliberately absent: rules that need a look at the disk;
//! `UpperAndWork::check` has those.

use std::sync::Arc;

use super::{Feature, KernelFeatures, Lower, Options, PlanError, Stack, UpperAndWork, Xino};
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
    pub upper: Option<UpperAndWork>,
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
    pub fn on(self, features: &KernelFeatures) -> Result<Self, PlanError> {
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
    pub(super) fn upper(&self) -> Option<&UpperAndWork> {
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
