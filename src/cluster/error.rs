//! [`ClusterError`]: the failures of requests to the API server, each with its class.

use std::time::Duration;

use kube::{client::AuthError, config::InClusterError};

use crate::{error::Class, format};

/// A request to the API server that was not sent, failed or was refused.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// No ServiceAccount is mounted here.
    #[error(
        "this process is not in a pod with a mounted ServiceAccount ({0}): mount the account's token \
         (automountServiceAccountToken), or run with --no-cluster"
    )]
    Outside(#[source] Box<InClusterError>),
    /// A user's kubeconfig cannot be used, or there is none.
    #[error("cannot connect to a cluster: {0}")]
    Kubeconfig(String),
    /// The credentials of the kubeconfig's user cannot be used.
    #[error("the kubeconfig has no usable credentials: {0}")]
    Credentials(String),
    /// The mounted ServiceAccount, or the TLS settings of a kubeconfig, cannot be used.
    #[error("cannot set up the client of the API server: {0}")]
    SetUp(#[source] Box<kube::Error>),
    /// The API server responded with an error status.
    #[error("the API server refused to {what}: {message} ({code} {reason})")]
    Refused {
        /// What was requested, as a verb and an object.
        what: &'static str,
        /// The HTTP status.
        code: u16,
        /// The reason of the `Status`, such as `Forbidden`.
        reason: String,
        /// The message of the `Status`.
        message: String,
    },
    /// The API server did not respond, or its response cannot be read.
    #[error("cannot {what}: the request to the API server failed: {problem}")]
    NoResponse {
        /// What was requested, as a verb and an object.
        what: &'static str,
        /// The error of the client library.
        problem: Box<kube::Error>,
    },
    /// The API server did not respond in time.
    #[error("cannot {what}: the API server did not respond within {}", format::span(*.within))]
    Slow {
        /// What was requested, as a verb and an object.
        what: &'static str,
        /// The timeout.
        within: Duration,
    },
}

impl ClusterError {
    /// The class for the caller: only [`Class::Unavailable`] is worth a retry of the same request.
    pub fn class(&self) -> Class {
        match self {
            Self::Outside(_) | Self::Kubeconfig(_) => Class::Precondition,
            Self::Credentials(_) => Class::Denied,
            Self::SetUp(_) => Class::Internal,
            Self::NoResponse { .. } | Self::Slow { .. } => Class::Unavailable,
            Self::Refused { code, .. } => match code {
                401 | 403 => Class::Denied,
                404 => Class::NotFound,
                409 => Class::Conflict,
                408 | 429 | 500.. => Class::Unavailable,
                _ => Class::Invalid,
            },
        }
    }

    pub(super) fn of(what: &'static str, error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Refused {
                what,
                code: status.code,
                reason: status.reason,
                message: status.message,
            },
            problem => match credentials(&problem) {
                Some(why) => Self::Credentials(why),
                None => Self::NoResponse { what, problem: Box::new(problem) },
            },
        }
    }
}

/// The message for an error of the user's credentials; `None` for any other error. It quotes no text of the libraries,
/// which may quote a secret.
pub(super) fn credentials(error: &kube::Error) -> Option<String> {
    let error = match error {
        kube::Error::Auth(error) => error,
        kube::Error::Service(error) => error.downcast_ref::<AuthError>()?,
        _ => return None,
    };
    Some(match error {
        AuthError::AuthExecStart(error) => {
            format!("cannot run its credential plugin: {error}")
        }
        AuthError::AuthExecRun { out, .. } => {
            format!("its credential plugin failed ({}): run the plugin by itself", out.status)
        }
        AuthError::ReadTokenFile(error, path) => {
            format!("cannot read its token file {}: {error}", path.display())
        }
        _ => "its user entry, or the output of its credential plugin, cannot be used".to_owned(),
    })
}
