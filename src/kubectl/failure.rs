//! Why a command of the kubectl plugin failed.

use anyhow::anyhow;

use crate::cluster::ClusterError;

/// Why a command failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// A request to the API server failed. Exit code 1.
    Cluster(ClusterError),
    /// Exit code 1.
    Failed(anyhow::Error),
    /// Exit code 2.
    Usage(anyhow::Error),
    /// Exit code 3.
    TimedOut(anyhow::Error),
}

impl Failure {
    /// The exit code, and the error for people.
    pub(super) fn code(self) -> (u8, anyhow::Error) {
        match self {
            Self::Cluster(error) => (1, anyhow!(error)),
            Self::Failed(error) => (1, error),
            Self::Usage(error) => (2, error),
            Self::TimedOut(error) => (3, error),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<ClusterError> for Failure {
    fn from(error: ClusterError) -> Self {
        Self::Cluster(error)
    }
}
