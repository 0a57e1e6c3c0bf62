//! Resolves a volume's `snapshot: NAME` in a cluster: from the VolumeSnapshot to its content to its OverlaySnapshot.
//!
//! ```text
//! VolumeSnapshot ──name──> content ──handle──> OverlaySnapshot
//!       ▲                     │ uid                   │ uid
//!       └─────────────────────┴───────────────────────┘
//! ```
//!
//! A user with rights in one namespace may write a VolumeSnapshot and its status. So each link is checked in both
//! directions, and no field gives a pod the snapshot of another namespace:
//!
//! - The content refers to the VolumeSnapshot by namespace, name and uid.
//! - The OverlaySnapshot is of this driver, and of a pod in the namespace of the VolumeSnapshot.
//! - If the OverlaySnapshot refers to a VolumeSnapshot, it is this one, by uid. Or it does not exist any more: then an
//!   administrator has written the content, for a snapshot that was retained, or after a backup was restored.

use super::status::{self, CAPTURED};
use crate::{
    cluster::{
        Client, ClusterError,
        overlay_snapshot::{ObjectId, OverlaySnapshot, Phase},
        snapshot_api::{VolumeSnapshot, VolumeSnapshotContent},
    },
    dns_name::is_subdomain,
    owner::Owner,
    reference::{Reference, Repository},
    volumes::{FoundSnapshot, Lookup, LookupError, SnapshotLookup},
};

/// Looks snapshots up in the API server.
#[derive(Debug, Clone)]
pub struct SnapshotsByName {
    client: Client,
    driver: String,
    node: String,
}

impl SnapshotsByName {
    /// The lookup for the snapshots of this driver, on this node.
    pub fn new(client: Client, driver: &str, node: &str) -> Self {
        Self { client, driver: driver.to_owned(), node: node.to_owned() }
    }

    async fn look(&self, namespace: &str, name: &str) -> Result<FoundSnapshot, LookupError> {
        let request = LookupRequest { driver: &self.driver, node: &self.node, namespace, name };
        let unavailable = |error: ClusterError| LookupError::Unavailable {
            name: name.to_owned(),
            why: error.to_string(),
        };
        let snapshot = self.client.get::<VolumeSnapshot>(Some(namespace), name).await;
        let snapshot = snapshot.map_err(unavailable)?;
        let snapshot = snapshot.ok_or_else(|| LookupError::Absent {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })?;
        let content = request.content_name(&snapshot)?;
        let content = self.client.get::<VolumeSnapshotContent>(None, content).await;
        let content = content.map_err(unavailable)?;
        let content = content.ok_or_else(|| request.not_ready("its content does not exist"))?;
        let handle = request.handle(&snapshot, &content)?;
        let object = self.client.get::<OverlaySnapshot>(None, handle).await;
        let object = object.map_err(unavailable)?;
        let object = object.ok_or_else(|| request.failed("its OverlaySnapshot was deleted"))?;
        request.check_source(&object)?;
        if let Some(other) = request.other_snapshot(&snapshot, &object)? {
            let found = self.client.get::<VolumeSnapshot>(Some(namespace), &other.name).await;
            let found = found.map_err(unavailable)?;
            if found.is_some_and(|found| found.metadata.uid.as_ref() == Some(&other.uid)) {
                let name = &other.name;
                let why = format!("its content is for {handle}, which is of VolumeSnapshot {name}");
                return Err(request.denied(why));
            }
        }
        request.found(&object)
    }
}

impl SnapshotLookup for SnapshotsByName {
    fn find<'a>(&'a self, namespace: &'a str, name: &'a str) -> Lookup<'a> {
        Box::pin(self.look(namespace, name))
    }
}

/// One lookup: the driver and the node that look, and the snapshot that they look for.
struct LookupRequest<'a> {
    driver: &'a str,
    node: &'a str,
    namespace: &'a str,
    name: &'a str,
}

