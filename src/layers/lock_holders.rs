//! The processes that have the lock of a store, as a part of a message.

use std::{fmt, path::Path};

use crate::sys::flock;

/// The processes that have the lock of a store, as a part of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockHolders(Vec<u32>);

impl LockHolders {
    pub(super) fn of(lock: &Path) -> Self {
        Self(flock::holders(lock))
    }
}

impl fmt::Display for LockHolders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pids: Vec<String> = self.0.iter().map(u32::to_string).collect();
        match &pids[..] {
            [] => f.write_str("a process that cannot be seen from here, as in another container"),
            [pid] => write!(f, "process {pid}"),
            pids => write!(f, "processes {}", pids.join(", ")),
        }
    }
}
