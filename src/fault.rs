//! The classes of failure.
//!
//! Every error of every room says which class it is; an edge has one exhaustive table from class to its own
//! codes (gRPC status, exit code). Deliberately absent: any code of any edge.

use std::io;

/// What a failure means to whoever asked, whatever went wrong inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The request itself is wrong; asking again the same way will fail again.
    Invalid,
    /// What the request names does not exist.
    NotFound,
    /// The volume exists already, made with other arguments.
    Conflict,
    /// The request is right, but this node, kernel or state cannot carry it out, or what it names passes a bound of ours,
    /// until somebody changes something.
    Precondition,
    /// An operation on the same thing is under way; ask again later.
    Busy,
    /// Something outside (a registry, the network) did not answer; asking again may help.
    Unavailable,
    /// There is no room: disk space, quota, descriptors. Room may be made; then the same request succeeds.
    Exhausted,
    /// Whoever asked may not have this.
    Denied,
    /// What arrived or lies on disk is not what its digest or format promises.
    Corrupt,
    /// A failure of this program or machine that the caller can do nothing about.
    Internal,
}

impl Class {
    /// The class of a disk's refusal: a full disk passes when somebody makes room, anything else needs a look at the node.
    pub fn of_disk(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Exhausted,
            _ => Self::Internal,
        }
    }
}
