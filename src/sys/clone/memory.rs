//! Takes the memory of one copy from the budget that all operations of the process share.

use std::{thread, time::Duration};

use super::error::CloneError;
use crate::budget::{OverBudget, Share};

/// The amount grows in steps of this many bytes.
const STEP: u64 = 256 << 10;

/// The pause between two attempts to get memory.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// The memory of one copy. Without a share it is not limited.
#[derive(Debug, Default)]
pub(super) struct Memory {
    share: Option<Share>,
    /// Bytes that were taken from the share.
    taken: u64,
}

impl Memory {
    pub(super) fn new(share: Share) -> Self {
        Self { share: Some(share), taken: 0 }
    }

    /// Waits until `bytes` may be used, as long as `go_on` returns true. Memory that was taken is
    /// returned only when the copy is dropped: the next round needs as much, and writers may be
    /// frozen then.
    pub(super) fn reserve(
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
                Err(OverBudget::Busy) if go_on() => thread::sleep(RETRY_INTERVAL),
                Err(OverBudget::Busy) => return Err(CloneError::Stopped),
                Err(error) => return Err(CloneError::Memory(error)),
            }
        }
        Ok(())
    }
}
