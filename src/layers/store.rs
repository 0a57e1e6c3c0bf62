//! The folder itself: opened, locked, checked, its parts named.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::{Deserialize, Serialize};

use super::{Lower, OpenError, images::Images};
use crate::{
    digest::Digest,
    sys::{
        attributes,
        durable::{self, at},
        mounts::{Mounts, TEXT_LIMIT},
    },
};

/// The format of `store.json` and of all that lies beside it.
const FORMAT: u32 = 1;

/// Where a layer's bytes came from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// The registry, `host[:port]`.
    pub registry: String,
    /// The repository in it.
    pub repository: String,
    /// The digest of the blob as it lies there (compressed).
    pub blob: Digest,
}

#[derive(Debug, Serialize, Deserialize)]
struct Description {
    format: u32,
    id: String,
}

/// The store of one node, open for reading and writing.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    pub(super) mounts: Arc<dyn Mounts>,
    pub(super) lowers: Mutex<HashMap<Digest, Arc<Mutex<Option<Lower>>>>>,
    pub(super) images: Images,
    staged: AtomicU64,
    _lock: durable::Lock,
}

impl Store {
    /// Opens the store at `root`, making it where it is not there yet, and empties its staging folder.
    pub fn open(root: &Path, mounts: Arc<dyn Mounts>) -> Result<Self, OpenError> {
        let longest = root.join("layers").join(Digest::of(b"").hex()).join("layer.erofs");
        if longest.as_os_str().len() > TEXT_LIMIT {
            return Err(OpenError::TooLong { path: root.to_owned() });
        }
        if let Some(parent) = root.parent() {
            fs::create_dir_all(parent).map_err(at("make", parent))?;
        }
        private_folder(root)?;
        let lock =
            durable::lock(&root.join("lock"))?.ok_or_else(|| OpenError::Locked(root.to_owned()))?;
        describe(root)?;
        for part in ["staging", "layers", "images", "volumes"] {
            private_folder(&root.join(part))?;
        }
        Ok(Self {
            root: root.to_owned(),
            mounts,
            lowers: Mutex::default(),
            images: Images::load(root.join("images"))?,
            staged: AtomicU64::new(empty_staging(&root.join("staging"))?),
            _lock: lock,
        })
    }

    /// Whether the layer is here, whole.
    pub fn has(&self, diff_id: &Digest) -> bool {
        // The folder came by rename, so it is whole if it is there at all.
        self.layer(diff_id).is_dir()
    }

    /// The folder of the volumes, owned by the room of that name.
    pub fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    /// Whether the store can be read and written at this moment: a file is made and removed again.
    pub fn ready(&self) -> io::Result<()> {
        let probe = self.stage();
        let layers = self.root.join("layers");
        fs::read_dir(&layers).map_err(at("read", &layers))?;
        fs::write(&probe, b"").map_err(at("write", &probe))?;
        fs::remove_file(&probe).map_err(at("remove", &probe))
    }

    /// Removes a folder of this store: it is gone from its place at once and durably, and then, byte by byte, from the disk.
    /// A crash between the two leaves it in staging. One that is not there is fine.
    pub fn discard(&self, folder: &Path) -> io::Result<()> {
        let staged = self.stage();
        match durable::rename(folder, &staged) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            renamed => renamed.and_then(|()| durable::remove_tree(&staged)),
        }
    }

    pub(super) fn layer(&self, diff_id: &Digest) -> PathBuf {
        self.root.join("layers").join(diff_id.hex())
    }

    /// A new name in the staging folder; nobody else writes there, so a counter is unique.
    pub(super) fn stage(&self) -> PathBuf {
        let number = self.staged.fetch_add(1, Ordering::Relaxed);
        self.root.join("staging").join(number.to_string())
    }
}

/// A folder for root alone, also where somebody else made it first: Kubernetes makes the root of a hostPath 0755.
fn private_folder(path: &Path) -> io::Result<()> {
    durable::create_dir(path, 0o700)?;
    attributes::set_mode(path, 0o700).map_err(at("set the mode of", path))
}

/// Removes what an earlier process was making or removing. What cannot go (somebody mounted something in it) is left and told:
/// it must not keep the node from serving. Answers the first free number.
fn empty_staging(staging: &Path) -> io::Result<u64> {
    let mut free = 0;
    for entry in fs::read_dir(staging).map_err(at("read", staging))? {
        let path = entry.map_err(at("read", staging))?.path();
        if let Err(error) = remove(&path) {
            tracing::warn!(path = %path.display(), %error, "cannot be removed: left until the next start");
            let number = path.file_name().and_then(|name| name.to_str()?.parse::<u64>().ok());
            free = free.max(number.map_or(0, |number| number + 1));
        }
    }
    Ok(free)
}

fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        durable::remove_tree(path)
    } else {
        durable::remove_file(path)
    }
}

/// Reads `store.json`, or writes it where this is a new store.
fn describe(root: &Path) -> Result<(), OpenError> {
    let path = root.join("store.json");
    let unknown = |why| OpenError::Unknown { path: path.clone(), why };
    match fs::read(&path) {
        Ok(bytes) => {
            let description: Description =
                serde_json::from_slice(&bytes).map_err(|e| unknown(e.to_string()))?;
            if description.format != FORMAT {
                return Err(unknown(format!(
                    "its format is {}, known is {FORMAT}",
                    description.format
                )));
            }
            Ok(())
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let source = Path::new("/proc/sys/kernel/random/uuid");
            let id = fs::read_to_string(source).map_err(at("read", source))?.trim().to_owned();
            let bytes = serde_json::to_vec_pretty(&Description { format: FORMAT, id })
                .map_err(io::Error::from)?;
            Ok(durable::write_atomic(&path, &bytes)?)
        }
        Err(e) => Err(at("read", &path)(e).into()),
    }
}
