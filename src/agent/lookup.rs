//! Snapshots by the names that pods know them by.
//!
//! A name leads to a VolumeSnapshot of the pod's namespace, that to its content, that to an OverlaySnapshot. Each of them may have been
//! written by somebody with rights in one namespace alone, so each link is checked from both ends: nobody gets another namespace's
//! snapshot by any field.

use super::status::{self, CUT};
use crate::{
    cluster::{
        Client, ClusterError,
        overlay_snapshot::{OverlaySnapshot, Phase},
        snapshot_api::{VolumeSnapshot, VolumeSnapshotContent},
    },
    image::{Reference, Repository},
    volumes::{FoundSnapshot, Lookup, LookupError, Owner, SnapshotLookup},
};

/// Asks the API server.
#[derive(Debug, Clone)]
pub struct SnapshotsByName {
    client: Client,
    driver: String,
    node: String,
}

impl SnapshotsByName {
    /// For the snapshots of this driver, as this node sees them.
    pub fn new(client: Client, driver: &str, node: &str) -> Self {
        Self { client, driver: driver.to_owned(), node: node.to_owned() }
    }

    async fn look(&self, namespace: &str, name: &str) -> Result<FoundSnapshot, LookupError> {
        let asked = Asked { driver: &self.driver, node: &self.node, namespace, name };
        let unanswered = |error: ClusterError| LookupError::Unavailable {
            name: name.to_owned(),
            why: error.to_string(),
        };
        let snapshot = self.client.get::<VolumeSnapshot>(Some(namespace), name).await;
        let snapshot = snapshot.map_err(unanswered)?;
        let snapshot = snapshot.ok_or_else(|| LookupError::Absent {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })?;
        let content = asked.content_name(&snapshot)?;
        let content = self.client.get::<VolumeSnapshotContent>(None, content).await;
        let content = content.map_err(unanswered)?;
        let content = content.ok_or_else(|| asked.not_ready("its content is not there"))?;
        let handle = asked.handle(&snapshot, &content)?;
        let object = self.client.get::<OverlaySnapshot>(None, handle).await;
        let object = object.map_err(unanswered)?;
        let object =
            object.ok_or_else(|| asked.failed(format!("there is no {handle} any more")))?;
        asked.found(&object)
    }
}

impl SnapshotLookup for SnapshotsByName {
    fn find<'a>(&'a self, namespace: &'a str, name: &'a str) -> Lookup<'a> {
        Box::pin(self.look(namespace, name))
    }
}

/// Who asks for what.
struct Asked<'a> {
    driver: &'a str,
    node: &'a str,
    namespace: &'a str,
    name: &'a str,
}

