//! The documents of an outgoing image: its config and its manifest.

use super::{error::OutgoingError, source::OutgoingImage};
use crate::{
    digest::DiffId,
    image::{NewConfig, new_manifest},
    snapshots::Blob,
    workspaces::WorkspaceError,
};

impl OutgoingImage<'_> {
    /// The config of the image with these layers, bottom first.
    pub(super) fn config(&self, layers: &[Blob]) -> Vec<u8> {
        let diff_ids: Vec<DiffId> = layers.iter().map(|layer| layer.packed.diff_id).collect();
        let config = NewConfig {
            images: &self.configs,
            diff_ids: &diff_ids,
            own_layers: self.own_layers,
            created: self.created,
            maker: "ovl",
            source: self.text(),
        };
        config.bytes()
    }

    /// The manifest of the image with this config and these layers, bottom first.
    pub(super) fn manifest(&self, config: &[u8], layers: &[Blob]) -> Vec<u8> {
        new_manifest(config, layers.iter().map(Blob::in_manifest), &self.annotations)
    }

    /// How many of these layers have another diff ID than the tar from which they came.
    pub(super) fn new_diff_ids(&self, layers: &[Blob]) -> Result<usize, WorkspaceError> {
        let mut new = 0;
        for (number, layer) in layers.iter().enumerate() {
            let before = self.diff_id(number)?;
            new += usize::from(before.is_some_and(|before| before != layer.packed.diff_id));
        }
        Ok(new)
    }
}

impl From<OutgoingError> for WorkspaceError {
    fn from(error: OutgoingError) -> Self {
        Self::Outgoing(Box::new(error))
    }
}
