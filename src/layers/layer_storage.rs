//! How a layer is stored on the disk.

use serde::{Deserialize, Serialize};

/// How a layer is stored on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerStorage {
    /// One EROFS image, `layer.erofs`.
    Erofs,
    /// A directory tree, `diff/`.
    Dir,
}

impl LayerStorage {
    /// The name of the image file or of the tree's root in the layer's directory.
    pub(super) fn content(self) -> &'static str {
        match self {
            Self::Erofs => "layer.erofs",
            Self::Dir => "diff",
        }
    }
}
