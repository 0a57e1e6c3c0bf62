//! Terminals: a pseudo-terminal for a command, and the modes of the caller's terminal.

use std::{
    io::{self, IsTerminal as _},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{Gid, Mode, OFlags, Uid, fchown, openat},
    io::Errno,
    process::{ioctl_tiocsctty, setsid},
    pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt},
    stdio::{dup2_stderr, dup2_stdin, dup2_stdout},
    termios::{
        OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr,
        tcsetwinsize,
    },
};

use crate::sys::mounts::Detached;

/// A pseudo-terminal (pty(7)).
#[derive(Debug)]
pub struct Pty {
    /// The side of the keyboard and the screen. It does not block.
    outer: OwnedFd,
    /// The side of the programs.
    inner: OwnedFd,
}

impl Pty {
    /// Makes one in a mount of `devpts`, which may be detached. It has the size of the caller's terminal.
    pub fn new(devpts: &Detached) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let outer = openat(devpts.descriptor(), "ptmx", flags, Mode::empty())?;
        unlockpt(&outer)?;
        // By the descriptor: no path leads to it yet.
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let inner = ioctl_tiocgptpeer(&outer, flags)?;
        copy_size(&outer)?;
        Ok(Self { outer, inner })
    }

    /// The side of the programs. While it is open, the other side has no end.
    pub fn inner(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }

    /// Keeps only the side of the keyboard and the screen.
    pub fn into_outer(self) -> OuterPty {
        OuterPty(self.outer)
    }

    /// Makes it the terminal of this process, which gets a session of its own, and belongs to `uid`.
    ///
    /// Only for a forked child, which is no leader of a process group.
    pub fn become_terminal(&self, uid: u32) -> io::Result<()> {
        fchown(&self.inner, Some(Uid::from_raw(uid)), None::<Gid>)?;
        setsid()?;
        ioctl_tiocsctty(&self.inner)?;
        dup2_stdin(&self.inner)?;
        dup2_stdout(&self.inner)?;
        Ok(dup2_stderr(&self.inner)?)
    }
}

/// The side of the keyboard and the screen of a [`Pty`].
#[derive(Debug)]
pub struct OuterPty(OwnedFd);

impl OuterPty {
    /// Copies the size of the caller's terminal. Without one, the size does not change.
    pub fn copy_size(&self) -> io::Result<()> {
        copy_size(&self.0)
    }

    /// The byte that is the end of the input at the start of a line (Ctrl-D).
    pub fn end_of_input(&self) -> io::Result<u8> {
        Ok(tcgetattr(&self.0)?.special_codes[SpecialCodeIndex::VEOF])
    }

    /// Reads what the programs wrote. `None` if there is nothing now, 0 at the end.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match rustix::io::read(&self.0, buffer) {
            // The end of a terminal, after the last program has closed it.
            Err(Errno::IO) => Ok(Some(0)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            read => Ok(Some(read?)),
        }
    }

    /// Writes input for the programs. Returns how many bytes there was space for.
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match rustix::io::write(&self.0, bytes) {
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            written => Ok(written?),
        }
    }
}

impl AsFd for OuterPty {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn copy_size(to: &OwnedFd) -> io::Result<()> {
    match caller_terminal() {
        Some(terminal) => Ok(tcsetwinsize(to, tcgetwinsize(terminal)?)?),
        None => Ok(()),
    }
}

/// The terminal of this process: the first of its standard descriptors that is one.
fn caller_terminal() -> Option<BorrowedFd<'static>> {
    let standard = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    standard.into_iter().find(|fd| fd.is_terminal())
}

/// The standard input of this process in raw mode: each key is input, also Ctrl-C. Dropping this restores the mode.
#[derive(Debug)]
pub struct RawInput {
    before: Termios,
}

impl RawInput {
    /// Sets the mode. `None` if the standard input is no terminal.
    pub fn new() -> io::Result<Option<Self>> {
        let input = rustix::stdio::stdin();
        if !input.is_terminal() {
            return Ok(None);
        }
        let raw = Self { before: tcgetattr(input)? };
        raw.set_again()?;
        Ok(Some(raw))
    }

    /// Sets the mode again after a shell may have changed it, while this process was stopped.
    pub fn set_again(&self) -> io::Result<()> {
        let mut modes = self.before.clone();
        modes.make_raw();
        Ok(tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &modes)?)
    }
}

impl Drop for RawInput {
    fn drop(&mut self) {
        // The terminal may be gone.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, &self.before);
    }
}
