//! The fork of a pod, and the check of volumes that can be snapshotted.

use super::*;

const DRIVER: &str = "ovl.csi.dev";

/// A pod of a StatefulSet, as an API server returns it.
fn source() -> Value {
    serde_json::from_str(include_str!("pod_tests.json")).unwrap()
}

/// A fork without options.
pub(in crate::kubectl) fn plan<'a>() -> Fork<'a> {
    Fork {
        name: "dev-0-fork-1",
        volume: "ws",
        snapshot: "ws-1",
        node: None,
        keep_labels: false,
        keep_annotations: false,
    }
}

#[test]
fn a_fork_is_the_pod_as_its_author_wrote_it_but_for_the_volume() {
    let wanted = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "dev-0-fork-1",
            "namespace": "ci",
            "labels": { "ovl.csi.dev/fork-of": "dev-0" },
        },
        "spec": {
            "automountServiceAccountToken": true,
            "initContainers": [{
                "name": "init", "image": "r.io/init:1", "imagePullPolicy": "IfNotPresent",
                "restartPolicy": "Always",
            }],
            "containers": [{
                "name": "main", "image": "r.io/main:1", "imagePullPolicy": "Always",
                "command": ["sleep", "1d"],
                "resources": { "limits": { "memory": "1Gi" } },
                "volumeMounts": [{ "name": "ws", "mountPath": "/ws" }],
            }],
            "fieldOfTomorrow": { "a": [1] },
            "imagePullSecrets": [{ "name": "pull" }],
            "priorityClassName": "high",
            "serviceAccountName": "builder",
            "subdomain": "dev",
            "tolerations": [{ "key": "gpu", "operator": "Exists" }],
            "volumes": [
                { "name": "ws", "csi": {
                    "driver": DRIVER,
                    "nodePublishSecretRef": { "name": "pull" },
                    "volumeAttributes": { "owner": "1000:1000", "size": "10Gi", "snapshot": "ws-1" },
                } },
                { "name": "base", "csi": { "driver": DRIVER, "readOnly": true,
                    "volumeAttributes": { "image": "r.io/base:1" } } },
                { "name": "data", "persistentVolumeClaim": { "claimName": "data-dev-0" } },
            ],
        },
    });
    let made = fork(&source(), &plan());
    assert_eq!(made, wanted, "{made:#}");
}

#[test]
fn labels_and_annotations_are_kept_on_request_except_those_of_controllers() {
    let made = fork(&source(), &Fork { keep_labels: true, keep_annotations: true, ..plan() });
    assert_eq!(made["metadata"]["labels"], json!({ "app": "dev", FORK_OF: "dev-0" }));
    assert_eq!(made["metadata"]["annotations"], json!({ "team": "a" }));
    let mut long = source();
    long["metadata"]["name"] = "a".repeat(64).into();
    let made = fork(&long, &plan());
    assert_eq!(made["metadata"], json!({ "name": "dev-0-fork-1", "namespace": "ci" }));
}

#[test]
fn fields_that_the_author_set_to_other_values_than_the_defaults_are_kept() {
    let mut pod = source();
    let spec = &mut pod["spec"];
    spec["hostname"] = "other".into();
    spec["restartPolicy"] = "Never".into();
    spec["securityContext"] = json!({ "fsGroup": 1 });
    let longer = json!({ "key": "node.kubernetes.io/not-ready", "operator": "Exists",
                         "effect": "NoExecute", "tolerationSeconds": 301 });
    spec["tolerations"] = json!([longer]);
    spec["volumes"][3]["name"] = "own-token".into();
    let made = &fork(&pod, &plan())["spec"];
    for key in ["hostname", "restartPolicy", "securityContext", "tolerations"] {
        assert_eq!(made[key], pod["spec"][key], "{key}");
    }
    assert_eq!(made["volumes"][3]["name"], "own-token");
}

