//! Pods as JSON: checks whether a volume can be snapshotted, and makes the fork of a pod.
//!
//! Deliberately absent: Kubernetes' types, which have the fields of one version only. A fork keeps fields that this
//! version does not know.

use anyhow::bail;
use serde_json::{Map, Value, json};

/// The label of each fork, with the name of its source pod. It is a label, so one selector finds all forks.
pub(super) const FORK_OF: &str = "ovl.csi.dev/fork-of";
/// The maximum length of a label's value in bytes.
pub(super) const LABEL_MAX: usize = 63;
/// The directory in which the API server mounts a ServiceAccount's token.
const TOKEN_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Fields of a pod's spec with the values that the API server sets by default.
const DEFAULTS: [(&str, &str); 8] = [
    ("dnsPolicy", "\"ClusterFirst\""),
    ("enableServiceLinks", "true"),
    ("preemptionPolicy", "\"PreemptLowerPriority\""),
    ("restartPolicy", "\"Always\""),
    ("schedulerName", "\"default-scheduler\""),
    ("securityContext", "{}"),
    ("serviceAccountName", "\"default\""),
    ("terminationGracePeriodSeconds", "30"),
];
/// Fields of a container with the values that the API server sets by default.
const CONTAINER_DEFAULTS: [(&str, &str); 3] = [
    ("resources", "{}"),
    ("terminationMessagePath", "\"/dev/termination-log\""),
    ("terminationMessagePolicy", "\"File\""),
];
/// Fields of a spec that the scheduler, admission or `kubectl debug` sets. `serviceAccount` is the old name of another
/// field.
const FIELDS_SET_BY_CLUSTER: [&str; 4] =
    ["nodeName", "priority", "serviceAccount", "ephemeralContainers"];
/// Labels by which controllers select their pods. A controller would take a fork with such a label for its own pod, and
/// delete it.
const CONTROLLERS: [&str; 9] = [
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-completion-index",
    "batch.kubernetes.io/job-name",
    "controller-revision-hash",
    "controller-uid",
    "job-name",
    "pod-template-hash",
    "statefulset.kubernetes.io/pod-name",
];
/// Annotations that are about the source only: its configuration for `kubectl apply`, and its revision.
const SET_BY_CLUSTER: [&str; 2] =
    ["kubectl.kubernetes.io/last-applied-configuration", "deployment.kubernetes.io/revision"];

/// The field of a node affinity that must match.
pub(super) const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
/// The field of a node by which a node affinity can select it.
pub(super) const NODE_NAME: &str = "metadata.name";

/// The properties of a fork.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fork<'a> {
    /// The name of the fork.
    pub(super) name: &'a str,
    /// The volume that starts from the snapshot.
    pub(super) volume: &'a str,
    /// The snapshot.
    pub(super) snapshot: &'a str,
    /// The node on which it must run, if the snapshot is on no other.
    pub(super) node: Option<&'a str>,
    pub(super) keep_labels: bool,
    pub(super) keep_annotations: bool,
}

/// Checks that a pod's volume can be snapshotted.
///
/// # Errors
/// Why it cannot, and which volumes of the pod can.
pub(super) fn check(pod: &Value, volume: &str, driver: &str) -> anyhow::Result<()> {
    let name = text(&pod["metadata"]["name"]);
    let alternatives = || match volumes(pod, driver).join(", ") {
        none if none.is_empty() => format!("this pod has no volume of {driver}"),
        names => format!("volumes of {driver} in this pod: {names}"),
    };
    let found = list(&pod["spec"]["volumes"]).iter().find(|found| found["name"] == volume);
    let Some(found) = found else { bail!("pod {name} has no volume {volume}; {}", alternatives()) };
    if found["csi"]["driver"] != driver {
        let mut fields = found.as_object().into_iter().flat_map(Map::keys);
        let kind = match fields.find(|field| *field != "name").map_or("other", String::as_str) {
            "csi" => "volume of another driver",
            kind => kind,
        };
        bail!(
            "volume {volume} of pod {name} is a {kind}, not a volume of {driver}; {}",
            alternatives()
        );
    }
    if found["csi"]["readOnly"] == true {
        bail!("volume {volume} of pod {name} is readOnly, so nothing was written to it");
    }
    Ok(())
}

/// Checks that a pod can still be captured.
///
/// # Errors
/// It has ended, so its volumes are gone.
pub(super) fn check_running(pod: &Value) -> anyhow::Result<()> {
    if has_ended(pod) {
        bail!(
            "pod {} has ended, and its volumes are gone: take the snapshot while the pod runs",
            text(&pod["metadata"]["name"])
        );
    }
    Ok(())
}

