//! The purpose of a cluster.

/// The purpose of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// For a user: it stays, with its kubeconfig at the default path, context `kind-ovl`.
    Try,
    /// For the suites: always new, with its kubeconfig in a directory of the harness.
    Test,
}

impl Purpose {
    /// The name of the cluster in kind.
    pub fn cluster(self) -> &'static str {
        match self {
            Self::Try => "ovl",
            Self::Test => "ovl-test",
        }
    }
}
