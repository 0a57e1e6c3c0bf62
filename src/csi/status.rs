//! The one table from classes to gRPC codes, with what the kubelet does with each.
//!
//! To the kubelet a code is *final* or not (1.36, `pkg/volume/csi/csi_client.go`, `isFinalError`). It tries again either
//! way, with a pause that grows to two minutes. After a final code it takes it that nothing was mounted: it removes the
//! folder of the mount, and does not call NodeUnpublishVolume when the pod goes. After any other it is uncertain, and
//! does call it. So a final code may only be answered where nothing is left behind, and must not be while work goes on.

use std::fmt::Display;

use tonic::{Code, Status};

use crate::fault::Class;

/// The answer to a call that failed; `error` is the sentence that the pod's Event will show.
pub(super) fn status(class: Class, error: impl Display) -> Status {
    Status::new(code(class), error.to_string())
}

fn code(class: Class) -> Code {
    match class {
        // Final. Somebody has to change the pod.
        Class::Invalid => Code::InvalidArgument,
        // Final, and still tried again: an image that is pushed later makes the pod start by itself.
        Class::NotFound => Code::NotFound,
        // Final. What is mounted stays: the folder of the mount is not removed while something is mounted there.
        Class::Conflict => Code::AlreadyExists,
        // Final, and still tried again: somebody has to change the node, or push an image that it can take.
        Class::Precondition => Code::FailedPrecondition,
        // Not final, by the specification's own rule for an operation that is pending; the call under way decides.
        Class::Busy => Code::Aborted,
        // Not final: what was begun may go on without the caller, and the next try finds it further.
        Class::Unavailable => Code::Unavailable,
        // Not final: room may be made.
        Class::Exhausted => Code::ResourceExhausted,
        // Final, and still tried again: a right that is given later is enough.
        Class::Denied => Code::PermissionDenied,
        // Final, and still tried again: bytes that arrived wrong were thrown away and are fetched anew; what lies wrong on
        // this node's disk stays until somebody mends it, and the sentence says what.
        Class::Corrupt => Code::DataLoss,
        // Final. The log has more than the sentence.
        Class::Internal => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kubelet's own list of codes after which an operation may still be going on.
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
    fn only_what_may_go_on_is_not_final() {
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
    fn the_sentence_arrives() {
        let status = status(Class::NotFound, "image a/b:1 is not in the registry");
        assert_eq!(
            (status.code(), status.message()),
            (Code::NotFound, "image a/b:1 is not in the registry")
        );
    }
}
