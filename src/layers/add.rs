//! How a layer gets in: staged, checked, made durable, renamed into place.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::{
    AddError, Origin, Reservation, ReserveError, Store, dir,
    layer_meta::{LayerFormat, LayerMeta, native_key},
    parent_layers::chain_id,
    provenance,
    reserved_file::ReservedFile,
    store::discard,
};
use crate::{
    changeset::{self, Format, Limits, ParentLayers, Unpacked},
    digest::Digest,
    error::Class,
    spill::Scratch,
    sys::durable::{self, Amount, at},
};

/// A layer that is about to arrive.
#[derive(Debug, Clone)]
pub struct NewLayer {
    /// The digest of its uncompressed tar, as the image's config promises it.
    pub diff_id: Digest,
    /// Whether overlay's own marks in it are kept: then its key is not its diff id, see [`native_key`].
    pub format: Format,
    /// Where they come from.
    pub origin: Origin,
}

/// A directory in staging that goes away unless it was renamed into place.
#[derive(Debug)]
pub(super) struct Staged(pub(super) PathBuf);

impl Drop for Staged {
    fn drop(&mut self) {
        if let Err(error) = discard(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "staged layer left behind: tried again in a minute");
        }
    }
}

/// What a layer is made of and where.
#[derive(Clone, Copy)]
struct Making<'a> {
    layer: &'a NewLayer,
    key: Digest,
    below: Option<&'a dyn ParentLayers>,
    reservation: &'a Reservation,
}

impl Store {
    /// Reads a layer's blob to its end and keeps it, durably, with its origin. Of a layer that is here already only the origin
    /// is new: its bytes were read all the same, because only bytes prove that the origin has them. Blocks for as long as the
    /// bytes take to arrive.
    ///
    /// On an error nothing stays behind.
    pub fn add(
        &self,
        layer: &NewLayer,
        room: Reservation,
        blob: impl Read + Send,
    ) -> Result<(), AddError> {
        self.take(layer, None, None, room, blob).map(drop)
    }

    /// Makes a layer, alone or onto those below, whose ChainID is `chain`; answers its key.
    pub(super) fn take(
        &self,
        layer: &NewLayer,
        chain: Option<Digest>,
        below: Option<&dyn ParentLayers>,
        room: Reservation,
        blob: impl Read + Send,
    ) -> Result<Digest, AddError> {
        let made = self.make(layer, chain, below, &room, blob);
        made.map_err(|error| match error.class() {
            Class::Exhausted => self.full(&layer.diff_id, &room, error),
            _ => error,
        })
    }

    fn make(
        &self,
        layer: &NewLayer,
        chain: Option<Digest>,
        below: Option<&dyn ParentLayers>,
        room: &Reservation,
        blob: impl Read + Send,
    ) -> Result<Digest, AddError> {
        let NewLayer { diff_id, format, origin, .. } = layer;
        let (key, chain, below) = match format {
            Format::Portable => (chain_id(chain.as_ref(), diff_id), chain, below),
            // It was written by a tool that links to no other layer.
            Format::Native => (native_key(diff_id), None, None),
        };
        let disk = |source: io::Error| AddError::Disk { diff_id: *diff_id, source };
        let staged = Staged(self.stage());
        durable::create_dir(&staged.0, 0o700).map_err(disk)?;

        let making = Making { layer, key, below, reservation: room };
        let unpacked = self.unpack(&staged.0, making, blob)?;
        if self.form == LayerFormat::Dir {
            // Its holes take no room here either.
            let taken =
                fs::metadata(staged.0.join(LayerFormat::Erofs.content())).map_err(disk)?.blocks()
                    * 512;
            room.write(taken).map_err(ReserveError::into_io).map_err(disk)?;
            let dirty = Amount { files: unpacked.entries, bytes: taken };
            lay_out(&staged.0, dirty, &room.spills()).map_err(disk)?;
        }
        LayerMeta::new(self.form, *format, &unpacked, chain).write(&staged.0).map_err(disk)?;
        provenance::write(&staged.0, std::slice::from_ref(origin)).map_err(disk)?;
        self.ages.comes(&key);
        match durable::rename(&staged.0, &self.layer(&key)) {
            // The same key means the same tree.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && self.has(&key) => {
                self.add_origin(&key, origin.clone()).map_err(disk)?;
            }
            done => done.map_err(disk)?,
        }
        Ok(key)
    }

    /// Writes the layer's image into `directory`, and waits until it is on the disk.
    fn unpack(
        &self,
        directory: &Path,
        making: Making<'_>,
        blob: impl Read + Send,
    ) -> Result<Unpacked, AddError> {
        let Making { layer, key, below, reservation: room } = making;
        let NewLayer { diff_id, format, .. } = layer;
        let disk = |source: io::Error| AddError::Disk { diff_id: *diff_id, source };
        let path = directory.join(LayerFormat::Erofs.content());
        let image = create(&path).map_err(disk)?;
        let (budget, scratch) = (self.budget.clone(), room.spills());
        let limits = Limits { budget, scratch, ..Limits::default() };
        let uuid = uuid(&key);
        let out = ReservedFile::new(&image, room);
        let unpacked = match (format, below) {
            (Format::Native, _) => changeset::native_to_erofs(blob, uuid, out, &limits),
            (Format::Portable, None) => changeset::layer_to_erofs(blob, uuid, out, &limits),
            (Format::Portable, Some(below)) => {
                changeset::layer_to_erofs_onto(blob, uuid, out, &limits, below)
            }
        };
        let unpacked = unpacked.map_err(|source| AddError::Unpack { diff_id: *diff_id, source })?;
        if unpacked.diff_id != *diff_id {
            return Err(AddError::DiffId { expected: *diff_id, found: unpacked.diff_id });
        }
        durable::sync_file(&image).map_err(at("sync", &path)).map_err(disk)?;
        Ok(unpacked)
    }

    /// The sentence about a disk that filled while a layer was written.
    fn full(&self, diff_id: &Digest, room: &Reservation, error: AddError) -> AddError {
        let (diff_id, directory, promised) = (*diff_id, self.root.clone(), room.bytes());
        match (error.no_space(), self.space()) {
            (Ok(source), _) => AddError::NoSpace { diff_id, source },
            (Err(_), Ok(space)) => {
                AddError::Filled { diff_id, dir: directory, promised, free: space.available }
            }
            (Err(error), Err(_)) => error,
        }
    }
}

/// Turns the image in `directory` into the directory that it stands for, whose bytes are on the disk. The description, made and synced
/// after them, brings their metadata there.
fn lay_out(directory: &Path, dirty: Amount, scratch: &Scratch) -> io::Result<()> {
    let (image, to) =
        (directory.join(LayerFormat::Erofs.content()), directory.join(LayerFormat::Dir.content()));
    durable::create_dir(&to, 0o700)?;
    dir::lay_out(&File::open(&image)?, &to, scratch).map_err(at("lay out", &to))?;
    durable::settle(&to, dirty).map_err(at("sync", &to))?;
    durable::remove_file(&image)
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

/// The UUID of a layer's image: the first 16 bytes of the hash of its key. Overlay switches features off where two lowers
/// have the same UUID or none (seen on Linux 6.18).
pub(super) fn uuid(key: &Digest) -> [u8; 16] {
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&Digest::of(key.to_string().as_bytes()).as_bytes()[..16]);
    uuid
}
