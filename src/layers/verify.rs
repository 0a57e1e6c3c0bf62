//! Whether the layers are what was written.
//!
//! A layer's image has no checksum of all its bytes: it is not written from front to back, so a hash would have to read it again
//! (a tenth of a pull's time), and the tar's own digest is of bytes that the image does not have in that order. So each image is
//! read to its end, which finds what the disk has lost, and its superblock, size and UUID are compared, which finds what was cut
//! or put in its place. Bytes that rot without a word from the disk are for file systems with checksums.

use std::{fs::File, io, path::Path, sync::Arc};

use super::{
    Store,
    add::uuid,
    layer_meta::{LayerFormat, LayerMeta},
};
use crate::{digest::Digest, erofs::Image};

/// Something wrong with a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which layer.
    pub diff_id: Digest,
    /// What is wrong with it, as half a sentence.
    pub what: String,
}

impl Store {
    /// Reads every layer to its end; answers what is wrong, nothing where nothing is. Blocks for as long as the disk takes.
    ///
    /// # Errors
    /// The layers cannot be listed.
    pub fn verify(self: &Arc<Self>) -> io::Result<Vec<Finding>> {
        let mut findings = Vec::new();
        for diff_id in self.layers()? {
            // One that was collected meanwhile is not wrong.
            let Some(_lease) = self.lease(&[diff_id]) else { continue };
            if let Err(what) = check(&self.layer(&diff_id), &diff_id) {
                findings.push(Finding { diff_id, what });
            }
        }
        findings.sort_by_key(|finding| finding.diff_id);
        Ok(findings)
    }
}

fn check(dir: &Path, key: &Digest) -> Result<(), String> {
    let description = LayerMeta::read(dir).map_err(|e| e.to_string())?;
    match description.key() {
        Some(known) if known == *key => {}
        Some(other) => return Err(format!("its description is of {other}")),
        None => return Err("its description does not say what it is".to_owned()),
    }
    let content = dir.join(description.form.content());
    match description.form {
        LayerFormat::Erofs => {
            let told = |e: io::Error| format!("{} cannot be read: {e}", content.display());
            image(File::open(&content).map_err(told)?, &description, key).map_err(told)?
        }
        LayerFormat::Dir if content.is_dir() => Ok(()),
        LayerFormat::Dir => Err(format!("{} is no directory", content.display())),
    }
}

/// The outer error is the disk's, the inner one the image's.
fn image(mut file: File, description: &LayerMeta, key: &Digest) -> io::Result<Result<(), String>> {
    let uuid_found = match Image::open(&file) {
        Err(e) if e.kind() == io::ErrorKind::InvalidData => return Ok(Err(e.to_string())),
        opened => opened?.uuid(),
    };
    let (found, written) = (io::copy(&mut file, &mut io::sink())?, description.image_bytes);
    if found != written {
        return Ok(Err(format!("its image has {found} bytes and was written with {written}")));
    }
    if uuid_found != uuid(key) {
        return Ok(Err("its image is another layer's: the UUID differs".to_owned()));
    }
    Ok(Ok(()))
}
