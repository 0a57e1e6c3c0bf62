//! Reads Pods, Nodes and Secrets, and writes Secrets: only the fields that snapshots and registry credentials need.

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
    Client, ClusterError, Watch,
    api::{PAGE, optional},
};
use crate::error::Class;

/// A pod and its volumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The node that it is scheduled to; `None` before that.
    pub node: Option<String>,
    /// Whether its phase is `Pending`, or missing: its containers have not started yet.
    pub pending: bool,
    /// Whether its phase is `Succeeded` or `Failed`, which no pod leaves: the kubelet has unpublished its volumes.
    pub ended: bool,
    /// All its volumes, of any driver, in the order of the spec.
    pub volumes: Vec<PodVolume>,
}

/// One volume of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodVolume {
    /// Its name in the pod.
    pub name: String,
    /// The driver of an inline CSI volume; `None` for any other volume.
    pub driver: Option<String>,
    /// Whether an inline CSI volume is read-only for the pod; `false` for any other volume.
    pub read_only: bool,
}

/// Whether a node can carry out work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    /// There is no such node.
    Gone,
    /// Its condition `Ready` is not `True`; since when, if known.
    NotReady(Option<Timestamp>),
    /// Its condition `Ready` is `True`.
    Ready,
}

/// The data of a Secret. Never formatted, so it has no `Debug`.
pub struct SecretData(BTreeMap<String, Vec<u8>>);

impl SecretData {
    /// The value of a key, decoded from base64.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.0.get(key).map(Vec::as_slice)
    }
}

/// The type of a Secret, which Kubernetes never lets change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretKind {
    /// `Opaque`: any data.
    Opaque,
    /// `kubernetes.io/dockerconfigjson`: registry credentials under the key `.dockerconfigjson`.
    DockerConfig,
}

impl SecretKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Opaque => "Opaque",
            Self::DockerConfig => "kubernetes.io/dockerconfigjson",
        }
    }
}

impl Client {
    /// Reads a pod; `None` if there is none of this name.
    ///
    /// # Errors
    /// The error of the API server.
    pub async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, ClusterError> {
        let pods = Api::<ApiPod>::namespaced(self.kube(), namespace);
        Ok(optional(self.bound("read the Pod", pods.get(name)).await)?.map(pod))
    }

    /// The first pod that `wanted` accepts, of all pods of the cluster. It lists thousands of objects in pages, so it
    /// is for rare calls only.
    ///
    /// # Errors
    /// The error of the API server.
    pub async fn find_pod(
        &self,
        wanted: impl Fn(&Pod) -> bool,
    ) -> Result<Option<Pod>, ClusterError> {
        let pods = Api::<ApiPod>::all(self.kube());
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = self.bound("list Pods", pods.list(&params)).await?;
            if let Some(found) = page.items.into_iter().map(pod).find(&wanted) {
                return Ok(Some(found));
            }
            match page.metadata.continue_ {
                Some(next) if !next.is_empty() => params = params.continue_token(&next),
                _ => return Ok(None),
            }
        }
    }

    /// The state of the node of this name.
    ///
    /// # Errors
    /// The error of the API server.
    pub async fn node(&self, name: &str) -> Result<NodeState, ClusterError> {
        let nodes = Api::<Node>::all(self.kube());
        let node = optional(self.bound("read the Node", nodes.get(name)).await)?;
        Ok(node.map_or(NodeState::Gone, node_state))
    }

    /// Watches the nodes: their names and states.
    pub fn watch_nodes(&self) -> Watch<(String, NodeState)> {
        let trim = |mut node: Node| {
            let name = node.metadata.name.take().unwrap_or_default();
            (name, node_state(node))
        };
        Watch::of(Api::<Node>::all(self.kube()), None, "watch Nodes", trim)
    }

    /// Reads the data of a Secret; `None` if there is none of this name.
    ///
    /// # Errors
    /// The error of the API server.
    pub async fn secret(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<SecretData>, ClusterError> {
        let secrets = Api::<Secret>::namespaced(self.kube(), namespace);
        let secret = optional(self.bound("read the Secret", secrets.get(name)).await)?;
        let data = secret.map(|secret| secret.data.unwrap_or_default());
        Ok(data
            .map(|data| SecretData(data.into_iter().map(|(key, value)| (key, value.0)).collect())))
    }

    /// Creates a Secret, or sets these keys of the existing one. Other keys stay as they are.
    ///
    /// # Errors
    /// The error of the API server.
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
            type_: Some(kind.as_str().to_owned()),
            data: Some(data.clone()),
            ..Secret::default()
        };
        let params = PostParams::default();
        match self.bound("create the Secret", secrets.create(&params, &secret)).await {
            Err(error) if error.class() == Class::Conflict => {
                let (params, patch) =
                    (PatchParams::default(), Patch::Merge(json!({ "data": data })));
                let changed = secrets.patch(name, &params, &patch);
                self.bound("change the Secret", changed).await.map(drop)
            }
            made => made.map(drop),
        }
    }

    /// Checks that the API server responds, by a request for its version.
    ///
    /// # Errors
    /// The API server does not respond.
    pub async fn reachable(&self) -> Result<(), ClusterError> {
        self.bound("read the version of the API server", self.kube().apiserver_version())
            .await
            .map(drop)
    }
}

fn node_state(node: Node) -> NodeState {
    let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
    match conditions.into_iter().find(|condition| condition.type_ == "Ready") {
        Some(ready) if ready.status == "True" => NodeState::Ready,
        ready => {
            let since = ready.and_then(|ready| ready.last_transition_time);
            NodeState::NotReady(since.map(|since| since.0))
        }
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
        pending: phase.as_ref().is_none_or(|phase| phase == "Pending"),
        ended: phase.is_some_and(|phase| phase == "Succeeded" || phase == "Failed"),
        volumes: spec.volumes.unwrap_or_default().into_iter().map(volume).collect(),
    }
}
