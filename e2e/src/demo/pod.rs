//! The pods of the demonstration, from the outside.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::inside::OUTSIDE;
use super::place::Group;
use crate::process::{self, Cmd};

/// How long a pod may take to do something: longer than it ever stands still.
const PATIENCE: Duration = Duration::from_secs(20);

/// A pod that runs; it ends with this value.
pub struct Pod {
    /// What it is called.
    pub name: String,
    child: Child,
    tells: ChildStdin,
    said: Receiver<String>,
}

impl Pod {
    /// Starts a pod with this volume. It is in `group` from its first moment; `empty` is an empty directory, which it makes its
    /// root.
    ///
    /// # Errors
    /// The kernel refuses what a container needs; the error says what.
    pub fn start(name: &str, volume: &Path, empty: &Path, group: Option<&Group>) -> Result<Self> {
        let myself = std::env::current_exe().context("finding this program")?;
        let mut cmd = Cmd::new(myself).args([OUTSIDE, name]).arg(volume).arg(empty);
        if let Some(group) = group {
            cmd = cmd.arg(group.processes());
        }
        let mut child = cmd.converse(Stdio::piped(), Stdio::inherit())?;
        let tells = child.stdin.take().context("a pod without an ear")?;
        let stdout = child.stdout.take().context("a pod without a voice")?;
        let (say, said) = channel();
        thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| say.send(line))
        });
        let pod = Self { name: name.to_owned(), child, tells, said };
        pod.answer().with_context(|| format!("starting pod {name}"))?;
        Ok(pod)
    }

    /// The text of a file of its volume.
    ///
    /// # Errors
    /// The pod could not, as for all of these.
    pub fn read(&mut self, path: &str) -> Result<String> {
        self.ask(json!({ "do": "read", "path": path }))
    }

    /// Makes a file, or another text of one.
    pub fn write(&mut self, path: &str, text: &str) -> Result<()> {
        self.ask(json!({ "do": "write", "path": path, "text": text })).map(drop)
    }

    /// Adds to a file.
    pub fn append(&mut self, path: &str, text: &str) -> Result<()> {
        self.ask(json!({ "do": "append", "path": path, "text": text })).map(drop)
    }

    /// Makes a file of so many bytes.
    pub fn fill(&mut self, path: &str, bytes: u64) -> Result<()> {
        self.ask(json!({ "do": "fill", "path": path, "bytes": bytes })).map(drop)
    }

    /// Removes a file.
    pub fn remove(&mut self, path: &str) -> Result<()> {
        self.ask(json!({ "do": "remove", "path": path })).map(drop)
    }

    /// Whether a file is there.
    pub fn has(&mut self, path: &str) -> Result<bool> {
        Ok(self.ask(json!({ "do": "there", "path": path }))? == "true")
    }

    /// From now on two files change without end: `PATH.first`, and after it `PATH.second`, which never says more.
    pub fn keep_writing(&mut self, path: &str) -> Result<()> {
        self.ask(json!({ "do": "keep-writing", "path": path })).map(drop)
    }

    fn ask(&mut self, what: Value) -> Result<String> {
        let asked = || format!("pod {}: {what}", self.name);
        writeln!(self.tells, "{what}").with_context(asked)?;
        self.answer().with_context(asked)
    }

    fn answer(&self) -> Result<String> {
        let Ok(line) = self.said.recv_timeout(PATIENCE) else {
            bail!("it says nothing, or has ended");
        };
        let answer: Value = serde_json::from_str(&line).context("what it says")?;
        match (answer["said"].as_str(), answer["failed"].as_str()) {
            (Some(said), _) => Ok(said.to_owned()),
            (None, why) => bail!("{}", why.unwrap_or("it says nothing of use")),
        }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let Ok(group) = process::group(&self.child) else { return };
        process::kill_group(group, Signal::SIGKILL);
        // Only a child that is gone already cannot be waited for.
        self.child.wait().map(drop).unwrap_or_default();
        process::forget(group);
    }
}
