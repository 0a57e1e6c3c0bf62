//! Mistakes of a pod's author. The API server refuses what it can check at the pod's creation. Otherwise the pod's Event
//! names the mistake and its fix, and the node keeps nothing. After a fix in place, the pod starts by itself.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::cases::case::{Case, Concurrency};
use crate::cluster::registry_proxy::PASSWORD;
use crate::env::namespace::TestNamespace;
use crate::env::pods::Pod;
use crate::machine::progress::seconds;
use crate::oci::image::{Layer, push};

/// A missing image, and a Secret with the wrong password.
pub const REPAIRED: Case = Case {
    name: "repaired",
    what: "a missing image and a wrong Secret are reported, and fixed in place",
    concurrency: Concurrency::Parallel,
    run,
};

/// Invalid attributes.
pub const ATTRIBUTES: Case = Case {
    name: "bad-attributes",
    what: "an invalid attribute is reported, with the valid ones",
    concurrency: Concurrency::Parallel,
    run: attributes,
};

fn run(ns: &TestNamespace<'_>) -> Result<()> {
    let (registry, proxies) = (&ns.env.registry, ns.env.proxies()?);
    let layer = |text: &str| -> Result<_> { Ok(vec![Layer::new().file("file", text)?]) };
    push(registry.here, "repaired/locked:1", layer("behind a password")?)?;
    let (late, locked) =
        (registry.name("repaired/late:1"), proxies.basic.name("repaired/locked:1"));
    ns.docker_secret("key", &proxies.basic.docker_config("a-wrong-one"))?;
    let of = |image: &str| json!({ "image": image });
    let missing = ns.create(&Pod::new("missing", of(&late)))?;
    let refused = ns.create(&Pod::new("refused", of(&locked)).secret("key"))?;
    ns.wait_for_event(
        "missing",
        &["FailedMount", &late, "not found|no such|does not exist|unknown"],
    )?;
    ns.wait_for_event(
        "refused",
        &["FailedMount", &locked, "credential|secret|password|denied|401"],
    )?;
    for (pod, uid) in [("missing", &missing), ("refused", &refused)] {
        ns.node(pod)?.wait_until_removed(uid)?;
        let events = ns.events(pod, "")?.join("\n");
        ensure!(!events.contains("a-wrong-one"), "an Event of {pod} has the password: {events}");
    }

    push(registry.here, "repaired/late:1", layer("there at last")?)?;
    ns.docker_secret("key", &proxies.basic.docker_config(PASSWORD))?;
    // The kubelet's backoff between two attempts grows to two minutes.
    ns.ready_within("missing", seconds(240))?;
    ns.ready_within("refused", seconds(240))?;
    ns.expect_output("missing", &[("cat /work/file", "there at last")])?;
    ns.expect_output("refused", &[("cat /work/file", "behind a password")])
}

/// An attribute beside the image with its value, and the message with which the API server refuses the pod. It is the
/// message of the driver.
const REFUSED: &[(&str, &str, &str)] = &[
    (
        "volatile",
        "maybe",
        "volumeAttributes: volatile is \"maybe\": expected \"true\" or \"false\"",
    ),
    (
        "volatil",
        "true",
        "unknown attribute \"volatil\" in volumeAttributes: expected image, images, snapshot, pullPolicy, volatile,",
    ),
    (
        "pullPolicy",
        "Sometimes",
        "volumeAttributes: pullPolicy is \"Sometimes\": expected \"Always\", \"IfNotPresent\" or \"Never\"",
    ),
    (
        "onUnclean",
        "hope",
        "volumeAttributes: onUnclean is \"hope\": expected \"discard\" or \"fail\"",
    ),
    (
        "images",
        "registry.example/other:1",
        "volumeAttributes: image and images are both set: set only one of them",
    ),
];

