//! The ends of error messages: what a user can do about a response of a registry.

use std::{fmt, time::Duration};

use crate::format;

/// The registry refused a request: with or without a secret, for a push or a pull.
pub(super) struct Refused<'a> {
    /// The reason in the registry's response.
    pub(super) why: &'a str,
    pub(super) secret: bool,
    pub(super) push: bool,
}

impl fmt::Display for Refused<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (why, may) = (self.why, if self.push { "push to" } else { "pull" });
        match (self.secret, self.push) {
            (true, _) => write!(
                f,
                "the registry refused the secret ({why}); check its user name and password, and that they may {may} \
                 this repository"
            ),
            (false, false) => write!(
                f,
                "the registry does not allow anonymous pulls from this repository ({why}); check the name, or give \
                 credentials for it"
            ),
            (false, true) => write!(
                f,
                "the registry does not allow anonymous pushes to this repository ({why}); check the name, or give a \
                 secret for it (pushSecretName)"
            ),
        }
    }
}

/// What to do about an HTTP status; the server may have said when to try again.
pub(super) struct Fix<'a>(pub(super) u16, pub(super) &'a Option<Duration>);

impl fmt::Display for Fix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self(413, None) => {
                f.write_str("; the proxy in front of the registry must allow larger requests")
            }
            Self(_, Some(later)) => write!(f, "; try again in {}", format::span(*later)),
            Self(status, None) if is_transient(*status) => f.write_str("; try again later"),
            Self(..) => f.write_str("; check that it is an OCI registry"),
        }
    }
}

/// Statuses that a retry can change: a timeout, too many requests, or a server error other than 501 (not implemented).
pub(super) fn is_transient(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502..=599)
}
