//! A snapshot as its namespace's users can know it: from the VolumeSnapshot, and from what the controller writes on it.

use std::str::FromStr;

use anyhow::anyhow;
use jiff::Timestamp;
use serde::Serialize;

use super::{Failure, Here, print};
use crate::{
    cluster::snapshot_api::VolumeSnapshot,
    controller::{SOURCE, told},
    units,
};

/// One snapshot.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Snapshot {
    pub(super) namespace: String,
    pub(super) name: String,
    #[serde(skip)]
    pub(super) uid: String,
    /// `<pod>/<volume>`.
    pub(super) source: Option<String>,
    pub(super) class: Option<String>,
    /// It can be restored.
    pub(super) ready: bool,
    /// How far it is, as its node says; before that `Pending`, at last `Deleting`.
    pub(super) phase: String,
    /// What is wrong, or goes on.
    pub(super) message: Option<String>,
    pub(super) created: Option<Timestamp>,
    /// The snapshot that its volume was made of.
    pub(super) parent: Option<String>,
    /// The node that cut it.
    pub(super) node: Option<String>,
    /// Where it was pushed.
    pub(super) image: Option<String>,
    /// Of its newest layer.
    pub(super) entries: Option<u64>,
    /// Of its newest layer.
    pub(super) bytes: Option<u64>,
    /// Of its whole stack.
    pub(super) layers: Option<u64>,
    /// Those above its images'.
    pub(super) own_layers: Option<u64>,
    /// What the registry has of it beside its images.
    pub(super) pushed_bytes: Option<u64>,
    /// For how long its pod stood still.
    pub(super) frozen: Option<String>,
    /// The controller has said something, and no node has anything to do with it.
    #[serde(skip)]
    refused: bool,
}

/// What to make of a snapshot that is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Ready,
    /// For good, and why.
    Failed(String),
    /// The controller does not take it up, and why; that may pass.
    Refused(String),
    Waiting,
}

impl Snapshot {
    /// The VolumeSnapshot as a snapshot of ours; none where it is somebody else's.
    pub(super) fn of(object: &VolumeSnapshot) -> Option<Self> {
        let metadata = &object.metadata;
        let notes = metadata.annotations.as_ref()?;
        [SOURCE, told::PHASE].iter().any(|key| notes.contains_key(*key)).then_some(())?;
        let text = |key: &str| notes.get(key).map(|text| print::clean(text));
        let status = object.status.clone().unwrap_or_default();
        let ready = status.ready_to_use == Some(true);
        let phase = text(told::PHASE);
        let refused = phase.is_none() && text(told::MESSAGE).is_some();
        let phase = match phase {
            _ if metadata.deletion_timestamp.is_some() => "Deleting".to_owned(),
            Some(phase) => phase,
            None if ready => "Ready".to_owned(),
            None => "Pending".to_owned(),
        };
        let said = status.error.and_then(|error| error.message);
        let said = said.filter(|_| !ready).map(|said| print::clean(&said));
        Some(Self {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            source: text(SOURCE),
            class: object.spec.volume_snapshot_class_name.clone(),
            ready,
            phase,
            message: text(told::MESSAGE).or(said),
            created: metadata.creation_timestamp.as_ref().map(|time| time.0),
            parent: text(told::PARENT),
            node: text(told::NODE),
            image: text(told::IMAGE),
            entries: number(text(told::ENTRIES)),
            bytes: number(text(told::BYTES)),
            layers: number(text(told::LAYERS)),
            own_layers: number(text(told::OWN_LAYERS)),
            pushed_bytes: number(text(told::PUSHED_BYTES)),
            frozen: text(told::FROZEN),
            refused,
        })
    }

    /// What to make of it.
    pub(super) fn state(&self) -> State {
        let why = || self.message.clone();
        match self.phase.as_str() {
            "Failed" => State::Failed(why().unwrap_or_else(|| "its node does not say why".into())),
            "Deleting" | "Deleted" => State::Failed("it is being deleted".to_owned()),
            // What the node says of it comes here a moment later.
            "Ready" if self.ready => State::Ready,
            _ => match why() {
                Some(why) if self.refused => State::Refused(why),
                _ => State::Waiting,
            },
        }
    }

    /// `12 entries, 3.4 MB`, as far as it is known.
    pub(super) fn amount(&self) -> Option<String> {
        let entries = self.entries.map(|count| match count {
            1 => "1 entry".to_owned(),
            count => format!("{count} entries"),
        });
        let parts: Vec<_> = entries.into_iter().chain(self.bytes.map(units::bytes)).collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }

    /// Where its layers are: in a repository, or on one node only.
    pub(super) fn place(&self) -> String {
        match (&self.image, &self.node) {
            (Some(image), _) => image.split('@').next().unwrap_or_default().to_owned(),
            (None, Some(node)) if self.phase == "Ready" => format!("{node} only"),
            _ => "-".to_owned(),
        }
    }
}

fn number<T: FromStr>(text: Option<String>) -> Option<T> {
    text?.parse().ok()
}

impl Here {
    /// The snapshot of this name, which has to be there and one of ours.
    pub(super) async fn snapshot(&self, name: &str) -> Result<Snapshot, Failure> {
        let namespace = &self.namespace;
        let found = self.client.get::<VolumeSnapshot>(Some(namespace), name).await?;
        let found = found.ok_or_else(|| {
            anyhow!(
                "there is no snapshot {name} in namespace {namespace}: kubectl ovl list shows those there are"
            )
        })?;
        let ours = Snapshot::of(&found).ok_or_else(|| {
            anyhow!(
                "VolumeSnapshot {name} in namespace {namespace} is none of {}: it has no annotation {SOURCE}",
                self.driver
            )
        })?;
        Ok(ours)
    }

    /// All snapshots of ours in the namespace, or in all of them, by namespace and name.
    pub(super) async fn snapshots(&self, everywhere: bool) -> Result<Vec<Snapshot>, Failure> {
        let namespace = (!everywhere).then_some(self.namespace.as_str());
        let found = self.client.list_in::<VolumeSnapshot>(namespace).await?;
        let mut ours: Vec<_> = found.iter().filter_map(Snapshot::of).collect();
        ours.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        Ok(ours)
    }
}
