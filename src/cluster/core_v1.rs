//! Pods, nodes and Secrets, as far as snapshots ask about them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::core::v1::{Node, Pod as ApiPod, Secret},
};
use kube::{
    Api,
    api::{ListParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;

use super::{
    Client, ClusterError,
    client::bound,
    kind::{PAGE, there},
};
use crate::fault::Class;

/// A pod and its volumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The node that it was given to.
    pub node: Option<String>,
    /// Its containers have not been started yet.
    pub pending: bool,
    /// Its volumes.
    pub volumes: Vec<PodVolume>,
}

/// One volume of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodVolume {
    /// Its name in the pod.
    pub name: String,
    /// The driver of an inline CSI volume; `None` for any other volume.
    pub driver: Option<String>,
    /// The pod may not write to it.
    pub read_only: bool,
}

/// Whether work can be given to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    /// There is no such node.
    Gone,
    /// It does not answer, by the word of the cluster; since then, if that is known.
    NotReady(Option<Timestamp>),
    /// It does.
    Ready,
}

/// What a Secret holds. Never formatted.
pub struct SecretData(BTreeMap<String, Vec<u8>>);

impl SecretData {
    /// The value under a key.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.0.get(key).map(Vec::as_slice)
    }
}

/// What a Secret is for, which can never be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretKind {
    /// Anything.
    Opaque,
    /// Registries' credentials, under `.dockerconfigjson`.
    DockerConfig,
}

impl SecretKind {
    fn word(self) -> &'static str {
        match self {
            Self::Opaque => "Opaque",
            Self::DockerConfig => "kubernetes.io/dockerconfigjson",
        }
    }
}

impl Client {
    /// The pod of this name, if there is one.
    ///
    /// # Errors
    /// The API server's.
    pub async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, ClusterError> {
        let pods = Api::<ApiPod>::namespaced(self.kube(), namespace);
        Ok(there(bound("read the Pod", pods.get(name)).await)?.map(pod))
    }

    /// The first pod that `wanted` takes, of all there are: thousands of objects in pages, so for rare questions only.
    ///
    /// # Errors
    /// The API server's.
    pub async fn find_pod(
        &self,
        wanted: impl Fn(&Pod) -> bool,
    ) -> Result<Option<Pod>, ClusterError> {
        let pods = Api::<ApiPod>::all(self.kube());
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = bound("list Pods", pods.list(&params)).await?;
            if let Some(found) = page.items.into_iter().map(pod).find(&wanted) {
                return Ok(Some(found));
            }
            match page.metadata.continue_ {
                Some(next) if !next.is_empty() => params = params.continue_token(&next),
                _ => return Ok(None),
            }
        }
    }

    /// How the node of this name is.
    ///
    /// # Errors
    /// The API server's.
    pub async fn node(&self, name: &str) -> Result<NodeState, ClusterError> {
        let nodes = Api::<Node>::all(self.kube());
        let Some(node) = there(bound("read the Node", nodes.get(name)).await)? else {
            return Ok(NodeState::Gone);
        };
        let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
        let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready");
        Ok(match ready {
            Some(ready) if ready.status == "True" => NodeState::Ready,
            ready => NodeState::NotReady(
                ready.and_then(|ready| ready.last_transition_time).map(|since| since.0),
            ),
        })
    }

    /// What the Secret of this name holds, if there is one.
    ///
    /// # Errors
    /// The API server's.
    pub async fn secret(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<SecretData>, ClusterError> {
        let secrets = Api::<Secret>::namespaced(self.kube(), namespace);
        let secret = there(bound("read the Secret", secrets.get(name)).await)?;
        let data = secret.map(|secret| secret.data.unwrap_or_default());
        Ok(data
            .map(|data| SecretData(data.into_iter().map(|(key, value)| (key, value.0)).collect())))
    }

    /// Makes a Secret, or gives the one of this name these values; keys that are not named stay as they are.
    ///
    /// # Errors
    /// The API server's.
    pub async fn put_secret(
        &self,
        namespace: &str,
        name: &str,
        kind: SecretKind,
        data: &[(&str, String)],
    ) -> Result<(), ClusterError> {
        let data: BTreeMap<String, ByteString> = data
            .iter()
            .map(|(key, value)| ((*key).to_owned(), ByteString(value.clone().into_bytes())))
            .collect();
        let secrets = Api::<Secret>::namespaced(self.kube(), namespace);
        let secret = Secret {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            type_: Some(kind.word().to_owned()),
            data: Some(data.clone()),
            ..Secret::default()
        };
        let params = PostParams::default();
        match bound("create the Secret", secrets.create(&params, &secret)).await {
            Err(error) if error.class() == Class::Conflict => {
                let (params, patch) =
                    (PatchParams::default(), Patch::Merge(json!({ "data": data })));
                let changed = secrets.patch(name, &params, &patch);
                bound("change the Secret", changed).await.map(drop)
            }
            made => made.map(drop),
        }
    }

    /// Whether the API server answers at all.
    ///
    /// # Errors
    /// That it does not.
    pub async fn reachable(&self) -> Result<(), ClusterError> {
        bound("say its version", self.kube().apiserver_version()).await.map(drop)
    }
}

fn pod(pod: ApiPod) -> Pod {
    let spec = pod.spec.unwrap_or_default();
    let volume = |volume: k8s_openapi::api::core::v1::Volume| PodVolume {
        name: volume.name,
        read_only: volume.csi.as_ref().is_some_and(|csi| csi.read_only == Some(true)),
        driver: volume.csi.map(|csi| csi.driver),
    };
    let phase = pod.status.and_then(|status| status.phase);
    Pod {
        namespace: pod.metadata.namespace.unwrap_or_default(),
        name: pod.metadata.name.unwrap_or_default(),
        uid: pod.metadata.uid.unwrap_or_default(),
        node: spec.node_name.filter(|node| !node.is_empty()),
        pending: phase.is_none_or(|phase| phase == "Pending"),
        volumes: spec.volumes.unwrap_or_default().into_iter().map(volume).collect(),
    }
}
