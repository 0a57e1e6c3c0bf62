//! Why a command of `ovl` failed.

/// Why a command failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Exit code 2.
    Unusable(anyhow::Error),
    /// Exit code 1.
    Failed(anyhow::Error),
    /// Exit code 3.
    Busy(anyhow::Error),
    /// This exit code.
    Code(anyhow::Error, u8),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}