#[test]
fn a_token_secret_of_older_clusters_is_removed_but_another_secret_is_kept() {
    let mut pod = source();
    let secret = |name: &str| json!({ "name": name, "secret": { "secretName": name } });
    pod["spec"]["volumes"] = json!([secret("builder-token-x7k2p"), secret("my-token-file")]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([
        { "name": "builder-token-x7k2p", "mountPath": TOKEN_DIR },
        { "name": "my-token-file", "mountPath": "/token" },
    ]);
    let made = &fork(&pod, &plan())["spec"];
    assert_eq!(made["volumes"], json!([secret("my-token-file")]));
    let mounts = json!([{ "name": "my-token-file", "mountPath": "/token" }]);
    assert_eq!(made["containers"][0]["volumeMounts"], mounts);
}

#[test]
fn a_fork_is_bound_to_the_only_node_that_has_its_snapshot() {
    let on_node = json!({ "key": "metadata.name", "operator": "In", "values": ["n-1"] });
    let bound = Fork { node: Some("n-1"), ..plan() };
    let terms = |pod: &Value| {
        fork(pod, &bound)["spec"]["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"].clone()
    };
    assert_eq!(terms(&source()), json!([{ "matchFields": [on_node] }]));
    let mut with_affinity = source();
    let one = json!({ "matchExpressions": [{ "key": "disk", "operator": "Exists" }] });
    let other = json!({ "matchFields": [{ "key": "metadata.name", "operator": "NotIn", "values": ["n-2"] }] });
    with_affinity["spec"]["affinity"] =
        json!({ "nodeAffinity": { REQUIRED: { "nodeSelectorTerms": [one, other] } } });
    let both = terms(&with_affinity);
    assert_eq!(both[0]["matchExpressions"], one["matchExpressions"]);
    assert_eq!(both[0]["matchFields"], json!([on_node]));
    assert_eq!(both[1]["matchFields"], json!([other["matchFields"][0], on_node]));
    // The fork of a fork leaves the node of the first one.
    let on_other = fork(&source(), &Fork { node: Some("n-2"), ..plan() });
    assert_eq!(terms(&on_other), json!([{ "matchFields": [on_node] }]));
}

#[test]
fn a_volume_that_cannot_be_snapshotted_is_an_error_that_names_those_that_can() {
    let pod = source();
    assert!(check(&pod, "ws", DRIVER).is_ok());
    for (volume, driver, message) in [
        (
            "wss",
            DRIVER,
            "pod dev-0 has no volume wss; volumes of ovl.csi.dev in this pod: ws, base",
        ),
        (
            "data",
            DRIVER,
            "volume data of pod dev-0 is a persistentVolumeClaim, not a volume of ovl.csi.dev; volumes of",
        ),
        (
            "ws",
            "other.dev",
            "is a volume of another driver, not a volume of other.dev; this pod has no volume of other.dev",
        ),
        ("base", DRIVER, "volume base of pod dev-0 is readOnly, so nothing was written to it"),
    ] {
        let error = check(&pod, volume, driver).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
    assert_eq!(claims(&pod["spec"]), ["data-dev-0"]);
    assert_eq!(started_from(&fork(&pod, &plan())["spec"], "ws-1", DRIVER), ["ws"]);
    assert_eq!(started_from(&pod["spec"], "ws-1", DRIVER), Vec::<&str>::new());
    // The other volume of the driver is read-only.
    assert_eq!(only_volume(&pod, DRIVER).unwrap(), "ws");
    let mut two = pod.clone();
    two["spec"]["volumes"][1]["csi"]["readOnly"] = false.into();
    let error = only_volume(&two, DRIVER).unwrap_err().to_string();
    assert!(error.contains("several volumes of ovl.csi.dev: choose one of ws, base"), "{error}");
    let error = only_volume(&pod, "other.dev").unwrap_err().to_string();
    assert!(error.contains("pod dev-0 has no volume of other.dev"), "{error}");
    for (phase, ended) in [("Running", false), ("Succeeded", true), ("Failed", true)] {
        let mut pod = pod.clone();
        pod["status"]["phase"] = phase.into();
        assert_eq!(check_running(&pod).is_err(), ended, "{phase}");
    }
}