/// Whether a pod has ended. It never runs again.
pub(super) fn has_ended(pod: &Value) -> bool {
    matches!(text(&pod["status"]["phase"]), "Succeeded" | "Failed")
}

/// The only volume of a pod that belongs to the driver and can be written.
///
/// # Errors
/// There are none or several.
pub(super) fn only_volume(pod: &Value, driver: &str) -> anyhow::Result<String> {
    let name = text(&pod["metadata"]["name"]);
    let volumes = volumes(pod, driver);
    let writable = volumes.iter().filter(|volume| check(pod, volume, driver).is_ok());
    match (writable.collect::<Vec<_>>().as_slice(), volumes.as_slice()) {
        ([volume], _) => Ok((**volume).to_owned()),
        ([], []) => bail!("pod {name} has no volume of {driver}"),
        ([], _) => bail!("pod {name} has only read-only volumes of {driver}"),
        (several, _) => {
            let names: Vec<_> = several.iter().map(|volume| **volume).collect();
            bail!("pod {name} has several volumes of {driver}: choose one of {}", names.join(", "))
        }
    }
}

/// The names of a pod's volumes that belong to the driver.
pub(super) fn volumes<'p>(pod: &'p Value, driver: &str) -> Vec<&'p str> {
    let all = list(&pod["spec"]["volumes"]).iter();
    all.filter(|v| v["csi"]["driver"] == driver).map(|v| text(&v["name"])).collect()
}

/// The names of the volumes of a pod's spec that start from a snapshot.
pub(super) fn started_from<'p>(spec: &'p Value, snapshot: &str, driver: &str) -> Vec<&'p str> {
    let volumes = list(&spec["volumes"]).iter();
    let made = volumes.filter(|volume| {
        let csi = &volume["csi"];
        csi["driver"] == driver && csi["volumeAttributes"]["snapshot"] == snapshot
    });
    made.map(|volume| text(&volume["name"])).collect()
}

/// The claims that a pod of this spec mounts. Its forks mount the same claims.
pub(super) fn claims(spec: &Value) -> Vec<&str> {
    let volumes = list(&spec["volumes"]).iter();
    volumes.filter_map(|v| v["persistentVolumeClaim"]["claimName"].as_str()).collect()
}

/// The fork of a pod: its spec without the fields that the cluster added, and one volume that starts from a snapshot.
pub(super) fn fork(pod: &Value, fork: &Fork<'_>) -> Value {
    let source = text(&pod["metadata"]["name"]);
    let mut metadata = forked_metadata(&pod["metadata"], source, fork);
    metadata["name"] = fork.name.into();
    metadata["namespace"] = pod["metadata"]["namespace"].clone();
    let spec = forked_spec(&pod["spec"], source, fork);
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec })
}

/// The spec of the fork of a pod of this name.
pub(super) fn forked_spec(spec: &Value, source: &str, fork: &Fork<'_>) -> Value {
    let mut spec = spec.clone();
    clean(&mut spec, source);
    for volume in list_of(&mut spec, "volumes") {
        if volume["name"] == fork.volume {
            set_snapshot(&mut volume["csi"], fork.snapshot);
        }
    }
    if let Some(node) = fork.node {
        bind(&mut spec, node);
    }
    spec
}

/// The labels and annotations of the fork of an object of this name.
pub(super) fn forked_metadata(metadata: &Value, source: &str, fork: &Fork<'_>) -> Value {
    let mut labels = kept(&metadata["labels"], fork.keep_labels, &CONTROLLERS);
    if source.len() <= LABEL_MAX {
        labels.insert(FORK_OF.to_owned(), source.into());
    }
    let annotations = kept(&metadata["annotations"], fork.keep_annotations, &SET_BY_CLUSTER);
    let mut forked = json!({});
    for (key, map) in [("labels", labels), ("annotations", annotations)] {
        if !map.is_empty() {
            forked[key] = Value::Object(map);
        }
    }
    forked
}

