//! What a VolumeSnapshot asks for: looked at as often as need be, and begun once.

use std::collections::BTreeMap;

use super::{
    Controller, ControllerError,
    class::Parameters,
    error::{NoCut, Refusal},
    names::{SOURCE, Source, id_of, is_subdomain, told, volume_handle},
    repository::Names,
};
use crate::{
    cluster::{
        Pod, PodVolume, Severity,
        overlay_snapshot::{ObjectId, OverlaySnapshot, OverlaySnapshotSpec, SnapshotOf},
        snapshot_api::{VolumeSnapshot, VolumeSnapshotClass, VolumeSnapshotContent},
    },
    fault::Class,
};

/// The mark of the class that is taken where none is named.
const DEFAULT_CLASS: &str = "snapshot.storage.kubernetes.io/is-default-class";

/// What is left to do about an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing, until something changes.
    Nothing,
    /// Nothing: there is no such object.
    Gone,
    /// Look again after a while: what it waits for tells nobody.
    Again,
}

/// Why a VolumeSnapshot is not begun here.
enum Not {
    Possible(Refusal),
    /// It is another driver's, which will say what there is to say.
    Ours,
}

impl From<Refusal> for Not {
    fn from(refusal: Refusal) -> Self {
        Self::Possible(refusal)
    }
}

/// What a node is asked for.
pub(super) struct Asked {
    pub(super) spec: OverlaySnapshotSpec,
    /// Whether names are shortened in its repository.
    pub(super) shortened: bool,
}

/// A VolumeSnapshot, by what is asked about it again and again.
pub(super) struct Request {
    pub(super) of: ObjectId,
    pub(super) id: String,
    pub(super) object: VolumeSnapshot,
}

impl Request {
    /// `None` for one that nobody has stored.
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

    /// The content that it wants.
    pub(super) fn content(&self) -> Result<&str, Refusal> {
        let name = self.object.spec.source.volume_snapshot_content_name.as_deref();
        let name = name.filter(|name| !name.is_empty()).ok_or(Refusal::Claim)?;
        match is_subdomain(name) {
            true => Ok(name),
            // Anybody's text, which was nearly a part of a path.
            false => Err(Refusal::ContentName(name.chars().take(300).collect())),
        }
    }

    fn class(&self) -> Option<&str> {
        self.object.spec.volume_snapshot_class_name.as_deref()
    }

    /// It was bound to a content once.
    fn is_bound(&self) -> bool {
        let status = self.object.status.as_ref();
        status.is_some_and(|status| status.bound_volume_snapshot_content_name.is_some())
    }
}

