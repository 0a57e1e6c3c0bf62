//! Reconciles VolumeSnapshots: checks what a user requests, and creates the OverlaySnapshot once.

use std::collections::BTreeMap;

use super::{
    Controller, ControllerError,
    error::{NotCapturable, Refusal},
    names::{SOURCE, Source, annotation_keys, id_of, volume_handle},
    parameters::Parameters,
    repository::Names,
};
use crate::{
    cluster::{
        EventType, Pod, PodVolume,
        overlay_snapshot::{ObjectId, OverlaySnapshot, OverlaySnapshotSpec, SnapshotOf},
        snapshot_api::{VolumeSnapshot, VolumeSnapshotClass, VolumeSnapshotContent},
    },
    dns_name::is_subdomain,
    error::Class,
};

/// The annotation of the default class.
const DEFAULT_CLASS: &str = "snapshot.storage.kubernetes.io/is-default-class";

/// What is left to do about an object after a reconcile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing, until something changes.
    Nothing,
    /// Nothing: the object does not exist.
    Gone,
    /// Requeue after a pause: the awaited change causes no watch event.
    Again,
}

/// A reason for which this driver does not start a snapshot for a VolumeSnapshot.
enum NotStarted {
    Refused(Refusal),
    /// It belongs to another driver, which reports any error.
    OtherDriver,
}

impl From<Refusal> for NotStarted {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// The spec of a new OverlaySnapshot.
pub(super) struct SpecRequest {
    pub(super) spec: OverlaySnapshotSpec,
    /// Whether names in its repository were shortened.
    pub(super) shortened: bool,
}

/// A VolumeSnapshot, with its reference and the name of its OverlaySnapshot.
pub(super) struct Request {
    pub(super) of: ObjectId,
    pub(super) id: String,
    pub(super) object: VolumeSnapshot,
}

impl Request {
    /// `None` for an object without namespace, name or uid: one that the API server has not stored.
    pub(super) fn of(object: VolumeSnapshot) -> Option<Self> {
        let metadata = &object.metadata;
        let of = ObjectId {
            namespace: metadata.namespace.clone()?,
            name: metadata.name.clone()?,
            uid: metadata.uid.clone()?,
        };
        Some(Self { id: id_of(&of.uid), of, object })
    }

    pub(super) fn annotation(&self, key: &str) -> Option<&str> {
        self.object.metadata.annotations.as_ref()?.get(key).map(String::as_str)
    }

    /// The name of the content in its spec.
    pub(super) fn content(&self) -> Result<&str, Refusal> {
        let name = self.object.spec.source.volume_snapshot_content_name.as_deref();
        let name = name.filter(|name| !name.is_empty()).ok_or(Refusal::Claim)?;
        match is_subdomain(name) {
            true => Ok(name),
            // A user may write any text here. It must not become a part of a request path.
            false => Err(Refusal::ContentName(name.chars().take(300).collect())),
        }
    }

    fn class(&self) -> Option<&str> {
        self.object.spec.volume_snapshot_class_name.as_deref()
    }

