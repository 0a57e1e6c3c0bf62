//! `cargo xtask demo`, as a user runs it: its output, its duration, and that it leaves nothing
//! behind, also after an interrupt.
//!
//! Deliberately absent: checks of volumes. The demonstration itself fails on an unexpected result.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::context::SuiteContext;
use crate::demo::{self, workspace};
use crate::machine::background::Background;
use crate::machine::process::{Cmd, tail};
use crate::machine::progress::seconds;
use crate::machine::wait::wait_for;
use crate::report::Report;

/// The longest that it may take after the program is built.
const LONGEST: Duration = seconds(60);

/// Output at a moment when there is something to clean up.
const IN_THE_MIDDLE: &str = "Pod b gets a volume";

/// Runs it to its end, and once more until it is interrupted.
pub fn run(ctx: &SuiteContext<'_>, log: &Path) -> Result<Report> {
    let mut report = Report::default();
    report.count("it runs in less than a minute after the build", whole(ctx, log));
    report.count("it leaves nothing", nothing_left());
    report.count("it can be stopped in the middle", stopped(ctx, log));
    report.count("it leaves nothing when it is stopped", nothing_left());
    Ok(report)
}

/// The command. It builds the program where the dependencies are built already.
fn demo(ctx: &SuiteContext<'_>) -> Result<Cmd> {
    let demo = Cmd::new(std::env::current_exe().context("finding this program")?).arg("demo");
    Ok(demo.env("CARGO_TARGET_DIR", ctx.h.cache.cargo_target()))
}

fn whole(ctx: &SuiteContext<'_>, log: &Path) -> Result<()> {
    let done = demo(ctx)?.outcome()?;
    fs::write(log, format!("{}\n{}", done.stderr, done.stdout))
        .with_context(|| format!("writing {}", log.display()))?;
    ensure!(done.status.success(), "{}: {}", done.status, tail(log, 40)?);
    let took =
        seconds_of(&done.stdout).with_context(|| format!("it prints no time: {}", done.stdout))?;
    ensure!(took < LONGEST.as_secs_f64(), "it took {took} s");
    Ok(())
}

/// The time in its last sentence.
fn seconds_of(output: &str) -> Option<f64> {
    let line = output.lines().find_map(|line| line.strip_prefix(demo::DONE))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Interrupts it, as Ctrl-C does, when two pods have their volumes.
fn stopped(ctx: &SuiteContext<'_>, log: &Path) -> Result<()> {
    let log = log.with_extension("stopped.log");
    fs::write(&log, "").with_context(|| format!("emptying {}", log.display()))?;
    let mut running = Background::start(&demo(ctx)?, log.clone())?;
    wait_for("two pods", seconds(300), || {
        let output = fs::read_to_string(&log).context("reading its output")?;
        if running.ended() {
            bail!("it ended: {output}");
        }
        Ok(output.contains(IN_THE_MIDDLE).then_some(()))
    })?;
    let process = Pid::from_raw(i32::try_from(running.id()).context("a process id")?);
    kill(process, Signal::SIGINT).context("interrupting it")?;
    wait_for("its end", seconds(30), || Ok(running.ended().then_some(())))
}

fn nothing_left() -> Result<()> {
    let left = workspace::remaining(&demo::root()?)?;
    ensure!(left.is_empty(), "there is {}", left.join(", "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_time_is_in_its_last_sentence() {
        let output = format!("  Pod a\n\n{} 12.3 s. Next:\n", demo::DONE);
        assert_eq!(seconds_of(&output), Some(12.3));
        assert_eq!(seconds_of("Built in 3 s."), None);
    }
}
