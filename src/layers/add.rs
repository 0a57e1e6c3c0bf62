//! How a layer gets in: staged, checked, made durable, renamed into place.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{AddError, Origin, Store};
use crate::{
    changeset::{self, Compression, Limits, Unpacked},
    digest::Digest,
    sys::durable::{self, at},
};

/// A layer that is about to arrive.
#[derive(Debug, Clone)]
pub struct NewLayer {
    /// The digest of its uncompressed tar, as the image's config promises it.
    pub diff_id: Digest,
    /// How its bytes are packed.
    pub compression: Compression,
    /// Where they come from.
    pub origin: Origin,
}

/// `layer.json`: for people, and for what has to be known of a layer without opening it.
#[derive(Serialize, Deserialize)]
pub(super) struct Description {
    form: String,
    diff_id: Digest,
    tar_bytes: u64,
    pub(super) image_bytes: u64,
    entries: u64,
    /// Whether it hides everything below it.
    pub(super) opaque_root: bool,
    origin: Origin,
    added: Timestamp,
}

/// A folder in staging that goes away unless it was renamed into place.
struct Staged(PathBuf);

impl Drop for Staged {
    fn drop(&mut self) {
        if let Err(error) = durable::remove_tree(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "staged layer left behind until the next start");
        }
    }
}

impl Store {
    /// Reads a layer's blob to its end and keeps it, durably. A layer that is here already is left as it is, and the blob
    /// is not read. Blocks for as long as the bytes take to arrive.
    ///
    /// On an error nothing stays behind.
    pub fn add(&self, layer: &NewLayer, blob: impl Read + Send) -> Result<(), AddError> {
        let NewLayer { diff_id, compression, origin } = layer;
        if self.has(diff_id) {
            return Ok(());
        }
        let disk = |source: io::Error| AddError::Disk { diff_id: *diff_id, source };
        let staged = Staged(self.stage());
        durable::create_dir(&staged.0, 0o700).map_err(disk)?;

        let image_path = staged.0.join("layer.erofs");
        let image = create(&image_path).map_err(disk)?;
        let unpacked = changeset::layer_to_erofs(
            blob,
            *compression,
            uuid(diff_id),
            &image,
            &Limits::default(),
        )
        .map_err(|source| AddError::Unpack { diff_id: *diff_id, source })?;
        if unpacked.diff_id != *diff_id {
            return Err(AddError::DiffId { expected: *diff_id, found: unpacked.diff_id });
        }
        durable::sync_file(&image).map_err(at("sync", &image_path)).map_err(disk)?;

        describe(&staged.0.join("layer.json"), &unpacked, origin).map_err(disk)?;
        match durable::rename(&staged.0, &self.layer(diff_id)) {
            // Somebody else made the same layer meanwhile; the same diff id means the same tree.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && self.has(diff_id) => Ok(()),
            done => done.map_err(disk),
        }
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(at("make", path))
}

fn describe(path: &Path, unpacked: &Unpacked, origin: &Origin) -> io::Result<()> {
    let description = Description {
        form: "erofs".to_owned(),
        diff_id: unpacked.diff_id,
        tar_bytes: unpacked.tar_bytes,
        image_bytes: unpacked.image_bytes,
        entries: unpacked.entries,
        opaque_root: unpacked.opaque_root,
        origin: origin.clone(),
        added: Timestamp::now(),
    };
    durable::write_atomic(path, &serde_json::to_vec_pretty(&description)?)
}

/// The UUID of a layer's image: the first 16 bytes of the hash of its diff id. Overlay switches features off where two lowers
/// have the same UUID or none (seen on Linux 6.18).
fn uuid(diff_id: &Digest) -> [u8; 16] {
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&Digest::of(diff_id.to_string().as_bytes()).as_bytes()[..16]);
    uuid
}
