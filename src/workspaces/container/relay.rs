//! Copies bytes between the caller's standard input and output and the terminal of a command.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::{AsFd as _, BorrowedFd},
};

use super::spec::Stdio;
use crate::sys::container::{Interest, OuterPty, RawInput};

/// The terminal of a command, and what is connected to it.
pub(super) struct Relay {
    pty: OuterPty,
    raw: Option<RawInput>,
    input: File,
    output: File,
    /// Whether there is more input.
    has_input: bool,
    /// Whether the output can be written. If not, the command's output is dropped.
    has_output: bool,
    /// Input that the terminal has no space for yet.
    pending: Vec<u8>,
    /// The last byte of the input so far.
    last: u8,
}

impl Relay {
    /// Connects a terminal to standard input, if that is wanted, and to standard output or standard error. If the input is
    /// a terminal, it is in raw mode until this is dropped.
    pub(super) fn new(pty: OuterPty, stdio: Stdio) -> io::Result<Self> {
        let Stdio { interactive, output_on_stderr, .. } = stdio;
        let input = io::stdin().as_fd().try_clone_to_owned()?;
        let output = match output_on_stderr {
            true => io::stderr().as_fd().try_clone_to_owned()?,
            false => io::stdout().as_fd().try_clone_to_owned()?,
        };
        let raw = if interactive { RawInput::new()? } else { None };
        Ok(Self {
            pty,
            raw,
            input: input.into(),
            output: output.into(),
            has_input: interactive,
            has_output: true,
            pending: Vec::new(),
            last: b'\n',
        })
    }

    /// What to wait for: input, output of the command, and space for input.
    pub(super) fn wanted(&self) -> [(BorrowedFd<'_>, Interest); 3] {
        let when = |wanted, interest| if wanted { interest } else { Interest::Nothing };
        let is_waiting = !self.pending.is_empty();
        [
            (self.input.as_fd(), when(self.has_input && !is_waiting, Interest::Read)),
            (self.pty.as_fd(), Interest::Read),
            (self.pty.as_fd(), when(is_waiting, Interest::Write)),
        ]
    }

    /// Copies what is ready, in the order of [`Relay::wanted`]. Returns false when the output has just been lost.
    pub(super) fn copy(&mut self, ready: [bool; 3]) -> io::Result<bool> {
        let [input, output, _] = ready;
        if input {
            self.read_input()?;
        }
        let written = self.pty.write(&self.pending)?;
        self.pending.drain(..written);
        let had_output = self.has_output;
        if output {
            self.copy_output()?;
        }
        Ok(self.has_output || !had_output)
    }

    fn read_input(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        // An error is a terminal that is gone.
        match self.input.read(&mut buffer) {
            Ok(count @ 1..) => {
                self.pending.extend_from_slice(&buffer[..count]);
                self.last = buffer[count - 1];
            }
            _ => {
                self.has_input = false;
                let end = self.pty.end_of_input()?;
                // In a line that has begun, the first one only ends the line.
                let count = if self.last == b'\n' { 1 } else { 2 };
                self.pending.extend(std::iter::repeat_n(end, count));
            }
        }
        Ok(())
    }

    /// Copies one piece of output. Returns whether there may be more.
    fn copy_output(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 16 << 10];
        let Some(count @ 1..) = self.pty.read(&mut buffer)? else { return Ok(false) };
        if self.has_output && self.output.write_all(&buffer[..count]).is_err() {
            self.has_output = false;
        }
        Ok(true)
    }

    /// Copies the output that remains when the command has ended.
    pub(super) fn copy_rest(&mut self) -> io::Result<()> {
        while self.copy_output()? {}
        Ok(())
    }

    /// Takes over a new size of the caller's terminal.
    pub(super) fn resize(&self) -> io::Result<()> {
        self.pty.copy_size()
    }

    /// After this process was stopped and goes on.
    pub(super) fn resume(&self) -> io::Result<()> {
        if let Some(raw) = &self.raw {
            raw.set_again()?;
        }
        self.resize()
    }
}
