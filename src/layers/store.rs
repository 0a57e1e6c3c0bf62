//! The store: opens and locks its directory, checks its format, and holds its parts.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    access::Access,
    ages::Ages,
    error::OpenError,
    images::ImageRecords,
    layer_dirs::{LayerDirs, subdirs},
    layer_storage::LayerStorage,
    lease::Leases,
    lease_files::LeaseFiles,
    mounted_layer::MountedLayers,
    provenance::Origins,
    reservation::{DiskLimits, DiskSpace},
    rounds::Rounds,
    shared_reservations::SharedReservations,
    snapshots::SnapshotRecords,
    staging::Staging,
    step_records::StepRecords,
    store_lock::{StoreLock, private_dir},
    stored_layers::Layers,
    workspace_records::WorkspaceRecords,
};
use crate::{
    budget::Budget,
    sys::{
        durable::{self, at},
        host,
        mounts::Mounts,
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
    /// The records of workspaces.
    pub workspaces: WorkspaceRecords,
    /// The records of steps.
    pub steps: StepRecords,
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

impl Store {
    /// Locks and opens the store at `root` for this process alone, and creates it if it does not exist.
    /// [`Staging::remove_abandoned`] removes what an earlier process left in the staging directory.
    ///
    /// # Errors
    /// As [`StoreLock::exclusive`] and [`Store::open_locked`].
    pub fn open(root: &Path, mounts: Arc<dyn Mounts>) -> Result<Self, OpenError> {
        Self::open_locked(StoreLock::exclusive(root)?, mounts, StoreSettings::default())
    }

    /// Opens the locked store: for this process alone or shared, as it was locked.
    ///
    /// # Errors
    /// The store has an unknown format, or a file system operation failed.
    pub fn open_locked(
        lock: StoreLock,
        mounts: Arc<dyn Mounts>,
        settings: StoreSettings,
    ) -> Result<Self, OpenError> {
        let (root, access) = (lock.root.clone(), lock.access());
        let id = read_or_create_id(&root, &access)?;
        for part in [
            "staging",
            "layers",
            "images",
            "snapshots",
            "frozen",
            "starts",
            "volumes",
            "workspaces",
            "steps",
        ] {
            private_dir(&root.join(part))?;
        }
        let dirs = LayerDirs::new(&root);
        let (lease_files, reservations) = match &access {
            Access::Alone => {
                remove_files_of_ended(&root, &dirs)?;
                (None, None)
            }
            Access::Shared { own } => {
                let name = own.file_name().unwrap_or_default();
                let reservations = SharedReservations::open(root.join("reservations"), name)?;
                (Some(LeaseFiles::open(root.join("leases"))?), Some(reservations))
            }
        };
        let rounds = Rounds::new(lease_files.as_ref().map(|files| files.path().to_owned()));
        let leases = Leases::new(dirs.clone(), lease_files);
        let StoreSettings { storage, limits, budget } = settings;
        let staging = Arc::new(Staging::open(lock)?);
        let snapshots = Arc::new(SnapshotRecords::load(root.join("snapshots"), access.clone())?);
        let disk =
            DiskSpace::new(root.clone(), limits, snapshots.clone(), staging.clone(), reservations);
        let disk = Arc::new(disk);
        let origins = Arc::new(Origins::new(dirs.clone(), access.clone()));
        let layers = Layers {
            dirs: dirs.clone(),
            mounted: MountedLayers::new(dirs, mounts),
            ages: Ages::new(&access),
            origins: origins.clone(),
            staging: staging.clone(),
            access: access.clone(),
            disk: disk.clone(),
            budget: budget.clone(),
            storage,
        };
        let workspaces =
            WorkspaceRecords::new(root.join("workspaces"), access.clone(), staging.clone());
        let steps = StepRecords::new(root.join("steps"), access.clone());
        let images = ImageRecords::load(root.join("images"), access)?;
        Ok(Self {
            root,
            id,
            layers,
            origins,
            leases,
            images,
            snapshots,
            workspaces,
            steps,
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

/// Removes what processes have left that ended, in a store that only this process uses: temporary files beside records
/// and origins, and the leases and reservations of processes that shared the store.
fn remove_files_of_ended(root: &Path, dirs: &LayerDirs) -> io::Result<()> {
    durable::remove_temp_files(root)?;
    for layer in subdirs(dirs.path())? {
        durable::remove_temp_files(&layer)?;
    }
    for part in ["leases", "reservations"] {
        durable::remove_tree_unsynced(&root.join(part))?;
    }
    Ok(())
}

/// Returns the store's ID from `store.json`, which it creates for a new store.
fn read_or_create_id(root: &Path, access: &Access) -> Result<String, OpenError> {
    let path = root.join("store.json");
    // Two processes could create two IDs.
    let lock = access.dir_lock(root);
    let _creating = lock.lock()?;
    if let Some(id) = read_id(&path)? {
        return Ok(id);
    }
    let meta = StoreMeta { format: FORMAT, id: host::random_uuid()? };
    let bytes = serde_json::to_vec_pretty(&meta).map_err(io::Error::from)?;
    access.replace(&path, &bytes)?;
    Ok(meta.id)
}

/// Returns the store's ID from `store.json`. `None` if that file does not exist.
///
/// # Errors
/// The store has an unknown format, or the file cannot be read.
pub(super) fn read_id(path: &Path) -> Result<Option<String>, OpenError> {
    let unknown = |why| OpenError::Unknown { path: path.to_owned(), why };
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(at("read", path)(e).into()),
    };
    let meta: StoreMeta = serde_json::from_slice(&bytes).map_err(|e| unknown(e.to_string()))?;
    if meta.format != FORMAT {
        let format = meta.format;
        return Err(unknown(format!("its format is {format}, this version reads format {FORMAT}")));
    }
    Ok(Some(meta.id))
}
