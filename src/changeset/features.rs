//! The overlay features that a layer needs from a mount with it as a lower.
//!
//! Deliberately absent: opaque directories and whiteouts, which every overlay mount supports.

use serde::{Deserialize, Serialize};

/// Kinds of overlay xattrs in a layer that need a mount option. Without the option, files and directories that have one
/// fail with EPERM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LayerFeatures {
    /// Files have their own metadata, and the content of a file in a lower layer.
    pub metacopy: bool,
    /// Directories or files have another name in the layers below.
    pub redirect: bool,
}
