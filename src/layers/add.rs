//! Adds a layer to the store: unpacks it into staging, verifies its digest, syncs it and renames it into place.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt},
    path::Path,
};

use super::{
    content_digest::ContentDigest,
    dir,
    error::AddError,
    key::{ChainId, LayerKey},
    layer_meta::LayerMeta,
    layer_storage::LayerStorage,
    provenance::{self, Origin},
    reservation::Reservation,
    reserve_error::ReserveError,
    reserved_file::ReservedFile,
    stored_layers::Layers,
};
use crate::{
    changeset::{self, LayersBelow, Limits, Unpacked},
    digest::DiffId,
    error::Class,
    media_type::Format,
    sys::durable::{self, Amount, at},
};

/// A layer to add.
#[derive(Debug, Clone)]
pub struct NewLayer {
    /// The expected digest of its uncompressed tar, from the image's config.
    pub diff_id: DiffId,
    /// How its tar is read. A native layer keeps its overlay xattrs.
    pub format: Format,
    /// Where its bytes come from.
    pub origin: Origin,
}

impl NewLayer {
    /// The key of the layer if it is unpacked without the layers below it.
    pub(crate) fn key_alone(&self) -> LayerKey {
        LayerKey::alone(&self.diff_id, self.format)
    }
}

/// The layers below a new layer, with which it is unpacked.
#[derive(Clone, Copy)]
pub(super) struct StackBelow<'a> {
    /// Their ChainID; `None` for no layers.
    pub(super) chain: Option<ChainId>,
    pub(super) files: &'a dyn LayersBelow,
}

/// The input for one layer.
#[derive(Clone, Copy)]
struct UnpackJob<'a> {
    layer: &'a NewLayer,
    key: LayerKey,
    /// `None` where the layer is unpacked without the layers below.
    below: Option<StackBelow<'a>>,
    reservation: &'a Reservation,
}

impl Layers {
    /// Reads a layer's blob to its end and stores the layer durably, with its origin. If the layer exists already, only
    /// the origin is added. The bytes are read in that case too, because only bytes prove that the origin has them.
    /// Blocks until all bytes arrived.
    ///
    /// # Errors
    /// The blob cannot be read, is not a layer or has another diff ID, or the disk is full or fails. Nothing is left on
    /// the disk then.
    pub fn add(
        &self,
        layer: &NewLayer,
        reservation: Reservation,
        blob: impl Read + Send,
    ) -> Result<(), AddError> {
        self.add_layer(layer, None, reservation, blob).map(drop)
    }

    /// Adds a layer, alone or on top of the layers below it. Returns its key.
    pub(super) fn add_layer(
        &self,
        layer: &NewLayer,
        below: Option<StackBelow<'_>>,
        reservation: Reservation,
        blob: impl Read + Send,
    ) -> Result<LayerKey, AddError> {
        let added = self.stage_and_rename(layer, below, &reservation, blob);
        added.map_err(|error| match error.class() {
            Class::Exhausted => self.out_of_space(&layer.diff_id, &reservation, error),
            _ => error,
        })
    }

