//! Frozen programs of a workspace, for the last round of a capture.
//!
//! ```text
//! <store>/workspaces/<name>/frozen.json    the frozen cgroups; written before the freeze, removed after the thaw
//! ```
//!
//! If this process is killed, a second process thaws the programs at once ([`ThawProcess`]). If both are killed, the next
//! command that locks the workspace does, by the file. The file needs no sync: after a crash of the machine nothing is frozen.
//!
//! Deliberately absent: which programs.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::copied::FREEZE_TIMEOUT;
use crate::sys::{
    durable::{self, at},
    freezer::{FreezeResult, Frozen, Group, ThawProcess},
};

/// How much later the second process thaws than this one.
const GRACE: Duration = Duration::from_secs(1);

/// The record of a freeze in the directory of a workspace.
pub(super) const RECORD: &str = "frozen.json";

/// Frozen programs. They are thawed when this is dropped, or at the deadline.
#[derive(Debug)]
pub(super) struct Freeze {
    frozen: Frozen,
    /// Ended after the thaw.
    process: Option<ThawProcess>,
    record: PathBuf,
}

impl Freeze {
    /// Freezes the programs in these cgroups, and waits until they are frozen. `dir` is the directory of their workspace,
    /// whose lock the caller has.
    ///
    /// # Errors
    /// `TimedOut` if they are not frozen in time.
    pub(super) fn start(dir: &Path, groups: &[Group]) -> io::Result<Self> {
        let frozen = Frozen::new(groups, FREEZE_TIMEOUT)?;
        let record = dir.join(RECORD);
        // A part of it says that nothing was frozen yet.
        fs::write(&record, serde_json::to_vec(frozen.ours())?).map_err(at("write", &record))?;
        let process = ThawProcess::start(frozen.ours(), FREEZE_TIMEOUT + GRACE);
        let process = process.inspect_err(|_| drop(durable::remove_file(&record)))?;
        let freeze = Self { frozen, process: Some(process), record };
        freeze.frozen.freeze()?;
        Ok(freeze)
    }

    /// Whether the deadline has passed.
    pub(super) fn is_late(&self) -> bool {
        self.frozen.is_late()
    }

    /// Thaws the programs.
    pub(super) fn end(mut self) -> io::Result<FreezeResult> {
        self.thaw()
    }

    fn thaw(&mut self) -> io::Result<FreezeResult> {
        let result = self.frozen.thaw()?;
        if let Some(process) = self.process.take() {
            process.end();
            fs::remove_file(&self.record).map_err(at("remove", &self.record))?;
        }
        // If this process was stopped meanwhile, the other one has thawed them.
        Ok(FreezeResult { complete: result.complete && result.duration < FREEZE_TIMEOUT, ..result })
    }
}

impl Drop for Freeze {
    fn drop(&mut self) {
        // If it fails, the other process thaws them now, and the record stays for the next command.
        if let Err(error) = self.thaw() {
            tracing::error!(%error, "programs may be frozen; the next command on the workspace thaws them");
        }
    }
}

/// Thaws what a killed command has left frozen. The caller has the lock of the workspace with this directory.
pub(super) fn thaw_abandoned(dir: &Path) -> io::Result<()> {
    let path = dir.join(RECORD);
    let text = match fs::read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        text => text.map_err(at("read", &path))?,
    };
    // Without a whole record, nothing was frozen.
    let groups: Vec<Group> = serde_json::from_slice(&text).unwrap_or_default();
    // All of them, also after an error.
    let thawed: Vec<_> = groups.iter().map(Group::thaw).collect();
    thawed.into_iter().collect::<io::Result<()>>()?;
    fs::remove_file(&path).map_err(at("remove", &path))
}
