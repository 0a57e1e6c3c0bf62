//! What a round of garbage collection has done.

/// The result of a round, and the size of the store after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GcStats {
    /// Image records removed.
    pub images: u64,
    /// Layers removed.
    pub layers: u64,
    /// Bytes of the removed layers.
    pub bytes: u64,
    /// Layers in the store after the round.
    pub kept_layers: u64,
    /// Bytes of the layers in the store after the round.
    pub kept_bytes: u64,
}

/// The result of [`Store::remove_image`](super::Store::remove_image).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemovedImage {
    /// It was removed.
    Removed(GcStats),
    /// A workspace or a snapshot was made from it.
    Needed,
    /// There is no such image.
    Absent,
}
