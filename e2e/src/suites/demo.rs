//! The first command, as a person runs it: what it shows and in what time, and that it leaves nothing behind, also when it is
//! stopped in the middle.
//!
//! Deliberately absent: its own checks. It ends without success where something is not as it should be.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Bench;
use crate::background::Background;
use crate::cluster::wait_for;
use crate::demo::{self, place};
use crate::process::{Cmd, tail};
use crate::progress::seconds;
use crate::tally::Tally;

/// What it may take, once the program is built.
const LONGEST: Duration = seconds(60);

/// What it says when there is something to clear up.
const IN_THE_MIDDLE: &str = "Pod b gets a volume";

/// Runs it to its end, and once more to its middle.
pub fn run(_bench: &Bench<'_>, log: &Path) -> Result<Tally> {
    let mut tally = Tally::default();
    tally.count("it shows everything, in less than a minute after the build", whole(log));
    tally.count("nothing is left of it", nothing_left());
    tally.count("it can be stopped in the middle", stopped(log));
    tally.count("nothing is left of one that was stopped", nothing_left());
    Ok(tally)
}

fn demo() -> Result<Cmd> {
    Ok(Cmd::new(std::env::current_exe().context("finding this program")?).arg("demo"))
}

fn whole(log: &Path) -> Result<()> {
    let done = demo()?.outcome()?;
    fs::write(log, format!("{}\n{}", done.stderr, done.stdout))
        .with_context(|| format!("writing {}", log.display()))?;
    ensure!(done.status.success(), "{}: {}", done.status, tail(log, 40)?);
    let took =
        seconds_of(&done.stdout).with_context(|| format!("it names no time: {}", done.stdout))?;
    ensure!(took < LONGEST.as_secs_f64(), "it took {took} s");
    Ok(())
}

/// The time in its last sentence.
fn seconds_of(said: &str) -> Option<f64> {
    let line = said.lines().find_map(|line| line.strip_prefix(demo::DONE))?;
    line.split_whitespace().next()?.parse().ok()
}

/// As by Ctrl-C, when two pods have their volumes.
fn stopped(log: &Path) -> Result<()> {
    let log = log.with_extension("stopped.log");
    fs::write(&log, "").with_context(|| format!("emptying {}", log.display()))?;
    let mut running = Background::start(&demo()?, log.clone())?;
    wait_for("two pods", seconds(300), || {
        let said = fs::read_to_string(&log).context("reading what it says")?;
        if running.ended() {
            bail!("it ended: {said}");
        }
        Ok(said.contains(IN_THE_MIDDLE).then_some(()))
    })?;
    let process = Pid::from_raw(i32::try_from(running.id()).context("a process id")?);
    kill(process, Signal::SIGINT).context("interrupting it")?;
    wait_for("its end", seconds(30), || Ok(running.ended().then_some(())))
}

fn nothing_left() -> Result<()> {
    let left = place::left(&demo::root()?)?;
    ensure!(left.is_empty(), "there is {}", left.join(", "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_time_is_in_its_last_sentence() {
        let said = format!("  Pod a\n\n{} 12.3 s. Next:\n", demo::DONE);
        assert_eq!(seconds_of(&said), Some(12.3));
        assert_eq!(seconds_of("Built in 3 s."), None);
    }
}