impl Asked<'_> {
    fn not_ready(&self, why: impl Into<String>) -> LookupError {
        LookupError::NotReady { name: self.name.to_owned(), why: why.into() }
    }

    fn failed(&self, why: impl Into<String>) -> LookupError {
        LookupError::Failed { name: self.name.to_owned(), why: why.into() }
    }

    fn denied(&self, why: impl Into<String>) -> LookupError {
        LookupError::Denied { name: self.name.to_owned(), why: why.into() }
    }

    /// The content that a VolumeSnapshot says it is bound to.
    fn content_name<'s>(&self, snapshot: &'s VolumeSnapshot) -> Result<&'s str, LookupError> {
        if snapshot.metadata.deletion_timestamp.is_some() {
            return Err(self.denied("it is being deleted"));
        }
        let status = snapshot.status.as_ref();
        let bound = status.and_then(|s| s.bound_volume_snapshot_content_name.as_deref());
        bound.ok_or_else(|| {
            let error = status.and_then(|status| status.error.as_ref()?.message.clone());
            self.not_ready(error.unwrap_or_else(|| "it has no content yet".to_owned()))
        })
    }

    /// The handle of a content that says the same of that VolumeSnapshot.
    fn handle<'c>(
        &self,
        snapshot: &VolumeSnapshot,
        content: &'c VolumeSnapshotContent,
    ) -> Result<&'c str, LookupError> {
        let spec = &content.spec;
        if spec.driver != self.driver {
            return Err(
                self.denied(format!("it is of driver {}, not {}", spec.driver, self.driver))
            );
        }
        let back = &spec.volume_snapshot_ref;
        let of = (back.namespace.as_deref(), back.name.as_deref());
        if of != (Some(self.namespace), Some(self.name)) {
            return Err(self.denied("its content is for another VolumeSnapshot"));
        }
        match (back.uid.as_deref(), snapshot.metadata.uid.as_deref()) {
            (Some(uid), Some(same)) if uid == same => {}
            (None, _) => return Err(self.not_ready("its content is not bound to it yet")),
            _ => {
                return Err(
                    self.denied("its content is for an earlier VolumeSnapshot of that name")
                );
            }
        }
        let told = content.status.as_ref().and_then(|status| status.snapshot_handle.as_deref());
        match (spec.source.snapshot_handle.as_deref(), told) {
            (Some(asked), Some(told)) if asked != told => {
                Err(self.denied("its content has two handles that differ"))
            }
            (handle, told) => {
                handle.or(told).ok_or_else(|| self.not_ready("its content has no handle yet"))
            }
        }
    }

    /// What an OverlaySnapshot stands for, if that is this driver's and of this namespace.
    fn found(&self, object: &OverlaySnapshot) -> Result<FoundSnapshot, LookupError> {
        let spec = &object.spec;
        let name = object.metadata.name.as_deref().unwrap_or_default();
        if spec.driver != self.driver {
            return Err(self.denied(format!("{name} is of driver {}", spec.driver)));
        }
        if spec.source.namespace != self.namespace {
            return Err(self.denied(format!("{name} is of a pod in another namespace")));
        }
        let status = object.status.clone().unwrap_or_default();
        if spec.deleted {
            return Err(self.denied("it is being deleted"));
        }
        let here = spec.node_name == self.node;
        match status.phase {
            Some(Phase::Ready) => {}
            // The layers are here already.
            Some(Phase::Pushing) if here => {}
            Some(Phase::Pushing) => {
                let why = status.message.unwrap_or_default();
                return Err(self.not_ready(join(format!("{} is pushing it", spec.node_name), &why)));
            }
            Some(Phase::Cutting) | None => {
                let why = status.message.unwrap_or_default();
                return Err(self.not_ready(join(format!("{} is cutting it", spec.node_name), &why)));
            }
            // What failed came after the cut, which is here.
            Some(Phase::Failed) if here && status::holds(&status, CUT) => {}
            Some(Phase::Failed) => {
                return Err(self.failed(status.message.unwrap_or_else(|| "nobody said why".into())));
            }
            Some(Phase::Deleting | Phase::Deleted) => {
                return Err(self.denied("it is being deleted"));
            }
        }
        let unreadable = |what: &str| self.failed(format!("the {what} of {name} cannot be read"));
        let image = status.image.map(|image| self.image(object, &image));
        let owner = status.owner.map(|text| text.parse::<Owner>().map_err(|_| unreadable("owner")));
        Ok(FoundSnapshot {
            id: name.parse().map_err(|_| unreadable("name"))?,
            node: spec.node_name.clone(),
            image: image.transpose()?,
            own: status.own_layers.and_then(|own| usize::try_from(own).ok()).unwrap_or(0),
            owner: owner.transpose()?,
        })
    }

    /// The image that a status tells. Its node wrote that, and nodes can be taken over: none may lead others to a registry that
    /// nobody asked for, or to what changes under its name.
    fn image(&self, object: &OverlaySnapshot, text: &str) -> Result<Reference, LookupError> {
        let name = object.metadata.name.as_deref().unwrap_or_default();
        let image = text
            .parse::<Reference>()
            .map_err(|_| self.failed(format!("the image of {name} cannot be read")))?;
        let Some(asked) = &object.spec.repository else {
            return Err(self.denied(format!("{name} has an image, and was not to be pushed")));
        };
        if asked.parse().ok() != Some(Repository::of(&image)) {
            return Err(self.denied(format!("the image of {name} is not in {asked}")));
        }
        if image.digest().is_none() {
            return Err(self.denied(format!("the image of {name} has no digest")));
        }
        Ok(image)
    }
}

/// A sentence, and behind it what more is known.
fn join(sentence: String, more: &str) -> String {
    if more.is_empty() { sentence } else { format!("{sentence}: {more}") }
}

#[cfg(test)]
#[path = "lookup_tests.rs"]
mod tests;
