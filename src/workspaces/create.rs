//! New workspaces: over a directory, of images, or from a state of another workspace.

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::{
    checks,
    error::WorkspaceError,
    lock::OnLocked,
    name::{NameAt, POSTINIT},
    open::Workspaces,
    sources::Stacked,
};
use crate::{
    error::Explained,
    layers::{LayerKey, WorkspaceBase, WorkspaceName, WorkspaceRecord},
    sys::clock,
};

/// The settings of a new workspace.
#[derive(Debug, Clone, Default)]
pub struct CreateOptions {
    /// Patterns of files that are copied up at each mount, relative to the root of the workspace.
    pub pre_copy_up: Vec<String>,
    /// Whether the first state gets no name.
    pub no_postinit: bool,
}

/// A copy that was created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedCopy {
    /// The directory, without symlinks.
    pub directory: PathBuf,
    /// Mount points below it. The copy shows what lies under them.
    pub not_included: Vec<PathBuf>,
}

impl Workspaces {
    /// Creates a copy of the directory `dir`.
    ///
    /// # Errors
    /// The directory cannot be used, or the name is taken.
    pub fn create_copy(
        &self,
        name: &WorkspaceName,
        dir: &Path,
        options: &CreateOptions,
    ) -> Result<CreatedCopy, WorkspaceError> {
        let refused = |why| WorkspaceError::Directory { path: dir.to_owned(), why };
        let directory =
            dir.canonicalize().map_err(|e| refused(Explained::because(e.to_string())))?;
        let table = self.mounts.table()?;
        checks::directory(&directory, self.root(), &table)?;
        let record = new_record(WorkspaceBase::Directory(directory.clone()), options);
        // The kernel refuses some file systems, and stacks that are too deep. Nothing is made then.
        self.try_view(name, &record)
            .map_err(|error| refused(checks::unmountable(&directory, &error)))?;
        self.create(name, &record)?;
        let not_included = checks::mounts_below(&directory, &table);
        Ok(CreatedCopy { directory, not_included })
    }

    /// Creates a tree of the layers of images.
    ///
    /// # Errors
    /// The name is taken, or the stack breaks a rule of overlayfs.
    pub fn create_tree(
        &self,
        name: &WorkspaceName,
        names: Vec<String>,
        stack: Stacked,
        options: &CreateOptions,
    ) -> Result<(), WorkspaceError> {
        let Stacked { layers, manifests, lease } = stack;
        let record = new_record(WorkspaceBase::Images { names, layers, manifests }, options);
        self.try_view(name, &record)?;
        self.create(name, &record)?;
        drop(lease);
        Ok(())
    }

    /// Creates a workspace that starts from a state of another one. Without a snapshot, from its present state: then its
    /// upper becomes a layer, or is copied if it is mounted.
    ///
    /// # Errors
    /// There is no such state, or the name is taken.
    pub fn create_from(
        &self,
        name: &WorkspaceName,
        from: &NameAt,
        options: &CreateOptions,
        on: OnLocked,
    ) -> Result<(), WorkspaceError> {
        self.require_free(name)?;
        let mut source = self.lock(&from.workspace, on)?;
        let (layers, _lease) = match &from.state {
            Some(state) => (source.layers_of(state)?, None),
            None => source.present_layers()?,
        };
        let record = WorkspaceRecord {
            below: layers.clone(),
            current: layers.clone(),
            pre_copy_up: match options.pre_copy_up.is_empty() {
                true => source.record.pre_copy_up.clone(),
                false => options.pre_copy_up.clone(),
            },
            // The state has the directory's files of that time.
            since: source.record.since,
            ..new_record(source.record.base.clone(), options)
        };
        self.create(name, &with_postinit(record, layers, options))
    }

    /// Fails if the name is taken, before something expensive is done for it.
    pub(super) fn require_free(&self, name: &WorkspaceName) -> Result<(), WorkspaceError> {
        match self.store.workspaces.get(name)? {
            Some(_) => Err(WorkspaceError::Taken(name.clone())),
            None => Ok(()),
        }
    }

    fn create(&self, name: &WorkspaceName, record: &WorkspaceRecord) -> Result<(), WorkspaceError> {
        match self.store.workspaces.create(name, record)? {
            true => Ok(()),
            false => Err(WorkspaceError::Taken(name.clone())),
        }
    }

    /// Mounts the base read-only and attached nowhere, as a test.
    fn try_view(
        &self,
        name: &WorkspaceName,
        record: &WorkspaceRecord,
    ) -> Result<(), WorkspaceError> {
        let stack = self.open_stack(name, record, &[])?;
        self.view(stack.lowers, super::lock::options(record.directory().is_none())).map(drop)
    }
}

fn new_record(base: WorkspaceBase, options: &CreateOptions) -> WorkspaceRecord {
    let record = WorkspaceRecord {
        format: WorkspaceRecord::FORMAT,
        base,
        created: Timestamp::now(),
        since: since(),
        below: Vec::new(),
        current: Vec::new(),
        states: Vec::new(),
        sealing: None,
        failed: None,
        pre_copy_up: options.pre_copy_up.clone(),
    };
    with_postinit(record, Vec::new(), options)
}

/// The present time of the clock of file times, which is a little behind. If it cannot be read, all changes of the
/// directory count as conflicts.
fn since() -> Timestamp {
    let now = clock::now()
        .ok()
        .and_then(|(seconds, nanos)| Timestamp::new(seconds, i32::try_from(nanos).ok()?).ok());
    now.unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The record with its first state.
fn with_postinit(
    mut record: WorkspaceRecord,
    layers: Vec<LayerKey>,
    options: &CreateOptions,
) -> WorkspaceRecord {
    record.states.clear();
    // The text is a valid name.
    if let (false, Ok(name)) = (options.no_postinit, POSTINIT.parse()) {
        record.name_state(name, layers);
    }
    record
}