impl LookupRequest<'_> {
    fn not_ready(&self, why: impl Into<String>) -> LookupError {
        LookupError::NotReady { name: self.name.to_owned(), why: why.into() }
    }

    fn failed(&self, why: impl Into<String>) -> LookupError {
        LookupError::Failed { name: self.name.to_owned(), why: why.into() }
    }

    fn denied(&self, why: impl Into<String>) -> LookupError {
        LookupError::Denied { name: self.name.to_owned(), why: why.into() }
    }

    /// The name of the content in a VolumeSnapshot's status.
    fn content_name<'s>(&self, snapshot: &'s VolumeSnapshot) -> Result<&'s str, LookupError> {
        if snapshot.metadata.deletion_timestamp.is_some() {
            return Err(self.denied("it is being deleted"));
        }
        let status = snapshot.status.as_ref();
        let bound = status.and_then(|s| s.bound_volume_snapshot_content_name.as_deref());
        let bound = bound.ok_or_else(|| {
            let error = status.and_then(|status| status.error.as_ref()?.message.clone());
            self.not_ready(error.unwrap_or_else(|| "it has no content yet".to_owned()))
        })?;
        self.checked(bound, "content")
    }

    /// A name that another object gives. It becomes a part of a request path.
    fn checked<'s>(&self, name: &'s str, what: &str) -> Result<&'s str, LookupError> {
        match is_subdomain(name) {
            true => Ok(name),
            false => Err(self.denied(format!("the name of its {what} is invalid"))),
        }
    }

    /// The handle in a content, after a check that the content refers to that VolumeSnapshot.
    fn handle<'c>(
        &self,
        snapshot: &VolumeSnapshot,
        content: &'c VolumeSnapshotContent,
    ) -> Result<&'c str, LookupError> {
        let spec = &content.spec;
        if spec.driver != self.driver {
            let why = format!("it belongs to driver {}, not {}", spec.driver, self.driver);
            return Err(self.denied(why));
        }
        let reference = &spec.volume_snapshot_ref;
        let of = (reference.namespace.as_deref(), reference.name.as_deref());
        if of != (Some(self.namespace), Some(self.name)) {
            return Err(self.denied("its content is for another VolumeSnapshot"));
        }
        match (reference.uid.as_deref(), snapshot.metadata.uid.as_deref()) {
            (Some(uid), Some(same)) if uid == same => {}
            (None, _) => return Err(self.not_ready("its content is not bound to it yet")),
            _ => {
                return Err(
                    self.denied("its content is for an earlier VolumeSnapshot of that name")
                );
            }
        }
        let status = content.status.as_ref();
        let in_status = status.and_then(|status| status.snapshot_handle.as_deref());
        match (spec.source.snapshot_handle.as_deref(), in_status) {
            (Some(in_spec), Some(in_status)) if in_spec != in_status => {
                Err(self.denied("its content has two handles that differ"))
            }
            (in_spec, in_status) => {
                let handle = in_spec.or(in_status);
                let handle =
                    handle.ok_or_else(|| self.not_ready("its content has no handle yet"))?;
                self.checked(handle, "OverlaySnapshot")
            }
        }
    }

    /// Checks that an OverlaySnapshot belongs to this driver and this namespace.
    fn check_source(&self, object: &OverlaySnapshot) -> Result<(), LookupError> {
        let spec = &object.spec;
        if spec.driver != self.driver {
            return Err(self.denied(format!("it belongs to driver {}", spec.driver)));
        }
        if spec.source.namespace != self.namespace {
            return Err(self.denied("it belongs to a pod in another namespace"));
        }
        Ok(())
    }

    /// The VolumeSnapshot to which an OverlaySnapshot refers, if it is not this one. `None` also if it refers to none,
    /// because a CSI call requested it.
    fn other_snapshot<'o>(
        &self,
        snapshot: &VolumeSnapshot,
        object: &'o OverlaySnapshot,
    ) -> Result<Option<&'o ObjectId>, LookupError> {
        let uid = snapshot.metadata.uid.as_ref();
        let other = object.spec.volume_snapshot.as_ref().filter(|of| Some(&of.uid) != uid);
        let Some(other) = other else { return Ok(None) };
        if other.namespace != self.namespace {
            return Err(self.denied("its content is for a snapshot in another namespace"));
        }
        self.checked(&other.name, "source")?;
        Ok(Some(other))
    }

    /// The snapshot of an OverlaySnapshot that was checked.
    fn found(&self, object: &OverlaySnapshot) -> Result<FoundSnapshot, LookupError> {
        let spec = &object.spec;
        let name = object.metadata.name.as_deref().unwrap_or_default();
        let status = object.status.clone().unwrap_or_default();
        if spec.deleted {
            return Err(self.denied("it is being deleted"));
        }
        let here = spec.node_name == self.node;
        match status.phase {
            Some(Phase::Ready) => {}
            // This node may have the layers, from an earlier pull or from the capture.
            Some(Phase::NotInRegistry) => {}
            // The layers are on this node already.
            Some(Phase::Pushing) if here => {}
            // It is pushed again. This node may have the layers from an earlier pull.
            Some(Phase::Pushing) if status.image.is_some() => {}
            Some(Phase::Pushing) => {
                let why = status.message.unwrap_or_default();
                return Err(self.not_ready(join(format!("{} is pushing it", spec.node_name), &why)));
            }
            Some(Phase::Capturing) | None => {
                let why = status.message.unwrap_or_default();
                let what = format!("{} is capturing it", spec.node_name);
                return Err(self.not_ready(join(what, &why)));
            }
            // A later version of that node has written it.
            Some(Phase::Unknown) => {
                return Err(self.not_ready(format!("{} is working on it", spec.node_name)));
            }
            // A step after the capture failed. The captured layers are on this node.
            Some(Phase::Failed) if here && status::is_true(&status, CAPTURED) => {}
            Some(Phase::Failed) => {
                let no_reason = || "its status gives no reason".into();
                return Err(self.failed(status.message.unwrap_or_else(no_reason)));
            }
            Some(Phase::Deleting | Phase::Deleted) => {
                return Err(self.denied("it is being deleted"));
            }
        }
        let unreadable = |what: &str| self.failed(format!("its {what} cannot be read"));
        let image = status.image.map(|image| self.image(object, &image));
        let owner = status.owner.map(|text| text.parse::<Owner>().map_err(|_| unreadable("owner")));
        Ok(FoundSnapshot {
            id: name.parse().map_err(|_| unreadable("name"))?,
            node: spec.node_name.clone(),
            image: image.transpose()?,
            if_lost: self.if_lost(status.phase, &spec.node_name),
            snapshot_layers: status
                .own_layers
                .and_then(|count| usize::try_from(count).ok())
                .unwrap_or(0),
            owner: owner.transpose()?,
        })
    }

    /// What a user can do if the registry does not have the image any more.
    fn if_lost(&self, phase: Option<Phase>, node: &str) -> String {
        match phase {
            Some(Phase::Pushing) => {
                format!("node {node} is pushing it again; wait until it is Ready")
            }
            Some(Phase::NotInRegistry) => format!(
                "node {node} cannot push it again either (`kubectl ovl describe {}` gives the reason); put the image \
                 back into the registry, or take a new snapshot",
                self.name
            ),
            _ => format!(
                "node {node} checks this once an hour, and pushes the image again if it still has the layers; wait for \
                 that, or take a new snapshot"
            ),
        }
    }

    /// The image in a status. Its node wrote the status, and an attacker may control that node. So the image must be in
    /// the repository that the spec names, and must have a digest: a tag could change its meaning.
    fn image(&self, object: &OverlaySnapshot, text: &str) -> Result<Reference, LookupError> {
        let image =
            text.parse::<Reference>().map_err(|_| self.failed("its image cannot be read"))?;
        let Some(repository) = &object.spec.repository else {
            return Err(self.denied("it has an image but no repository"));
        };
        if repository.parse().ok() != Some(Repository::of(&image)) {
            return Err(self.denied(format!("its image is not in {repository}")));
        }
        if image.digest().is_none() {
            return Err(self.denied("its image has no digest"));
        }
        Ok(image)
    }
}

/// Appends the details to a text, if there are any.
fn join(text: String, details: &str) -> String {
    if details.is_empty() { text } else { format!("{text}: {details}") }
}

#[cfg(test)]
#[path = "lookup_tests.rs"]
mod tests;
