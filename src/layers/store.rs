//! The store: opens and locks its directory, checks its format, and holds its parts.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    ages::Ages,
    error::OpenError,
    images::ImageRecords,
    layer_dirs::{LayerDirs, subdirs},
    layer_meta::LayerStorage,
    lease::Leases,
    mounted_layer::MountedLayers,
    provenance::Origins,
    reservation::{DiskLimits, DiskSpace},
    rounds::Rounds,
    snapshots::SnapshotRecords,
    staging::Staging,
    stored_layers::Layers,
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
    root: PathBuf,
    id: String,
    /// The layers.
    pub layers: Layers,
    /// The repositories that delivered the layers' bytes.
    pub origins: Arc<Origins>,
    /// The leases of layers.
    pub leases: Leases,
    /// The records of images.
    pub images: ImageRecords,
    /// The records of snapshots.
    pub snapshots: Arc<SnapshotRecords>,
    /// The space of the store's disk, and its reservations.
    pub disk: Arc<DiskSpace>,
    /// The staging directory.
    pub staging: Arc<Staging>,
    /// The memory that all work with the store shares.
    pub budget: Arc<Budget>,
    pub(super) rounds: Rounds,
}

/// The settings of a store.
#[derive(Debug, Clone)]
pub struct StoreSettings {
    /// How new layers are stored. Existing layers stay as they are.
    pub storage: LayerStorage,
    /// The limits of the store's use of its disk.
    pub limits: DiskLimits,
    /// The memory that adding layers shares with all other work.
    pub budget: Arc<Budget>,
}

/// New layers are EROFS images, and nothing is limited.
impl Default for StoreSettings {
    fn default() -> Self {
        let (limits, budget) = (DiskLimits::default(), Arc::default());
        Self { storage: LayerStorage::Erofs, limits, budget }
    }
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
    /// Locks and opens the store at `root`, and creates it if it does not exist. [`Staging::remove_abandoned`] removes
    /// what an earlier process left in the staging directory.
    ///
    /// # Errors
    /// As [`StoreLock::on`] and [`Store::open_locked`].
    pub fn open(root: &Path, mounts: Arc<dyn Mounts>) -> Result<Self, OpenError> {
        Self::open_locked(StoreLock::on(root)?, mounts, StoreSettings::default())
    }

    /// Opens the locked store.
    ///
    /// # Errors
    /// The store has an unknown format, or a file system operation failed.
    pub fn open_locked(
        StoreLock { root, lock }: StoreLock,
        mounts: Arc<dyn Mounts>,
        settings: StoreSettings,
    ) -> Result<Self, OpenError> {
        let id = read_or_create_id(&root)?;
        for part in ["staging", "layers", "images", "snapshots", "frozen", "starts", "volumes"] {
            private_dir(&root.join(part))?;
        }
        durable::remove_temp_files(&root)?;
        let dirs = LayerDirs::new(&root);
        for layer in subdirs(dirs.path())? {
            durable::remove_temp_files(&layer)?;
        }
        let StoreSettings { storage, limits, budget } = settings;
        let staging = Arc::new(Staging::open(&root, lock)?);
        let snapshots = Arc::new(SnapshotRecords::load(root.join("snapshots"))?);
        let disk = DiskSpace::new(root.clone(), limits, snapshots.clone(), staging.clone());
        let (disk, origins) = (Arc::new(disk), Arc::new(Origins::new(dirs.clone())));
        let layers = Layers {
            dirs: dirs.clone(),
            mounted: MountedLayers::new(dirs.clone(), mounts),
            ages: Ages::default(),
            origins: origins.clone(),
            staging: staging.clone(),
            disk: disk.clone(),
            budget: budget.clone(),
            storage,
        };
        let (leases, images) = (Leases::new(dirs), ImageRecords::load(root.join("images"))?);
        let rounds = Rounds::default();
        Ok(Self {
            root,
            id,
            layers,
            origins,
            leases,
            images,
            snapshots,
            disk,
            staging,
            budget,
            rounds,
        })
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

    /// The directory of the records of the cgroups that this node has frozen, owned by the module `snapshots`.
    pub fn frozen(&self) -> PathBuf {
        self.root.join("frozen")
    }

    /// Checks that the store can be read and written now: creates and removes a file.
    pub fn ready(&self) -> io::Result<()> {
        let layers = self.layers.dirs.path();
        fs::read_dir(layers).map_err(at("read", layers))?;
        self.staging.check_writable()
    }
}

/// Creates a directory that only root can read. Also sets the mode of an existing one: Kubernetes creates the root of a
/// hostPath with mode 0755.
fn private_dir(path: &Path) -> io::Result<()> {
    durable::create_dir(path, 0o700)?;
    attributes::set_mode(path, 0o700).map_err(at("set the mode of", path))
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
