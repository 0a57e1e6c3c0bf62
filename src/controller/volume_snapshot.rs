//! Reconciles VolumeSnapshots: checks what a user requests, and creates the OverlaySnapshot once.

use std::collections::BTreeMap;

use super::{
    Controller,
    cached::{CachedVolumeSnapshot, Content, Overlay},
    caches::SnapshotObjects,
    error::{NotCapturable, ReconcileError, Refusal},
    names::{CONTENT, Source, other_namespace, volume_handle},
    parameters::Parameters,
    repository::Names,
    run::Reconciler,
    turn::Turn,
};
use crate::{
    cluster::{
        EventType, Pod, PodVolume, annotation_keys,
        overlay_snapshot::{OverlaySnapshot, OverlaySnapshotSpec, SnapshotSource},
        snapshot_api::VolumeSnapshotClass,
    },
    dns_name::is_subdomain,
    error::Class,
};

/// The annotation of the default class.
const DEFAULT_CLASS: &str = "snapshot.storage.kubernetes.io/is-default-class";

/// The spec of a new OverlaySnapshot.
pub(super) struct NewOverlaySpec {
    pub(super) spec: OverlaySnapshotSpec,
    /// Whether names in its repository were shortened.
    pub(super) shortened: bool,
}

impl CachedVolumeSnapshot {
    /// The name of the content in its spec.
    pub(super) fn content_name(&self) -> Result<&str, Refusal> {
        let name = self.content.as_deref().filter(|name| !name.is_empty()).ok_or(Refusal::Claim)?;
        match is_subdomain(name) {
            true => Ok(name),
            // A user may write any text here. It must not become a part of a request path.
            false => Err(Refusal::ContentName(name.chars().take(300).collect())),
        }
    }

    /// Whether its annotation says that it is refused for this reason.
    fn is_reported(&self, refusal: &Refusal) -> bool {
        self.annotation_is(annotation_keys::MESSAGE, Some(&refusal.to_string()))
            && self.annotation_is(annotation_keys::PHASE, Some(refusal.phase()))
    }
}

impl Reconciler {
    /// Reconciles a VolumeSnapshot.
    pub(super) async fn reconcile_volume_snapshot(
        &self,
        turn: &Turn<'_>,
        request: &CachedVolumeSnapshot,
        snapshot: &SnapshotObjects,
    ) -> Result<(), ReconcileError> {
        let Some(source) = &request.source else { return Ok(()) };
        let overlay = snapshot.overlay.as_ref();
        if overlay.is_some_and(|overlay| !self.is_ours(overlay)) {
            return Ok(());
        }
        if request.is_deleting {
            // The stock controllers delete it. `orphans` deletes what they leave.
            return match overlay {
                Some(overlay) => self.mirror(turn, request, overlay, snapshot).await,
                None => Ok(()),
            };
        }
        let result = match overlay {
            Some(overlay) => self.follow(turn, request, overlay, snapshot).await,
            None => match self.start(turn, request, source).await {
                Ok(overlay) => self.follow(turn, request, &overlay, snapshot).await,
                Err(error) => Err(error),
            },
        };
        if let Err(ReconcileError::Refused(refusal)) = &result {
            self.report_refusal(turn, request, refusal).await?;
        }
        result
    }

    /// Creates the OverlaySnapshot.
    async fn start(
        &self,
        turn: &Turn<'_>,
        request: &CachedVolumeSnapshot,
        source: &str,
    ) -> Result<Overlay, ReconcileError> {
        let driver = &self.controller.0.driver;
        let claimed = |driver: Option<&str>| request.annotation_is(annotation_keys::DRIVER, driver);
        if !claimed(None) && !claimed(Some(driver)) {
            // Without a class, the volume decides to which driver it belongs. The controller of another driver has
            // claimed it.
            return Err(ReconcileError::OtherDriver);
        }
        let NewOverlaySpec { spec, shortened } = self.spec(turn, request, source).await?;
        let mut object = OverlaySnapshot::new(&request.id(), spec);
        let content = request.content_name()?.to_owned();
        object.metadata.annotations = Some(BTreeMap::from([(CONTENT.to_owned(), content)]));
        // If it exists already, the cache is old, or another leader has just created it. This is a conflict, and its
        // event leads to the next reconcile.
        let created = turn.client()?.create(&object).await?;
        let SnapshotSource { pod, volume, .. } = &created.spec.source;
        let node = &created.spec.node_name;
        let message = format!("volume {volume} of pod {pod} is being captured on node {node}");
        let of = &request.reference;
        self.controller.record_event(of, EventType::Normal, "SnapshotRequested", message);
        if let Some(repository) = created.spec.repository.as_ref().filter(|_| shortened) {
            let message = format!(
                "the repository of the snapshot is {repository}: with the whole names of pod, volume and snapshot \
                 it would be longer than registries accept"
            );
            self.controller.record_event(of, EventType::Normal, "RepositoryShortened", message);
        }
        Ok(created.into())
    }