    /// Whether it was ever bound to a content.
    fn is_bound(&self) -> bool {
        let status = self.object.status.as_ref();
        status.is_some_and(|status| status.bound_volume_snapshot_content_name.is_some())
    }
}

impl Controller {
    /// Reconciles a VolumeSnapshot.
    pub(super) async fn request(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Action, ControllerError> {
        let found = self.client().get::<VolumeSnapshot>(Some(namespace), name).await?;
        let Some(request) = found.and_then(Request::of) else { return Ok(Action::Gone) };
        let Some(source) = request.annotation(SOURCE) else { return Ok(Action::Nothing) };
        let made = self.client().get::<OverlaySnapshot>(None, &request.id).await?;
        if request.object.metadata.deletion_timestamp.is_some() {
            // The stock controllers delete it. `orphans` deletes what they leave.
            return self.touch(&request, made).await;
        }
        let made = match made {
            Some(made) if made.spec.driver != self.0.driver => return Ok(Action::Nothing),
            Some(made) => made,
            None => match self.start(&request, source).await? {
                Ok(made) => made,
                Err(NotStarted::Refused(refusal)) => return self.refuse(&request, refusal).await,
                Err(NotStarted::OtherDriver) => return Ok(Action::Nothing),
            },
        };
        self.follow(&request, &made).await
    }

    /// Creates the OverlaySnapshot.
    async fn start(
        &self,
        request: &Request,
        source: &str,
    ) -> Result<Result<OverlaySnapshot, NotStarted>, ControllerError> {
        if request
            .annotation(annotation_keys::DRIVER)
            .is_some_and(|driver| *driver != self.0.driver)
        {
            // Without a class, the volume decides to which driver it belongs. The controller of another driver has
            // claimed it.
            return Ok(Err(NotStarted::OtherDriver));
        }
        let SpecRequest { spec, shortened } = match self.spec(request, source).await? {
            Ok(request) => request,
            Err(not) => return Ok(Err(not)),
        };
        // If another leader has just created it, this is a conflict, and the next reconcile finds it.
        let made = self.client().create(&OverlaySnapshot::new(&request.id, spec)).await?;
        let SnapshotOf { pod, volume, .. } = &made.spec.source;
        let node = &made.spec.node_name;
        let message = format!("volume {volume} of pod {pod} is being captured on node {node}");
        self.record_event(&request.of, EventType::Normal, "SnapshotRequested", message);
        if let Some(repository) = made.spec.repository.as_ref().filter(|_| shortened) {
            let message = format!(
                "the repository of the snapshot is {repository}: with the whole names of pod, volume and snapshot \
                 it would be longer than registries accept"
            );
            self.record_event(&request.of, EventType::Normal, "RepositoryShortened", message);
        }
        Ok(Ok(made))
    }

    /// The spec for the node. If the VolumeSnapshot names a class, the class decides to which driver it belongs;
    /// otherwise the volume does. Until the driver is known, all releases write the same messages, so that they do not
    /// overwrite each other.
    async fn spec(
        &self,
        request: &Request,
        source: &str,
    ) -> Result<Result<SpecRequest, NotStarted>, ControllerError> {
        let named = match request.class() {
            None => None,
            Some(_) => match self.class(request).await? {
                Ok(Some(class)) if class.driver != self.0.driver => {
                    return Ok(Err(NotStarted::OtherDriver));
                }
                Ok(class) => class,
                Err(refusal) => return Ok(Err(refusal.into())),
            },
        };
        let Ok(source) = source.parse::<Source>() else {
            return Ok(Err(Refusal::Source(source.chars().take(300).collect()).into()));
        };
        let content = match request.content() {
            Ok(content) => content,
            Err(refusal) => return Ok(Err(refusal.into())),
        };
        let existing = self.client().get::<VolumeSnapshotContent>(None, content).await?;
        if let Some(existing) = &existing
            && named.is_none()
            && existing.spec.driver != self.0.driver
            && existing.spec.volume_snapshot_ref.uid.as_deref() == Some(&request.of.uid)
        {
            return Ok(Err(NotStarted::OtherDriver));
        }
        if request.is_bound()
            || existing.as_ref().is_some_and(|existing| self.is_ours(existing, request))
        {
            return Ok(Err(Refusal::Lost(request.id.clone()).into()));
        }
        if existing.is_some() {
            return Ok(Err(Refusal::NameTaken(content.to_owned()).into()));
        }
        let pod = self.client().pod(&request.of.namespace, &source.pod).await?;
        let Some(pod) = pod else { return Ok(Err(Refusal::NoPod(source.pod).into())) };
        let node = match self.node_of(&pod, &source.volume) {
            Ok(node) => node,
            Err(Refusal::NotOurs { .. }) if named.is_none() => {
                return Ok(Err(NotStarted::OtherDriver));
            }
            Err(refusal) => return Ok(Err(refusal.into())),
        };
        let class = match named {
            Some(class) => Some(class),
            None => match self.class(request).await? {
                Ok(class) => class,
                Err(refusal) => return Ok(Err(refusal.into())),
            },
        };
        let parsed = class.as_ref().map(|class| Parameters::parse(&class.parameters));
        let parameters = match parsed.transpose() {
            Ok(parameters) => parameters.unwrap_or_default(),
            Err(error) => return Ok(Err(unusable(class.as_ref(), &error).into())),
        };
        let of = SnapshotOf {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            pod_uid: pod.uid.clone(),
            volume: source.volume,
        };
        Ok(match self.spec_request(parameters, node, of, &request.of.name) {
            Ok(SpecRequest { spec, shortened }) => {
                let volume_snapshot = Some(request.of.clone());
                Ok(SpecRequest { spec: OverlaySnapshotSpec { volume_snapshot, ..spec }, shortened })
            }
            Err(error) => Err(unusable(class.as_ref(), &error).into()),
        })
    }

    /// The spec for a volume of a pod on a node.
    pub(super) fn spec_request(
        &self,
        parameters: Parameters,
        node: String,
        of: SnapshotOf,
        name: &str,
    ) -> Result<SpecRequest, super::RepositoryError> {
        let names = Names { namespace: &of.namespace, pod: &of.pod, volume: &of.volume, name };
        let filled = parameters.repository.map(|template| template.fill(names)).transpose()?;
        let shortened = filled.as_ref().is_some_and(|filled| filled.shortened);
        let repository = filled.map(|filled| filled.repository);
        let millis = parameters.freeze_timeout.as_millis();
        let spec = OverlaySnapshotSpec {
            driver: self.0.driver.clone(),
            node_name: node,
            volume_handle: volume_handle(&of.pod_uid, &of.volume),
            source: of,
            volume_snapshot: None,
            repository,
            format: parameters.format,
            compression: parameters.compression,
            consistency: parameters.consistency,
            freeze_timeout_millis: u32::try_from(millis).unwrap_or(u32::MAX),
            or_live: parameters.or_live,
            squash_above: parameters.squash_above,
            push_secret_name: parameters.push_secret_name,
            deleted: false,
        };
        Ok(SpecRequest { spec, shortened })
    }

    /// The node that has the volume of a pod, if the volume can be captured.
    fn node_of(&self, pod: &Pod, volume: &str) -> Result<String, Refusal> {
        let (pod_name, name) = (pod.name.clone(), volume.to_owned());
        let Some(volume) = pod.volumes.iter().find(|v| v.name == volume) else {
            let others: Vec<_> = pod.volumes.iter().map(|v| v.name.as_str()).collect();
            return Err(Refusal::NoVolume {
                pod: pod_name,
                volume: name,
                others: others.join(", "),
            });
        };
        match volume.driver.as_deref() {
            None => return Err(Refusal::NotCsi { pod: pod_name, volume: name }),
            Some(driver) if driver != self.0.driver => {
                let driver = self.0.driver.clone();
                return Err(Refusal::NotOurs { pod: pod_name, volume: name, driver });
            }
            Some(_) => {}
        }
        Ok(capturable(pod, volume)?.to_owned())
    }

    /// The class of a VolumeSnapshot: the named one, else the default class of this driver, else none.
    pub(super) async fn class(
        &self,
        request: &Request,
    ) -> Result<Result<Option<VolumeSnapshotClass>, Refusal>, ControllerError> {
        if let Some(name) = request.class() {
            if !is_subdomain(name) {
                // No class can have this name, and it must not become a part of a request path.
                return Ok(Err(Refusal::NoClass(name.chars().take(300).collect())));
            }
            let class = self.client().get::<VolumeSnapshotClass>(None, name).await?;
            return Ok(class.map(Some).ok_or_else(|| Refusal::NoClass(name.to_owned())));
        }
        let is_default = |class: &VolumeSnapshotClass| {
            let annotations: Option<&BTreeMap<_, _>> = class.metadata.annotations.as_ref();
            let value = annotations.and_then(|annotations| annotations.get(DEFAULT_CLASS));
            class.driver == self.0.driver && value.is_some_and(|value| value == "true")
        };
        let classes = self.client().list::<VolumeSnapshotClass>().await?;
        let mut defaults: Vec<_> = classes.into_iter().filter(is_default).collect();
        if defaults.len() > 1 {
            return Ok(Err(Refusal::ManyDefaults(
                defaults.iter().map(name_of).collect::<Vec<_>>().join(", "),
            )));
        }
        Ok(Ok(defaults.pop()))
    }

    /// Reports why no snapshot is started, by an annotation and an Event; once for the same message.
    pub(super) async fn refuse(
        &self,
        request: &Request,
        refusal: Refusal,
    ) -> Result<Action, ControllerError> {
        let message = refusal.to_string();
        if request.annotation(annotation_keys::MESSAGE) != Some(&message) {
            let changed = BTreeMap::from([(annotation_keys::MESSAGE, Some(message.clone()))]);
            self.annotate(request, &changed).await?;
            self.record_event(&request.of, refusal.severity(), refusal.reason(), message);
        }
        Ok(Action::Again)
    }
}

/// The node on which a volume of this driver can be captured.
pub(super) fn capturable<'p>(pod: &'p Pod, volume: &PodVolume) -> Result<&'p str, NotCapturable> {
    if volume.read_only {
        return Err(NotCapturable::ReadOnly { pod: pod.name.clone(), volume: volume.name.clone() });
    }
    let node = pod.node.as_deref().filter(|_| !pod.pending);
    node.ok_or_else(|| NotCapturable::Pending(pod.name.clone()))
}

pub(super) fn name_of(class: &VolumeSnapshotClass) -> String {
    class.metadata.name.clone().unwrap_or_default()
}

fn unusable(class: Option<&VolumeSnapshotClass>, why: &dyn std::fmt::Display) -> Refusal {
    Refusal::Class { class: class.map(name_of).unwrap_or_default(), why: why.to_string() }
}

/// Whether the name of a new object is taken already.
pub(super) fn is_taken(error: &crate::cluster::ClusterError) -> bool {
    error.class() == Class::Conflict
}
