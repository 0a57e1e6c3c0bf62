//! Forks of workloads: a Deployment, StatefulSet or Job whose pods start from a snapshot.

use std::str::FromStr;

use serde_json::{Value, json};

use super::{
    args::object_name,
    pod::{Fork, forked_metadata, forked_spec},
};
use crate::cluster::JsonKind;

/// The label by which a forked workload selects its pods.
const FORK: &str = "ovl.csi.dev/fork";

/// A kind of workloads that can be forked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Deployment,
    StatefulSet,
    Job,
}

/// A workload, written as KIND/NAME.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Workload {
    pub(super) kind: Kind,
    pub(super) name: String,
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || {
            "expected deployment/NAME, statefulset/NAME or job/NAME; for a pod, give its name alone"
                .to_owned()
        };
        let (kind, name) = text.split_once('/').ok_or_else(unknown)?;
        let kind = match kind.split('.').next().unwrap_or_default() {
            "deployment" | "deployments" | "deploy" => Kind::Deployment,
            "statefulset" | "statefulsets" | "sts" => Kind::StatefulSet,
            "job" | "jobs" => Kind::Job,
            _ => return Err(unknown()),
        };
        Ok(Self { kind, name: object_name(name)? })
    }
}

impl Kind {
    /// The kind for requests.
    pub(super) fn json(self) -> JsonKind {
        match self {
            Self::Deployment => JsonKind::Deployment,
            Self::StatefulSet => JsonKind::StatefulSet,
            Self::Job => JsonKind::Job,
        }
    }

    /// The kind as kubectl prints it.
    pub(super) fn word(self) -> String {
        let (api_version, kind) = self.json().type_names();
        kind_name(&api_version, &kind)
    }
}

/// The name of a kind as kubectl prints it, such as `pod` and `deployment.apps`.
pub(super) fn kind_name(api_version: &str, kind: &str) -> String {
    let kind = kind.to_lowercase();
    match api_version.split_once('/') {
        Some((group, _)) => format!("{kind}.{group}"),
        None => kind,
    }
}

/// The labels of a workload's pods as a label selector. `None` if it selects them by other means.
pub(super) fn selector(workload: &Value) -> Option<String> {
    let labels = workload["spec"]["selector"]["matchLabels"].as_object()?;
    let terms = labels.iter().map(|(key, value)| Some(format!("{key}={}", value.as_str()?)));
    terms.collect::<Option<Vec<_>>>().map(|terms| terms.join(","))
}

/// The fork of a workload: the same spec with other labels, and one volume that starts from a snapshot. Its controller
/// and the Services of the source do not take its pods for their own, because all labels differ.
pub(super) fn fork(workload: &Value, kind: Kind, replicas: u16, fork: &Fork<'_>) -> Value {
    let source = workload["metadata"]["name"].as_str().unwrap_or_default();
    let mut spec = workload["spec"].clone();
    let template = &workload["spec"]["template"];
    let mut template_metadata = forked_metadata(&template["metadata"], source, fork);
    match kind {
        Kind::Job => {
            // The API server sets both.
            if let Some(fields) = spec.as_object_mut() {
                fields.remove("selector");
                fields.remove("manualSelector");
            }
        }
        Kind::Deployment | Kind::StatefulSet => {
            template_metadata["labels"][FORK] = fork.name.into();
            spec["selector"] = json!({ "matchLabels": { FORK: fork.name } });
            spec["replicas"] = replicas.into();
        }
    }
    let pod = forked_spec(&template["spec"], source, fork);
    spec["template"] = json!({ "metadata": template_metadata, "spec": pod });
    let mut metadata = forked_metadata(&workload["metadata"], source, fork);
    metadata["name"] = fork.name.into();
    metadata["namespace"] = workload["metadata"]["namespace"].clone();
    let (api_version, kind) = kind.json().type_names();
    json!({ "apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubectl::pod::tests::plan;

    #[test]
    fn a_workload_is_named_as_kubectl_names_it() {
        for text in ["deployment/web", "deploy/web", "deployments.apps/web"] {
            let parsed: Workload = text.parse().unwrap();
            assert_eq!(parsed, Workload { kind: Kind::Deployment, name: "web".to_owned() });
        }
        for text in ["web", "pod/web", "deployment/", "deployment/A"] {
            assert!(text.parse::<Workload>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_fork_of_a_deployment_selects_its_own_pods_only() {
        let volumes = json!([{ "name": "ws", "csi": { "driver": "d", "volumeAttributes": { "image": "a" } } }]);
        let source = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "name": "web", "namespace": "ci", "uid": "u", "labels": { "app": "web" },
                "annotations": { "deployment.kubernetes.io/revision": "3" } },
            "spec": { "replicas": 5, "selector": { "matchLabels": { "app": "web" } }, "strategy": { "type": "Recreate" },
                "template": { "metadata": { "labels": { "app": "web" } },
                    "spec": { "dnsPolicy": "ClusterFirst", "containers": [], "volumes": volumes } } },
            "status": { "replicas": 5 },
        });
        assert_eq!(selector(&source).as_deref(), Some("app=web"));
        let labels = json!({ "ovl.csi.dev/fork-of": "web" });
        let pod_labels = json!({ "ovl.csi.dev/fork-of": "web", FORK: "web-fork" });
        let volumes = json!([{ "name": "ws", "csi": { "driver": "d", "volumeAttributes": { "snapshot": "ws-1" } } }]);
        let made = fork(&source, Kind::Deployment, 2, &Fork { name: "web-fork", ..plan() });
        assert_eq!(
            made,
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": { "name": "web-fork", "namespace": "ci", "labels": labels },
                "spec": { "replicas": 2, "selector": { "matchLabels": { FORK: "web-fork" } },
                    "strategy": { "type": "Recreate" },
                    "template": { "metadata": { "labels": pod_labels },
                        "spec": { "containers": [], "volumes": volumes } } },
            }),
            "{made:#}"
        );
    }

    #[test]
    fn the_fork_of_a_job_gets_its_selector_from_the_api_server() {
        let labels =
            json!({ "batch.kubernetes.io/controller-uid": "u", "job-name": "j", "app": "a" });
        let source = json!({ "metadata": { "name": "j" }, "spec": { "completions": 1,
            "selector": { "matchLabels": { "batch.kubernetes.io/controller-uid": "u" } },
            "template": { "metadata": { "labels": labels }, "spec": { "containers": [] } } } });
        let made = fork(&source, Kind::Job, 1, &Fork { keep_labels: true, ..plan() });
        assert_eq!(made["spec"]["selector"], Value::Null);
        let labels = json!({ "app": "a", "ovl.csi.dev/fork-of": "j" });
        assert_eq!(made["spec"]["template"]["metadata"]["labels"], labels);
    }
}
