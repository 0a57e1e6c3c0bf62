//! An overlay as a value, and the rules it keeps.
//!
//! Pure: what is wrong here was wrong before anything was touched. Deliberately absent: rules that
//! only the disk can answer; `Upper::check` has those.

use std::path::PathBuf;
use std::sync::Arc;

use super::{LAYER_LIMIT, Options, Stack, Upper};
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
    /// The rest.
    pub options: Options,
}

/// A [`Spec`] that keeps every rule that can be checked without a disk.
#[derive(Debug, Clone)]
pub struct Plan(Spec);

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
}

impl PlanError {
    /// What the failure means to whoever asked.
    pub fn class(&self) -> Class {
        match self {
            Self::TooManyLayers { .. } => Class::Precondition,
            Self::MetacopyNeedsRedirectDir
            | Self::MetacopyExcludesNfsExport
            | Self::NfsExportNeedsIndex
            | Self::NeedsUpper { .. } => Class::Invalid,
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
        Ok(Self(spec))
    }

    /// Where writes go, if anywhere.
    pub(super) fn upper(&self) -> Option<&Upper> {
        self.0.upper.as_ref()
    }

    /// How many empty layers to add: the kernel wants one beneath an upper, and two without one.
    pub(super) fn missing_layers(&self) -> usize {
        let wanted: usize = if self.0.upper.is_some() { 1 } else { 2 };
        wanted.saturating_sub(self.0.stack.len())
    }

    /// The whole request to the kernel, given the opened upper and work, and the missing
    /// layers.
    pub(super) fn request(
        &self,
        writable: Option<(Arc<Detached>, Arc<Detached>)>,
        fillers: Vec<Arc<Detached>>,
    ) -> Request {
        let Spec { name, stack, options, .. } = &self.0;
        let read_only = writable.is_none();
        let mut params: Vec<Param> = stack
            .top_first()
            .map(|lower| lower.dir.clone())
            .chain(fillers)
            .map(|tree| Param::Tree("lowerdir+", tree))
            .collect();
        if let Some((upper, work)) = writable {
            params.push(Param::Tree("upperdir", upper));
            params.push(Param::Tree("workdir", work));
        }
        params.extend(options.params());
        Request {
            fs_type: "overlay",
            source: name.clone(),
            params,
            attrs: options.attrs(read_only),
        }
    }
}
