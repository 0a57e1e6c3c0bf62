//! The quarantine: damaged layers and records, out of the way and not deleted.
//!
//! ```text
//! <root>/quarantine/layer-<key, hex>/why.json      what was wrong, where it was, and when it was moved
//! <root>/quarantine/layer-<key, hex>/<key, hex>/   the layer; not there if it was missing
//! <root>/quarantine/workspace-<name>/…             a workspace whose record cannot be read
//! <root>/quarantine/record-<file>/…                a file of another record
//! ```
//!
//! The entry is made before anything is moved into it. So after a kill at any point a damaged thing is in one of the two
//! places, and the next repair uses the entry again. A second thing of the same name gets a number: `layer-<key>.2`.
//!
//! Only a command that shares the store moves something here. Deliberately absent: the end of an entry. An administrator
//! moves it back, or removes it.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::Serialize;

use super::{
    image_file,
    key::LayerKey,
    layer_dirs::{LayerDirs, QUARANTINE as DIR},
    provenance, snapshots,
    staging::Staging,
    step_records,
    store::Store,
    store_lock::private_dir,
    workspace_record::WorkspaceName,
};
use crate::sys::{
    durable::{self, at},
    flock::{self, Kind, Lock},
};

/// The file of an entry that says why it is there.
const WHY: &str = "why.json";

/// The content of `why.json`. People read it.
#[derive(Debug, Serialize)]
struct Why<'w> {
    /// What was wrong.
    why: &'w str,
    /// Where it was.
    from: &'w Path,
    /// When it was moved, by the wall clock.
    moved: Timestamp,
    /// Who needs it.
    needed_by: &'w [String],
}

/// The entry of a workspace of the store at `root` that is or was in quarantine.
pub fn quarantined_workspace(root: &Path, name: &WorkspaceName) -> Option<PathBuf> {
    let entry = root.join(DIR).join(workspace_name(name));
    entry.is_dir().then_some(entry)
}

fn workspace_name(name: &WorkspaceName) -> String {
    format!("workspace-{name}")
}

impl Store {
    /// Moves a layer to the quarantine. Returns its entry; `None` if a process has a lease of the layer. Of a layer that is
    /// missing, the entry only says so.
    ///
    /// # Errors
    /// A file system operation failed.
    pub fn quarantine_layer(
        &self,
        layer: &LayerKey,
        why: &str,
        needed_by: &[String],
    ) -> io::Result<Option<PathBuf>> {
        let _turn = self.rounds.turn()?;
        self.leases.begin_round()?;
        let moved = self.claim_and_move(layer, why, needed_by);
        self.leases.end_round();
        moved
    }

    fn claim_and_move(
        &self,
        layer: &LayerKey,
        why: &str,
        needed_by: &[String],
    ) -> io::Result<Option<PathBuf>> {
        let Some(_claim) = self.leases.claim(layer)? else { return Ok(None) };
        let from = self.layers.dirs.of(layer);
        let name = LayerDirs::quarantine_name(layer);
        let entry = self.new_entry(&name, &from, why, needed_by)?;
        if self.layers.has(layer) {
            move_into(&entry, &from)?;
            self.layers.forget(layer);
        }
        Ok(Some(entry))
    }

    /// Moves a workspace to the quarantine, with everything in its directory. The caller has its lock, and it is not mounted.
    ///
    /// # Errors
    /// A file system operation failed.
    pub fn quarantine_workspace(&self, name: &WorkspaceName, why: &str) -> io::Result<PathBuf> {
        let from = self.workspaces.dir(name);
        let entry = self.new_entry(&workspace_name(name), &from, why, &[])?;
        self.workspaces.moving(|| move_into(&entry, &from))?;
        Ok(entry)
    }

    /// Moves the file of a record to the quarantine. `None` if it can be read now: another process has replaced it.
    ///
    /// # Errors
    /// A file system operation failed.
    pub fn quarantine_file(&self, from: &Path, why: &str) -> io::Result<Option<PathBuf>> {
        let dir = from.parent().ok_or(io::ErrorKind::InvalidInput)?;
        // That of the writers of the directory.
        let _lock = Lock::wait(flock::open_dir(dir)?, Kind::Exclusive)?;
        if is_readable(dir, from) {
            return Ok(None);
        }
        let name = from.file_name().unwrap_or_default().to_string_lossy();
        let name = match self.layers.dirs.path() == dir.parent().unwrap_or(dir) {
            true => {
                format!("record-{}-{name}", dir.file_name().unwrap_or_default().to_string_lossy())
            }
            false => format!("record-{name}"),
        };
        let entry = self.new_entry(&name, from, why, &[])?;
        move_into(&entry, from)?;
        Ok(Some(entry))
    }

    /// Makes an entry without content, or takes one that a killed process has left.
    fn new_entry(
        &self,
        name: &str,
        from: &Path,
        why: &str,
        needed_by: &[String],
    ) -> io::Result<PathBuf> {
        let dir = self.root().join(DIR);
        private_dir(&dir)?;
        let why = Why { why, from, moved: Timestamp::now(), needed_by };
        let why = serde_json::to_vec_pretty(&why)?;
        for number in 1_u32.. {
            let entry = match number {
                1 => dir.join(name),
                number => dir.join(format!("{name}.{number}")),
            };
            if !entry.is_dir() {
                make(&self.staging, &entry, &why)?;
                return Ok(entry);
            }
            if !has_content(&entry)? {
                durable::write_atomic(&entry.join(WHY), &why)?;
                return Ok(entry);
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

/// Whether the file of a record in `dir` can be read.
fn is_readable(dir: &Path, file: &Path) -> bool {
    match dir.file_name().and_then(OsStr::to_str) {
        Some("images") => image_file::read(file).is_ok(),
        Some("snapshots") => snapshots::read(file).is_ok(),
        Some("steps") => step_records::read_named(file).is_ok(),
        _ => provenance::read(dir).is_ok(),
    }
}

/// Makes an entry, durably.
fn make(staging: &Staging, entry: &Path, why: &[u8]) -> io::Result<()> {
    let staged = staging.new_path();
    durable::create_dir_unsynced(&staged, 0o700)?;
    durable::write_atomic(&staged.join(WHY), why)?;
    durable::rename(&staged, entry)
}

fn has_content(entry: &Path) -> io::Result<bool> {
    let mut content = false;
    for file in fs::read_dir(entry).map_err(at("list", entry))? {
        let name = file.map_err(at("list", entry))?.file_name();
        content |= name != WHY && !is_temporary(&name);
    }
    Ok(content)
}

fn is_temporary(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(durable::TEMP_PREFIX))
}

/// Moves something into an entry under its own name, durably.
fn move_into(entry: &Path, from: &Path) -> io::Result<()> {
    let name = from.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    durable::rename(from, &entry.join(name))
}
