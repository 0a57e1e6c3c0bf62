//! The names that users write: of a workspace, and of a state of it.

use std::{fmt, str::FromStr};

use crate::layers::{StateName, WorkspaceName};

/// The name of the upper of a command that failed. No snapshot can have it.
pub const FAILED: &str = "failed";
/// The name of the present state. No snapshot can have it.
pub const CURRENT: &str = "current";
/// The name of the first state of a workspace.
pub const POSTINIT: &str = "postinit";

/// `NAME` or `NAME@SNAPSHOT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameAt {
    /// The workspace.
    pub workspace: WorkspaceName,
    /// The snapshot of it. `None` for the present state.
    pub state: Option<StateName>,
}

/// A text is not `NAME` or `NAME@SNAPSHOT`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}; write NAME, or NAME@SNAPSHOT for a snapshot of the workspace")]
pub struct NameError(String);

impl FromStr for NameAt {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (workspace, state) = match text.split_once('@') {
            Some((workspace, state)) => (workspace, Some(state)),
            None => (text, None),
        };
        let workspace = workspace.parse();
        let state = state.filter(|state| *state != CURRENT).map(str::parse).transpose();
        Ok(Self {
            workspace: workspace.map_err(|e| NameError(format!("{e}")))?,
            state: state.map_err(|e| NameError(format!("{e}")))?,
        })
    }
}

impl fmt::Display for NameAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.state {
            Some(state) => write!(f, "{}@{state}", self.workspace),
            None => write!(f, "{}", self.workspace),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_of_a_workspace_or_of_its_snapshot() {
        let name = |text: &str| text.parse::<NameAt>();
        let snapshot = name("box@one").unwrap();
        assert_eq!((snapshot.workspace.as_str(), snapshot.to_string()), ("box", "box@one".into()));
        assert_eq!(name("box@current").unwrap(), name("box").unwrap());
        for bad in ["", ".box", "a/b", "box@", "box@.x", "box@a@b", "box@a/b"] {
            let error = name(bad).unwrap_err().to_string();
            assert!(error.contains("write NAME"), "{bad}: {error}");
        }
    }
}
