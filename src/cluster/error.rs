//! What the API server's answers mean.

use std::time::Duration;

use kube::config::InClusterError;

use super::user::credentials;
use crate::fault::Class;

/// The API server was not asked, or did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// No ServiceAccount is mounted here.
    #[error(
        "this process is no pod with a ServiceAccount of its own ({0}): mount the account's token \
         (automountServiceAccountToken), or run with --no-cluster"
    )]
    Outside(#[source] Box<InClusterError>),
    /// A user's kubeconfig cannot be used, or there is none.
    #[error("no cluster can be asked: {0}")]
    Kubeconfig(String),
    /// Whom the kubeconfig's user is cannot be proved.
    #[error("the kubeconfig has no credentials that can be used: {0}")]
    Credentials(String),
    /// What is mounted cannot be used.
    #[error("the client of the API server cannot be set up: {0}")]
    SetUp(#[source] Box<kube::Error>),
    /// It answered no.
    #[error("the API server refused to {what}: {message} ({code} {reason})")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// The HTTP status.
        code: u16,
        /// Its word for it, as `Forbidden`.
        reason: String,
        /// Its sentence.
        message: String,
    },
    /// No answer that can be read.
    #[error("the API server did not {what}: {problem}")]
    Unanswered {
        /// What was asked.
        what: &'static str,
        /// How it went wrong.
        problem: Box<kube::Error>,
    },
    /// No answer in time.
    #[error("the API server did not {what} within {} s", .within.as_secs())]
    Slow {
        /// What was asked.
        what: &'static str,
        /// How long that was waited for.
        within: Duration,
    },
}

impl ClusterError {
    /// What it means to whoever asked: only [`Class::Unavailable`] is worth another try.
    pub fn class(&self) -> Class {
        match self {
            Self::Outside(_) | Self::Kubeconfig(_) => Class::Precondition,
            Self::Credentials(_) => Class::Denied,
            Self::SetUp(_) => Class::Internal,
            Self::Unanswered { .. } | Self::Slow { .. } => Class::Unavailable,
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
                None => Self::Unanswered { what, problem: Box::new(problem) },
            },
        }
    }
}
