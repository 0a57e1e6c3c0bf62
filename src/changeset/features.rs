//! What a layer's tree asks of the mount that it is a lower of.
//!
//! Deliberately absent: opaque folders and whiteouts, which every overlay knows.

use serde::{Deserialize, Serialize};

/// Overlay's marks in a layer that a mount must be told to follow: without that, what has one answers EPERM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Features {
    /// Files have attributes of their own, and the content of a lower layer's.
    pub metacopy: bool,
    /// Folders or files stand under another name in the layers below.
    pub redirect: bool,
}
