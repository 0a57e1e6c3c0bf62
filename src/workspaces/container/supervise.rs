//! The caller's part while a container runs: passes signals on, copies what the terminal needs, and waits.

use std::{
    io::{self, PipeReader, PipeWriter, Read as _, Write as _},
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use super::relay::Relay;
use crate::sys::container::{Child, Interest, Received, Signals, poll};

/// The signals that are passed on to the command.
const PASSED_ON: [i32; 6] =
    [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2, libc::SIGTERM];

/// What the caller writes to process 1 to let it start. Later bytes are numbers of signals.
pub(super) const START: u8 = 0;

/// What process 1 reports when all mounts are attached. A failure before that is reported in its place.
pub(super) const READY: u8 = b'r';

/// The caller of a container.
pub(super) struct Supervisor<'a> {
    pub(super) child: &'a Child,
    pub(super) signals: &'a Signals,
    /// Where process 1 reads requests.
    pub(super) requests: PipeWriter,
    /// Where process 1 and the command report a failure.
    pub(super) reports: PipeReader,
    pub(super) relay: Option<Relay>,
    /// How long the container may run.
    pub(super) timeout: Option<Duration>,
}

/// How process 1 ended.
pub(super) struct Ended {
    pub(super) code: u8,
    /// The failure that was reported.
    pub(super) report: Vec<u8>,
    /// Whether it was killed because of the time.
    pub(super) timed_out: bool,
}

/// Blocks the signals that a [`Supervisor`] reads.
pub(super) fn block_signals() -> io::Result<Signals> {
    let own = [libc::SIGCHLD, libc::SIGWINCH, libc::SIGCONT];
    Signals::block(&[&PASSED_ON[..], &own].concat())
}

impl Supervisor<'_> {
    /// Lets process 1 start, calls `on_ready` when all mounts are attached, and waits until it has ended.
    pub(super) fn wait(mut self, on_ready: impl FnOnce()) -> io::Result<Ended> {
        self.request(START);
        let mut report = Vec::new();
        // It ends without a byte if process 1 was killed.
        (&mut self.reports).take(1).read_to_end(&mut report)?;
        if report == [READY] {
            report.clear();
            on_ready();
        }
        let mut end = self.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut timed_out = false;
        loop {
            if end.is_some_and(|end| end <= Instant::now()) {
                // With process 1, the kernel kills all processes of its namespace. It was not waited for.
                self.child.signal(libc::SIGKILL)?;
                (end, timed_out) = (None, true);
            }
            let signals = (self.signals.as_fd(), Interest::Read);
            match &mut self.relay {
                Some(relay) => {
                    let [input, output, space] = relay.wanted();
                    let [_, ready @ ..] = poll([signals, input, output, space], end)?;
                    if !relay.copy(ready)? {
                        self.request(libc::SIGHUP.to_le_bytes()[0]);
                    }
                }
                None => drop(poll([signals], end)?),
            }
            while let Some(signal) = self.signals.take()? {
                if signal.number == libc::SIGCHLD {
                    if let Some(code) = self.child.try_wait()? {
                        return self.finish(code, report, timed_out);
                    }
                } else {
                    self.handle(signal)?;
                }
            }
        }
    }

    fn finish(mut self, code: u8, mut report: Vec<u8>, timed_out: bool) -> io::Result<Ended> {
        if let Some(relay) = &mut self.relay {
            relay.copy_rest()?;
        }
        // All who could write have ended.
        self.reports.read_to_end(&mut report)?;
        Ok(Ended { code, report, timed_out })
    }

    fn handle(&mut self, signal: Received) -> io::Result<()> {
        match (signal.number, &self.relay) {
            (libc::SIGWINCH, Some(relay)) => relay.resize(),
            (libc::SIGCONT, Some(relay)) => relay.resume(),
            (libc::SIGWINCH | libc::SIGCONT, None) => Ok(()),
            // Without a terminal of its own, the command gets what the kernel sends to all processes in the
            // foreground.
            (_, None) if signal.by_kernel => Ok(()),
            (number, _) => {
                self.request(number.to_le_bytes()[0]);
                Ok(())
            }
        }
    }

    /// If process 1 is dead, the request has no effect, and the end is noticed.
    fn request(&mut self, byte: u8) {
        let _ = self.requests.write_all(&[byte]);
    }
}
