//! The children that run now: each leads a process group, and all of them end together when a
//! signal comes or one of several lanes has failed.
//!
//! Deliberately absent: the engine, which is to outlive the harness and has a record of its own.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::future::poll_fn;
use std::io;
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};

static CHILDREN: Mutex<Children> = Mutex::new(Children { groups: BTreeSet::new(), closed: false });
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static LAST: Mutex<Option<Last>> = Mutex::new(None);

/// What is done after a signal, and what is said then.
type Last = Box<dyn FnOnce() -> String + Send>;

struct Children {
    groups: BTreeSet<i32>,
    closed: bool,
}

/// Why a command did not run, or not to its end: the harness is ending its children.
#[derive(Debug)]
pub struct Ended;

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ended by the harness")
    }
}

impl std::error::Error for Ended {}

/// Makes SIGINT, SIGTERM and SIGHUP end the harness with its children, with exit code 130. A
/// SIGHUP that was ignored already, as `nohup` does it, stays so.
///
/// By handlers, and not by blocking the signals and waiting for them: children inherit what is blocked (the standard library
/// gives them no clean mask), and a driver that is started so could not be told to stop.
///
/// # Errors
/// The handlers cannot be set.
pub fn end_children_on_signal() -> Result<()> {
    let status = fs::read_to_string("/proc/self/status").context("asking for ignored signals")?;
    let mut kinds = vec![("SIGINT", SignalKind::interrupt()), ("SIGTERM", SignalKind::terminate())];
    if !ignores_hangup(&status) {
        kinds.push(("SIGHUP", SignalKind::hangup()));
    }
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    let heard = {
        let _here = runtime.enter();
        let listen = |(name, kind)| Ok((name, signal(kind)?));
        let heard = kinds.into_iter().map(listen).collect::<io::Result<Vec<_>>>();
        heard.context("listening to the signals that end the harness")?
    };
    thread::spawn(move || {
        let mut heard = heard;
        let name = runtime.block_on(poll_fn(|cx| {
            let mut all = heard.iter_mut();
            let came = all.find_map(|(name, s)| s.poll_recv(cx).is_ready().then_some(*name));
            came.map_or(Poll::Pending, Poll::Ready)
        }));
        INTERRUPTED.store(true, Ordering::SeqCst);
        end_children();
        let last = LAST.lock().unwrap_or_else(PoisonError::into_inner).take();
        let said = last.map_or_else(
            || "`cargo xtask clean` removes what is left of a cluster".to_owned(),
            |last| last(),
        );
        eprintln!("\nstopped by {name}; {said}");
        std::process::exit(130);
    });
    Ok(())
}

/// When a signal ends this process, does this once its children have ended, and prints what it returns.
pub fn at_last(last: impl FnOnce() -> String + Send + 'static) {
    *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(last));
}

/// Whether SIGHUP is in the mask of ignored signals of a `/proc/*/status` (proc(5)): the first bit.
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 == 1)
}

/// Whether a signal came: the process is about to exit, and errors are no news any more.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Asks every running child's group to end, kills those that are there three seconds later, and
/// admits no others until [`admit_children`].
pub fn end_children() {
    let mut children = lock();
    children.closed = true;
    for &group in &children.groups {
        kill_group(group, Signal::SIGTERM);
    }
    let alive = |group: &i32| killpg(Pid::from_raw(*group), None).is_ok();
    for _ in 0..30 {
        if !children.groups.iter().any(alive) {
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
    for &group in &children.groups {
        kill_group(group, Signal::SIGKILL);
    }
}

/// Lets commands run again after [`end_children`]; not after a signal, which ends everything.
pub fn admit_children() {
    lock().closed = interrupted();
}

/// Whether children are being ended.
pub(super) fn ending() -> bool {
    lock().closed
}

/// Starts a child and puts its group on the list, unless children are being ended. The lock is
/// held over the start, so that none slips past.
pub(super) fn start(spawn: impl FnOnce() -> Result<Child>) -> Result<Child> {
    let mut children = lock();
    if children.closed {
        return Err(Ended.into());
    }
    let child = spawn()?;
    children.groups.insert(group(&child)?);
    Ok(child)
}

/// Takes an ended child's process group off the list of those that an interrupt ends.
pub fn forget(group: i32) {
    lock().groups.remove(&group);
}

/// Signals a whole process group.
pub fn kill_group(group: i32, signal: Signal) {
    // ESRCH, the only likely error, means that the group is gone already.
    killpg(Pid::from_raw(group), signal).unwrap_or_default();
}

/// The group that a child leads, which has its number.
pub fn group(child: &Child) -> Result<i32> {
    i32::try_from(child.id()).context("a process id beyond the kernel's range")
}

fn lock() -> MutexGuard<'static, Children> {
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nohup_is_seen() {
        assert!(ignores_hangup("SigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n"));
        assert!(!ignores_hangup("SigIgn:\t0000000000001000\n") && !ignores_hangup(""));
    }
}
