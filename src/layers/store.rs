//! The directory itself: opened, locked, checked, its parts named.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::{Deserialize, Serialize};

use super::{
    LayerFormat, OpenError, ages::Ages, images::Images, lease::Leases, mounted_layer::Lowers,
    provenance::Origins, reservation::Disk, rounds::Rounds, snapshots::Snapshots,
};
use crate::{
    budget::Budget,
    digest::Digest,
    sys::{
        attributes,
        durable::{self, at},
        mounts::{Mounts, TEXT_LIMIT},
    },
};

/// The format of `store.json` and of all that lies beside it.
const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct StoreMeta {
    format: u32,
    id: String,
}

/// The store of one node, open for reading and writing.
#[derive(Debug)]
pub struct Store {
    pub(super) root: PathBuf,
    id: String,
    pub(super) mounts: Arc<dyn Mounts>,
    pub(super) lowers: Lowers,
    pub(super) images: Images,
    pub(super) snapshots: Snapshots,
    pub(super) origins: Origins,
    pub(super) leases: Leases,
    pub(super) ages: Ages,
    pub(super) disk: Disk,
    /// How new layers are kept.
    pub(super) form: LayerFormat,
    /// Memory of all work.
    pub(super) budget: Arc<Budget>,
    pub(super) rounds: Rounds,
    /// The first number in the staging directory that is this process's.
    staged_from: u64,
    staged: AtomicU64,
    _lock: durable::Lock,
}

/// The right to be the one process that uses a store, until dropped: taken before anything in it is touched.
#[derive(Debug)]
pub struct StoreLock {
    root: PathBuf,
    lock: durable::Lock,
}

impl StoreLock {
    /// Claims the store at `root`, whose directory is made where it is not there yet.
    pub fn on(root: &Path) -> Result<Self, OpenError> {
        let longest = root.join("layers").join(Digest::of(b"").hex()).join("layer.erofs");
        if longest.as_os_str().len() > TEXT_LIMIT {
            return Err(OpenError::TooLong { path: root.to_owned() });
        }
        if let Some(parent) = root.parent() {
            fs::create_dir_all(parent).map_err(at("make", parent))?;
        }
        private_dir(root)?;
        let lock =
            durable::lock(&root.join("lock"))?.ok_or_else(|| OpenError::Locked(root.to_owned()))?;
        Ok(Self { root: root.to_owned(), lock })
    }

    /// As [`Store::frozen`], of the store that is going to be opened; it may not be there yet.
    pub fn frozen(&self) -> PathBuf {
        self.root.join("frozen")
    }
}

impl Store {
    /// Opens the store at `root`, making it where it is not there yet. What an earlier process left in its staging directory is for
    /// [`Store::empty_staging`].
    pub fn open(root: &Path, mounts: Arc<dyn Mounts>) -> Result<Self, OpenError> {
        Self::open_claimed(StoreLock::on(root)?, mounts)
    }

    /// Opens the store that was claimed.
    pub fn open_claimed(
        StoreLock { root, lock }: StoreLock,
        mounts: Arc<dyn Mounts>,
    ) -> Result<Self, OpenError> {
        let root = &root;
        let id = describe(root)?;
        for part in ["staging", "layers", "images", "snapshots", "frozen", "starts", "volumes"] {
            private_dir(&root.join(part))?;
        }
        durable::sweep(root)?;
        for layer in dirs(&root.join("layers"))? {
            durable::sweep(&layer)?;
        }
        let staged_from = first_free(&root.join("staging"))?;
        Ok(Self {
            root: root.clone(),
            id,
            mounts,
            lowers: Lowers::default(),
            images: Images::load(root.join("images"))?,
            snapshots: Snapshots::load(root.join("snapshots"))?,
            origins: Origins::default(),
            leases: Leases::default(),
            ages: Ages::default(),
            disk: Disk::default(),
            form: LayerFormat::Erofs,
            budget: Arc::default(),
            rounds: Rounds::default(),
            staged_from,
            staged: AtomicU64::new(staged_from),
            _lock: lock,
        })
    }

    /// The same store, which keeps new layers in this form. Those that are here stay as they are.
    #[must_use]
    pub fn keeping(self, form: LayerFormat) -> Self {
        Self { form, ..self }
    }

    /// The same store, whose layers share this memory with all other work.
    #[must_use]
    pub fn within(self, budget: Arc<Budget>) -> Self {
        Self { budget, ..self }
    }

    /// The memory that whoever works with the store has a share of.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Whether the layer is here, whole.
    pub fn has(&self, diff_id: &Digest) -> bool {
        // The directory came by rename, so it is whole if it is there at all.
        self.layer(diff_id).is_dir()
    }

    /// The keys of all layers, whole or not readable any more. A name that is no digest was not made by us and is left alone.
    pub(super) fn layers(&self) -> io::Result<Vec<Digest>> {
        let named = |dir: PathBuf| {
            let name = dir.file_name()?.to_str()?;
            format!("sha256:{name}").parse().ok()
        };
        Ok(dirs(&self.root.join("layers"))?.into_iter().filter_map(named).collect())
    }

