//! Runs commands: output to a log, a limit for the time without activity, and an error that says
//! what happened.
//!
//! Every child leads its own process group, and `children` has the list. Deliberately absent:
//! shells. A command is a program and arguments.

mod children;
mod idle_watch;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use idle_watch::{IdleWatch, Printed};

pub use children::{
    Cancelled, admit_children, end_children, end_children_on_signal, forget, group, interrupted,
    kill_group, on_signal,
};
pub use idle_watch::cpu_time;

/// How many lines of a log an error quotes.
const TAIL_LINES: usize = 40;

/// How long a command may be without output and without work by default.
const DEFAULT_LIMIT: Duration = Duration::from_secs(1200);

/// A command that has not run yet.
#[derive(Clone)]
pub struct Cmd {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, Option<OsString>)>,
    dir: Option<PathBuf>,
    log: Option<PathBuf>,
    stdin: Vec<u8>,
    limit: Duration,
}

/// The result of a command: its status and everything that it printed.
pub struct Outcome {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Cmd {
    /// A command without arguments. A program that is not a path is searched in `PATH`.
    pub fn new(program: impl AsRef<Path>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            dir: None,
            log: None,
            stdin: Vec::new(),
            limit: DEFAULT_LIMIT,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), Some(value.as_ref().to_owned())));
        self
    }

    /// Removes an environment variable.
    #[must_use]
    pub fn env_remove(mut self, key: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), None));
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.dir = Some(dir.as_ref().to_owned());
        self
    }

    /// Appends the output of [`Cmd::run`] to this file. Without a log the output is captured.
    #[must_use]
    pub fn log(mut self, log: impl AsRef<Path>) -> Self {
        self.log = Some(log.as_ref().to_owned());
        self
    }

    /// Sets the standard input, which is empty otherwise.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Limits the time without output and without use of the processor. After it, the process group
    /// is killed. The default is twenty minutes. A command that works without output gets ten times
    /// as long.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs the command with its output in the log.
    ///
    /// # Errors
    /// It could not be started, ran out of time, or exited with a status other than 0. The error
    /// quotes the end of the log and names it.
    pub fn run(self) -> Result<()> {
        let Some(log) = self.log.clone() else {
            return self.output().map(drop);
        };
        let mut file = open_log(&log)?;
        writeln!(file, "$ {self}").with_context(|| format!("writing {}", log.display()))?;
        let clone = || file.try_clone().with_context(|| format!("sharing {}", log.display()));
        let mut child = self.spawn(clone()?.into(), clone()?.into())?;
        self.feed(&mut child);
        let length = || file.metadata().map_or(0, |log| log.len());
        let quote = |why: String| match tail(&log, TAIL_LINES) {
            Ok(lines) => format!("`{self}` {why}; the end of {}:\n{lines}", log.display()),
            Err(_) => format!("`{self}` {why}; see {}", log.display()),
        };
        match self.wait(child, |printed| printed.are(length())) {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => bail!(quote(format!("failed ({status})"))),
            Err(error) if error.is::<Cancelled>() => Err(error),
            Err(error) => bail!(quote(format!("failed ({error:#})"))),
        }
    }

    /// Runs the command with the output of this process.
    ///
    /// # Errors
    /// It could not be started, ran out of time, or exited with a status other than 0.
    pub fn run_inherited(self) -> Result<()> {
        let child = self.spawn(Stdio::inherit(), Stdio::inherit())?;
        let status = self.wait(child, |_| ()).with_context(|| format!("running `{self}`"))?;
        if !status.success() {
            bail!("`{self}` failed ({status})");
        }
        Ok(())
    }

    /// Runs the command and returns standard output without the white space at its end.
    ///
    /// # Errors
    /// As [`Cmd::run`]. The error quotes standard error.
    pub fn output(self) -> Result<String> {
        let line = self.to_string();
        let done = self.outcome()?;
        if !done.status.success() {
            let output = [done.stderr.trim(), done.stdout.trim()].join("\n");
            bail!("`{line}` failed ({}): {}", done.status, last_lines(output.trim(), TAIL_LINES));
        }
        Ok(done.stdout.trim_end().to_owned())
    }

    /// Runs the command and returns its result, also for a failure.
    ///
    /// # Errors
    /// It could not be started or ran out of time.
    pub fn outcome(self) -> Result<Outcome> {
        let mut child = self.spawn(Stdio::piped(), Stdio::piped())?;
        self.feed(&mut child);
        let heard = Printed::default();
        let stdout = drain(child.stdout.take(), heard.clone());
        let stderr = drain(child.stderr.take(), heard.clone());
        let status = self.wait(child, |printed| printed.are(heard.count()));
        let status = status.with_context(|| format!("running `{self}`"))?;
        let text = |thread: thread::JoinHandle<Vec<u8>>| {
            String::from_utf8_lossy(&thread.join().unwrap_or_default()).into_owned()
        };
        Ok(Outcome { status, stdout: text(stdout), stderr: text(stderr) })
    }

    /// Whether it ran and exited with 0. A missing program counts as a failure.
    pub fn succeeds(self) -> bool {
        self.outcome().is_ok_and(|done| done.status.success())
    }

    /// The same command for [`std::process`], for a child that outlives the harness.
    pub fn detached(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).process_group(0);
        for (key, value) in &self.env {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command
    }

    /// Starts it in a process group that ends on an interrupt, until [`forget`]. For a child that
    /// runs beside others. The other methods do this by themselves.
    ///
    /// # Errors
    /// It could not be started, or children are being ended.
    pub fn spawn(&self, stdout: Stdio, stderr: Stdio) -> Result<Child> {
        let mut command = self.detached();
        let stdin = if self.stdin.is_empty() { Stdio::null() } else { Stdio::piped() };
        command.stdin(stdin).stdout(stdout).stderr(stderr);
        children::start(|| command.spawn().with_context(|| format!("starting `{self}`")))
    }

    /// As [`Cmd::spawn`], with a pipe as standard input that stays open.
    ///
    /// # Errors
    /// As there.
    pub fn spawn_with_stdin(&self, stdout: Stdio, stderr: Stdio) -> Result<Child> {
        let mut command = self.detached();
        command.stdin(Stdio::piped()).stdout(stdout).stderr(stderr);
        children::start(|| command.spawn().with_context(|| format!("starting `{self}`")))
    }

    /// Writes standard input from a thread: the child may print before it has read everything.
    fn feed(&self, child: &mut Child) {
        if let Some(mut pipe) = child.stdin.take() {
            let bytes = self.stdin.clone();
            // A child that exits early closes the pipe. Its exit status says more than EPIPE.
            thread::spawn(move || pipe.write_all(&bytes).unwrap_or_default());
        }
    }

    /// Waits for its end. `look` updates how much it has printed.
    fn wait(&self, mut child: Child, look: impl Fn(&Printed)) -> Result<ExitStatus> {
        let group = group(&child)?;
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || sender.send(child.wait()));
        let printed = Printed::default();
        let mut watch = IdleWatch::new(self.limit, printed.clone(), group);
        let ended = loop {
            match receiver.recv_timeout(watch.pause()) {
                Err(RecvTimeoutError::Timeout) => {
                    look(&printed);
                    if let Some(why) = watch.check() {
                        kill_group(group, Signal::SIGKILL);
                        receiver.recv().ok();
                        break Err(why);
                    }
                }
                ended => break Ok(ended.context("its waiting thread panicked")?),
            }
        };
        forget(group);
        match ended {
            Ok(Ok(status)) if !status.success() && children::ending() => Err(Cancelled.into()),
            Ok(status) => Ok(status?),
            Err(why) => bail!(why),
        }
    }
}

