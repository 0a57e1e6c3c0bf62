//! The commands against a fake API server.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    args::{duration, object_name},
    completion::{Candidates, candidates},
    session::Session,
    snapshot_view::Snapshot,
    *,
};
use crate::cluster::fake::FakeApi;

const SNAPSHOTS: &str = "/apis/snapshot.storage.k8s.io/v1/namespaces/ci/volumesnapshots";
const PODS: &str = "/api/v1/namespaces/ci/pods";
const NODES: &str = "/api/v1/nodes";
const DIFFS: &str = "/apis/ovl.csi.dev/v1alpha1/namespaces/ci/overlaydiffs";
const RESULTS: &str = "/apis/ovl.csi.dev/v1alpha1/namespaces/ci/overlaydiffresults";

fn session(api: &FakeApi) -> Session {
    Session { client: api.client(), namespace: "ci".into(), driver: "ovl.csi.dev".into() }
}

/// An API server with a pod and two nodes.
fn api() -> FakeApi {
    let api = FakeApi::default();
    for name in ["n-1", "n-2"] {
        api.put(NODES, json!({ "metadata": { "name": name }, "spec": {} }));
    }
    let mut pod: Value = serde_json::from_str(include_str!("pod_tests.json")).unwrap();
    pod["metadata"]["finalizers"] = Value::Null;
    api.put(PODS, pod);
    api
}

/// Runs a command line.
async fn ovl(api: &FakeApi, line: &str) -> Result<(), Failure> {
    let words = ["kubectl-ovl"].into_iter().chain(line.split_whitespace());
    let session = session(api);
    match Cli::try_parse_from(words).unwrap().command {
        Command::Snapshot(args) => snapshot::run(&session, &args).await,
        Command::Fork(args) => fork::run(&session, &args).await,
        Command::List(args) => list::run(&session, &args).await,
        Command::Tree(args) => graph::run(&session, &args).await,
        Command::Describe(args) => describe::run(&session, &args).await,
        Command::Delete(args) => delete::run(&session, &args, |_| None).await,
        Command::Diff(args) => diff::run(&session, &args).await,
        other => panic!("{other:?} needs no cluster"),
    }
}

/// Writes these annotations and this status to each snapshot, as a controller does.
fn controller(api: &FakeApi, annotations: Value, status: Value) -> tokio::task::JoinHandle<()> {
    let api = api.clone();
    tokio::spawn(async move {
        loop {
            for object in api.all(SNAPSHOTS) {
                let path = format!("{SNAPSHOTS}/{}", object["metadata"]["name"].as_str().unwrap());
                api.patch(&path, json!({ "metadata": { "annotations": annotations } }));
                api.patch(&format!("{path}/status"), json!({ "status": status }));
            }
            sleep(Duration::from_millis(20)).await;
        }
    })
}

fn ready(image: Option<&str>) -> (Value, Value) {
    let annotations = json!({ "ovl.csi.dev/phase": "Ready", "ovl.csi.dev/node": "n-1", "ovl.csi.dev/image": image });
    (annotations, json!({ "readyToUse": true }))
}

fn failed(result: Result<(), Failure>) -> String {
    match result {
        Err(failure @ (Failure::Failed(_) | Failure::Cluster(_))) => {
            format!("{:#}", failure.code().1)
        }
        other => panic!("{other:?}"),
    }
}