impl Controller {
    /// Brings what belongs to a VolumeSnapshot nearer to what it asks for.
    pub(super) async fn request(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Next, ControllerError> {
        let found = self.client().get::<VolumeSnapshot>(Some(namespace), name).await?;
        let Some(request) = found.and_then(Request::of) else { return Ok(Next::Gone) };
        let Some(source) = request.annotation(SOURCE) else { return Ok(Next::Nothing) };
        let made = self.client().get::<OverlaySnapshot>(None, &request.id).await?;
        if request.object.metadata.deletion_timestamp.is_some() {
            // It goes by the stock controllers, and what they leave by `leftovers`.
            return self.hasten_deletion(&request, made).await;
        }
        let made = match made {
            Some(made) if made.spec.driver != self.0.driver => return Ok(Next::Nothing),
            Some(made) => made,
            None => match self.begin(&request, source).await? {
                Ok(made) => made,
                Err(Not::Possible(refusal)) => return self.refuse(&request, refusal).await,
                Err(Not::Ours) => return Ok(Next::Nothing),
            },
        };
        self.follow(&request, &made).await
    }

    async fn begin(
        &self,
        request: &Request,
        source: &str,
    ) -> Result<Result<OverlaySnapshot, Not>, ControllerError> {
        if request.annotation(told::DRIVER).is_some_and(|driver| *driver != self.0.driver) {
            // Without a class the volume decides whose it is, and another controller has found it to be its own.
            return Ok(Err(Not::Ours));
        }
        let Asked { spec, shortened } = match self.spec(request, source).await? {
            Ok(asked) => asked,
            Err(not) => return Ok(Err(not)),
        };
        // Where another one that leads has made it a moment ago that is a conflict, and the next look finds it.
        let made = self.client().create(&OverlaySnapshot::new(&request.id, spec)).await?;
        let SnapshotOf { pod, volume, .. } = &made.spec.source;
        let node = &made.spec.node_name;
        let message = format!("volume {volume} of pod {pod} is being cut on node {node}");
        self.tell(&request.of, Severity::Normal, "SnapshotRequested", message);
        if let Some(repository) = made.spec.repository.as_ref().filter(|_| shortened) {
            let message = format!(
                "its repository is {repository}: with the whole names of pod, volume and snapshot it would be longer than registries take"
            );
            self.tell(&request.of, Severity::Normal, "RepositoryShortened", message);
        }
        Ok(Ok(made))
    }

    /// What the node is to do. A class that is named says whose the VolumeSnapshot is; without one the volume does, and all that is said
    /// before it is known is said by each release in the same words, so that they do not write over each other.
    async fn spec(
        &self,
        request: &Request,
        source: &str,
    ) -> Result<Result<Asked, Not>, ControllerError> {
        let named = match request.class() {
            None => None,
            Some(_) => match self.class(request).await? {
                Ok(Some(class)) if class.driver != self.0.driver => return Ok(Err(Not::Ours)),
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
        let there = self.client().get::<VolumeSnapshotContent>(None, content).await?;
        if let Some(there) = &there
            && named.is_none()
            && there.spec.driver != self.0.driver
            && there.spec.volume_snapshot_ref.uid.as_deref() == Some(&request.of.uid)
        {
            return Ok(Err(Not::Ours));
        }
        if request.is_bound() || there.as_ref().is_some_and(|there| self.is_ours(there, request)) {
            return Ok(Err(Refusal::Lost(request.id.clone()).into()));
        }
        if there.is_some() {
            return Ok(Err(Refusal::NameTaken(content.to_owned()).into()));
        }
        let pod = self.client().pod(&request.of.namespace, &source.pod).await?;
        let Some(pod) = pod else { return Ok(Err(Refusal::NoPod(source.pod).into())) };
        let node = match self.node_of(&pod, &source.volume) {
            Ok(node) => node,
            Err(Refusal::NotOurs { .. }) if named.is_none() => return Ok(Err(Not::Ours)),
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
        Ok(match self.asked(parameters, node, of, &request.of.name) {
            Ok(Asked { spec, shortened }) => {
                let volume_snapshot = Some(request.of.clone());
                Ok(Asked { spec: OverlaySnapshotSpec { volume_snapshot, ..spec }, shortened })
            }
            Err(error) => Err(unusable(class.as_ref(), &error).into()),
        })
    }

    /// What is asked of a node about a volume.
    pub(super) fn asked(
        &self,
        parameters: Parameters,
        node: String,
        of: SnapshotOf,
        name: &str,
    ) -> Result<Asked, super::RepositoryError> {
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
        Ok(Asked { spec, shortened })
    }

    /// The node that has a volume of a pod, if it is one that can be cut.
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
        Ok(cuttable(pod, volume)?.to_owned())
    }

    /// The class of a VolumeSnapshot: the one that it names, else the default of this driver, else none.
    pub(super) async fn class(
        &self,
        request: &Request,
    ) -> Result<Result<Option<VolumeSnapshotClass>, Refusal>, ControllerError> {
        if let Some(name) = request.class() {
            if !is_subdomain(name) {
                // No class is called so, and it could be a part of a path.
                return Ok(Err(Refusal::NoClass(name.chars().take(300).collect())));
            }
            let class = self.client().get::<VolumeSnapshotClass>(None, name).await?;
            return Ok(class.map(Some).ok_or_else(|| Refusal::NoClass(name.to_owned())));
        }
        let is_default = |class: &VolumeSnapshotClass| {
            let marks: Option<&BTreeMap<_, _>> = class.metadata.annotations.as_ref();
            let marked = marks.and_then(|marks| marks.get(DEFAULT_CLASS));
            class.driver == self.0.driver && marked.is_some_and(|mark| mark == "true")
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

    /// Says why a VolumeSnapshot is not made; once, however often it is found.
    pub(super) async fn refuse(
        &self,
        request: &Request,
        refusal: Refusal,
    ) -> Result<Next, ControllerError> {
        let message = refusal.to_string();
        if request.annotation(told::MESSAGE) != Some(&message) {
            let told = BTreeMap::from([(told::MESSAGE, Some(message.clone()))]);
            self.annotate(request, &told).await?;
            self.tell(&request.of, refusal.severity(), refusal.reason(), message);
        }
        Ok(Next::Again)
    }
}

/// The node where a volume of ours can be cut.
pub(super) fn cuttable<'p>(pod: &'p Pod, volume: &PodVolume) -> Result<&'p str, NoCut> {
    if volume.read_only {
        return Err(NoCut::ReadOnly { pod: pod.name.clone(), volume: volume.name.clone() });
    }
    let node = pod.node.as_deref().filter(|_| !pod.pending);
    node.ok_or_else(|| NoCut::Pending(pod.name.clone()))
}

pub(super) fn name_of(class: &VolumeSnapshotClass) -> String {
    class.metadata.name.clone().unwrap_or_default()
}

fn unusable(class: Option<&VolumeSnapshotClass>, why: &dyn std::fmt::Display) -> Refusal {
    Refusal::Class { class: class.map(name_of).unwrap_or_default(), why: why.to_string() }
}

/// Whether somebody else was first.
pub(super) fn is_taken(error: &crate::cluster::ClusterError) -> bool {
    error.class() == Class::Conflict
}
