//! The store's directory: opens and locks it, checks its format, and names its subdirectories.

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
    LayerFormat, LayerKey, OpenError, ages::Ages, images::Images, lease::Leases,
    mounted_layer::Lowers, provenance::Origins, reservation::Disk, rounds::Rounds,
    snapshots::Snapshots,
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

/// The format of `store.json` and of the files beside it.
const FORMAT: u32 = 1;

/// The content of `store.json`.
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
    /// The format of new layers on the disk.
    pub(super) form: LayerFormat,
    /// The memory that the process shares.
    pub(super) budget: Arc<Budget>,
    pub(super) rounds: Rounds,
    /// The first number that this process uses in the staging directory.
    staged_from: u64,
    staged: AtomicU64,
    _lock: durable::Lock,
}

/// The lock of a store: only one process uses a store at a time. It is taken before the store's files are read or
/// written, and released when dropped.
#[derive(Debug)]
pub struct StoreLock {
    root: PathBuf,
    lock: durable::Lock,
}

impl StoreLock {
    /// Locks the store at `root`, and creates its directory if it does not exist.
    ///
    /// # Errors
    /// Another process has the lock, the path is too long, or a file system operation failed.
    pub fn on(root: &Path) -> Result<Self, OpenError> {
        let longest = root.join("layers").join(Digest::of(b"").hex()).join("layer.erofs");
        if longest.as_os_str().len() > TEXT_LIMIT {
            return Err(OpenError::TooLong { path: root.to_owned() });
        }
        if let Some(parent) = root.parent() {
            fs::create_dir_all(parent).map_err(at("create", parent))?;
        }
        private_dir(root)?;
        let lock =
            durable::lock(&root.join("lock"))?.ok_or_else(|| OpenError::Locked(root.to_owned()))?;
        Ok(Self { root: root.to_owned(), lock })
    }

    /// As [`Store::frozen`], before the store is opened. The directory may not exist yet.
    pub fn frozen(&self) -> PathBuf {
        self.root.join("frozen")
    }
}

impl Store {
    /// Locks and opens the store at `root`, and creates it if it does not exist. [`Store::empty_staging`] removes what
    /// an earlier process left in the staging directory.
    ///
    /// # Errors
    /// As [`StoreLock::on`] and [`Store::open_claimed`].
    pub fn open(root: &Path, mounts: Arc<dyn Mounts>) -> Result<Self, OpenError> {
        Self::open_claimed(StoreLock::on(root)?, mounts)
    }

    /// Opens the locked store.
    ///
    /// # Errors
    /// The store has an unknown format, or a file system operation failed.
    pub fn open_claimed(
        StoreLock { root, lock }: StoreLock,
        mounts: Arc<dyn Mounts>,
    ) -> Result<Self, OpenError> {
        let root = &root;
        let id = read_or_create_id(root)?;
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

    /// Sets the format of new layers on the disk. Existing layers keep theirs.
    #[must_use]
    pub fn keeping(self, form: LayerFormat) -> Self {
        Self { form, ..self }
    }

    /// Sets the memory budget that adding layers shares with all other work.
    #[must_use]
    pub fn within(self, budget: Arc<Budget>) -> Self {
        Self { budget, ..self }
    }

    /// The memory budget of all work with the store.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Whether the store has the layer.
    pub fn has(&self, key: &LayerKey) -> bool {
        // The directory was renamed into place, so it is complete if it exists.
        self.layer(key).is_dir()
    }

    /// The keys of all layers, damaged ones too. A directory whose name is not a digest was not created by the store
    /// and is ignored.
    pub(super) fn layers(&self) -> io::Result<Vec<LayerKey>> {
        let named = |dir: PathBuf| LayerKey::of_dir(dir.file_name()?.to_str()?);
        Ok(dirs(&self.root.join("layers"))?.into_iter().filter_map(named).collect())
    }

    /// The store's unique ID: a UUID that is created with the store.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The store's root directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of the volumes, owned by the module `volumes`.
    pub fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    /// The directory of the counts of captures that were begun, owned by the module `snapshots`.
    pub fn starts(&self) -> PathBuf {
        self.root.join("starts")
    }

    /// The directory of the notes about the cgroups that this node has frozen, owned by the module `snapshots`.
    pub fn frozen(&self) -> PathBuf {
        self.root.join("frozen")
    }

    /// Checks that the store can be read and written now: creates and removes a file.
    pub fn ready(&self) -> io::Result<()> {
        let probe = self.stage();
        let layers = self.root.join("layers");
        fs::read_dir(&layers).map_err(at("read", &layers))?;
        fs::write(&probe, b"").map_err(at("write", &probe))?;
        fs::remove_file(&probe).map_err(at("remove", &probe))
    }

    /// Removes orphans from the staging directory: what an earlier process was adding or removing, and what this
    /// process could not remove. Returns the number of orphans that could not be removed, for example because something
    /// is mounted in them; the next call tries them again. Blocks. An orphan can be of any size, so no request should
    /// wait for this.
    pub fn empty_staging(&self) -> io::Result<usize> {
        let staging = self.root.join("staging");
        let mut remaining = 0;
        for entry in fs::read_dir(&staging).map_err(at("read", &staging))? {
            let path = entry.map_err(at("read", &staging))?.path();
            if number(&path).is_some_and(|number| number >= self.staged_from) {
                continue;
            }
            if let Err(error) = remove(&path) {
                remaining += 1;
                tracing::warn!(path = %path.display(), %error, "cannot remove an orphan: tried again in a minute");
            }
        }
        Ok(remaining)
    }

    /// Moves a directory of this store to the staging directory, without waiting for the disk. Returns the new path:
    /// the caller removes it, or else the next start does. Returns `None` if the directory does not exist. After a
    /// crash the directory may be at its old path.
    pub fn set_aside(&self, dir: &Path) -> io::Result<Option<PathBuf>> {
        let staged = self.stage();
        match durable::rename_soon(dir, &staged) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            renamed => renamed.map(|()| Some(staged)),
        }
    }

