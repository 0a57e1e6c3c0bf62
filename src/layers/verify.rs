//! Verifies that the layers on the disk are the ones that were written.
//!
//! A layer's image has no checksum over all its bytes. It is not written from front to back, so a hash would need to
//! read it again, which takes a tenth of a pull's time. The tar's digest does not help, because the image has the bytes
//! in another order. So each image is read to its end, which finds read errors of the disk. Its superblock, size and
//! UUID are compared, which finds truncated and exchanged images. Detecting bytes that changed without a read error is
//! left to file systems with checksums.

use std::{fs::File, io, path::Path};

use super::{
    key::LayerKey,
    layer_meta::{LayerMeta, LayerStorage},
    store::Store,
};
use crate::erofs::Image;

/// A damaged layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedLayer {
    /// The key of the layer.
    pub key: LayerKey,
    /// What is damaged, as text that follows `layer <key>: `.
    pub what: String,
}

impl Store {
    /// Reads every layer to its end and returns the damaged ones, sorted by key. Blocks until all layers are read.
    ///
    /// # Errors
    /// The layers cannot be listed, or a lease of one cannot be taken.
    pub fn verify(&self) -> io::Result<Vec<DamagedLayer>> {
        let mut damaged = Vec::new();
        for key in self.layers.dirs.keys()? {
            // A layer that was garbage collected meanwhile is not damaged.
            let Some(_lease) = self.leases.take_if_present(&[key])? else { continue };
            if let Err(what) = check(&self.layers.dirs.of(&key), &key) {
                damaged.push(DamagedLayer { key, what });
            }
        }
        damaged.sort_by_key(|layer| layer.key);
        Ok(damaged)
    }
}

fn check(dir: &Path, key: &LayerKey) -> Result<(), String> {
    let meta = LayerMeta::read(dir).map_err(|e| e.to_string())?;
    match meta.key() {
        Some(known) if known == *key => {}
        Some(other) => return Err(format!("its layer.json is of the layer {other}")),
        None => return Err("its layer.json has neither a key nor a diff ID".to_owned()),
    }
    let content = dir.join(meta.storage.content());
    match meta.storage {
        LayerStorage::Erofs => {
            let unreadable = |e: io::Error| format!("{} cannot be read: {e}", content.display());
            image(File::open(&content).map_err(unreadable)?, &meta, key).map_err(unreadable)?
        }
        LayerStorage::Dir if content.is_dir() => Ok(()),
        LayerStorage::Dir => Err(format!("{} is not a directory", content.display())),
    }
}

/// Checks an image. The outer error is one of the disk, the inner one says how the image is damaged.
fn image(mut file: File, meta: &LayerMeta, key: &LayerKey) -> io::Result<Result<(), String>> {
    let uuid_found = match Image::open(&file) {
        Err(e) if e.kind() == io::ErrorKind::InvalidData => return Ok(Err(e.to_string())),
        opened => opened?.uuid(),
    };
    let (found, written) = (io::copy(&mut file, &mut io::sink())?, meta.image_bytes);
    if found != written {
        return Ok(Err(format!("its image has {found} bytes, but {written} were written")));
    }
    if uuid_found != key.uuid() {
        return Ok(Err("its image is another layer's: the UUID differs".to_owned()));
    }
    Ok(Ok(()))
}