fn usage(result: Result<(), Failure>) -> String {
    match result {
        Err(Failure::Usage(error)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

/// Stores a snapshot of this driver.
fn stored(api: &FakeApi, name: &str) {
    let metadata = json!({ "name": name, "annotations": { "ovl.csi.dev/source": "dev-0/ws" } });
    api.put(SNAPSHOTS, json!({ "metadata": metadata, "spec": { "source": {} } }));
}

fn names(api: &FakeApi, path: &str) -> Vec<String> {
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap().to_owned();
    api.all(path).iter().map(name).collect()
}

#[test]
fn the_definitions_of_the_arguments_are_consistent() {
    Cli::command().debug_assert();
}

#[tokio::test]
async fn a_snapshot_is_created_and_waited_for() {
    let api = api();
    let (annotations, status) = ready(Some("r.io/ci/ws@sha256:0"));
    let controller = controller(&api, annotations, status);
    ovl(&api, "snapshot dev-0 ws ws-1 --class fast").await.unwrap();
    controller.abort();
    let made = api.get(&format!("{SNAPSHOTS}/ws-1")).unwrap();
    assert_eq!(made["metadata"]["annotations"]["ovl.csi.dev/source"], "dev-0/ws");
    assert_eq!(made["spec"]["volumeSnapshotClassName"], "fast");
    let content = made["spec"]["source"]["volumeSnapshotContentName"].as_str().unwrap();
    assert!(content.len() == 36 && content.starts_with("ovl-"), "{content}");
    let again = failed(ovl(&api, "snapshot dev-0 ws ws-1").await);
    assert!(again.contains("VolumeSnapshot ws-1 exists already in namespace ci"), "{again}");
}

#[tokio::test]
async fn the_exit_code_is_the_result_of_the_snapshot() {
    let api = api();
    let late = ovl(&api, "snapshot dev-0 ws slow --timeout 0s").await;
    let Err(Failure::TimedOut(error)) = late else { panic!("{late:?}") };
    assert!(error.to_string().contains("snapshot slow: Pending"), "{error}");
    ovl(&api, "snapshot dev-0 ws other --no-wait").await.unwrap();
    let annotations = json!({ "ovl.csi.dev/phase": "Failed", "ovl.csi.dev/message": "no space" });
    let controller = controller(&api, annotations, json!({}));
    let why = failed(ovl(&api, "snapshot dev-0 ws bad").await);
    controller.abort();
    assert_eq!(why, "snapshot bad failed: no space; VolumeSnapshot bad was deleted");
    for (line, message) in [
        ("snapshot dev-1 ws a", "there is no pod dev-1 in namespace ci"),
        ("snapshot dev-0 w a", "pod dev-0 has no volume w"),
        ("snapshot dev-0 data a", "is a persistentVolumeClaim, not a volume of ovl.csi.dev"),
    ] {
        let why = failed(ovl(&api, line).await);
        assert!(why.contains(message), "{why}");
    }
    assert_eq!(names(&api, SNAPSHOTS), ["other", "slow"]);
}

#[tokio::test]
async fn a_refused_snapshot_is_deleted_again_and_a_captured_one_is_kept() {
    let api = api();
    let refused =
        json!({ "ovl.csi.dev/phase": "Refused", "ovl.csi.dev/message": "class x is missing" });
    let controller = controller(&api, refused, json!({}));
    let why = failed(ovl(&api, "snapshot dev-0 ws a").await);
    controller.abort();
    assert_eq!(why, "snapshot a is refused: class x is missing; VolumeSnapshot a was deleted");
    assert!(names(&api, SNAPSHOTS).is_empty());
    let unpushed = json!({ "ovl.csi.dev/phase": "Failed", "ovl.csi.dev/message": "no registry", "ovl.csi.dev/entries": "3" });
    let controller = self::controller(&api, unpushed, json!({}));
    let why = failed(ovl(&api, "snapshot dev-0 ws b").await);
    controller.abort();
    assert_eq!(why, "snapshot b failed: no registry");
    assert_eq!(names(&api, SNAPSHOTS), ["b"]);
}

#[tokio::test]
async fn the_volume_and_the_name_of_a_snapshot_have_defaults() {
    let api = api();
    for (line, volume, start) in [
        ("snapshot dev-0/ws a", "ws", "a"),
        // The other volume of the driver is read-only.
        ("snapshot dev-0 b", "ws", "b"),
        ("snapshot dev-0", "ws", "dev-0-ws-"),
        ("snapshot dev-0/ws --generate-name nightly-", "ws", "nightly-"),
        ("snapshot dev-0 ws --generate-name d", "ws", "d"),
        ("snapshot dev-0 --generate-name e.", "ws", "e."),
    ] {
        let before = names(&api, SNAPSHOTS);
        ovl(&api, &format!("{line} --no-wait -o name")).await.unwrap();
        let mut new = names(&api, SNAPSHOTS);
        new.retain(|name| !before.contains(name));
        let [name] = &new[..] else { panic!("{new:?}") };
        assert!(name.starts_with(start), "{line}: {name}");
        let source = &api.get(&format!("{SNAPSHOTS}/{name}")).unwrap()["metadata"]["annotations"];
        assert_eq!(source["ovl.csi.dev/source"], format!("dev-0/{volume}"), "{line}");
    }
    for (line, message) in [
        ("snapshot dev-0 ws", "ws is a volume of pod dev-0; add a name for the snapshot"),
        ("snapshot dev-0/ws ws a", "the volume is given twice"),
        ("snapshot dev-0 ws a --generate-name b", "give no other name"),
    ] {
        let why = usage(ovl(&api, line).await);
        assert!(why.contains(message), "{line}: {why}");
    }
}

#[tokio::test]
async fn the_volume_of_a_pod_that_has_ended_is_refused_early() {
    let api = api();
    stored(&api, "old");
    api.patch(&format!("{PODS}/dev-0/status"), json!({ "status": { "phase": "Succeeded" } }));
    for line in ["snapshot dev-0 ws a", "fork dev-0 ws", "fork dev-0 ws --apply"] {
        let why = failed(ovl(&api, line).await);
        assert!(why.contains("pod dev-0 has ended, and its volumes are gone"), "{line}: {why}");
    }
    assert_eq!(names(&api, SNAPSHOTS), ["old"]);
    // An existing snapshot needs no running pod.
    let (annotations, status) = ready(None);
    let controller = controller(&api, annotations, status);
    ovl(&api, "fork dev-0 ws --snapshot old").await.unwrap();
    controller.abort();
}

#[tokio::test]
async fn a_snapshot_in_use_is_deleted_only_by_force_or_after_a_question() {
    let api = api();
    stored(&api, "a");
    let volumes = json!([{ "name": "ws", "csi": { "driver": "ovl.csi.dev", "volumeAttributes": { "snapshot": "a" } } }]);
    let pod = |name: &str, status: Value| json!({ "metadata": { "name": name }, "spec": { "volumes": volumes }, "status": status });
    api.put(PODS, pod("user", json!({ "phase": "Running" })));
    api.put(PODS, pod("ended", json!({ "phase": "Succeeded" })));
    // Its volume was mounted before the snapshot of the fake API server was created.
    let mounted = json!([{ "type": "PodReadyToStartContainers", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z" }]);
    api.put(PODS, pod("earlier", json!({ "phase": "Running", "conditions": mounted })));
    let template = json!({ "spec": { "volumes": volumes } });
    let deployments = "/apis/apps/v1/namespaces/ci/deployments";
    api.put(
        deployments,
        json!({ "metadata": { "name": "web" }, "spec": { "template": template } }),
    );
    let complete = json!({ "conditions": [{ "type": "Complete", "status": "True" }] });
    api.put("/apis/batch/v1/namespaces/ci/jobs", json!({ "metadata": { "name": "done" }, "spec": { "template": template }, "status": complete }));
    let cron = json!({ "jobTemplate": { "spec": { "template": template } } });
    api.put(
        "/apis/batch/v1/namespaces/ci/cronjobs",
        json!({ "metadata": { "name": "nightly" }, "spec": cron }),
    );
    let used = "snapshot a is used by user/ws, deployment/web, cronjob/nightly";
    let why = usage(ovl(&api, "delete a").await);
    assert!(why.contains(used) && why.contains("--force"), "{why}");
    let delete = DeleteOf(&api);
    let why = failed(delete.with("delete a", |_| Some(false)).await);
    assert_eq!(why, "nothing was deleted");
    assert_eq!(names(&api, SNAPSHOTS), ["a"]);
    delete.with("delete a", |question| Some(question.contains("deployment/web"))).await.unwrap();
    assert!(names(&api, SNAPSHOTS).is_empty());
    stored(&api, "a");
    ovl(&api, "delete a --force -o name").await.unwrap();
    stored(&api, "unused");
    ovl(&api, "delete unused").await.unwrap();
    assert!(names(&api, SNAPSHOTS).is_empty());
    // The user may list neither pods nor workloads.
    let api = FakeApi::responding(&[&[200][..], &[403; 6]].concat());
    stored(&api, "a");
    ovl(&api, "delete a").await.unwrap();
    assert!(names(&api, SNAPSHOTS).is_empty());
}

#[tokio::test]
async fn the_page_of_a_tree_has_sizes_and_the_pods_on_each_node() {
    let api = api();
    let notes = |parent: Option<&str>, bytes: u64| {
        let mut notes = json!({ "ovl.csi.dev/source": "dev-0/ws", "ovl.csi.dev/phase": "Failed",
            "ovl.csi.dev/message": "<b>&", "ovl.csi.dev/bytes": bytes.to_string() });
        if let Some(parent) = parent {
            notes["ovl.csi.dev/parent"] = parent.trim_start_matches("uid-").into();
            notes["ovl.csi.dev/parent-uid"] = parent.into();
        }
        notes
    };
    for (name, parent, bytes) in
        [("a", None, 100), ("a1", Some("uid-a"), 300), ("b", Some("uid-gone"), 1)]
    {
        let metadata = json!({ "name": name, "uid": format!("uid-{name}"), "annotations": notes(parent, bytes) });
        api.put(SNAPSHOTS, json!({ "metadata": metadata, "spec": { "source": {} } }));
    }
    let volumes = json!([{ "name": "ws", "csi": { "driver": "ovl.csi.dev", "volumeAttributes": { "snapshot": "a1" } } }]);
    api.put(PODS, json!({ "metadata": { "name": "user" }, "spec": { "volumes": volumes, "nodeName": "n-7" } }));
    let session = session(&api);
    let snapshots = session.snapshots(false, None).await.unwrap();
    let users = session.users(false).await.unwrap();
    let page = page::page("A <title>", &snapshots, &users, jiff::Timestamp::UNIX_EPOCH);
    for part in [
        "<h1>A &lt;title&gt;</h1>",
        "<p>&lt;b&gt;&amp;</p>",
        "<span class=\"phase Failed\">Failed</span>",
        "3 snapshots with 401 B at 1970-01-01 00:00:00 UTC",
        "style=\"width:25.0%\"></span><span style=\"width:75.0%\">",
        "<small>100 B shared ·</small> 300 B <small>own</small>",
        // A small part has a visible bar.
        "style=\"width:0.0%\"></span><span style=\"width:0.5%\">",
        "<span class=\"name\">gone</span> <small>deleted</small>",
        "<span class=\"pod\">user/ws</span>",
        "<tr><th>n-7<br><small>1 volume</small></th><td>user/ws <small>from <a href=\"#uid-a1\">a1</a></small></td></tr>",
    ] {
        assert!(page.contains(part), "{part:?} is not in {page}");
    }
    let lists = |page: &str| page.matches("<ul>").count();
    assert_eq!(lists(&page), 1, "an only child is not indented: {page}");
    assert!(!page.contains("Namespace ci"), "{page}");
    let mut more = snapshots.clone();
    more.push(Snapshot { name: "a2".to_owned(), uid: "uid-a2".to_owned(), ..snapshots[1].clone() });
    more.push(Snapshot { namespace: "other".to_owned(), parent: None, ..snapshots[0].clone() });
    let page = page::page("", &more, &users, jiff::Timestamp::UNIX_EPOCH);
    assert_eq!(lists(&page), 3, "two namespaces and one fork: {page}");
    for part in ["<h2>Namespace ci</h2>", "<h2>Namespace other</h2>", "</a> in namespace ci"] {
        assert!(page.contains(part), "{part:?} is not in {page}");
    }
    for element in ["ul", "li", "div", "p", "span", "body", "html"] {
        let open = page.matches(&format!("<{element}>")).count()
            + page.matches(&format!("<{element} ")).count();
        assert_eq!(open, page.matches(&format!("</{element}>")).count(), "<{element}> in {page}");
    }
    for format in ["text", "html"] {
        ovl(&api, &format!("tree -o {format}")).await.unwrap();
    }
}

/// Deletes with another user at the terminal.
struct DeleteOf<'a>(&'a FakeApi);

impl DeleteOf<'_> {
    async fn with(&self, line: &str, ask: delete::Ask) -> Result<(), Failure> {
        let words = ["kubectl-ovl"].into_iter().chain(line.split_whitespace());
        let Command::Delete(args) = Cli::try_parse_from(words).unwrap().command else {
            panic!("{line}");
        };
        delete::run(&session(self.0), &args, ask).await
    }
}

#[tokio::test]
async fn forks_are_made_of_a_new_snapshot_or_of_an_existing_one() {
    let api = api();
    let (annotations, status) = ready(None);
    let controller = controller(&api, annotations, status);
    ovl(&api, "fork dev-0 ws --replicas 2").await.unwrap();
    assert_eq!((api.all(PODS).len(), api.all(SNAPSHOTS).len()), (1, 0), "all is printed only");
    ovl(&api, "fork dev-0/ws --replicas 2 --apply -o name").await.unwrap();
    let [snapshot] = &api.all(SNAPSHOTS)[..] else { panic!("one snapshot") };
    // The snapshot goes with its forks.
    let owners = snapshot["metadata"]["ownerReferences"].as_array().unwrap();
    let uid = |name: &str| api.get(&format!("{PODS}/{name}")).unwrap()["metadata"]["uid"].clone();
    for (owner, name) in owners.iter().zip(["dev-0-fork-1", "dev-0-fork-2"]) {
        assert_eq!(
            *owner,
            json!({ "apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid(name) })
        );
    }
    assert_eq!(owners.len(), 2);
    let snapshot = snapshot["metadata"]["name"].as_str().unwrap().to_owned();
    assert!(snapshot.starts_with("dev-0-ws-"), "{snapshot}");
    let line = format!("fork dev-0 ws -r 2 --name-prefix job --snapshot {snapshot} --apply");
    ovl(&api, &line).await.unwrap();
    controller.abort();
    assert_eq!(api.all(SNAPSHOTS).len(), 1);
    for name in ["job-1", "job-2"] {
        let made = api.get(&format!("{PODS}/{name}")).unwrap();
        let attributes = &made["spec"]["volumes"][0]["csi"]["volumeAttributes"];
        assert_eq!(attributes["snapshot"], snapshot.as_str());
        // It is in no registry.
        assert!(made["spec"]["affinity"].to_string().contains("\"n-1\""), "{made}");
    }
    let why = failed(ovl(&api, &line).await);
    assert!(why.contains("pod/job-1 exists already in namespace ci"), "{why}");
    let why = usage(ovl(&api, &format!("{} --node n-2", line.replace("job", "b"))).await);
    assert!(why.contains("is only on node n-1, so its forks cannot run on node n-2"), "{why}");
    ovl(&api, &line.replace("job", "c").replace("-r 2", "--node n-1")).await.unwrap();
    let why = failed(ovl(&api, "fork dev-0 ws --snapshot none").await);
    assert!(why.contains("there is no snapshot none in namespace ci"), "{why}");
    let long = "a".repeat(252);
    let usage =
        ovl(&api, &format!("fork dev-0 ws --name-prefix {long} --snapshot {snapshot}")).await;
    assert!(matches!(usage, Err(Failure::Usage(_))), "{usage:?}");
}

#[tokio::test]
async fn a_fork_is_not_created_for_a_node_on_which_it_never_runs() {
    let api = api();
    stored(&api, "a");
    let (annotations, status) = ready(Some("r.io/ci/ws@sha256:0"));
    let controller = controller(&api, annotations, status);
    for line in
        ["fork dev-0 ws --node nosuch --apply", "fork dev-0 ws --snapshot a --node nosuch --apply"]
    {
        let why = usage(ovl(&api, line).await);
        assert!(why.contains("there is no node nosuch") && why.contains("(n-1, n-2)"), "{why}");
    }
    assert_eq!((names(&api, SNAPSHOTS), api.all(PODS).len()), (vec!["a".to_owned()], 1));
    // What is only printed can be for another cluster, or be changed first.
    ovl(&api, "fork dev-0 ws --node nosuch").await.unwrap();
    // A taint can be removed.
    let taints = json!([{ "key": "dedicated", "value": "ci", "effect": "NoSchedule" }]);
    api.patch(&format!("{NODES}/n-2"), json!({ "spec": { "taints": taints } }));
    ovl(&api, "fork dev-0 ws --snapshot a --node n-2 --apply").await.unwrap();
    assert_eq!(api.all(PODS).len(), 2);
    api.patch(&format!("{PODS}/dev-0"), json!({ "spec": { "nodeSelector": { "disk": "ssd" } } }));
    let line = "fork dev-0 ws --snapshot a --name-prefix b --node n-1 --apply";
    let why = usage(ovl(&api, line).await);
    assert!(why.contains("requires the label disk=ssd, which node n-1 does not have"), "{why}");
    api.patch(&format!("{NODES}/n-1"), json!({ "metadata": { "labels": { "disk": "ssd" } } }));
    ovl(&api, line).await.unwrap();
    controller.abort();
    // The user may not read nodes: the scheduler decides.
    let api = FakeApi::responding(&[200, 200, 403]);
    let pod = serde_json::from_str(include_str!("pod_tests.json")).unwrap();
    api.put(PODS, pod);
    stored(&api, "a");
    let (annotations, status) = ready(Some("r.io/ci/ws@sha256:0"));
    let controller = self::controller(&api, annotations, status);
    ovl(&api, "fork dev-0 ws --snapshot a --node nosuch --apply").await.unwrap();
    controller.abort();
    assert_eq!(api.all(PODS).len(), 2);
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let api = api();
    stored(&api, "a");
    for place in ["=client", "=server", ""] {
        for format in ["text", "json", "yaml", "name"] {
            ovl(&api, &format!("snapshot dev-0 ws b --dry-run{place} -o {format}")).await.unwrap();
            ovl(&api, &format!("delete a --wait --dry-run{place} -o {format}")).await.unwrap();
        }
    }
    assert_eq!(names(&api, SNAPSHOTS), ["a"]);
    let changes = |line: &str| {
        let before = api.requests().len();
        let (api, line) = (&api, line.to_owned());
        async move {
            let failed = ovl(api, &line).await.is_err();
            let requests = api.requests().split_off(before);
            (failed, requests.iter().filter(|seen| seen.method != "GET").count())
        }
    };
    assert_eq!(changes("snapshot dev-0 ws b --dry-run=client").await, (false, 0));
    assert_eq!(changes("delete a --dry-run=client").await, (false, 0));
    assert_eq!(changes("delete a --dry-run=server").await, (false, 1));
    // The API server refuses it as it would refuse the snapshot itself.
    assert_eq!(changes("snapshot dev-0 ws a --dry-run=server").await, (true, 1));
    // So does the command.
    assert_eq!(changes("snapshot dev-0 data b --dry-run=client").await, (true, 0));
    assert_eq!(changes("delete none --dry-run=client").await, (true, 0));
    assert_eq!(changes("delete a --dry-run=none").await, (false, 1));
    assert!(names(&api, SNAPSHOTS).is_empty());
}

#[tokio::test]
async fn a_wrong_word_is_refused_under_the_name_of_its_argument() {
    let api = api();
    for (line, argument) in [
        ("snapshot dev-0 ws Bad_Name", "'Bad_Name' for '[NAME]'"),
        ("snapshot dev-0/ws Bad_Name", "'Bad_Name' for '[NAME]'"),
        ("snapshot dev-0 Bad_Name", "'Bad_Name' for '[NAME]'"),
        ("snapshot dev-0 Bad_Vol a", "'Bad_Vol' for '[VOLUME]'"),
        ("snapshot dev-0 Bad_Vol --generate-name a", "'Bad_Vol' for '[VOLUME]'"),
        ("fork Bad_Pod", "'Bad_Pod' for '<POD>'"),
        ("fork dev-0 Bad_Vol", "'Bad_Vol' for '[VOLUME]'"),
        ("fork --of deployment/web Bad_Vol", "'Bad_Vol' for '[VOLUME]'"),
        ("diff Bad_Base ws-1", "'Bad_Base' for '[BASE]'"),
        ("diff ws-1 Bad_Name", "'Bad_Name' for '<NAME>'"),
    ] {
        let why = usage(ovl(&api, line).await);
        assert!(why.contains(&format!("invalid value {argument}")), "{line}: {why}");
    }
    assert!(api.requests().is_empty());
    let mut command = Cli::command();
    let help = command.find_subcommand_mut("snapshot").unwrap().render_long_help().to_string();
    assert!(help.contains("[VOLUME] [NAME]") && help.contains("\n  [NAME]\n"), "{help}");
}

#[tokio::test]
async fn a_workload_is_forked_as_a_workload_of_the_same_kind() {
    let api = api();
    let deployments = "/apis/apps/v1/namespaces/ci/deployments";
    let volumes = json!([{ "name": "ws", "csi": { "driver": "ovl.csi.dev", "volumeAttributes": { "image": "r.io/a" } } }]);
    let spec = json!({ "containers": [], "volumes": volumes });
    let labels = json!({ "app": "web" });
    api.put(deployments, json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" },
        "spec": { "replicas": 3, "selector": { "matchLabels": labels }, "template": { "metadata": { "labels": labels }, "spec": spec } } }));
    let why = failed(ovl(&api, "fork --of deployment/web").await);
    assert!(why.contains("deployment.apps/web has no running pod"), "{why}");
    api.put(PODS, json!({ "metadata": { "name": "web-1", "labels": labels }, "spec": spec, "status": { "phase": "Running" } }));
    let (annotations, status) = ready(Some("r.io/ci/ws@sha256:0"));
    let controller = controller(&api, annotations, status);
    ovl(&api, "fork --of deployment/web ws -r 2 --node n-2 --keep-snapshot --apply").await.unwrap();
    controller.abort();
    let made = api.get(&format!("{deployments}/web-fork")).unwrap();
    assert_eq!(made["spec"]["replicas"], 2);
    let [snapshot] = &api.all(SNAPSHOTS)[..] else { panic!("one snapshot") };
    assert_eq!(snapshot["metadata"]["annotations"]["ovl.csi.dev/source"], "web-1/ws");
    assert_eq!(snapshot["metadata"]["ownerReferences"], Value::Null);
    let pod = &made["spec"]["template"]["spec"];
    assert_eq!(
        pod["volumes"][0]["csi"]["volumeAttributes"],
        json!({ "snapshot": snapshot["metadata"]["name"] })
    );
    assert!(pod["affinity"].to_string().contains("\"n-2\""), "{pod}");
    let why = failed(ovl(&api, "fork --of job/none").await);
    assert!(why.contains("there is no job.batch/none in namespace ci"), "{why}");
}

#[tokio::test]
async fn snapshots_of_other_drivers_are_not_deleted() {
    let api = api();
    for (name, key) in
        [("a", "ovl.csi.dev/source"), ("b", "ovl.csi.dev/source"), ("foreign", "x/y")]
    {
        let metadata = json!({ "name": name, "annotations": { key: "dev-0/ws" } });
        api.put(SNAPSHOTS, json!({ "metadata": metadata, "spec": { "source": {} } }));
    }
    let why = failed(ovl(&api, "delete a foreign").await);
    let message = "VolumeSnapshot foreign in namespace ci does not belong to driver ovl.csi.dev";
    assert!(why.contains(message), "{why}");
    assert_eq!(api.all(SNAPSHOTS).len(), 3, "nothing was deleted");
    ovl(&api, "delete a --wait").await.unwrap();
    assert_eq!(api.get(&format!("{SNAPSHOTS}/a")), None);
    // The finalizers of Kubernetes' controllers keep the object until its content is deleted.
    api.patch(&format!("{SNAPSHOTS}/b"), json!({ "metadata": { "finalizers": ["held"] } }));
    let late = ovl(&api, "delete b --wait --timeout 0s").await;
    assert!(matches!(late, Err(Failure::TimedOut(_))), "{late:?}");
    for format in ["text", "wide", "json", "yaml", "name"] {
        ovl(&api, &format!("list -o {format}")).await.unwrap();
    }
    let event = json!({ "metadata": { "name": "e" }, "involvedObject": { "uid": "u" }, "reason": "SnapshotPushed" });
    api.put("/api/v1/namespaces/ci/events", event);
    for format in ["text", "json", "yaml"] {
        ovl(&api, &format!("describe b -o {format}")).await.unwrap();
    }
    let events = api.requests();
    assert!(events.iter().any(|request| request.path.ends_with("/events")), "{events:?}");
}

#[tokio::test]
async fn a_missing_right_of_the_user_is_named_in_the_error() {
    let api = FakeApi::responding(&[403]);
    let why = failed(ovl(&api, "list -A").await);
    assert!(why.contains("refused to list VolumeSnapshots") && why.contains("403"), "{why}");
}

/// Responds to each OverlayDiff with this result, as a node does.
fn comparing_node(api: &FakeApi, result: Value) -> tokio::task::JoinHandle<()> {
    let api = api.clone();
    tokio::spawn(async move {
        loop {
            for request in api.all(DIFFS) {
                let name = &request["metadata"]["name"];
                if api.get(&format!("{RESULTS}/{}", name.as_str().unwrap())).is_none() {
                    let path = format!("{DIFFS}/{}", name.as_str().unwrap());
                    api.patch(
                        &format!("{path}/status"),
                        json!({ "status": { "nodeName": "n-1" } }),
                    );
                    let spec = json!({ "metadata": { "name": name }, "spec": result });
                    api.put(RESULTS, spec);
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
    })
}

#[tokio::test]
async fn a_diff_is_requested_and_the_request_is_deleted_after_its_result() {
    let api = api();
    for name in ["ws-1", "ws-2"] {
        let metadata = json!({ "name": name, "annotations": { "ovl.csi.dev/phase": "Ready" } });
        api.put(SNAPSHOTS, json!({ "metadata": metadata, "spec": { "source": {} } }));
    }
    let node =
        comparing_node(&api, json!({ "driver": "ovl.csi.dev", "nodeName": "n-1", "added": 0 }));
    for (line, spec) in [
        ("diff ws-2", json!({ "volumeSnapshotName": "ws-2" })),
        (
            "diff ws-1 ws-2 -o json",
            json!({ "volumeSnapshotName": "ws-2", "baseVolumeSnapshotName": "ws-1" }),
        ),
        ("diff dev-0/ws", json!({ "pod": { "name": "dev-0", "volume": "ws" } })),
        (
            "diff ws-1 dev-0/ws",
            json!({ "pod": { "name": "dev-0", "volume": "ws" }, "baseVolumeSnapshotName": "ws-1" }),
        ),
    ] {
        let before = api.requests().len();
        ovl(&api, line).await.unwrap();
        let requests = api.requests().split_off(before);
        let made = requests.iter().find(|seen| seen.method == "POST").unwrap();
        assert_eq!(made.path, DIFFS);
        let mut expected = spec;
        expected["driver"] = "ovl.csi.dev".into();
        assert_eq!(made.body["spec"], expected, "{line}");
        assert_eq!(api.all(DIFFS), Vec::<Value>::new(), "{line}");
    }
    node.abort();
    let failing =
        comparing_node(&api, json!({ "driver": "ovl.csi.dev", "error": "its pod has ended\u{7}" }));
    let why = failed(ovl(&api, "diff dev-0/ws").await);
    failing.abort();
    assert_eq!(why, "its pod has ended\\u{7}");
}

#[tokio::test]
async fn a_diff_that_cannot_be_requested_is_refused_early() {
    let api = api();
    let metadata = json!({ "name": "ws-1", "annotations": { "ovl.csi.dev/phase": "Ready" } });
    api.put(SNAPSHOTS, json!({ "metadata": metadata, "spec": { "source": {} } }));
    for (line, message) in [
        ("diff none", "there is no snapshot none in namespace ci"),
        ("diff none ws-1", "there is no snapshot none in namespace ci"),
        ("diff dev-1/ws", "there is no pod dev-1 in namespace ci"),
        ("diff dev-0/data", "is a persistentVolumeClaim, not a volume of ovl.csi.dev"),
    ] {
        let why = failed(ovl(&api, line).await);
        assert!(why.contains(message), "{line}: {why}");
    }
    let usage = ovl(&api, "diff dev-0/ws ws-1").await;
    assert!(matches!(usage, Err(Failure::Usage(_))), "{usage:?}");
    let posts = api.requests().iter().filter(|seen| seen.method == "POST").count();
    assert_eq!(posts, 0, "nothing was created");
    let late = ovl(&api, "diff ws-1 --timeout 0s").await;
    let Err(Failure::TimedOut(error)) = late else { panic!("{late:?}") };
    assert!(error.to_string().contains("waiting for the controller"), "{error}");
    assert_eq!(api.all(DIFFS), Vec::<Value>::new());
}

#[test]
fn completion_lists_the_candidates_for_the_next_word() {
    let next = |line: &str, prefix: &str| {
        let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        candidates(Cli::command(), &words, prefix).0
    };
    let words = |line: &str, prefix: &str| match next(line, prefix) {
        Candidates::Words(words) => words,
        other => panic!("{line}: {other:?}"),
    };
    assert!(words("", "").contains(&"snapshot".to_owned()));
    assert!(!words("", "").contains(&"__complete".to_owned()));
    assert_eq!(next("snapshot", ""), Candidates::Pod);
    assert_eq!(next("-n ci snapshot dev-0", ""), Candidates::VolumeOf("dev-0".into()));
    assert_eq!(next("fork --apply -r 3 dev-0 ws --snapshot", ""), Candidates::Snapshot);
    assert_eq!(next("diff a", "b"), Candidates::Snapshot);
    assert_eq!(next("diff a", "dev-0/"), Candidates::PodVolume("dev-0".into()));
    assert_eq!(next("diff a b", ""), Candidates::Words(Vec::new()));
    assert_eq!(next("fork", "dev-0/"), Candidates::PodVolume("dev-0".into()));
    assert_eq!(next("snapshot dev-0/ws", ""), Candidates::Words(Vec::new()));
    assert_eq!(next("snapshot dev-0 ws --class", ""), Candidates::Class);
    assert_eq!(next("list -n", ""), Candidates::Global(crate::cluster::JsonKind::Namespace));
    assert_eq!(next("fork --node", ""), Candidates::Global(crate::cluster::JsonKind::Node));
    assert_eq!(next("--context", ""), Candidates::Context);
    assert_eq!(next("-n", ""), Candidates::Global(crate::cluster::JsonKind::Namespace));
    assert_eq!(words("completion", ""), ["bash", "zsh", "fish"]);
    assert_eq!(words("list -o", ""), ["text", "wide", "json", "yaml", "name"]);
    assert!(words("diff a", "-").contains(&"--timeout".to_owned()));
    assert!(words("diff a", "--").contains(&"--namespace".to_owned()));
    let line = ["-n", "ci", "--context=two", "--as", "dev", "snapshot"].map(str::to_owned);
    let cluster = candidates(Cli::command(), &line, "").1;
    assert_eq!(
        (cluster.namespace.as_deref(), cluster.context.as_deref(), cluster.impersonate.as_deref(),),
        (Some("ci"), Some("two"), Some("dev"))
    );
}

#[test]
fn invalid_durations_and_names_are_refused() {
    for good in ["0s", "90s", "1h30m"] {
        assert!(duration(good).is_ok(), "{good}");
    }
    for bad in ["", "90", "-1s", "soon"] {
        assert!(duration(bad).is_err(), "{bad}");
    }
    for bad in ["", "A", "a_b", "-a", "a-", "a..b", "../a", "a/b", &"a".repeat(254)] {
        assert!(object_name(bad).is_err(), "{bad}");
    }
    assert!(object_name("dev-0.x").is_ok());
}

#[test]
fn the_result_of_a_snapshot_is_one_line() {
    let object = json!({ "metadata": { "name": "ws-1", "annotations": {
        "ovl.csi.dev/source": "dev-0/ws", "ovl.csi.dev/phase": "Ready", "ovl.csi.dev/entries": "1",
        "ovl.csi.dev/bytes": "10", "ovl.csi.dev/frozen": "1.2ms", "ovl.csi.dev/node": "n-1" } },
        "spec": { "source": {} }, "status": { "readyToUse": true } });
    let snapshot = Snapshot::of(&serde_json::from_value(object).unwrap(), "ovl.csi.dev").unwrap();
    let line = snapshot::summary(&snapshot);
    assert_eq!(
        line,
        "snapshot ws-1 is ready: 1 entry, 10 B, the pod was frozen for 1.2ms, only on node n-1\n"
    );
}
