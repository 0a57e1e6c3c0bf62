//! The pods of the demonstration, as the harness sees them.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::pod_process::OUTER;
use super::workspace::PodCgroup;
use crate::machine::process::{self, Cmd};

/// How long a pod may take for a request: longer than it is ever frozen.
const REPLY_TIMEOUT: Duration = Duration::from_secs(20);

/// A running pod. It ends when this is dropped.
pub struct Pod {
    /// What it is called.
    pub name: String,
    child: Child,
    stdin: ChildStdin,
    replies: Receiver<String>,
}

impl Pod {
    /// Starts a pod with this volume. It is in `group` from the start. `empty` is an empty
    /// directory, over which it mounts its root.
    ///
    /// # Errors
    /// The kernel refuses what a container needs. The error says what.
    pub fn start(
        name: &str,
        volume: &Path,
        empty: &Path,
        group: Option<&PodCgroup>,
    ) -> Result<Self> {
        let myself = std::env::current_exe().context("finding this program")?;
        let mut cmd = Cmd::new(myself).args([OUTER, name]).arg(volume).arg(empty);
        if let Some(group) = group {
            cmd = cmd.arg(group.processes());
        }
        let mut child = cmd.spawn_with_stdin(Stdio::piped(), Stdio::inherit())?;
        let stdin = child.stdin.take().context("a pod without a standard input")?;
        let stdout = child.stdout.take().context("a pod without a standard output")?;
        let (sender, replies) = channel();
        thread::spawn(move || {
            BufReader::new(stdout)
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        let pod = Self { name: name.to_owned(), child, stdin, replies };
        pod.reply().with_context(|| format!("starting pod {name}"))?;
        Ok(pod)
    }

    /// The text of a file in its volume.
    ///
    /// # Errors
    /// The pod failed, as for all of these.
    pub fn read(&mut self, path: &str) -> Result<String> {
        self.request(json!({ "do": "read", "path": path }))
    }

    /// Creates or replaces a file.
    pub fn write(&mut self, path: &str, text: &str) -> Result<()> {
        self.request(json!({ "do": "write", "path": path, "text": text })).map(drop)
    }

    /// Appends to a file.
    pub fn append(&mut self, path: &str, text: &str) -> Result<()> {
        self.request(json!({ "do": "append", "path": path, "text": text })).map(drop)
    }

    /// Creates a file of that many bytes.
    pub fn fill(&mut self, path: &str, bytes: u64) -> Result<()> {
        self.request(json!({ "do": "fill", "path": path, "bytes": bytes })).map(drop)
    }

    /// Removes a file.
    pub fn remove(&mut self, path: &str) -> Result<()> {
        self.request(json!({ "do": "remove", "path": path })).map(drop)
    }

    /// Whether a file is there.
    pub fn has(&mut self, path: &str) -> Result<bool> {
        Ok(self.request(json!({ "do": "there", "path": path }))? == "true")
    }

    /// Starts endless writes to two files: `PATH.first`, then `PATH.second`, which is never ahead.
    pub fn keep_writing(&mut self, path: &str) -> Result<()> {
        self.request(json!({ "do": "keep-writing", "path": path })).map(drop)
    }

    fn request(&mut self, what: Value) -> Result<String> {
        let context = || format!("pod {}: {what}", self.name);
        writeln!(self.stdin, "{what}").with_context(context)?;
        self.reply().with_context(context)
    }

    fn reply(&self) -> Result<String> {
        let Ok(line) = self.replies.recv_timeout(REPLY_TIMEOUT) else {
            bail!("it does not respond, or has ended");
        };
        let reply: Value = serde_json::from_str(&line).context("parsing its reply")?;
        match (reply["result"].as_str(), reply["error"].as_str()) {
            (Some(output), _) => Ok(output.to_owned()),
            (None, why) => bail!("{}", why.unwrap_or("its reply has no result")),
        }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let Ok(group) = process::group(&self.child) else { return };
        process::kill_group(group, Signal::SIGKILL);
        // Waiting fails only for a child that is gone already.
        self.child.wait().map(drop).unwrap_or_default();
        process::forget(group);
    }
}
