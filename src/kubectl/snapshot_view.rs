//! A snapshot as a user of its namespace can see it: from the VolumeSnapshot and the annotations that the controller
//! writes to it.

use std::str::FromStr;

use anstyle::{AnsiColor, Style};
use anyhow::anyhow;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::{failure::Failure, print, session::Session};
use crate::{
    cluster::{
        annotation_keys::{self, PENDING, REFUSED, SOURCE},
        overlay_snapshot::NOT_IN_REGISTRY,
        snapshot_api::VolumeSnapshot,
    },
    format,
};

/// The resource of VolumeSnapshots, as kubectl prints it.
const RESOURCE: &str = "volumesnapshot.snapshot.storage.k8s.io";

/// How old a snapshot must be until an error of Kubernetes' controllers about it is shown. They report what is missing
/// while other controllers still create it, and try again.
const ERROR_AGE: SignedDuration = SignedDuration::from_secs(60);

/// A VolumeSnapshot of this driver.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Snapshot {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    /// `<pod>/<volume>`.
    pub(super) source: Option<String>,
    pub(super) class: Option<String>,
    /// Whether volumes can start from it.
    pub(super) ready: bool,
    /// The phase that its node reports. `Pending` until a node reports it, `Refused` if the controller does not accept
    /// it, `Deleting` once the object is being deleted.
    pub(super) phase: String,
    /// The error, or the progress of the current step, as the driver reports it.
    pub(super) message: Option<String>,
    /// The error of Kubernetes' controllers. It may pass by itself: see [`Snapshot::reason`].
    pub(super) error: Option<String>,
    pub(super) created: Option<Timestamp>,
    /// The snapshot from which its volume started.
    pub(super) parent: Option<String>,
    /// The uid of that snapshot: another one can have its name by now.
    pub(super) parent_uid: Option<String>,
    /// The node that captured it.
    pub(super) node: Option<String>,
    /// The image in the registry, if it was pushed.
    pub(super) image: Option<String>,
    /// The number of entries in its newest layer.
    pub(super) entries: Option<u64>,
    /// The size of its newest layer.
    pub(super) bytes: Option<u64>,
    /// The number of layers of its whole stack.
    pub(super) layers: Option<u64>,
    /// The number of layers above those of its images.
    pub(super) own_layers: Option<u64>,
    /// The size in the registry of the layers above those of its images, in bytes.
    pub(super) pushed_bytes: Option<u64>,
    /// How long its pod was frozen, such as `12.3ms`.
    pub(super) frozen: Option<String>,
    /// The VolumeSnapshotContent.
    pub(super) content: Option<String>,
    /// `Delete` or `Retain`, once the content has been created. `None` from a controller of an earlier version.
    pub(super) deletion_policy: Option<String>,
    /// Whether the controller of the driver has written anything to it.
    #[serde(skip)]
    pub(super) is_seen: bool,
}

/// The state of a snapshot, for a command that waits for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Ready,
    /// It failed for good, for this reason.
    Failed(String),
    /// The controller does not accept it, for this reason, which may pass.
    Refused(String),
    Waiting,
}

impl Snapshot {
    /// Reads a VolumeSnapshot. `None` if it does not belong to this driver. One that no controller has claimed yet
    /// counts as this driver's.
    pub(super) fn of(object: &VolumeSnapshot, driver: &str) -> Option<Self> {
        let metadata = &object.metadata;
        let values = metadata.annotations.as_ref()?;
        let is_snapshot =
            [SOURCE, annotation_keys::PHASE].iter().any(|key| values.contains_key(*key));
        let is_ours = values.get(annotation_keys::DRIVER).is_none_or(|claimed| claimed == driver);
        if !is_snapshot || !is_ours {
            return None;
        }
        let text = |key: &str| values.get(key).map(|text| print::clean(text));
        let status = object.status.clone().unwrap_or_default();
        let reported = text(annotation_keys::PHASE);
        // Kubernetes' controllers set `readyToUse` once and never take it back.
        let is_lost = matches!(reported.as_deref(), Some("Failed" | NOT_IN_REGISTRY));
        let ready = status.ready_to_use == Some(true) && !is_lost;
        let is_seen = reported.is_some() || values.contains_key(annotation_keys::DRIVER);
        let is_deleting = metadata.deletion_timestamp.is_some();
        let error = status.error.and_then(|error| error.message);
        // Before the driver's controller has created the content, the snapshot-controller reports that it is missing.
        let error = error.filter(|_| !ready && is_seen && !is_deleting);
        // A message from before the deletion says nothing about the deletion.
        let is_former = is_deleting && !matches!(reported.as_deref(), Some("Deleting" | "Deleted"));
        let content = status.bound_volume_snapshot_content_name;
        let content = content.or_else(|| object.spec.source.volume_snapshot_content_name.clone());
        let phase = match reported {
            _ if is_deleting => "Deleting".to_owned(),
            Some(phase) => phase,
            None if ready => "Ready".to_owned(),
            None => PENDING.to_owned(),
        };
        Some(Self {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            source: text(SOURCE),
            class: text(annotation_keys::CLASS)
                .or_else(|| object.spec.volume_snapshot_class_name.clone()),
            ready,
            phase,
            message: text(annotation_keys::MESSAGE).filter(|_| !is_former),
            error: error.map(|error| print::clean(&error)),
            created: metadata.creation_timestamp.as_ref().map(|time| time.0),
            parent: text(annotation_keys::PARENT),
            parent_uid: text(annotation_keys::PARENT_UID),
            node: text(annotation_keys::NODE),
            image: text(annotation_keys::IMAGE),
            entries: number(text(annotation_keys::ENTRIES)),
            bytes: number(text(annotation_keys::BYTES)),
            layers: number(text(annotation_keys::LAYERS)),
            own_layers: number(text(annotation_keys::OWN_LAYERS)),
            pushed_bytes: number(text(annotation_keys::PUSHED_BYTES)),
            frozen: text(annotation_keys::FROZEN),
            content: content.map(|name| print::clean(&name)),
            deletion_policy: text(annotation_keys::DELETION_POLICY),
            is_seen,
        })
    }

