//! Prints what the harness does, how long that usually takes, and how long it took.
//!
//! Steps may run at the same time. On a terminal the running ones share a status line. Elsewhere
//! each prints a line a minute. Deliberately absent: colours and percentages, which would be
//! guesses.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How often a running step prints a line where there is no terminal.
const SIGN_OF_LIFE: Duration = Duration::from_secs(60);

/// Prints steps. Clones share the list of running steps.
#[derive(Clone)]
pub struct Progress {
    logs: PathBuf,
    running: Arc<Mutex<Vec<Running>>>,
    terminal: bool,
}

struct Running {
    what: String,
    usual: Duration,
    since: Instant,
    last_line: Instant,
}

impl Progress {
    /// Progress on standard output, with the logs of the steps in this directory.
    ///
    /// # Errors
    /// The directory cannot be created.
    pub fn new(logs: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&logs).with_context(|| format!("making {}", logs.display()))?;
        let terminal = std::io::stdout().is_terminal();
        let progress = Self { logs, running: Arc::default(), terminal };
        let ticker = progress.clone();
        thread::spawn(move || {
            loop {
                thread::sleep(Duration::from_secs(1));
                ticker.tick();
            }
        });
        Ok(progress)
    }

    /// Runs one step and prints its start and end. `usual` is how long it usually takes. The work
    /// gets the path of its own empty log, which is named after the step.
    ///
    /// # Errors
    /// The error of the work, with the name of the step in front.
    pub fn step<T>(
        &self,
        what: &str,
        usual: Duration,
        work: impl FnOnce(&Path) -> Result<T>,
    ) -> Result<T> {
        let log = self.logs.join(format!("{}.log", slug(what)));
        std::fs::write(&log, "").with_context(|| format!("emptying {}", log.display()))?;
        let since = Instant::now();
        self.begin(what, usual, since);
        let result = work(&log);
        self.end(what, since.elapsed(), result.is_ok());
        result.with_context(|| what.to_owned())
    }

    /// Prints a line.
    pub fn say(&self, line: &str) {
        self.print(&self.lock(), line);
    }

    fn begin(&self, what: &str, usual: Duration, since: Instant) {
        let mut running = self.lock();
        running.push(Running { what: what.to_owned(), usual, since, last_line: since });
        self.print(&running, &format!("  {what} (usually {})…", human(usual)));
    }

    fn end(&self, what: &str, took: Duration, good: bool) {
        let mut running = self.lock();
        running.retain(|step| step.what != what);
        let word = if good { "done in" } else { "FAILED after" };
        self.print(&running, &format!("  {what}: {word} {}", human(took)));
    }

    fn tick(&self) {
        let mut running = self.lock();
        if self.terminal {
            self.status_line(&running);
            return;
        }
        let mut lines = Vec::new();
        for step in running.iter_mut().filter(|step| step.last_line.elapsed() >= SIGN_OF_LIFE) {
            step.last_line = Instant::now();
            let (so_far, usual) = (human(step.since.elapsed()), human(step.usual));
            lines.push(format!("  … still {}: {so_far} of usually {usual}", step.what));
        }
        lines.iter().for_each(|line| self.print(&running, line));
    }

    fn print(&self, running: &[Running], line: &str) {
        if self.terminal {
            println!("\r\x1b[K{line}");
            self.status_line(running);
        } else {
            println!("{line}");
        }
    }

    fn status_line(&self, running: &[Running]) {
        let mut line = String::new();
        for step in running {
            let part = format!("[{} {}] ", step.what, human(step.since.elapsed()));
            // Writing to a string cannot fail.
            line.write_str(&part).unwrap_or_default();
        }
        let short: String = line.chars().take(110).collect();
        print!("\r\x1b[K{short}");
        std::io::stdout().flush().unwrap_or_default();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A whole number of minutes, for `usual` times.
pub const fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

/// A whole number of seconds, for `usual` times.
pub const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// A duration for people: `45 s`, `3 min`, `2m58s`.
pub fn human(time: Duration) -> String {
    match (time.as_secs() / 60, time.as_secs() % 60) {
        (0, rest) => format!("{rest} s"),
        (whole, 0) => format!("{whole} min"),
        (whole, rest) => format!("{whole}m{rest:02}s"),
    }
}

fn slug(what: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
    what.to_lowercase().chars().map(letter).take(60).collect::<String>().trim_matches('-').into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_well() {
        assert_eq!(human(seconds(45)), "45 s");
        assert_eq!(human(minutes(3)), "3 min");
        assert_eq!(human(seconds(178)), "2m58s");
    }

    #[test]
    fn log_names_are_plain() {
        assert_eq!(
            slug("building Kubernetes 1.36.3: kubelet"),
            "building-kubernetes-1.36.3--kubelet"
        );
    }
}
