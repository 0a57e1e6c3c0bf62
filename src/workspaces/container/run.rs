//! Runs a container: forks process 1, and waits for it.

use std::{io, os::fd::AsFd as _};

use super::{
    error::{ContainerError, cannot},
    init::Init,
    prepare::Prepared,
    relay::Relay,
    report::Report,
    spec::Container,
    supervise::{Supervisor, block_signals},
};
use crate::sys::{
    container::{Pty, close_copy, fork_as_init, fork_as_init_in},
    freezer::OwnGroup,
};

/// The exit code of a command that ran longer than its timeout, as that of timeout(1).
const TIMED_OUT: u8 = 124;

/// How a command ended.
#[derive(Debug)]
pub struct Exit {
    /// Its exit code; 128 + the number of the signal if a signal ended it; 124 if it ran longer than its timeout.
    pub code: u8,
    /// Whether it was killed because it ran longer than its timeout.
    pub timed_out: bool,
    /// Why it was not in the cgroup, and could not be frozen.
    pub not_in_cgroup: Option<io::Error>,
}

/// Runs the command and waits until it has ended. Then all its processes and mounts have ended too. Calls `on_ready` when
/// all mounts are attached, before the command starts.
///
/// Signals are passed on to the command. One that the terminal sends (Ctrl-C) is not: the kernel sends it to all
/// processes in the foreground, also to the command.
///
/// # Errors
/// Nothing was run. `Unsupported` if this process has more than one thread.
pub fn run(mut container: Container, on_ready: impl FnOnce()) -> Result<Exit, ContainerError> {
    let mut prepared = Prepared::new(&container)?;
    let signals = block_signals().map_err(cannot("block signals"))?;
    let (requests, requests_out) = io::pipe().map_err(cannot("make a pipe"))?;
    let (reports, reports_out) = io::pipe().map_err(cannot("make a pipe"))?;
    let init = Init {
        container: &container,
        prepared: &prepared,
        signals: &signals,
        requests: &requests,
        reports: &reports_out,
    };
    let process_1 = || {
        close_copy(&requests_out);
        close_copy(&reports);
        init.run()
    };
    let directory = container.cgroup.as_ref().and_then(OwnGroup::directory);
    let in_cgroup = directory.and_then(|cgroup| fork_as_init_in(cgroup.as_fd(), process_1).ok());
    let is_in_cgroup = in_cgroup.is_some();
    let child = match in_cgroup {
        Some(child) => Ok(child),
        None => fork_as_init(process_1),
    };
    let child = child.map_err(cannot("start process 1 of a PID namespace (it needs root)"))?;
    let (stdio, timeout) = (container.stdio, container.timeout);
    let outer = prepared.pty.take().map(Pty::into_outer);
    let cgroup = container.cgroup.take();
    // Only the container keeps its mounts.
    drop((requests, reports_out, prepared, container));
    let to_move = cgroup.as_ref().filter(|_| !is_in_cgroup);
    let not_in_cgroup = to_move.and_then(|cgroup| cgroup.add(child.id()).err());
    let relay = outer.map(|pty| Relay::new(pty, stdio)).transpose();
    let relay = relay.map_err(cannot("set up the terminal"))?;
    let (child, signals, requests) = (&child, &signals, requests_out);
    let supervisor = Supervisor { child, signals, requests, reports, relay, timeout };
    let ended = supervisor.wait(on_ready).map_err(cannot("wait for the command"))?;
    let (code, timed_out) = (ended.code, ended.timed_out);
    match Report::parse(&ended.report) {
        Some(report) => Err(report.into()),
        None if timed_out => Ok(Exit { code: TIMED_OUT, timed_out, not_in_cgroup }),
        None => Ok(Exit { code, timed_out, not_in_cgroup }),
    }
}