    pub(super) fn layer(&self, key: &LayerKey) -> PathBuf {
        self.root.join("layers").join(key.dir_name())
    }

    /// A new path in the staging directory. Only this process writes there, so a counter is unique.
    pub(super) fn stage(&self) -> PathBuf {
        let number = self.staged.fetch_add(1, Ordering::Relaxed);
        self.root.join("staging").join(number.to_string())
    }
}

/// Creates a directory that only root can read. Also sets the mode of an existing one: Kubernetes creates the root of a
/// hostPath with mode 0755.
fn private_dir(path: &Path) -> io::Result<()> {
    durable::create_dir(path, 0o700)?;
    attributes::set_mode(path, 0o700).map_err(at("set the mode of", path))
}

/// The paths of the subdirectories of a directory.
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

/// The first number above all that are in use in the staging directory.
fn first_free(staging: &Path) -> io::Result<u64> {
    let mut free = 0;
    for entry in fs::read_dir(staging).map_err(at("read", staging))? {
        let path = entry.map_err(at("read", staging))?.path();
        let number =
            number(&path).or_else(|| path.to_str()?.rsplit_once(ORPHAN_PREFIX)?.1.parse().ok());
        free = free.max(number.map_or(0, |number| number + 1));
    }
    Ok(free)
}

/// The prefix of names in the staging directory that this process could not remove.
const ORPHAN_PREFIX: &str = "left-";

/// Removes an entry that this process put into the staging directory. If that fails, renames it, so that
/// [`Store::empty_staging`] finds it as an orphan.
pub(super) fn discard(staged: &Path) -> io::Result<()> {
    durable::remove_tree_soon(staged).inspect_err(|_| {
        if let Some(name) = staged.file_name() {
            let mut orphan = OsString::from(ORPHAN_PREFIX);
            orphan.push(name);
            // If that fails too, the next start removes it.
            let _ = fs::rename(staged, staged.with_file_name(orphan));
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

/// Returns the store's ID from `store.json`, which it creates for a new store.
fn read_or_create_id(root: &Path) -> Result<String, OpenError> {
    let path = root.join("store.json");
    let unknown = |why| OpenError::Unknown { path: path.clone(), why };
    match fs::read(&path) {
        Ok(bytes) => {
            let meta: StoreMeta =
                serde_json::from_slice(&bytes).map_err(|e| unknown(e.to_string()))?;
            if meta.format != FORMAT {
                return Err(unknown(format!(
                    "its format is {}, this version reads format {FORMAT}",
                    meta.format
                )));
            }
            Ok(meta.id)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let source = Path::new("/proc/sys/kernel/random/uuid");
            let id = fs::read_to_string(source).map_err(at("read", source))?.trim().to_owned();
            let meta = StoreMeta { format: FORMAT, id };
            let bytes = serde_json::to_vec_pretty(&meta).map_err(io::Error::from)?;
            durable::write_atomic(&path, &bytes)?;
            Ok(meta.id)
        }
        Err(e) => Err(at("read", &path)(e).into()),
    }
}