    /// The spec for the node. If the VolumeSnapshot names a class, the class decides to which driver it belongs;
    /// otherwise the volume does. Until the driver is known, all releases write the same messages, so that they do not
    /// overwrite each other.
    async fn spec(
        &self,
        turn: &Turn<'_>,
        request: &CachedVolumeSnapshot,
        source: &str,
    ) -> Result<NewOverlaySpec, ReconcileError> {
        let driver = &self.controller.0.driver;
        let named = match request.class {
            None => None,
            Some(_) => self.class(turn, request).await?,
        };
        if named.as_ref().is_some_and(|class| class.driver != *driver) {
            return Err(ReconcileError::OtherDriver);
        }
        let source: Source =
            source.parse().map_err(|()| Refusal::Source(source.chars().take(300).collect()))?;
        self.check_content(turn, request, named.is_some()).await?;
        let pod = turn.client()?.pod(&request.reference.namespace, &source.pod).await?;
        let pod = pod.ok_or(Refusal::NoPod(source.pod))?;
        let node = match self.node_of(&pod, &source.volume) {
            Err(Refusal::NotOurs { .. }) if named.is_none() => {
                return Err(ReconcileError::OtherDriver);
            }
            node => node?,
        };
        let class = match named {
            Some(class) => Some(class),
            None => self.class(turn, request).await?,
        };
        let parsed = class.as_ref().map(|class| Parameters::parse(&class.parameters));
        let parameters = parsed.transpose().map_err(|error| unusable(class.as_ref(), &error))?;
        let source = SnapshotSource {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            pod_uid: pod.uid.clone(),
            volume: source.volume,
        };
        let spec = self.controller.new_spec(
            parameters.unwrap_or_default(),
            node,
            source,
            &request.reference.name,
        );
        let NewOverlaySpec { spec, shortened } =
            spec.map_err(|error| unusable(class.as_ref(), &error))?;
        let volume_snapshot = Some(request.reference.clone());
        Ok(NewOverlaySpec { spec: OverlaySnapshotSpec { volume_snapshot, ..spec }, shortened })
    }

    /// Checks that the name of the content is free and not another namespace's, and that no snapshot of this
    /// VolumeSnapshot was lost.
    async fn check_content(
        &self,
        turn: &Turn<'_>,
        request: &CachedVolumeSnapshot,
        has_class: bool,
    ) -> Result<(), ReconcileError> {
        let name = request.content_name()?;
        let existing = self.caches.content(name);
        if let Some(existing) = &existing
            && !has_class
            && !existing.has_our_driver
            && existing.reference.as_ref().is_some_and(|of| of.uid == request.reference.uid)
        {
            return Err(ReconcileError::OtherDriver);
        }
        if request.is_bound || existing.as_ref().is_some_and(|content| content.is_of(request)) {
            let id = request.id();
            let lost = Refusal::Lost(id.clone());
            if !request.is_reported(&lost)
                && turn.client()?.get::<OverlaySnapshot>(None, &id).await?.is_some()
            {
                // The cache is old. Its event leads to the next reconcile.
                return Err(ReconcileError::NotCached(id));
            }
            return Err(lost.into());
        }
        let of = &request.reference;
        if let Some(namespace) = other_namespace(name, &of.namespace) {
            return Err(Refusal::ForeignName {
                content: name.to_owned(),
                prefix: format!("{namespace}."),
                own: format!("{}.{}", of.namespace, of.name),
            }
            .into());
        }
        let is_earlier = |content: &Content| {
            let named = content.reference.as_ref().map(|r| (&r.namespace, &r.name));
            content.has_our_driver && content.retains && named == Some((&of.namespace, &of.name))
        };
        match existing {
            Some(content) if is_earlier(&content) => Err(Refusal::Retained(name.to_owned()).into()),
            Some(_) => Err(Refusal::NameTaken(name.to_owned()).into()),
            None => Ok(()),
        }
    }

