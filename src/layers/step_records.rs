//! Step records: which layer a command has made of which state. The same command on the same state uses the layer again.
//!
//! ```text
//! <root>/steps/<key, hex>.json     replaced whole; written after the layer
//! <root>/steps/<key, hex>.lock     locked by the process that runs the command
//! ```
//!
//! Deliberately absent: what is in a key. The module `workspaces` decides that.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    access::{Access, DirLock},
    error::CollectError,
    key::LayerKey,
};
use crate::{
    digest::digest_type,
    sys::{
        durable::{self, at},
        flock::{self, Kind, Lock},
    },
};

digest_type! {
    /// The key of a step.
    StepKey
}

impl StepKey {
    /// The key with this digest of everything that the result depends on.
    pub fn new(digest: crate::digest::Digest) -> Self {
        Self(digest)
    }

    fn file(&self, ending: &str) -> String {
        format!("{}.{ending}", self.0.hex())
    }
}

/// The result of one step.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct StepRecord {
    format: u32,
    layer: LayerKey,
    used: Timestamp,
    /// The command, for people. Earlier versions did not record it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    command: Vec<String>,
}

/// The format of the records.
const FORMAT: u32 = 1;

/// The results of steps.
#[derive(Debug)]
pub struct StepRecords {
    dir: PathBuf,
    access: Access,
    names: DirLock,
}

impl StepRecords {
    pub(super) fn new(dir: PathBuf, access: Access) -> Self {
        let names = access.dir_lock(&dir);
        Self { dir, access, names }
    }

    /// Locks a step. Blocks while another process runs it.
    pub fn lock(&self, step: &StepKey) -> io::Result<Lock> {
        let path = self.dir.join(step.file("lock"));
        loop {
            let lock = Lock::wait(flock::open_file(&path)?, Kind::Exclusive)?;
            // Otherwise garbage collection removed it meanwhile.
            if lock.is_at(&path)? {
                return Ok(lock);
            }
        }
    }

    /// The layer that a step has made, and records its use. `None` if there is no such step. The layer may have been
    /// removed. `command` is the one of the step.
    pub fn get(&self, step: &StepKey, command: Vec<String>) -> io::Result<Option<LayerKey>> {
        let path = self.dir.join(step.file("json"));
        let Some(record) = read(&path)? else { return Ok(None) };
        self.put(step, record.layer, command)?;
        Ok(Some(record.layer))
    }

    /// Records the layer of a step, and its command.
    pub fn put(&self, step: &StepKey, layer: LayerKey, command: Vec<String>) -> io::Result<()> {
        let record = StepRecord { format: FORMAT, layer, used: Timestamp::now(), command };
        let _guard = self.names.lock()?;
        self.access.replace(&self.dir.join(step.file("json")), &serde_json::to_vec(&record)?)
    }

    /// The layers of all steps, with their commands. A command is empty if it was not recorded.
    pub fn commands(&self) -> io::Result<HashMap<LayerKey, Vec<String>>> {
        let _guard = self.names.lock()?;
        Ok(self.all()?.into_iter().map(|(_, record)| (record.layer, record.command)).collect())
    }

    /// Removes the records of steps that were last used before `before`. Returns their number.
    pub(super) fn remove_unused(&self, before: Timestamp, dry_run: bool) -> io::Result<u64> {
        let _guard = self.names.lock()?;
        let mut removed = 0;
        for (path, record) in self.all()? {
            if record.used < before {
                removed += 1;
                if !dry_run {
                    durable::remove_file(&path)?;
                }
            }
        }
        for entry in fs::read_dir(&self.dir).map_err(at("list", &self.dir))? {
            let path = entry.map_err(at("list", &self.dir))?.path();
            let is_lock = path.extension().is_some_and(|ending| ending == "lock");
            if is_lock
                && !dry_run
                && Lock::try_take(flock::open_file(&path)?, Kind::Exclusive)?.is_some()
            {
                durable::remove_file(&path)?;
            }
        }
        Ok(removed)
    }

    /// The layers of all steps that were used since `since`, for garbage collection.
    pub(super) fn roots(&self, since: Timestamp) -> Result<Vec<LayerKey>, CollectError> {
        let _guard = self.names.lock()?;
        let all = self.all()?.into_iter().filter(|(_, record)| record.used >= since);
        Ok(all.map(|(_, record)| record.layer).collect())
    }

    /// All records. One that cannot be read counts for nothing: the step is run again.
    fn all(&self) -> io::Result<Vec<(PathBuf, StepRecord)>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(at("list", &self.dir))? {
            let path = entry.map_err(at("list", &self.dir))?.path();
            if path.extension().is_some_and(|ending| ending == "json")
                && let Some(record) = read(&path)?
            {
                records.push((path, record));
            }
        }
        Ok(records)
    }
}

/// Reads a record, with the key that its file is named after.
pub(super) fn read_named(path: &Path) -> Result<(StepKey, LayerKey), String> {
    let bytes = fs::read(path).map_err(|e| e.to_string())?;
    let record: StepRecord = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    if record.format != FORMAT {
        let format = record.format;
        return Err(format!("its format is {format}, this version reads format {FORMAT}"));
    }
    let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    let key = format!("sha256:{name}").parse().map_err(|_| "its name is not that of a step")?;
    Ok((StepKey::new(key), record.layer))
}

fn read(path: &Path) -> io::Result<Option<StepRecord>> {
    match fs::read(path) {
        Ok(bytes) => {
            let record = serde_json::from_slice(&bytes).ok();
            Ok(record.filter(|record: &StepRecord| record.format == FORMAT))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(at("read", path)(e)),
    }
}
