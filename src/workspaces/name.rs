//! The names that users write: of a workspace, of a state of it, and of an image.

use std::{fmt, str::FromStr};

use crate::{
    layers::{ImageRecord, StateName, WorkspaceName},
    reference::Reference,
};

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

/// The image that a user names: by a reference, with or without the registry and the tag that are the default; by the
/// digest of its manifest, or by the ChainID of layers that were applied by hand. The first digits are enough if no other
/// image has them.
pub(super) fn image_named<'i>(images: &'i [ImageRecord], text: &str) -> Option<&'i ImageRecord> {
    let canonical = text.parse::<Reference>().map(|reference| reference.to_string());
    let is_named = |image: &&ImageRecord| {
        let named =
            |known: &String| known == text || canonical.as_ref().is_ok_and(|it| it == known);
        image.references.iter().any(named)
    };
    if let Some(image) = images.iter().filter(is_named).max_by_key(|image| image.resolved) {
        return Some(image);
    }
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    let chain = format!("sha256:{digits}");
    let begins = |image: &&ImageRecord| {
        image.manifest.digest().hex().starts_with(digits)
            || image.references.iter().any(|name| name.starts_with(&chain))
    };
    let mut found = images.iter().filter(begins);
    let first = found.next().filter(|_| digits.len() >= 6)?;
    found.next().is_none().then_some(first)
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
