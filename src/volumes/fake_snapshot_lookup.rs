//! Snapshots for tests: a fake of the cluster, and the layers and records that a capture leaves in the store.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
};

use super::*;
use crate::{
    digest::ManifestDigest,
    layers::{
        LayerFeatures, LayerKey, SnapshotContents, SnapshotRecord, SnapshotSource, Store,
        testing::snapshot_record,
    },
    sys::durable::Amount,
};

type Response = Result<FoundSnapshot, LookupError>;

/// A fake cluster with configured responses.
#[derive(Debug, Default)]
pub(super) struct FakeSnapshots(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    responses: HashMap<String, Vec<Response>>,
    requests: usize,
}

impl FakeSnapshots {
    /// Sets the responses to lookups of `default/<name>`. Each is returned once, the last one from then on.
    pub(super) fn respond(&self, name: &str, responses: impl IntoIterator<Item = Response>) {
        let mut responses: Vec<_> = responses.into_iter().collect();
        responses.reverse();
        self.state().responses.insert(format!("default/{name}"), responses);
    }

    /// The number of lookups.
    pub(super) fn requests(&self) -> usize {
        self.state().requests
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl SnapshotLookup for FakeSnapshots {
    fn find<'a>(&'a self, namespace: &'a str, name: &'a str) -> Lookup<'a> {
        let mut state = self.state();
        state.requests += 1;
        let response = match state.responses.get_mut(&format!("{namespace}/{name}")) {
            Some(responses) if responses.len() > 1 => responses.pop().unwrap(),
            Some(responses) => responses[0].clone(),
            None => Err(LookupError::Absent { namespace: namespace.into(), name: name.into() }),
        };
        Box::pin(async move { response })
    }
}

/// The response of the cluster for a snapshot with one layer of its own, without an owner and an image.
pub(super) fn found(id: &str) -> FoundSnapshot {
    let (id, node) = (id.parse().unwrap(), "node-1".to_owned());
    let if_lost = "take a new snapshot".to_owned();
    FoundSnapshot { id, node, image: None, if_lost, snapshot_layers: 1, owner: None }
}

/// Adds a layer to the store as a capture does, with the files that `fill` writes and the features that it needs
/// (metacopy, redirect). Returns its key.
pub(super) fn snapshot_layer(
    store: &Arc<Store>,
    id: &str,
    (metacopy, redirect): (bool, bool),
    fill: impl FnOnce(&Path),
) -> LayerKey {
    let staged = store.layers.stage_snapshot(&id.parse().unwrap()).unwrap();
    fill(&staged.tree());
    let key = staged.key();
    let features = LayerFeatures { metacopy, redirect };
    staged.commit(SnapshotContents { entries: 1, bytes: 0, features }, Amount::default()).unwrap();
    key
}

/// The record of a snapshot with one layer of its own on top.
pub(super) fn record(
    id: &str,
    stack: Vec<LayerKey>,
    manifests: Vec<ManifestDigest>,
) -> SnapshotRecord {
    let source = SnapshotSource {
        namespace: "default".to_owned(),
        pod: "dev-0".to_owned(),
        pod_uid: "pod-0".to_owned(),
        volume_id: "csi-0".to_owned(),
    };
    SnapshotRecord { stack, manifests, source, bytes: 0, ..snapshot_record(id) }
}