    /// The state by which a command decides whether to wait longer.
    pub(super) fn state(&self) -> State {
        let why = || self.message.clone();
        match self.phase.as_str() {
            "Failed" | NOT_IN_REGISTRY => {
                State::Failed(why().unwrap_or_else(|| "its node gives no reason".into()))
            }
            REFUSED => {
                State::Refused(why().unwrap_or_else(|| "the controller gives no reason".into()))
            }
            "Deleting" | "Deleted" => State::Failed("it is being deleted".to_owned()),
            // The controller copies the node's phase to the annotation, which can be late.
            "Ready" if self.ready => State::Ready,
            _ => State::Waiting,
        }
    }

    /// Why it is not ready: the message of the driver, else an error of Kubernetes' controllers that has not passed within
    /// a minute.
    pub(super) fn reason(&self, now: Timestamp) -> Option<&str> {
        let is_old = self.created.is_some_and(|at| now.duration_since(at) >= ERROR_AGE);
        self.message.as_deref().or_else(|| self.error.as_deref().filter(|_| is_old))
    }

    /// What stays in the cluster and in the registry when it is deleted, and how to delete that. `None` if its policy keeps
    /// nothing.
    pub(super) fn retained(&self) -> Option<String> {
        let Self { name, content, image, .. } = self;
        let content =
            content.as_ref().filter(|_| self.deletion_policy.as_deref() == Some("Retain"))?;
        let image = image.as_ref().map(|image| format!("its image {image}, ")).unwrap_or_default();
        let left = match self.entries {
            Some(_) => format!("{image}its layers and VolumeSnapshotContent {content} stay"),
            None => format!("VolumeSnapshotContent {content} stays"),
        };
        Some(format!(
            "the deletion policy of snapshot {name} is Retain: {left}. To delete what stays, an administrator runs `kubectl \
             patch volumesnapshotcontent {content} --type=merge -p \
             '{{\"spec\":{{\"deletionPolicy\":\"Delete\"}}}}'`, then `kubectl delete volumesnapshotcontent {content} \
             --ignore-not-found`"
        ))
    }

    /// The number of entries and the size, such as `12 entries, 3.4 MiB`, as far as they are known.
    pub(super) fn amount(&self) -> Option<String> {
        let entries = self.entries.map(|count| match count {
            1 => "1 entry".to_owned(),
            count => format!("{count} entries"),
        });
        let parts: Vec<_> = entries.into_iter().chain(self.bytes.map(format::bytes)).collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }

    /// Where its layers are: `registry`, or the only node that has them.
    pub(super) fn place(&self) -> &str {
        match (&self.image, &self.node) {
            (Some(_), _) if self.phase == NOT_IN_REGISTRY => "-",
            (Some(_), _) => "registry",
            (None, Some(node)) if self.phase == "Ready" || self.phase == "Pushing" => node,
            _ => "-",
        }
    }

    /// The colour of its phase.
    pub(super) fn style(&self) -> Style {
        match self.phase.as_str() {
            "Ready" => AnsiColor::Green.on_default(),
            "Failed" | REFUSED | NOT_IN_REGISTRY => AnsiColor::Red.on_default(),
            _ => AnsiColor::Yellow.on_default(),
        }
    }

    /// Its kind and its name, as other commands of kubectl take them.
    pub(super) fn resource(&self) -> String {
        resource(&self.name)
    }
}

/// The kind and the name of a VolumeSnapshot, as other commands of kubectl take them.
pub(super) fn resource(name: &str) -> String {
    format!("{RESOURCE}/{name}")
}

fn number<T: FromStr>(text: Option<String>) -> Option<T> {
    text?.parse().ok()
}

impl Session {
    /// Reads the snapshot of this name.
    ///
    /// # Errors
    /// It does not exist, or belongs to another driver.
    pub(super) async fn snapshot(&self, name: &str) -> Result<Snapshot, Failure> {
        let namespace = &self.namespace;
        let found = self.client.get::<VolumeSnapshot>(Some(namespace), name).await?;
        let found = found.ok_or_else(|| {
            anyhow!(
                "there is no snapshot {name} in namespace {namespace}; `kubectl ovl list` shows the existing ones"
            )
        })?;
        let snapshot = Snapshot::of(&found, &self.driver).ok_or_else(|| {
            anyhow!(
                "VolumeSnapshot {name} in namespace {namespace} does not belong to driver {} (--driver)",
                self.driver
            )
        })?;
        Ok(snapshot)
    }

    /// The snapshots of this driver in the namespace, or in all namespaces, sorted by namespace and name. Only those
    /// that match a label selector, if there is one.
    pub(super) async fn snapshots(
        &self,
        everywhere: bool,
        selector: Option<&str>,
    ) -> Result<Vec<Snapshot>, Failure> {
        let namespace = (!everywhere).then_some(self.namespace.as_str());
        let found = match selector {
            Some(selector) => {
                self.client.list_labelled::<VolumeSnapshot>(namespace, selector).await?
            }
            None => self.client.list_in::<VolumeSnapshot>(namespace).await?,
        };
        let ours = found.iter().filter_map(|object| Snapshot::of(object, &self.driver));
        let mut snapshots: Vec<_> = ours.collect();
        snapshots.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        Ok(snapshots)
    }
}