    /// The node that has the volume of a pod, if the volume can be captured.
    fn node_of(&self, pod: &Pod, volume: &str) -> Result<String, Refusal> {
        let (pod_name, name) = (pod.name.clone(), volume.to_owned());
        let found = pod.volumes.iter().find(|v| v.name == volume);
        let volume = found.ok_or_else(|| Refusal::no_volume(pod, volume))?;
        let ours = &self.controller.0.driver;
        match volume.driver.as_deref() {
            None => return Err(Refusal::NotCsi { pod: pod_name, volume: name }),
            Some(driver) if driver != ours => {
                let driver = ours.clone();
                return Err(Refusal::NotOurs { pod: pod_name, volume: name, driver });
            }
            Some(_) => {}
        }
        Ok(capturable(pod, volume)?.to_owned())
    }

    /// The class of a VolumeSnapshot: the named one, else the default class of this driver, else none.
    pub(super) async fn class(
        &self,
        turn: &Turn<'_>,
        request: &CachedVolumeSnapshot,
    ) -> Result<Option<VolumeSnapshotClass>, ReconcileError> {
        if let Some(name) = &request.class {
            if !is_subdomain(name) {
                // No class can have this name, and it must not become a part of a request path.
                return Err(Refusal::NoClass(name.chars().take(300).collect()).into());
            }
            let absent = Refusal::NoClass(name.clone());
            let mut class = self.caches.class(name);
            if class.is_none() && !request.is_reported(&absent) {
                // It may be newer than the cache.
                class = turn.client()?.get(None, name).await?;
            }
            return Ok(Some(class.ok_or(absent)?));
        }
        let is_default = |class: &VolumeSnapshotClass| {
            let annotations: Option<&BTreeMap<_, _>> = class.metadata.annotations.as_ref();
            let value = annotations.and_then(|annotations| annotations.get(DEFAULT_CLASS));
            class.driver == self.controller.0.driver && value.is_some_and(|value| value == "true")
        };
        let mut defaults = self.caches.classes(is_default);
        if defaults.len() > 1 {
            let names: Vec<_> = defaults.iter().map(name_of).collect();
            return Err(Refusal::ManyDefaults(names.join(", ")).into());
        }
        Ok(defaults.pop())
    }

    /// Reports why no snapshot is started, by an annotation and an Event; once for the same message.
    async fn report_refusal(
        &self,
        turn: &Turn<'_>,
        request: &CachedVolumeSnapshot,
        refusal: &Refusal,
    ) -> Result<(), ReconcileError> {
        if !request.is_reported(refusal) {
            let message = refusal.to_string();
            let changed = BTreeMap::from([
                (annotation_keys::PHASE, Some(refusal.phase().to_owned())),
                (annotation_keys::MESSAGE, Some(message.clone())),
            ]);
            self.annotate(turn, request, &changed).await?;
            let of = &request.reference;
            self.controller.record_event(of, refusal.severity(), refusal.reason(), message);
        }
        Ok(())
    }
}

impl Controller {
    /// The spec for a volume of a pod on a node.
    pub(super) fn new_spec(
        &self,
        parameters: Parameters,
        node: String,
        source: SnapshotSource,
        name: &str,
    ) -> Result<NewOverlaySpec, super::RepositoryError> {
        let names =
            Names { namespace: &source.namespace, pod: &source.pod, volume: &source.volume, name };
        let filled = parameters.repository.map(|template| template.fill(names)).transpose()?;
        let shortened = filled.as_ref().is_some_and(|filled| filled.shortened);
        let repository = filled.map(|filled| filled.repository);
        let millis = parameters.freeze_timeout.as_millis();
        let spec = OverlaySnapshotSpec {
            driver: self.0.driver.clone(),
            node_name: node,
            volume_handle: volume_handle(&source.pod_uid, &source.volume),
            source,
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
        Ok(NewOverlaySpec { spec, shortened })
    }
}

/// The node on which a volume of this driver can be captured.
pub(super) fn capturable<'p>(pod: &'p Pod, volume: &PodVolume) -> Result<&'p str, NotCapturable> {
    if volume.read_only {
        return Err(NotCapturable::ReadOnly { pod: pod.name.clone(), volume: volume.name.clone() });
    }
    if pod.ended {
        return Err(NotCapturable::Ended(pod.name.clone()));
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
