//! A program that runs beside the harness and ends when its value is dropped.
//!
//! Deliberately absent: restarts. The caller must see a program that ended early.

use std::fs;
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

    /// A value of its process status, in bytes (proc_pid_status(5)), such as `VmRSS`.
    ///
    /// # Errors
    /// It has ended.
    pub fn memory(&self, line: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()));
        let status = status.context("reading a process status")?;
        let value = status.lines().find_map(|have| have.strip_prefix(line)?.strip_prefix(':'));
        let kib = value.and_then(|value| value.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        Ok(kib.with_context(|| format!("no {line} in its status"))? * 1024)
    }

    /// The processor time that it has used, in steps of 10 ms.
    ///
    /// # Errors
    /// It has ended.
    pub fn cpu_time(&self) -> Result<Duration> {
        process::cpu_time(self.id()).with_context(|| format!("process {} has ended", self.id()))
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

    #[test]
    fn it_ends_when_it_is_dropped() -> Result<()> {
        let log = std::env::temp_dir().join(format!("ovl-background-{}", std::process::id()));
        let mut running = Background::start(&Cmd::new("sleep").arg("600"), log.clone())?;
        assert!(!running.ended());
        let id = running.child.id();
        assert!(running.memory("VmRSS")? > 0 && running.memory("VmNone").is_err());
        assert!(running.cpu_time()? < Duration::from_secs(1));
        drop(running);
        assert!(!std::path::Path::new(&format!("/proc/{id}")).exists());
        fs::remove_file(log)?;
        Ok(())
    }
}
