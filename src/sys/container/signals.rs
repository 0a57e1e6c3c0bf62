//! Signals as values that are read.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use nix::sys::{
    signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask},
    signalfd::{SfdFlags, SignalFd},
};

/// `si_code` of a signal that the kernel sent by itself, for example because of Ctrl-C at the terminal. All processes
/// of the terminal's foreground group get such a signal (sigaction(2)).
const SI_KERNEL: i32 = 0x80;

/// Blocked signals, which are read from a descriptor. Dropping this discards those that were not read, and unblocks
/// them.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
    before: SigSet,
}

/// A signal that was sent to this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// The number.
    pub number: i32,
    /// Whether the kernel sent it, and not a process.
    pub by_kernel: bool,
}

impl Signals {
    /// Blocks the signals with these numbers in this process, which has one thread.
    pub fn block(numbers: &[i32]) -> io::Result<Self> {
        let mut wanted = SigSet::empty();
        for number in numbers {
            wanted.add(Signal::try_from(*number)?);
        }
        if wanted.contains(Signal::SIGCHLD) {
            // If the parent ignored it, this process could not wait for its children.
            // SAFETY: it installs no handler.
            unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }?;
        }
        let fd = SignalFd::with_flags(&wanted, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let mut before = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&wanted), Some(&mut before))?;
        Ok(Self { fd, before })
    }

    /// Takes the next signal that this process got. In a forked child, those that the child got.
    pub fn take(&self) -> io::Result<Option<Received>> {
        let info = self.fd.read_signal()?;
        Ok(info.map(|info| Received {
            number: i32::try_from(info.ssi_signo).unwrap_or_default(),
            by_kernel: info.ssi_code == SI_KERNEL,
        }))
    }

    /// Unblocks the signals in a forked child before it starts a program. The child never drops this.
    ///
    /// SIGPIPE gets its default action, which the Rust runtime had changed.
    pub fn unblock_for_program(&self) -> io::Result<()> {
        // SAFETY: it installs no handler.
        unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }?;
        Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None)?)
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // A second Ctrl-C came after the command had ended.
        while let Ok(Some(_)) = self.take() {}
        // It fails only for arguments that are wrong.
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None);
    }
}
