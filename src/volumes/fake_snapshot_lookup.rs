//! Snapshots for tests: what a cluster answers, and what a cut leaves in the store.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Mutex, MutexGuard},
};

use jiff::Timestamp;

use super::*;
use crate::{
    digest::Digest,
    layers::{Features, SnapshotContents, SnapshotRecord, SnapshotSource},
    sys::durable::Amount,
};

type Answer = Result<FoundSnapshot, LookupError>;

/// A cluster that knows what it was told.
#[derive(Debug, Default)]
pub(super) struct FakeSnapshots(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    answers: HashMap<String, Vec<Answer>>,
    asked: usize,
}

impl FakeSnapshots {
    /// What is answered to whoever asks for `default/<name>`: each once, the last from then on.
    pub(super) fn respond(&self, name: &str, answers: impl IntoIterator<Item = Answer>) {
        let mut answers: Vec<_> = answers.into_iter().collect();
        answers.reverse();
        self.known().answers.insert(format!("default/{name}"), answers);
    }

    /// How often it was asked.
    pub(super) fn requests(&self) -> usize {
        self.known().asked
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap()
    }
}

impl SnapshotLookup for FakeSnapshots {
    fn find<'a>(&'a self, namespace: &'a str, name: &'a str) -> Lookup<'a> {
        let mut known = self.known();
        known.asked += 1;
        let answer = match known.answers.get_mut(&format!("{namespace}/{name}")) {
            Some(answers) if answers.len() > 1 => answers.pop().unwrap(),
            Some(answers) => answers[0].clone(),
            None => Err(LookupError::Absent { namespace: namespace.into(), name: name.into() }),
        };
        Box::pin(async move { answer })
    }
}

/// What the cluster says of a snapshot without owner and image, with one layer of its own.
pub(super) fn found(id: &str) -> FoundSnapshot {
    let (id, node) = (id.parse().unwrap(), "node-1".to_owned());
    FoundSnapshot { id, node, image: None, own: 1, owner: None }
}

/// Puts a layer into the store as a cut does, with what `fill` puts into its directory, and these needs (metacopy, redirect);
/// answers its key.
pub(super) fn snapshot_layer(
    store: &Arc<Store>,
    id: &str,
    (metacopy, redirect): (bool, bool),
    fill: impl FnOnce(&Path),
) -> Digest {
    let staged = store.stage_snapshot(&id.parse().unwrap()).unwrap();
    fill(&staged.tree());
    let key = staged.key();
    let features = Features { metacopy, redirect };
    staged.commit(SnapshotContents { entries: 1, bytes: 0, features }, Amount::default()).unwrap();
    key
}

/// The record of a snapshot with one layer of its own on top.
pub(super) fn record(id: &str, stack: Vec<Digest>, manifests: Vec<Digest>) -> SnapshotRecord {
    SnapshotRecord {
        format: SnapshotRecord::FORMAT,
        id: id.parse().unwrap(),
        stack,
        own: 1,
        manifests,
        base: None,
        parent: None,
        source: SnapshotSource {
            namespace: "default".to_owned(),
            pod: "dev-0".to_owned(),
            pod_uid: "pod-0".to_owned(),
            volume: "csi-0".to_owned(),
        },
        owner: None,
        cut: Timestamp::now(),
        entries: 1,
        bytes: 0,
        frozen_micros: None,
        ended: false,
        torn: 0,
        pushed: None,
    }
}
