//! What a check of a store has found.

use std::path::PathBuf;

use crate::layers::{
    content_digest::ContentDigest, key::LayerKey, workspace_record::WorkspaceName,
};

/// What is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A layer that is there.
    Layer(LayerKey),
    /// A layer that is not there, and that records name.
    Missing(LayerKey),
    /// A workspace, whose record cannot be read.
    Workspace(WorkspaceName),
    /// The file of another record.
    File,
}

/// One fault of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What is damaged.
    pub subject: Subject,
    /// The file or directory at which it was found.
    pub path: PathBuf,
    /// What is wrong, as text that follows the path.
    pub what: String,
    /// The images, workspaces, snapshots and steps that need it.
    pub needed_by: Vec<String>,
    /// What to do.
    pub fix: String,
}

/// A layer whose content was not compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unchecked {
    /// Its key.
    pub layer: LayerKey,
    /// The digest of what is there now, or why it has none.
    pub content: Result<ContentDigest, String>,
}

/// The result of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FsckReport {
    /// The number of layers.
    pub layers: u64,
    /// The bytes that were read.
    pub bytes: u64,
    /// The layers without a digest that can be compared.
    pub unchecked: Vec<Unchecked>,
    /// What is wrong.
    pub faults: Vec<Fault>,
    /// What is not wrong, and good to know.
    pub notes: Vec<String>,
}
