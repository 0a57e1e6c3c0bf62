//! The classes of failure, which an edge maps to its own codes (gRPC status, exit code).
//!
//! Every error of every module has a class. Each edge has one exhaustive table from the class to its codes.
//! Deliberately absent: the codes of the edges.

use std::io;

/// What a failure means to the caller, independent of the cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The request itself is wrong. The same request will fail again.
    Invalid,
    /// The object that the request names does not exist.
    NotFound,
    /// The object exists already and was made with other arguments.
    Conflict,
    /// The request is right, but this node, kernel or state cannot carry it out, or the object passes a limit of the
    /// driver. A user or an administrator must change something first.
    Precondition,
    /// Another operation on the same object is under way. A later try can succeed.
    Busy,
    /// A system outside (a registry, the network) did not respond. A later try can succeed.
    Unavailable,
    /// Disk space, quota or descriptors are used up. The same request succeeds once some are free again.
    Exhausted,
    /// The caller has no right to this object.
    Denied,
    /// Data that arrived or that lie on disk do not match their digest or format.
    Corrupt,
    /// A failure of this program or machine. The caller cannot do anything about it.
    Internal,
}

impl Class {
    /// The class of an I/O error of the disk: [`Self::Exhausted`] for a full disk or quota, which passes when space is
    /// freed; [`Self::Internal`] for every other error, which an administrator must look at on the node.
    pub fn of_disk(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Exhausted,
            _ => Self::Internal,
        }
    }
}
