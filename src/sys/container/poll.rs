//! Waits until one of several descriptors is ready.

use std::{io, os::fd::BorrowedFd};

use rustix::{
    event::{PollFd, PollFlags, poll as rustix_poll},
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

/// Waits until one of the descriptors is ready. Returns which ones are.
pub fn poll<const N: usize>(wanted: [(BorrowedFd<'_>, Interest); N]) -> io::Result<[bool; N]> {
    let mut polled: Vec<_> = wanted
        .iter()
        .filter_map(|(fd, interest)| match interest {
            Interest::Read => Some(PollFd::from_borrowed_fd(*fd, PollFlags::IN)),
            Interest::Write => Some(PollFd::from_borrowed_fd(*fd, PollFlags::OUT)),
            Interest::Nothing => None,
        })
        .collect();
    while let Err(error) = rustix_poll(&mut polled, None) {
        if error != Errno::INTR {
            return Err(error.into());
        }
    }
    let mut ready = polled.iter().map(|fd| !fd.revents().is_empty());
    Ok(wanted.map(|(_, interest)| {
        interest != Interest::Nothing && ready.next().is_some_and(|ready| ready)
    }))
}
