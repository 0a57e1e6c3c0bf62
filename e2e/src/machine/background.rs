//! A program that runs beside the harness and ends when its value is dropped.
//!
//! Deliberately absent: restarts. The caller must see a program that ended early.

use std::path::PathBuf;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::process::{self, Cmd};

/// How long a program may take to end after SIGTERM.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// A running program. A drop sends SIGTERM, then SIGKILL if it does not end.
pub struct Background {
    child: Child,
    /// What it prints.
    pub log: PathBuf,
}

impl Background {
    /// Starts a command with its output in a log.
    ///
    /// # Errors
    /// The log cannot be opened, or the program cannot be started.
    pub fn start(cmd: &Cmd, log: PathBuf) -> Result<Self> {
        let file = process::open_log(&log)?;
        let other = file.try_clone().with_context(|| format!("sharing {}", log.display()))?;
        Ok(Self { child: cmd.spawn(file.into(), other.into())?, log })
    }

    /// Its process ID.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended by itself.
    pub fn ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)) | Err(_))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let Ok(group) = process::group(&self.child) else { return };
        let since = Instant::now();
        process::kill_group(group, Signal::SIGTERM);
        while !self.ended() && since.elapsed() < END_TIMEOUT {
            thread::sleep(Duration::from_millis(20));
        }
        if !self.ended() {
            process::kill_group(group, Signal::SIGKILL);
            // Waiting fails only for a child that is gone already.
            self.child.wait().map(drop).unwrap_or_default();
        }
        process::forget(group);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn it_ends_when_it_is_dropped() -> Result<()> {
        let log = std::env::temp_dir().join(format!("ovl-background-{}", std::process::id()));
        let mut running = Background::start(&Cmd::new("sleep").arg("600"), log.clone())?;
        assert!(!running.ended());
        let id = running.child.id();
        drop(running);
        assert!(!std::path::Path::new(&format!("/proc/{id}")).exists());
        fs::remove_file(log)?;
        Ok(())
    }
}
