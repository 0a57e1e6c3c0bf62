//! The memory that a copy takes to remember a tree's names, within what all work of this process shares.

use std::{thread, time::Duration};

use super::CloneError;
use crate::budget::{OverBudget, Share};

/// What an entry takes, with its name: 300,000 took 67 MiB. See the test of `seen`.
pub(super) const ENTRY: usize = 256;

/// What a file takes that has several names, beside the path of the first.
pub(super) const LINKED: usize = 96;

/// Between two looks whether others have given memory back.
const AGAIN: Duration = Duration::from_millis(20);

/// One copy's part; without a share it is as much as it wants.
#[derive(Debug, Default)]
pub(super) struct Memory(pub(super) Option<Share>);

impl Memory {
    /// Waits, as long as `go_on` says so, until so many bytes may be taken.
    pub(super) fn take(&self, bytes: usize, go_on: &dyn Fn() -> bool) -> Result<(), CloneError> {
        let Some(share) = &self.0 else { return Ok(()) };
        loop {
            match share.try_take(bytes as u64) {
                Ok(()) => return Ok(()),
                Err(OverBudget::Busy) if go_on() => thread::sleep(AGAIN),
                Err(OverBudget::Busy) => return Err(CloneError::Stopped),
                Err(error) => return Err(CloneError::Memory(error)),
            }
        }
    }

    pub(super) fn give(&self, bytes: usize) {
        if let Some(share) = &self.0 {
            share.give(bytes as u64);
        }
    }

    /// Memory that goes back when what is returned is dropped.
    pub(super) fn lent(&self) -> Lent<'_> {
        Lent { memory: self, bytes: 0 }
    }
}

/// Memory for a while.
#[derive(Debug)]
pub(super) struct Lent<'m> {
    memory: &'m Memory,
    bytes: usize,
}

impl Lent<'_> {
    pub(super) fn more(
        &mut self,
        bytes: usize,
        go_on: &dyn Fn() -> bool,
    ) -> Result<(), CloneError> {
        self.memory.take(bytes, go_on)?;
        self.bytes += bytes;
        Ok(())
    }

    pub(super) fn less(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.memory.give(bytes);
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.memory.give(self.bytes);
    }
}
