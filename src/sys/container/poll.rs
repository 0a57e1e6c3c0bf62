//! Waits until one of several descriptors is ready.

use std::{io, os::fd::BorrowedFd, time::Instant};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll as rustix_poll},
    io::Errno,
};

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// A read does not block. That is also so at the end of the file.
    Read,
    /// A write does not block.
    Write,
    /// Nothing: the descriptor is not looked at.
    Nothing,
}

/// Waits until one of the descriptors is ready, or until `end`. Returns which ones are ready; none of them at the end.
pub fn poll<const N: usize>(
    wanted: [(BorrowedFd<'_>, Interest); N],
    end: Option<Instant>,
) -> io::Result<[bool; N]> {
    let mut polled: Vec<_> = wanted
        .iter()
        .filter_map(|(fd, interest)| match interest {
            Interest::Read => Some(PollFd::from_borrowed_fd(*fd, PollFlags::IN)),
            Interest::Write => Some(PollFd::from_borrowed_fd(*fd, PollFlags::OUT)),
            Interest::Nothing => None,
        })
        .collect();
    loop {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        // A time that is too long for the kernel is none.
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match rustix_poll(&mut polled, left.as_ref()) {
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut ready = polled.iter().map(|fd| !fd.revents().is_empty());
    Ok(wanted.map(|(_, interest)| {
        interest != Interest::Nothing && ready.next().is_some_and(|ready| ready)
    }))
}