    /// What tells it from every other store: made once, as a UUID.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of the volumes, owned by the room of that name.
    pub fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    /// The directory of the counts of captures that were begun, owned by the room of snapshots.
    pub fn starts(&self) -> PathBuf {
        self.root.join("starts")
    }

    /// The directory of the notes about what this node has frozen, owned by the room of snapshots.
    pub fn frozen(&self) -> PathBuf {
        self.root.join("frozen")
    }

    /// Whether the store can be read and written at this moment: a file is made and removed again.
    pub fn ready(&self) -> io::Result<()> {
        let probe = self.stage();
        let layers = self.root.join("layers");
        fs::read_dir(&layers).map_err(at("read", &layers))?;
        fs::write(&probe, b"").map_err(at("write", &probe))?;
        fs::remove_file(&probe).map_err(at("remove", &probe))
    }

    /// Removes what an earlier process was making or removing, and what this one could not remove; returns how much is left of it.
    /// How much that is was up to whoever wrote it, so nobody should wait for it. What cannot go (somebody mounted something in it) is
    /// for the next call. Blocks.
    pub fn empty_staging(&self) -> io::Result<usize> {
        let staging = self.root.join("staging");
        let mut left = 0;
        for entry in fs::read_dir(&staging).map_err(at("read", &staging))? {
            let path = entry.map_err(at("read", &staging))?.path();
            if number(&path).is_some_and(|number| number >= self.staged_from) {
                continue;
            }
            if let Err(error) = remove(&path) {
                left += 1;
                tracing::warn!(path = %path.display(), %error, "cannot be removed: tried again in a minute");
            }
        }
        Ok(left)
    }

    /// Takes a directory of this store from its place, and waits for no disk: what it answers is for the caller to remove, or else
    /// for the next start. `None` where there is none. A crash may leave the directory where it was.
    pub fn set_aside(&self, dir: &Path) -> io::Result<Option<PathBuf>> {
        let staged = self.stage();
        match durable::rename_soon(dir, &staged) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            renamed => renamed.map(|()| Some(staged)),
        }
    }

    pub(super) fn layer(&self, diff_id: &Digest) -> PathBuf {
        self.root.join("layers").join(diff_id.hex())
    }

    /// A new name in the staging directory; nobody else writes there, so a counter is unique.
    pub(super) fn stage(&self) -> PathBuf {
        let number = self.staged.fetch_add(1, Ordering::Relaxed);
        self.root.join("staging").join(number.to_string())
    }
}

/// A directory for root alone, also where somebody else made it first: Kubernetes makes the root of a hostPath 0755.
fn private_dir(path: &Path) -> io::Result<()> {
    durable::create_dir(path, 0o700)?;
    attributes::set_mode(path, 0o700).map_err(at("set the mode of", path))
}

/// The directories in a directory.
fn dirs(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut dirs = Vec::new();
    for entry in fs::read_dir(path).map_err(at("list", path))? {
        let entry = entry.map_err(at("list", path))?;
        if entry.file_type().map_err(at("list", path))?.is_dir() {
            dirs.push(entry.path());
        }
    }
    Ok(dirs)
}

/// The first number that nothing in the staging directory has.
fn first_free(staging: &Path) -> io::Result<u64> {
    let mut free = 0;
    for entry in fs::read_dir(staging).map_err(at("read", staging))? {
        let path = entry.map_err(at("read", staging))?.path();
        let number = number(&path).or_else(|| path.to_str()?.rsplit_once(LEFT)?.1.parse().ok());
        free = free.max(number.map_or(0, |number| number + 1));
    }
    Ok(free)
}

/// What a name begins with in staging that this process could not remove.
const LEFT: &str = "left-";

/// Removes what this process has put into staging. What cannot go gets a name by which [`Store::empty_staging`] takes it for left over.
pub(super) fn discard(staged: &Path) -> io::Result<()> {
    durable::remove_tree_soon(staged).inspect_err(|_| {
        if let Some(name) = staged.file_name() {
            let mut left = OsString::from(LEFT);
            left.push(name);
            // Where that fails too it is for the next start.
            let _ = fs::rename(staged, staged.with_file_name(left));
        }
    })
}

fn number(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.parse().ok()
}

fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        durable::remove_tree(path)
    } else {
        durable::remove_file(path)
    }
}

/// Reads `store.json`, or writes it where this is a new store. Answers the store's id.
fn describe(root: &Path) -> Result<String, OpenError> {
    let path = root.join("store.json");
    let unknown = |why| OpenError::Unknown { path: path.clone(), why };
    match fs::read(&path) {
        Ok(bytes) => {
            let description: StoreMeta =
                serde_json::from_slice(&bytes).map_err(|e| unknown(e.to_string()))?;
            if description.format != FORMAT {
                return Err(unknown(format!(
                    "its format is {}, known is {FORMAT}",
                    description.format
                )));
            }
            Ok(description.id)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let source = Path::new("/proc/sys/kernel/random/uuid");
            let id = fs::read_to_string(source).map_err(at("read", source))?.trim().to_owned();
            let description = StoreMeta { format: FORMAT, id };
            let bytes = serde_json::to_vec_pretty(&description).map_err(io::Error::from)?;
            durable::write_atomic(&path, &bytes)?;
            Ok(description.id)
        }
        Err(e) => Err(at("read", &path)(e).into()),
    }
}
