//! How the state of a mounted workspace was copied.

use std::{fmt, path::PathBuf, time::Duration};

use super::error::Processes;
use crate::format;

/// The longest time for which programs are frozen: the default of the node's `freezeTimeout`.
pub(super) const FREEZE_TIMEOUT: Duration = Duration::from_secs(5);

/// The moment that a copy shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moment {
    /// The workspace while its programs were frozen, for this time.
    Frozen(Duration),
    /// The workspace as its programs left it. None of them runs any more.
    Ended,
    /// Each file at a moment of its own, for this reason.
    Live(NotFrozen),
}

/// How the state of a mounted workspace was copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// The moment that the copy shows.
    pub moment: Moment,
    /// The number of files that changed during each attempt to copy them, so they mix old and new bytes.
    pub torn: u64,
}

/// Why the programs of a mounted workspace were not frozen while its changes were copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotFrozen {
    /// Every program of the machine can write to it.
    Mounted(PathBuf),
    /// A process that is in no cgroup of `ovl run` can write to it.
    Outside(u32),
    /// This process would freeze itself, or does not see all processes.
    InsideRun,
    /// They were not frozen in time, or not long enough.
    Late,
    /// The freezer refused it.
    Refused(String),
}

impl fmt::Display for NotFrozen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mounted(path) => write!(f, "the workspace is mounted at {}", path.display()),
            Self::Outside(pid) => {
                let process = Processes(std::slice::from_ref(pid));
                write!(f, "{process} uses the workspace and is in no cgroup of `ovl run`")
            }
            Self::InsideRun => f.write_str("this command was started by `ovl run` itself"),
            Self::Late => {
                let limit = format::span(FREEZE_TIMEOUT);
                write!(f, "the programs were not frozen, or the rest not copied, within {limit}")
            }
            Self::Refused(why) => write!(f, "the programs cannot be frozen: {why}"),
        }
    }
}
