//! How a layer is packed.

use crate::{
    changeset::{Compression, Format},
    owner::Owner,
};

/// The options of a packed layer.
#[derive(Debug, Clone)]
pub struct PackOptions {
    /// The format of whiteouts, renames and metacopies.
    pub format: Format,
    /// The compression of the tar.
    pub compression: Compression,
    /// The latest time in seconds since 1970; later times are set to it. `None` keeps all times.
    pub clamp: Option<i64>,
    /// The owner that was exchanged with root in the volume. It is exchanged back. `None` changes no owner.
    pub owner: Option<Owner>,
    /// One of the packed trees hides everything below it. The root of a tree cannot say so. For portable layers.
    pub hides_below: bool,
}
