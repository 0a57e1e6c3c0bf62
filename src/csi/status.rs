//! The table from error classes to gRPC codes, with the kubelet's reaction to each.
//!
//! The kubelet repeats a failed call after every code, with a pause that grows to two minutes. It treats a code as
//! *final* or not (1.36, `pkg/volume/csi/csi_client.go`, `isFinalError`). After a final code, it assumes that nothing
//! was mounted: it removes the directory of the mount, and does not call NodeUnpublishVolume when the pod is deleted.
//! After any other code, the kubelet is uncertain, and calls NodeUnpublishVolume. So a call may return a final code
//! only if it has left nothing behind, and must not return one while work goes on. The table says which change makes a
//! repeated call succeed.

use std::fmt::Display;

use tonic::{Code, Status};

use crate::error::Class;

/// The status of a failed call. `error` is the message that the pod's Event shows.
pub(super) fn status(class: Class, error: impl Display) -> Status {
    Status::new(code(class), error.to_string())
}

fn code(class: Class) -> Code {
    match class {
        // Final. The user must replace the pod, because its volumes cannot be changed.
        Class::Invalid => Code::InvalidArgument,
        // Final. The image must be pushed. The pod then starts by itself.
        Class::NotFound => Code::NotFound,
        // Final. The user must replace the pod. The earlier mount stays: the kubelet does not remove the directory of
        // the mount while something is mounted there.
        Class::Conflict => Code::AlreadyExists,
        // Final. An administrator must change the node, or the user must push an image that the node can use.
        Class::Precondition => Code::FailedPrecondition,
        // Not final: the CSI specification requires this code for a pending operation. The running call decides.
        Class::Busy => Code::Aborted,
        // Not final: the work may go on without the caller, and the next try finds it further.
        Class::Unavailable => Code::Unavailable,
        // Not final: space may become free.
        Class::Exhausted => Code::ResourceExhausted,
        // Final. The permission must be granted.
        Class::Denied => Code::PermissionDenied,
        // Final. Corrupt bytes from the network were discarded and are fetched again. Corrupt data on the disk of the
        // node stays until an administrator repairs it, and the message says what it is.
        Class::Corrupt => Code::DataLoss,
        // Final. An administrator must look at the node. The log has more details than the message.
        Class::Internal => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the kubelet treats a code as final. Its list has the codes after which an operation may still be
    /// running.
    fn is_final(code: Code) -> bool {
        !matches!(
            code,
            Code::Cancelled
                | Code::DeadlineExceeded
                | Code::Unavailable
                | Code::ResourceExhausted
                | Code::Aborted
        )
    }

    #[test]
    fn only_classes_whose_work_may_go_on_are_not_final() {
        for (class, goes_on) in [
            (Class::Invalid, false),
            (Class::NotFound, false),
            (Class::Conflict, false),
            (Class::Precondition, false),
            (Class::Busy, true),
            (Class::Unavailable, true),
            (Class::Exhausted, true),
            (Class::Denied, false),
            (Class::Corrupt, false),
            (Class::Internal, false),
        ] {
            assert_eq!(!is_final(code(class)), goes_on, "{class:?}");
        }
    }

    #[test]
    fn a_status_has_the_message_of_the_error() {
        let status = status(Class::NotFound, "image a/b:1 is not in the registry");
        assert_eq!(
            (status.code(), status.message()),
            (Code::NotFound, "image a/b:1 is not in the registry")
        );
    }
}
