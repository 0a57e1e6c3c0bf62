//! Layers as lowers: each mounted once for the life of this process, attached nowhere.

use std::{
    fs, io,
    sync::{Arc, PoisonError},
};

use super::{LowerError, Store, add::Description};
use crate::{
    digest::Digest,
    sys::{
        durable::at,
        mounts::{Detached, mount_image},
    },
};

/// A layer, open.
#[derive(Debug, Clone)]
pub struct Lower {
    /// Its tree.
    pub tree: Arc<Detached>,
    /// Whether nothing below it shows: its root has OCI's opaque mark, which overlay does not look for on a root.
    pub opaque_root: bool,
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

    fn open_lower(&self, diff_id: &Digest) -> Result<Lower, LowerError> {
        if !self.has(diff_id) {
            return Err(LowerError::Absent(*diff_id));
        }
        let folder = self.layer(diff_id);
        let description = folder.join("layer.json");
        let description: Description = fs::read(&description)
            .and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::from))
            .map_err(at("read", &description))
            .map_err(|source| LowerError::Description { diff_id: *diff_id, source })?;
        let image = folder.join("layer.erofs");
        let (written, found) =
            (description.image_bytes, fs::metadata(&image).map_or(0, |image| image.len()));
        if written != found {
            return Err(LowerError::Damaged { diff_id: *diff_id, written, found });
        }
        let tree = mount_image(&*self.mounts, &image)
            .map_err(|source| LowerError::Mount { diff_id: *diff_id, source })?;
        Ok(Lower { tree: Arc::new(tree), opaque_root: description.opaque_root })
    }
}
