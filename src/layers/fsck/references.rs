//! Which layers the records of a store need, and the records that cannot be read.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use super::report::{Fault, Subject};
use crate::layers::{
    key::LayerKey,
    reader::{StoreReader, Unreadable},
    workspace_record::{WorkspaceName, WorkspaceRecord},
};

/// What the records of a store name.
#[derive(Debug, Default)]
pub(super) struct References {
    /// Who needs each layer.
    needed_by: BTreeMap<LayerKey, BTreeSet<String>>,
    /// Layers that are uppers still: a kill has interrupted a snapshot.
    sealing: BTreeMap<LayerKey, WorkspaceName>,
    /// The records that cannot be read.
    pub(super) unreadable: Vec<Fault>,
    /// The records that a later version has written.
    pub(super) later: Vec<PathBuf>,
}

impl References {
    /// Reads all records.
    pub(super) fn read(reader: &StoreReader) -> io::Result<Self> {
        let mut found = Self::default();
        let images = reader.images()?;
        found.files(images.unreadable, "the image has to be pulled or imported again");
        for image in images.found {
            let name = image.references.last().cloned();
            let name = name.unwrap_or_else(|| image.manifest.to_string());
            found.add(&format!("image {name}"), &image.layers);
        }
        let snapshots = reader.snapshots()?;
        found.files(snapshots.unreadable, "the snapshot has to be taken again");
        for snapshot in snapshots.found {
            found.add(&format!("snapshot {}", snapshot.id), &snapshot.stack);
        }
        let steps = reader.steps()?;
        found.files(steps.unreadable, "the step runs again");
        for (key, layer) in steps.found {
            found.add(&format!("step {key}"), &[layer]);
        }
        let workspaces = reader.workspaces()?;
        for Unreadable { path, why } in workspaces.unreadable {
            found.workspace_fault(path, why);
        }
        for (name, record) in &workspaces.found {
            found.workspace(reader.root(), name, record);
        }
        Ok(found)
    }

    /// Those who need a layer.
    pub(super) fn of(&self, layer: &LayerKey) -> Vec<String> {
        self.needed_by.get(layer).into_iter().flatten().cloned().collect()
    }

    /// All layers that are needed.
    pub(super) fn layers(&self) -> impl Iterator<Item = &LayerKey> {
        self.needed_by.keys()
    }

    /// The workspace whose upper is this layer still.
    pub(super) fn sealing(&self, layer: &LayerKey) -> Option<&WorkspaceName> {
        self.sealing.get(layer)
    }

    fn add(&mut self, name: &str, layers: &[LayerKey]) {
        for layer in layers {
            self.needed_by.entry(*layer).or_default().insert(name.to_owned());
        }
    }

    fn workspace(&mut self, root: &Path, name: &WorkspaceName, record: &WorkspaceRecord) {
        let own = format!("workspace {name}");
        for layers in [record.image_layers(), &record.below, &record.current] {
            self.add(&own, layers);
        }
        for state in &record.states {
            self.add(&format!("snapshot {name}@{}", state.name), &state.layers);
        }
        if let Some(failed) = &record.failed {
            self.add(&format!("snapshot {name}@failed"), failed);
        }
        let dir = root.join("workspaces").join(name.as_str());
        let is_there = ["upper", "sealing/diff"].iter().any(|part| dir.join(part).is_dir());
        if let Some(layer) = record.sealing.filter(|_| is_there) {
            self.sealing.insert(layer, name.clone());
        }
    }

    fn files(&mut self, unreadable: Vec<Unreadable>, then: &str) {
        for Unreadable { path, why } in unreadable {
            if is_of_later_version(&path) {
                self.later.push(path);
                continue;
            }
            self.unreadable.push(Fault {
                subject: Subject::File,
                path,
                what: format!("the record cannot be read: {why}"),
                needed_by: Vec::new(),
                fix: format!("`ovl fsck --repair` moves it to the quarantine; {then}"),
            });
        }
    }

    fn workspace_fault(&mut self, path: PathBuf, why: String) {
        let name = path.file_name().and_then(|name| name.to_str()?.parse().ok());
        let Some(name) = name else { return };
        let path = path.join("workspace.json");
        if is_of_later_version(&path) {
            return self.later.push(path);
        }
        self.unreadable.push(Fault {
            needed_by: vec![format!("workspace {name}")],
            subject: Subject::Workspace(name),
            path,
            what: format!("the record cannot be read: {why}"),
            fix: "`ovl fsck --repair` moves the workspace to the quarantine, with all that was written in it".to_owned(),
        });
    }
}

/// Whether a record that cannot be read is whole JSON with the number of a format. This version reads the formats of all
/// earlier ones, so a later one has written it. That is no damage.
fn is_of_later_version(path: &Path) -> bool {
    let read = fs::read(path).ok();
    let value = read.and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
    value.and_then(|value| value.get("format")?.as_u64()).is_some_and(|format| format > 1)
}
