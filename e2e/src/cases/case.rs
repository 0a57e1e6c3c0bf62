//! The type of a case.

use anyhow::Result;

use crate::env::namespace::TestNamespace;

/// A case.
pub struct Case {
    /// Its name in the report, and the name of its namespace.
    pub name: &'static str,
    /// What it does, for the progress output.
    pub what: &'static str,
    /// Which other cases may run at the same time.
    pub concurrency: Concurrency,
    /// Runs it.
    pub run: fn(&TestNamespace<'_>) -> Result<()>,
}

/// Which other cases may run at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concurrency {
    /// With everything but the last ones. It mostly waits, and uses the first node, which no other
    /// case uses.
    FirstNode,
    /// With others of its kind. It touches only its own pods.
    Parallel,
    /// With nothing else on the second node. It breaks something there.
    Exclusive,
    /// After all others. It breaks something on both nodes.
    Last,
}