/// A pod's name, its attribute beside the image with its value, and the words that its Event must
/// contain.
const BAD: &[(&str, &str, &str, &[&str])] = &[
    ("no-owner", "owner", "a-user", &["owner", "a-user", "UID:GID|uid:gid"]),
    ("no-option", "mountOptions", "noexec,upperdir=/etc", &["mountOptions", "upperdir"]),
    ("no-size", "size", "plenty", &["size", "plenty"]),
    ("up-and-out", "preCopyUp", "../../etc/passwd", &["preCopyUp", "..|relative|outside"]),
    ("no-snapshot", "snapshot", "monday", &["no snapshot", "monday"]),
    ("no-name", "snapshot", "../monday", &["snapshot", "../monday"]),
];

fn attributes(ns: &TestNamespace<'_>) -> Result<()> {
    for (key, value, message) in REFUSED {
        let pod = || Pod::new("refused", json!({ "image": ns.env.image, *key: value }));
        check_refused(ns, pod(), message).with_context(|| format!("{key}: {value}"))?;
        for workload in workloads(&pod().spec()) {
            check_warned(ns, &workload, message)
                .with_context(|| format!("{key}: {value} in a {}", workload["kind"]))?;
        }
    }
    let mut made = Vec::new();
    for (pod, key, value, words) in BAD {
        let attributes = json!({ "image": ns.env.image, *key: value });
        made.push((*pod, ns.create(&Pod::new(pod, attributes))?, *words));
    }
    let local = Pod::new("local-file", json!({ "image": "oci:/etc" }));
    made.push(("local-file", ns.create(&local)?, &["oci:"]));
    let fs_type = Pod::new("fs-type", json!({ "image": ns.env.image }));
    let fs_type = fs_type.with("/spec/volumes/0/csi/fsType", Value::from("ext4"));
    made.push(("fs-type", ns.create(&fs_type)?, &["fsType", "ext4", "overlay"]));
    for (pod, uid, words) in &made {
        ns.wait_for_event(pod, &[&["FailedMount"], *words].concat())?;
        ns.node(pod)?.wait_until_removed(uid)?;
    }
    Ok(())
}

/// Checks that the API server refuses a pod with this message about its volume.
fn check_refused(ns: &TestNamespace<'_>, pod: Pod, message: &str) -> Result<()> {
    match ns.apply(&pod.manifest()) {
        Ok(()) => bail!("the API server accepted the pod"),
        Err(error) => {
            let output = format!("{error:#}");
            let expected = format!("volume work: {message}");
            ensure!(output.contains(&expected), "it is refused without `{expected}`: {output}");
            Ok(())
        }
    }
}

/// An object of each kind for which there is a warning.
fn workloads(spec: &Value) -> Vec<Value> {
    let labels = json!({ "app": "warned" });
    let selector = json!({ "matchLabels": labels });
    let template = json!({ "metadata": { "labels": labels }, "spec": spec });
    let mut job_spec = spec.clone();
    job_spec["restartPolicy"] = json!("Never");
    let job = json!({ "template": { "spec": job_spec } });
    let object = |api: &str, kind: &str, spec: Value| json!({ "apiVersion": api, "kind": kind, "metadata": { "name": "warned" }, "spec": spec });
    let set = json!({ "selector": selector, "template": template });
    vec![
        object("apps/v1", "Deployment", set.clone()),
        object("apps/v1", "StatefulSet", set.clone()),
        object("apps/v1", "DaemonSet", set),
        object("batch/v1", "Job", job.clone()),
        object(
            "batch/v1",
            "CronJob",
            json!({ "schedule": "0 0 1 1 *", "jobTemplate": { "spec": job } }),
        ),
    ]
}

/// Checks that kubectl prints this message as a warning, and that the object could be created.
fn check_warned(ns: &TestNamespace<'_>, workload: &Value, message: &str) -> Result<()> {
    let kubectl = ns.cluster().kubectl_cmd().args(["--namespace", ns.namespace]);
    let kubectl = kubectl.args(["create", "--dry-run=server", "-f", "-"]);
    let done = kubectl.stdin(workload.to_string()).outcome()?;
    ensure!(done.status.success(), "it is refused: {}", done.stderr);
    let warning = done.stderr.lines().find(|line| line.starts_with("Warning: "));
    let warning = warning.with_context(|| format!("no warning in: {}", done.stderr))?;
    ensure!(warning.contains(&format!("volume work: {message}")), "the warning is {warning}");
    Ok(())
}
