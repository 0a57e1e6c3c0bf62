//! The record of one workspace: what it stands on, and which states have names.
//!
//! Deliberately absent: how a state becomes another one. The module `workspaces` decides that.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::key::LayerKey;
use crate::{digest::ManifestDigest, sys::id_chars::id_type};

id_type! {
    /// The name of a workspace. It is safe as one part of a path.
    WorkspaceName, "name of a workspace"
}

id_type! {
    /// The name of a state in a workspace. It is safe as one part of a path.
    StateName, "name of a snapshot"
}

/// What a workspace stands on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkspaceBase {
    /// A tree: the layers of images.
    Images {
        /// The images, as the user named them, bottom first.
        names: Vec<String>,
        /// The keys of their layers, bottom first.
        layers: Vec<LayerKey>,
        /// The manifests of those that have one. Their configs are needed to run commands.
        manifests: Vec<ManifestDigest>,
    },
    /// A copy: one directory of the machine, used in place. An absolute path without symlinks.
    Directory(PathBuf),
}

impl fmt::Display for WorkspaceBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Images { names, .. } => f.write_str(&names.join(", ")),
            Self::Directory(path) => path.display().fmt(f),
        }
    }
}

/// A state with a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedState {
    /// The name.
    pub name: StateName,
    /// The keys of the workspace's own layers in it, bottom first.
    pub layers: Vec<LayerKey>,
    /// When it got the name.
    pub taken: Timestamp,
}

/// One workspace of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceRecord {
    /// The format of the record: [`WorkspaceRecord::FORMAT`].
    pub format: u32,
    /// What it stands on.
    pub base: WorkspaceBase,
    /// When it was created.
    pub created: Timestamp,
    /// Changes of a copy's directory from here on are conflicts with those of the workspace, by the clock of file times.
    pub since: Timestamp,
    /// The workspace's own layers below the upper, bottom first.
    pub below: Vec<LayerKey>,
    /// The state to which a clean returns: the one that was last taken, or rolled back to. Names of this state are current.
    pub current: Vec<LayerKey>,
    /// The states with names, the oldest first.
    pub states: Vec<NamedState>,
    /// The topmost layer of `below`, if its tree may not be in place yet: then it is the upper.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealing: Option<LayerKey>,
    /// The state that a command has left that failed: its own layers, bottom first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<Vec<LayerKey>>,
    /// The patterns of files that are copied up at each mount.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pre_copy_up: Vec<String>,
}

impl WorkspaceRecord {
    /// The format of a new record.
    pub const FORMAT: u32 = 1;

    /// The layers of the images. Empty for a copy.
    pub fn image_layers(&self) -> &[LayerKey] {
        match &self.base {
            WorkspaceBase::Images { layers, .. } => layers,
            WorkspaceBase::Directory(_) => &[],
        }
    }

    /// The manifests of the images. Empty for a copy.
    pub fn manifests(&self) -> &[ManifestDigest] {
        match &self.base {
            WorkspaceBase::Images { manifests, .. } => manifests,
            WorkspaceBase::Directory(_) => &[],
        }
    }

    /// The directory of a copy.
    pub fn directory(&self) -> Option<&Path> {
        match &self.base {
            WorkspaceBase::Images { .. } => None,
            WorkspaceBase::Directory(path) => Some(path),
        }
    }

    /// The state with this name.
    pub fn state(&self, name: &StateName) -> Option<&NamedState> {
        self.states.iter().find(|state| state.name == *name)
    }

    /// The workspace's own layers that the record names. A layer can occur several times.
    pub fn own_layers(&self) -> impl Iterator<Item = &LayerKey> {
        let states = self.states.iter().flat_map(|state| &state.layers);
        let failed = self.failed.iter().flatten();
        self.below.iter().chain(&self.current).chain(states).chain(failed)
    }

    /// All layers that the record names. A layer can occur several times.
    pub fn layers(&self) -> impl Iterator<Item = &LayerKey> {
        self.image_layers().iter().chain(self.own_layers())
    }
}
