//! Which pods and workloads use a snapshot.

use jiff::Timestamp;
use serde_json::Value;

use super::{
    failure::Failure, pod::started_from, print, session::Session, snapshot_view::Snapshot,
};
use crate::{
    cluster::{ClusterError, JsonKind, Selection},
    error::Class,
};

/// The workloads whose pods may start from a snapshot, and the place of the pod in their spec.
const WORKLOADS: [(JsonKind, &str, &str); 5] = [
    (JsonKind::Deployment, "deployment", "/spec/template"),
    (JsonKind::StatefulSet, "statefulset", "/spec/template"),
    (JsonKind::DaemonSet, "daemonset", "/spec/template"),
    (JsonKind::Job, "job", "/spec/template"),
    (JsonKind::CronJob, "cronjob", "/spec/jobTemplate/spec/template"),
];

/// What uses a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    /// The pod and the volume as POD/VOLUME, or a workload as KIND/NAME.
    pub(super) name: String,
    /// The node of the pod. `None` for a workload, and for a pod that is not scheduled.
    pub(super) node: Option<String>,
}

/// The pods and the workloads of a namespace, or of all, as far as the user may list them.
pub(super) struct Users {
    pods: Vec<Value>,
    /// A kind, and a workload of it with the place of its pod.
    workloads: Vec<(&'static str, &'static str, Value)>,
    driver: String,
}

impl Session {
    /// Reads the pods and the workloads of the namespace, or of all namespaces.
    pub(super) async fn users(&self, everywhere: bool) -> Result<Users, Failure> {
        let namespace = (!everywhere).then_some(self.namespace.as_str());
        let (mut workloads, mut denied) = (Vec::new(), None);
        let all = Selection::default;
        for (kind, word, template) in WORKLOADS {
            let listed = self.client.json_list(kind, namespace, all()).await;
            let listed = allowed(listed, &mut denied)?.into_iter();
            let listed = listed.filter(|workload| !has_ended(workload));
            workloads.extend(listed.map(|workload| (word, template, workload)));
        }
        let pods = self.client.json_list(JsonKind::Pod, namespace, all()).await;
        let pods = allowed(pods, &mut denied)?;
        if let Some(error) = denied {
            print::note(&format!("note: what uses a snapshot is not all known: {error}"));
        }
        Ok(Users { pods, workloads, driver: self.driver.clone() })
    }
}

/// The objects. If the user may not list them, none, and the first such error in `denied`.
fn allowed(
    listed: Result<Vec<Value>, ClusterError>,
    denied: &mut Option<ClusterError>,
) -> Result<Vec<Value>, Failure> {
    match listed {
        Err(error) if error.class() == Class::Denied => {
            denied.get_or_insert(error);
            Ok(Vec::new())
        }
        listed => Ok(listed?),
    }
}

impl Users {
    /// What uses a snapshot.
    pub(super) fn of(&self, snapshot: &Snapshot) -> Vec<User> {
        let mut users = Vec::new();
        let is_beside =
            |object: &Value| object["metadata"]["namespace"] == snapshot.namespace.as_str();
        for pod in self.pods.iter().filter(|pod| is_beside(pod) && uses(pod, snapshot)) {
            let volumes = started_from(&pod["spec"], &snapshot.name, &self.driver).into_iter();
            let node = pod["spec"]["nodeName"].as_str();
            users.extend(volumes.map(|volume| User {
                name: format!("{}/{volume}", name(pod)),
                node: node.map(str::to_owned),
            }));
        }
        let workloads = self.workloads.iter().filter(|(.., workload)| is_beside(workload));
        for (word, template, workload) in workloads {
            let spec =
                workload.pointer(template).map_or(&Value::Null, |template| &template["spec"]);
            if !started_from(spec, &snapshot.name, &self.driver).is_empty() {
                users.push(User { name: format!("{word}/{}", name(workload)), node: None });
            }
        }
        users
    }

    /// The names of what uses a snapshot.
    pub(super) fn names(&self, snapshot: &Snapshot) -> Vec<String> {
        self.of(snapshot).into_iter().map(|user| user.name).collect()
    }
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// Whether a Job or a pod has ended.
fn has_ended(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let mut ended = conditions.filter(|condition| condition["status"] == "True");
    let phase = object["status"]["phase"].as_str();
    matches!(phase, Some("Succeeded" | "Failed"))
        || ended.any(|condition| condition["type"] == "Complete" || condition["type"] == "Failed")
}

/// Whether a pod that names a snapshot can have started from it: it runs, and its volumes were not mounted before the
/// snapshot existed, from an earlier one of the same name.
fn uses(pod: &Value, snapshot: &Snapshot) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    // Kubernetes 1.29 and later have this condition.
    let mut mounted = conditions.filter(|condition| {
        condition["type"] == "PodReadyToStartContainers" && condition["status"] == "True"
    });
    let since = |condition: &Value| condition["lastTransitionTime"].as_str()?.parse().ok();
    let mounted: Option<Timestamp> = mounted.find_map(since);
    let is_older = mounted.zip(snapshot.created).is_some_and(|(at, created)| at < created);
    !has_ended(pod) && !is_older
}
