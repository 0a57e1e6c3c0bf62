//! The running children. Each leads a process group. All are ended together after a signal, or when
//! one of several parallel builds has failed.
//!
//! Deliberately absent: the engine. It outlives the harness and has a record of its own.

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

/// What is done after a signal. It returns the message to print.
type Last = Box<dyn FnOnce() -> String + Send>;

struct Children {
    groups: BTreeSet<i32>,
    closed: bool,
}

/// Why a command did not run, or did not finish: the harness is ending its children.
#[derive(Debug)]
pub struct Cancelled;

impl fmt::Display for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ended by the harness")
    }
}

impl std::error::Error for Cancelled {}

/// Makes SIGINT, SIGTERM and SIGHUP end the harness with its children, with exit code 130. A SIGHUP
/// that is ignored already, as with `nohup`, stays ignored.
///
/// It uses handlers and does not block the signals. Children would inherit blocked signals (the
/// standard library gives them no clean mask), and a driver started that way could not be stopped.
///
/// # Errors
/// The handlers cannot be set.
pub fn end_children_on_signal() -> Result<()> {
    let status = fs::read_to_string("/proc/self/status").context("reading the ignored signals")?;
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
        let output = last.map_or_else(
            || "`cargo xtask clean` removes what is left of a cluster".to_owned(),
            |last| last(),
        );
        eprintln!("\nstopped by {name}; {output}");
        std::process::exit(130);
    });
    Ok(())
}

/// After a signal and the end of all children, runs this function and prints its result.
pub fn on_signal(last: impl FnOnce() -> String + Send + 'static) {
    *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(last));
}

/// Whether SIGHUP is in the mask of ignored signals of a `/proc/*/status` (proc(5)): the first bit.
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 == 1)
}

/// Whether a signal came. The process is about to exit, and errors are of no interest.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Sends SIGTERM to the group of every running child, and SIGKILL three seconds later. Starts no
/// other child until [`admit_children`].
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

/// Allows commands again after [`end_children`], but not after a signal.
pub fn admit_children() {
    lock().closed = interrupted();
}

/// Whether children are being ended.
pub(super) fn ending() -> bool {
    lock().closed
}

/// Starts a child and records its group, unless children are being ended. The lock is held during
/// the start, so no child is missed.
pub(super) fn start(spawn: impl FnOnce() -> Result<Child>) -> Result<Child> {
    let mut children = lock();
    if children.closed {
        return Err(Cancelled.into());
    }
    let child = spawn()?;
    children.groups.insert(group(&child)?);
    Ok(child)
}

/// Removes the group of an ended child from the list.
pub fn forget(group: i32) {
    lock().groups.remove(&group);
}

/// Signals a whole process group.
pub fn kill_group(group: i32, signal: Signal) {
    // ESRCH, the only likely error, means that the group is gone already.
    killpg(Pid::from_raw(group), signal).unwrap_or_default();
}

/// The group that a child leads. It has the child's number.
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
    fn nohup_is_detected() {
        assert!(ignores_hangup("SigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n"));
        assert!(!ignores_hangup("SigIgn:\t0000000000001000\n") && !ignores_hangup(""));
    }
}
