//! The content digest of a layer: of what lies on the disk, so that damage is found.
//!
//! | layer | digest | `of` in `layer.json` |
//! |---|---|---|
//! | an EROFS image | SHA-256 of the file | `image` |
//! | a directory tree | SHA-256 of its native tar, as [`tree_digest`] writes it | `tree` |
//!
//! A layer that is added from a tar gets its digest while its bytes are synced: they are in the page cache then, and the
//! disk is what the caller waits for. A layer that was made of an upper has none, because it is made by a rename or while
//! a pod is frozen. It gets one by `ovl fsck --record`.
//!
//! Not in the digest of a tree: sockets (as whiteouts), access and change times, labels of the host, and what overlay
//! notes for itself (origin, impure, nlink, uuid).

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, Write},
    path::Path,
    thread,
};

use serde::{Deserialize, Serialize};

use super::layer_storage::LayerStorage;
use crate::{
    changeset::{Limits, PackError, tree_digest},
    digest::{Digest, Digester},
    sys::mounts::{LinuxMounts, Mounts as _},
};

/// The bytes of an image that are read at once.
const PIECE: usize = 256 << 10;

/// The digest of a layer's content, as `layer.json` has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentDigest {
    /// What was hashed: [`of_storage`]. Another word is of a later version.
    of: String,
    digest: Digest,
}

impl ContentDigest {
    fn new(storage: LayerStorage, digest: Digest) -> Self {
        Self { of: of_storage(storage).to_owned(), digest }
    }

    /// The digest of a layer that is stored in this way. `None` if it is of something that this version cannot compute.
    pub(super) fn of(&self, storage: LayerStorage) -> Option<&Digest> {
        (self.of == of_storage(storage)).then_some(&self.digest)
    }

    /// Computes the digest of the layer's content at `path`. `read` gets the number of bytes, piece by piece.
    ///
    /// # Errors
    /// The content cannot be read, or a directory has something that no tar can hold ([`ContentError::NoTar`]).
    pub(super) fn compute(
        path: &Path,
        storage: LayerStorage,
        limits: &Limits,
        read: &(dyn Fn(u64) + Sync),
    ) -> Result<Self, ContentError> {
        let digest = match storage {
            LayerStorage::Erofs => of_image(&File::open(path)?, read)?,
            LayerStorage::Dir => {
                let tree = LinuxMounts.open_dir(path).map_err(io::Error::other)?;
                tree_digest(&tree, &unlimited(limits), &mut Counted(read))?
            }
        };
        Ok(Self::new(storage, digest))
    }

    /// Computes the digest of new content while `sync` brings it to the disk. `None` if it has none.
    ///
    /// # Errors
    /// That of `sync`; the content cannot be read, or no thread can be started.
    pub(super) fn while_syncing(
        path: &Path,
        storage: LayerStorage,
        limits: &Limits,
        sync: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<Option<Self>> {
        thread::scope(|scope| {
            let work = || Self::compute(path, storage, limits, &|_| {});
            let digest = thread::Builder::new().name("layer-digest".to_owned());
            let digest = digest.spawn_scoped(scope, work)?;
            let synced = sync();
            let digest = digest.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            synced?;
            match digest {
                Ok(digest) => Ok(Some(digest)),
                Err(ContentError::NoTar(_)) => Ok(None),
                Err(ContentError::Disk(error)) => Err(error),
            }
        })
    }
}

/// Why there is no digest.
#[derive(Debug, thiserror::Error)]
pub(super) enum ContentError {
    /// The content cannot be read.
    #[error("{0}")]
    Disk(#[from] io::Error),
    /// The tree has something that no tar can hold.
    #[error("{0}")]
    NoTar(PackError),
}

impl From<PackError> for ContentError {
    fn from(error: PackError) -> Self {
        match error {
            PackError::Read { path, source } => {
                Self::Disk(io::Error::new(source.kind(), format!("cannot read {path}: {source}")))
            }
            error => Self::NoTar(error),
        }
    }
}

/// The frozen words of `layer.json`.
fn of_storage(storage: LayerStorage) -> &'static str {
    match storage {
        LayerStorage::Erofs => "image",
        LayerStorage::Dir => "tree",
    }
}

fn of_image(mut image: &File, read: &(dyn Fn(u64) + Sync)) -> io::Result<Digest> {
    let (mut digester, mut piece) = (Digester::default(), vec![0; PIECE]);
    image.rewind()?;
    loop {
        match image.read(&mut piece) {
            Ok(0) => return Ok(digester.finish()),
            Ok(count) => {
                digester.update(&piece[..count]);
                read(count as u64);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// An upper may have more than a layer of an image.
fn unlimited(limits: &Limits) -> Limits {
    Limits {
        tar_bytes: u64::MAX,
        entries: u64::MAX,
        depth: u32::MAX,
        xattr_bytes: u64::MAX,
        root_xattrs: u64::MAX,
        ..limits.clone()
    }
}

/// Counts the bytes of a tar.
struct Counted<'c>(&'c (dyn Fn(u64) + Sync));

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (self.0)(bytes.len() as u64);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
