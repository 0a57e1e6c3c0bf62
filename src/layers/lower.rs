//! Layers as lowers: each mounted once, until the process ends or the layer is collected, attached nowhere.

use std::{
    fs,
    sync::{Arc, PoisonError},
};

use super::{
    LowerError, Store,
    description::{Description, Form},
};
use crate::{
    changeset::Features,
    digest::Digest,
    sys::mounts::{Detached, mount_image},
};

/// A layer, open.
#[derive(Debug, Clone)]
pub struct Lower {
    /// Its tree.
    pub tree: Arc<Detached>,
    /// Whether nothing below it shows: its root has OCI's opaque mark, which overlay does not look for on a root.
    pub opaque_root: bool,
    /// Whether it was copied out of a volume: then its files' owners are as the volume showed them.
    pub is_cut: bool,
    /// Overlay's marks in it: a mount that is not told to follow them answers EPERM for what has one.
    pub features: Features,
}

impl Store {
    /// The layer, open as a lower. Every volume that has it gets the same mount, so its pages are cached once however
    /// many pods read them; nothing shows in mountinfo, and a kill leaves nothing behind.
    pub fn lower(&self, diff_id: &Digest) -> Result<Lower, LowerError> {
        let slot = {
            let mut lowers = self.lowers.lock().unwrap_or_else(PoisonError::into_inner);
            lowers.entry(*diff_id).or_default().clone()
        };
        // Held while mounting: the second who asks for this layer waits for the first one's mount, whoever asks for others does not.
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        match &*slot {
            Some(lower) => Ok(lower.clone()),
            None => Ok(slot.insert(self.open_lower(diff_id)?).clone()),
        }
    }

    /// How many layers are open.
    pub fn open_layers(&self) -> u64 {
        let lowers = self.lowers.lock().unwrap_or_else(PoisonError::into_inner);
        lowers.len() as u64
    }

    fn open_lower(&self, diff_id: &Digest) -> Result<Lower, LowerError> {
        let folder = self.layer(diff_id);
        let description = self.description(diff_id)?;
        let content = folder.join(description.form.content());
        let tree = match description.form {
            Form::Erofs => {
                let written = description.image_bytes;
                let found = fs::metadata(&content).map_or(0, |image| image.len());
                if written != found {
                    return Err(LowerError::Damaged { diff_id: *diff_id, written, found });
                }
                mount_image(&*self.mounts, &content)
            }
            Form::Dir => self.mounts.open_dir(&content),
        };
        let tree = tree.map_err(|source| LowerError::Mount { diff_id: *diff_id, source })?;
        Ok(Lower {
            tree: Arc::new(tree),
            opaque_root: description.opaque_root,
            is_cut: description.is_cut(),
            features: description.features,
        })
    }

    /// The digest of the tar that a layer came as; `None` for a cut, which came as none.
    pub fn diff_id(&self, key: &Digest) -> Result<Option<Digest>, LowerError> {
        Ok(self.description(key)?.diff_id)
    }

    /// Overlay's marks in a layer.
    pub fn features(&self, key: &Digest) -> Result<Features, LowerError> {
        Ok(self.description(key)?.features)
    }

    pub(super) fn description(&self, key: &Digest) -> Result<Description, LowerError> {
        if !self.has(key) {
            return Err(LowerError::Absent(*key));
        }
        Description::read(&self.layer(key))
            .map_err(|source| LowerError::Description { diff_id: *key, source })
    }
}
