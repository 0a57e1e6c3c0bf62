//! The directories of a stack's overlay, as a storage driver names them. Takes no lock.

use std::path::PathBuf;

use super::{
    error::WorkspaceError, mounted::Live, name::NameAt, sources::source_error, stack::stack_named,
    states::layers_of,
};
use crate::layers::{LayerKey, StoreReader, WorkspaceRecord};

/// The directories of an overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// The lowers, the uppermost first, without those that a layer hides completely.
    pub lowers: Vec<LowerDir>,
    /// The upper of a workspace that has one.
    pub upper: Option<PathBuf>,
    /// The work directory of a workspace that has one.
    pub work: Option<PathBuf>,
    /// Where the workspace is mounted in the namespace of this process.
    pub merged: Option<PathBuf>,
}

/// A lower.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LowerDir {
    /// The key of the layer. `None` for the directory of a copy.
    pub key: Option<LayerKey>,
    /// The directory, or the EROFS image. `None` if the layer is missing.
    pub path: Option<PathBuf>,
}

/// The directories of the overlay of a workspace, a snapshot of one, an image or a ChainID.
///
/// # Errors
/// Nothing has this name, or a record cannot be read.
pub fn metadata(reader: &StoreReader, text: &str) -> Result<Metadata, WorkspaceError> {
    if let Ok(name) = text.parse::<NameAt>()
        && let Some(record) = reader.workspace(&name.workspace)?
    {
        return of_workspace(reader, &name, &record);
    }
    let (directory, layers) = stack_named(reader, text)?;
    let lowers = lowers(reader, text, directory, &layers)?;
    Ok(Metadata { lowers, upper: None, work: None, merged: None })
}

fn of_workspace(
    reader: &StoreReader,
    name: &NameAt,
    record: &WorkspaceRecord,
) -> Result<Metadata, WorkspaceError> {
    let own = match &name.state {
        None => record.below.clone(),
        Some(state) => layers_of(&name.workspace, record, state)?,
    };
    let layers: Vec<_> = record.image_layers().iter().chain(&own).copied().collect();
    let directory = record.directory().map(ToOwned::to_owned);
    let lowers = lowers(reader, &name.to_string(), directory, &layers)?;
    let dir = reader.root().join("workspaces").join(name.workspace.as_str());
    let present =
        |part: &str| Some(dir.join(part)).filter(|path| name.state.is_none() && path.is_dir());
    let (upper, work) = (present("upper"), present("work"));
    let live = upper.as_deref().map(Live::of).transpose()?;
    let merged = live.and_then(|live| live.here().next().map(|live| live.mount.target.clone()));
    Ok(Metadata { lowers, upper, work, merged })
}

fn lowers(
    reader: &StoreReader,
    text: &str,
    directory: Option<PathBuf>,
    layers: &[LayerKey],
) -> Result<Vec<LowerDir>, WorkspaceError> {
    let mut lowers = Vec::with_capacity(layers.len() + 1);
    for key in layers.iter().rev() {
        let content = reader.content(key).map_err(|error| {
            source_error(text, format!("cannot read {}: {}", error.path.display(), error.why))
        })?;
        let hides_all = content.as_ref().is_some_and(|(_, hides_all)| *hides_all);
        lowers.push(LowerDir { key: Some(*key), path: content.map(|(path, _)| path) });
        if hides_all {
            return Ok(lowers);
        }
    }
    lowers.extend(directory.map(|path| LowerDir { key: None, path: Some(path) }));
    Ok(lowers)
}