    fn stage_and_rename(
        &self,
        layer: &NewLayer,
        below: Option<StackBelow<'_>>,
        reservation: &Reservation,
        blob: impl Read + Send,
    ) -> Result<LayerKey, AddError> {
        let NewLayer { diff_id, format, origin } = layer;
        // The tool that wrote a native layer never links to other layers.
        let below = below.filter(|_| *format == Format::Portable);
        let (alone, chain) = (layer.key_alone(), below.and_then(|below| below.chain));
        let key = match &chain {
            None => alone,
            Some(chain) => LayerKey::of_chain(&ChainId::new(Some(chain), &alone)),
        };
        let disk_error = |source: io::Error| AddError::Disk { diff_id: *diff_id, source };
        let staged = self.staging.new_dir();
        let dir = staged.path();
        durable::create_dir(dir, 0o700).map_err(disk_error)?;

        let job = UnpackJob { layer, key, below, reservation };
        let limits = Limits {
            budget: self.budget.clone(),
            scratch: reservation.scratch(),
            ..Limits::default()
        };
        let (image, unpacked) = self.unpack(dir, job, &limits, blob)?;
        let path = dir.join(LayerStorage::Erofs.content());
        let sync = || durable::sync_file(&image).map_err(at("sync", &path));
        let content = if self.storage == LayerStorage::Dir {
            sync().map_err(disk_error)?;
            // Holes of the image stay holes in the directory tree.
            let allocated = image.metadata().map_err(disk_error)?.blocks() * 512;
            reservation.write(allocated).map_err(ReserveError::into_io).map_err(disk_error)?;
            let dirty = Amount { files: unpacked.entries, bytes: allocated };
            lay_out(dir, dirty, &limits)
        } else {
            ContentDigest::while_syncing(&path, LayerStorage::Erofs, &limits, sync)
        };
        let content = content.map_err(disk_error)?;
        let meta = LayerMeta::new(self.storage, *format, &unpacked, chain, content);
        meta.write(dir).map_err(disk_error)?;
        provenance::write(dir, std::slice::from_ref(origin)).map_err(disk_error)?;
        self.ages.arrived(&key);
        match durable::rename(dir, &self.dirs.of(&key)) {
            // Layers with the same key have the same content.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && self.has(&key) => {
                self.origins.add(&key, origin.clone()).map_err(disk_error)?;
            }
            done => done.map_err(disk_error)?,
        }
        Ok(key)
    }

    /// Writes the layer's image into `directory`. Syncs nothing.
    fn unpack(
        &self,
        directory: &Path,
        job: UnpackJob<'_>,
        limits: &Limits,
        blob: impl Read + Send,
    ) -> Result<(File, Unpacked), AddError> {
        let UnpackJob { layer, key, below, reservation } = job;
        let NewLayer { diff_id, format, .. } = layer;
        let disk_error = |source: io::Error| AddError::Disk { diff_id: *diff_id, source };
        let path = directory.join(LayerStorage::Erofs.content());
        let image = create(&path).map_err(disk_error)?;
        let uuid = key.uuid();
        let out = ReservedFile::new(&image, reservation);
        let unpacked = match (format, below) {
            (Format::Native, _) => changeset::native_to_erofs(blob, uuid, out, limits),
            (Format::Portable, None) => changeset::layer_to_erofs(blob, uuid, out, limits),
            (Format::Portable, Some(below)) => {
                changeset::layer_to_erofs_with_layers_below(blob, uuid, out, limits, below.files)
            }
        };
        let unpacked = unpacked.map_err(|source| AddError::Unpack { diff_id: *diff_id, source })?;
        if unpacked.diff_id != *diff_id {
            return Err(AddError::DiffId { expected: *diff_id, found: unpacked.diff_id });
        }
        Ok((image, unpacked))
    }

    /// Replaces an error of a full disk by one with the numbers that the administrator needs.
    fn out_of_space(
        &self,
        diff_id: &DiffId,
        reservation: &Reservation,
        error: AddError,
    ) -> AddError {
        let (diff_id, promised) = (*diff_id, reservation.bytes());
        match (error.no_space(), self.disk.space()) {
            (Ok(source), _) => AddError::NoSpace { diff_id, source },
            (Err(_), Ok(space)) => {
                let dir = self.disk.root().to_owned();
                AddError::Filled { diff_id, dir, promised, free: space.available }
            }
            (Err(error), Err(_)) => error,
        }
    }
}

/// Replaces the image in `directory` by a directory tree with the same content, whose bytes are synced. The layer
/// metadata is written and synced after this, which also brings the tree's file system metadata to the disk. Returns the
/// digest of the tree.
fn lay_out(directory: &Path, dirty: Amount, limits: &Limits) -> io::Result<Option<ContentDigest>> {
    let (image, to) = (
        directory.join(LayerStorage::Erofs.content()),
        directory.join(LayerStorage::Dir.content()),
    );
    durable::create_dir(&to, 0o700)?;
    dir::lay_out(&File::open(&image)?, &to, &limits.scratch).map_err(at("lay out", &to))?;
    let sync = || durable::sync_tree(&to, dirty).map_err(at("sync", &to));
    let content = ContentDigest::while_syncing(&to, LayerStorage::Dir, limits, sync)?;
    durable::remove_file(&image)?;
    Ok(content)
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(at("create", path))
}
