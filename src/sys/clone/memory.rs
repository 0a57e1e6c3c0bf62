//! The memory that a copy takes, within what all work of this process shares.

use std::{thread, time::Duration};

use super::CloneError;
use crate::budget::{OverBudget, Share};

/// Bytes by which it grows.
const STEP: u64 = 256 << 10;

/// Between two looks whether others have given memory back.
const AGAIN: Duration = Duration::from_millis(20);

/// One copy's part; without a share it is as much as it wants.
#[derive(Debug, Default)]
pub(super) struct Memory {
    share: Option<Share>,
    /// Bytes taken of it.
    taken: u64,
}

impl Memory {
    pub(super) fn new(share: Share) -> Self {
        Self { share: Some(share), taken: 0 }
    }

    /// Waits, as long as `go_on` says so, until so many bytes may be held. What was taken stays taken until the copy is made: the
    /// next round needs as much, and writers may stand still in it.
    pub(super) fn hold(
        &mut self,
        bytes: usize,
        go_on: &dyn Fn() -> bool,
    ) -> Result<(), CloneError> {
        let (Some(share), bytes) = (&self.share, (bytes as u64).next_multiple_of(STEP)) else {
            return Ok(());
        };
        while bytes > self.taken {
            match share.try_take(bytes - self.taken) {
                Ok(()) => self.taken = bytes,
                Err(OverBudget::Busy) if go_on() => thread::sleep(AGAIN),
                Err(OverBudget::Busy) => return Err(CloneError::Stopped),
                Err(error) => return Err(CloneError::Memory(error)),
            }
        }
        Ok(())
    }
}