/// The entries of a map except those in `without`. Empty unless `keep`.
fn kept(map: &Value, keep: bool, without: &[&str]) -> Map<String, Value> {
    let entries = map.as_object().filter(|_| keep).into_iter().flatten();
    let entries = entries.filter(|(key, _)| !without.contains(&key.as_str()));
    entries.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Replaces the volume's images by the snapshot, which has its own images.
fn set_snapshot(csi: &mut Value, snapshot: &str) {
    let mut attributes = csi["volumeAttributes"].as_object().cloned().unwrap_or_default();
    for key in ["image", "images"] {
        attributes.remove(key);
    }
    attributes.insert("snapshot".to_owned(), snapshot.into());
    csi["volumeAttributes"] = Value::Object(attributes);
}

/// Removes the fields that the API server, admission and the scheduler have added.
fn clean(spec: &mut Value, name: &str) {
    let Some(fields) = spec.as_object_mut() else { return };
    fields.retain(|field, _| !FIELDS_SET_BY_CLUSTER.contains(&field.as_str()));
    if fields.contains_key("priorityClassName") {
        // The priority class sets it.
        fields.remove("preemptionPolicy");
    }
    if fields.get("hostname").and_then(Value::as_str) == Some(name) {
        // A StatefulSet sets the pod's name as its hostname. A fork has another name.
        fields.remove("hostname");
    }
    without_defaults(fields, &DEFAULTS);
    let tokens = tokens(spec);
    retain(spec, "volumes", |volume| !tokens.iter().any(|token| volume["name"] == **token));
    retain(spec, "tolerations", |toleration| !is_added(toleration));
    for containers in ["containers", "initContainers"] {
        for container in list_of(spec, containers) {
            retain(container, "volumeMounts", |m| !tokens.iter().any(|t| m["name"] == **t));
            if let Some(fields) = container.as_object_mut() {
                without_defaults(fields, &CONTAINER_DEFAULTS);
            }
        }
    }
}

fn without_defaults(fields: &mut Map<String, Value>, defaults: &[(&str, &str)]) {
    for (field, default) in defaults {
        let is_default = |value: &Value| default.parse::<Value>().is_ok_and(|d| d == *value);
        if fields.get(*field).is_some_and(is_default) {
            fields.remove(*field);
        }
    }
}

/// The names of the volumes that admission has added for the ServiceAccount's token.
fn tokens(spec: &Value) -> Vec<String> {
    let volumes = list(&spec["volumes"]).iter();
    let at_dir = |name: &str| {
        let containers = ["containers", "initContainers"].iter().flat_map(|c| list(&spec[*c]));
        let mut mounts = containers.flat_map(|container| list(&container["volumeMounts"]));
        mounts.any(|mount| mount["name"] == name && mount["mountPath"] == TOKEN_DIR)
    };
    let is_token = |volume: &&Value| {
        let name = text(&volume["name"]);
        let projected = volume["projected"].is_object() && name.starts_with("kube-api-access-");
        // The Secret that clusters used before tokens had an expiry.
        let secret = volume["secret"].is_object() && name.contains("-token-");
        projected || secret && at_dir(name)
    };
    volumes.filter(is_token).map(|volume| text(&volume["name"]).to_owned()).collect()
}

/// Whether admission has added the toleration. It keeps a pod on a lost node for five minutes.
fn is_added(toleration: &Value) -> bool {
    ["not-ready", "unreachable"].iter().any(|key| {
        *toleration
            == json!({ "key": format!("node.kubernetes.io/{key}"), "operator": "Exists",
                       "effect": "NoExecute", "tolerationSeconds": 300 })
    })
}

/// Restricts a pod to one node, in addition to its own node affinity.
fn bind(spec: &mut Value, node: &str) {
    let field = json!({ "key": NODE_NAME, "operator": "In", "values": [node] });
    let terms = &mut spec["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"];
    if !terms.is_array() {
        *terms = json!([{}]);
    }
    // The terms are alternatives, so the field must be in each one. An earlier node of a fork, or of a pod of a DaemonSet,
    // is replaced.
    for term in terms.as_array_mut().into_iter().flatten() {
        match term["matchFields"].as_array_mut() {
            Some(fields) => {
                fields.retain(|it| it["key"] != NODE_NAME || it["operator"] != "In");
                fields.push(field.clone());
            }
            None => term["matchFields"] = json!([field]),
        }
    }
}

/// Keeps some entries of a list, and removes the list if it is empty then.
fn retain(value: &mut Value, key: &str, keep: impl Fn(&Value) -> bool) {
    let Some(list) = value.get_mut(key).and_then(Value::as_array_mut) else { return };
    list.retain(keep);
    if list.is_empty()
        && let Some(fields) = value.as_object_mut()
    {
        fields.remove(key);
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn list_of<'v>(value: &'v mut Value, key: &str) -> &'v mut [Value] {
    value.get_mut(key).and_then(Value::as_array_mut).map_or(&mut [], Vec::as_mut_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
#[path = "pod_tests.rs"]
pub(super) mod tests;