impl fmt::Display for Cmd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.program.display())?;
        self.args.iter().try_for_each(|arg| write!(f, " {}", arg.to_string_lossy()))
    }
}

fn drain<R: Read + Send + 'static>(
    pipe: Option<R>,
    printed: Printed,
) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let (mut bytes, mut part) = (Vec::new(), [0; 8192]);
        let Some(mut pipe) = pipe else { return bytes };
        loop {
            match pipe.read(&mut part) {
                Ok(read @ 1..) => {
                    bytes.extend_from_slice(&part[..read]);
                    printed.more(read);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return bytes,
            }
        }
    })
}

/// Opens a log to append to.
///
/// # Errors
/// It cannot be opened or created.
pub fn open_log(log: &Path) -> Result<File> {
    let options = OpenOptions::new().create(true).append(true).open(log);
    options.with_context(|| format!("opening the log {}", log.display()))
}

/// The last lines of a file.
///
/// # Errors
/// The file cannot be read.
pub fn tail(path: &Path, lines: usize) -> Result<String> {
    let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(last_lines(&String::from_utf8_lossy(&bytes), lines).to_owned())
}

fn last_lines(text: &str, lines: usize) -> &str {
    let text = text.trim_end();
    let start = text.rmatch_indices('\n').nth(lines.saturating_sub(1)).map_or(0, |(at, _)| at + 1);
    &text[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_whole_lines() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc");
        assert_eq!(last_lines("a\nb", 40), "a\nb");
        assert_eq!(last_lines("", 40), "");
    }

    #[test]
    fn output_feeds_stdin_and_trims_the_end() -> Result<()> {
        assert_eq!(Cmd::new("cat").stdin("hello\n").output()?, "hello");
        Ok(())
    }

    #[test]
    fn a_failure_names_the_command_and_quotes_its_output() {
        let failed = Cmd::new("sh").args(["-c", "echo no luck >&2; exit 3"]).output();
        let words = failed.err().map(|e| e.to_string()).unwrap_or_default();
        assert!(words.contains("no luck") && words.contains("exit status: 3"), "{words}");
    }

    #[test]
    fn a_command_over_its_limit_is_killed_with_its_children() {
        let slow = Cmd::new("sh").args(["-c", "sleep 600 & wait"]);
        let slow = slow.limit(Duration::from_millis(500)).output();
        let words = format!("{:#}", slow.err().unwrap_or_else(|| anyhow::anyhow!("it ended")));
        assert!(words.contains("no output and no work") && words.contains("killed"), "{words}");
    }

    #[test]
    fn a_slow_command_that_prints_or_works_is_not_killed() -> Result<()> {
        let limit = Duration::from_secs(1);
        let prints = "for i in 1 2 3 4 5 6 7 8 9 10; do echo $i; sleep 0.15; done";
        assert!(Cmd::new("sh").args(["-c", prints]).limit(limit).output()?.ends_with("10"));
        // In a child with a process group of its own, as builders have them.
        let works = "setsid sh -c 'i=0; while [ $i -lt 1500000 ]; do i=$((i+1)); done'; echo done";
        assert_eq!(Cmd::new("sh").args(["-c", works]).limit(limit).output()?, "done");
        Ok(())
    }
}
