//! Lists what differs between two states of one namespace: snapshots, and a mounted volume.
//!
//! ```text
//! layers in the store (those of another node pulled) ─► permit ─► merged trees ─► changeset::compare
//! ```
//!
//! Nothing waits for a comparison: it holds no lock, freezes no pod, and ends when its volume is unpublished. Few run at a
//! time, and namespaces take turns. The permit comes after the layers, because a pull waits for a registry.
//!
//! Deliberately absent: how many differences are kept, and where they are reported (`agent`).

use std::{
    cell::Cell,
    io,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{
    Inner, Snapshots, blocking,
    diff_error::DiffError,
    diff_request::{DIFF_TIMEOUT, DiffRequest, NamedSnapshot, NamedVolume, VolumeState},
};
use crate::{
    changeset::{CompareError, Comparison, Difference, Limits, compare},
    layers::{LayerKey, Lease},
    owner::Owner,
    sys::tree_reader::Entry,
    volumes::{GuardError, MountedVolume, MountedVolumeError, SnapshotLayers},
};

/// How long another operation on the volume is waited for.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause between two attempts to open the volume.
const PAUSE: Duration = Duration::from_millis(50);
/// How often a comparison looks whether its volume still exists.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// One of the two states, with what keeps it readable.
struct Tree {
    /// The keys of its layers, bottom first, without the upper of a mounted volume.
    stack: Vec<LayerKey>,
    owner: Option<Owner>,
    held: Held,
}

enum Held {
    Snapshot(SnapshotLayers),
    Volume(Box<MountedVolume>),
    Layers(#[allow(dead_code, reason = "its drop releases the layers")] Lease),
    /// The other state holds all layers of this one.
    ByOther,
}

impl Tree {
    /// How many layers, at the top of a snapshot, are not layers of its images.
    fn snapshot_layers(&self) -> usize {
        match &self.held {
            Held::Snapshot(layers) => layers.snapshot_layers,
            _ => 0,
        }
    }

    /// The keys without those of the topmost layers.
    fn without(&self, layers: usize) -> Vec<LayerKey> {
        self.stack[..self.stack.len().saturating_sub(layers)].to_vec()
    }

    /// A tree of some of these layers. It is valid as long as this one.
    fn below(&self, stack: Vec<LayerKey>) -> Self {
        Self { stack, owner: self.owner, held: Held::ByOther }
    }

    fn volume(&self) -> Option<&MountedVolume> {
        match &self.held {
            Held::Volume(volume) => Some(volume),
            _ => None,
        }
    }
}

impl Snapshots {
    /// Calls `take` with `found` and each difference, and returns `found`. Directories come before what is in them, and
    /// the names of a directory in byte order. The work stops soon after this future is dropped.
    ///
    /// # Errors
    /// [`DiffError`].
    pub async fn diff<T: Send + 'static>(
        &self,
        request: &DiffRequest,
        mut found: T,
        take: fn(&mut T, Difference),
    ) -> Result<T, DiffError> {
        let DiffRequest { namespace, base, state } = request;
        let base = match base {
            Some(base) => Some(self.snapshot(namespace, base).await?),
            None => None,
        };
        let (permit, first, second) = match state {
            VolumeState::Snapshot(snapshot) => {
                let second = self.snapshot(namespace, snapshot).await?;
                let first = match base {
                    Some(base) => base,
                    None => self.start_of(namespace, snapshot, &second).await?,
                };
                (self.0.diffs.acquire(namespace).await, first, second)
            }
            VolumeState::Mounted(volume) => {
                // A volume is not kept open while the comparison waits for its turn.
                let permit = self.0.diffs.acquire(namespace).await;
                let second = self.mounted(volume).await?;
                let start = || second.below(second.stack.clone());
                (permit, base.unwrap_or_else(start), second)
            }
        };
        let stop = CancellationToken::new();
        let _stop = stop.clone().drop_guard();
        let inner = self.0.clone();
        let compared = blocking(move || {
            let result = inner.compare(&first, &second, &stop, &mut |one| take(&mut found, one));
            drop(permit);
            result.map(|()| found)
        });
        compared.await.map_err(|error| error.of(state))
    }

    /// Brings the layers of a snapshot to this node.
    async fn snapshot(&self, namespace: &str, snapshot: &NamedSnapshot) -> Result<Tree, DiffError> {
        let NamedSnapshot { name, found } = snapshot;
        // Boxed to keep the task small, because many requests can wait at a time.
        let layers = Box::pin(self.0.volumes.snapshot_layers(namespace, name, found)).await;
        let layers = layers.map_err(|source| DiffError::layers(name, source))?;
        let (stack, owner) = (layers.stack.clone(), layers.owner);
        Ok(Tree { stack, owner, held: Held::Snapshot(layers) })
    }

    /// Opens a mounted volume. Waits up to [`LOCK_TIMEOUT`] while another operation works on it.
    async fn mounted(&self, volume: &NamedVolume) -> Result<Tree, DiffError> {
        let start = Instant::now();
        loop {
            let (volumes, NamedVolume { id, pod, .. }) = (self.0.volumes.clone(), volume.clone());
            match blocking(move || volumes.mounted(&id, &pod)).await {
                Ok(mounted) => {
                    let (stack, owner) = (mounted.stack.clone(), mounted.owner);
                    return Ok(Tree { stack, owner, held: Held::Volume(Box::new(mounted)) });
                }
                Err(MountedVolumeError::Guard(GuardError::Busy(_)))
                    if start.elapsed() < LOCK_TIMEOUT =>
                {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => {
                    let state = VolumeState::Mounted(volume.clone());
                    return Err(DiffError::Volume(error).of(&state));
                }
            }
        }
    }

    /// The state from which the volume of a snapshot started.
    async fn start_of(
        &self,
        namespace: &str,
        snapshot: &NamedSnapshot,
        tree: &Tree,
    ) -> Result<Tree, DiffError> {
        let (store, name) = (self.0.store.clone(), snapshot.name.clone());
        let record = store.snapshots.get(&snapshot.found.id);
        let record = record.ok_or_else(|| DiffError::NoStart { name: name.clone() })?;
        let own = tree.snapshot_layers();
        let Some(parent) = record.parent.filter(|_| own == 1) else {
            return Ok(tree.below(tree.without(1)));
        };
        // Its own layer and those of its parent were squashed into one.
        let (mut stack, owner, namespace) = (tree.without(own), tree.owner, namespace.to_owned());
        let opened = blocking(move || {
            let parent = store.snapshots.get(&parent).and_then(|it| it.for_namespace(&namespace));
            let Some(parent) = parent else { return Ok(None) };
            stack.extend(&parent.stack[parent.stack.len().saturating_sub(parent.own_layers)..]);
            let lease = store.leases.take_if_present(&stack)?;
            Ok(lease.map(|lease| Tree { stack, owner, held: Held::Layers(lease) }))
        });
        opened.await.map_err(DiffError::Disk)?.ok_or(DiffError::Squashed { name })
    }
}

impl Inner {
    /// Compares two trees, until `stop` is cancelled. Blocks.
    fn compare(
        &self,
        first: &Tree,
        second: &Tree,
        stop: &CancellationToken,
        emit: &mut dyn FnMut(Difference),
    ) -> Result<(), DiffError> {
        // With another owner the common layers show other owners, too.
        let common = match first.owner == second.owner {
            true => first.stack.iter().zip(&second.stack).take_while(|(a, b)| a == b).count(),
            false => 0,
        };
        let keys = first.stack[common..].iter().chain(&second.stack[common..]);
        let lowers = keys.map(|key| self.store.layers.lower(key)).collect::<Result<Vec<_>, _>>()?;
        let volumes = [first, second].map(Tree::volume);
        let roots = lowers.iter().map(|lower| Entry::root(&lower.tree));
        let uppers = volumes.iter().flatten().map(|volume| volume.upper());
        let exists_all = || volumes.iter().flatten().all(|volume| volume.exists());
        let layers = roots.chain(uppers).collect::<io::Result<Vec<_>>>();
        let layers = layers.map_err(|error| match exists_all() {
            true => DiffError::Disk(error),
            false => DiffError::Unpublished,
        })?;
        let view = |tree: &Tree| match tree.volume() {
            Some(_) => Ok(None),
            None => self.volumes.view(&tree.stack, tree.owner).map(Some),
        };
        let views = [view(first)?, view(second)?];
        let merged = |at: usize| views[at].as_ref().or(volumes[at].map(|volume| &volume.merged));
        // Each has one of the two.
        let (Some(one), Some(other)) = (merged(0), merged(1)) else { return Ok(()) };
        let hides_all = lowers.iter().any(|lower| lower.opaque_root);
        let (first, second) = (one, other);
        let comparison = Comparison { first, second, layers, hides_all, times: false };
        let (budget, scratch) = (self.store.budget.clone(), self.store.disk.scratch());
        let limits = Limits { budget, scratch, ..Limits::default() };

        let (start, looked, exists) = (Instant::now(), Cell::new(Instant::now()), Cell::new(true));
        let look = || exists.set(exists_all());
        let ended = || {
            if looked.get().elapsed() > LOOK_INTERVAL {
                look();
                looked.set(Instant::now());
            }
            stop.is_cancelled() || start.elapsed() > DIFF_TIMEOUT || !exists.get()
        };
        let compared = compare(comparison, &limits, &ended, emit);
        look();
        match compared {
            // Its files are being removed, which is no change by the pod.
            _ if !exists.get() => Err(DiffError::Unpublished),
            Err(CompareError::Stopped) if !stop.is_cancelled() => Err(DiffError::TooLong),
            compared => Ok(compared?),
        }
    }
}
