//! What the API server is asked, and what its answers become.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures::StreamExt as _;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{
    About, Change, ClusterError, Event, Lease, NodeState, PodVolume, Severity,
    fake::{Asked, FakeApi},
    overlay_snapshot::{OverlaySnapshot, OverlaySnapshotSpec, OverlaySnapshotStatus, Phase},
    recorder::Recorder,
};
use crate::fault::Class;

fn event(reason: &'static str, message: &str) -> Event {
    Event {
        about: About::pod("ci", "build-1", "11111111-2222-3333-4444-555555555555"),
        severity: Severity::Warning,
        reason,
        message: message.into(),
    }
}

#[test]
fn a_phase_is_said_as_the_object_has_it() {
    for phase in Phase::ALL {
        assert_eq!(serde_json::to_value(phase).unwrap(), phase.word());
    }
}

/// Tells all of it with one recorder; the answers' classes where one is no.
async fn told(api: &FakeApi, events: &[Event]) -> Vec<Option<Class>> {
    let mut recorder = Recorder::new(api.client(), "node-1", "ovl.csi.dev");
    let mut answers = Vec::new();
    for event in events {
        answers.push(recorder.tell(event).await.err().map(|e| e.class()));
    }
    answers
}

fn text<'a>(asked: &'a Asked, pointer: &str) -> &'a str {
    asked.body.pointer(pointer).and_then(Value::as_str).unwrap_or("nothing")
}

#[tokio::test]
async fn an_event_names_the_pod_the_driver_and_the_node() {
    let api = FakeApi::default();
    assert_eq!(told(&api, &[event("Unclean", "volume ws was emptied")]).await, [None]);
    let asked = &api.asked()[0];
    assert_eq!(
        (asked.method.as_str(), asked.path.as_str()),
        ("POST", "/api/v1/namespaces/ci/events")
    );
    for (pointer, want) in [
        ("/involvedObject/kind", "Pod"),
        ("/involvedObject/apiVersion", "v1"),
        ("/involvedObject/namespace", "ci"),
        ("/involvedObject/name", "build-1"),
        ("/involvedObject/uid", "11111111-2222-3333-4444-555555555555"),
        ("/metadata/namespace", "ci"),
        ("/type", "Warning"),
        ("/reason", "Unclean"),
        ("/message", "volume ws was emptied"),
        ("/source/component", "ovl.csi.dev"),
        ("/source/host", "node-1"),
        ("/reportingComponent", "ovl.csi.dev"),
        ("/reportingInstance", "node-1"),
    ] {
        assert_eq!(text(asked, pointer), want, "{pointer}");
    }
    assert!(text(asked, "/metadata/name").starts_with("build-1."));
    assert_eq!(asked.body["count"], 1);
    assert_eq!(asked.body["firstTimestamp"], asked.body["lastTimestamp"]);
}

#[tokio::test]
async fn what_is_told_again_is_counted_and_takes_the_new_numbers() {
    let api = FakeApi::default();
    let sentences = ["ws: 3 of 5 layers, 120 of 700 MB", "ws: 4 of 5 layers, 512.5 of 700 MB"];
    told(&api, &sentences.map(|sentence| event("Pulling", sentence))).await;
    let [first, second] = &api.asked()[..] else { panic!("{:?}", api.asked()) };
    assert_eq!(second.method, "PATCH");
    assert_eq!(second.path, format!("{}/{}", first.path, text(first, "/metadata/name")));
    assert_eq!(second.body["count"], 2);
    assert_eq!(text(second, "/message"), sentences[1]);
    assert!(second.body["lastTimestamp"].as_str() >= first.body["lastTimestamp"].as_str());
}

#[tokio::test]
async fn another_volume_reason_or_pod_is_another_event() {
    let api = FakeApi::default();
    let about = About::pod("ci", "build-1", "other");
    let other_pod = Event { about, ..event("Unclean", "ws was emptied") };
    let events = [
        event("Unclean", "ws was emptied"),
        event("Unclean", "ws2 was emptied"),
        event("Recovered", "ws was emptied"),
        other_pod,
    ];
    assert_eq!(told(&api, &events).await, [None; 4]);
    let methods: Vec<_> = api.asked().into_iter().map(|asked| asked.method).collect();
    assert_eq!(methods, ["POST"; 4]);
    let names: std::collections::HashSet<_> =
        api.asked().iter().map(|asked| text(asked, "/metadata/name").to_owned()).collect();
    assert_eq!(names.len(), 4);
}

#[tokio::test]
async fn an_event_that_is_gone_is_written_anew() {
    let api = FakeApi::answering(&[200, 404, 200, 200]);
    let same = event("Pulling", "still at it");
    assert_eq!(told(&api, &[same.clone(), same.clone(), same]).await, [None; 3]);
    let methods: Vec<_> = api.asked().into_iter().map(|asked| asked.method).collect();
    assert_eq!(methods, ["POST", "PATCH", "POST", "PATCH"]);
}

#[tokio::test]
async fn an_event_that_was_not_taken_is_not_counted() {
    let api = FakeApi::answering(&[503]);
    let same = event("Pulling", "still at it");
    assert_eq!(told(&api, &[same.clone(), same]).await, [Some(Class::Unavailable), None]);
    assert_eq!(api.asked()[1].method, "POST");
}

#[tokio::test]
async fn long_texts_are_cut_between_characters() {
    let api = FakeApi::default();
    let about = About::pod("ci", &format!("{}.{}", "p".repeat(235), "q".repeat(17)), "u");
    told(&api, &[Event { about, message: "ä".repeat(600) + "!", ..event("R", "") }]).await;
    let asked = &api.asked()[0];
    assert_eq!(text(asked, "/message"), "ä".repeat(512));
    let name = text(asked, "/metadata/name");
    assert!(name.len() <= 253 && !name.contains("..") && !name.contains("-."), "{name}");
    assert_eq!(text(asked, "/involvedObject/name").len(), 253);
}

#[tokio::test]
async fn refusals_have_a_class_and_the_servers_words() {
    for (code, class) in [
        (400, Class::Invalid),
        (401, Class::Denied),
        (403, Class::Denied),
        (404, Class::NotFound),
        (409, Class::Conflict),
        (422, Class::Invalid),
        (429, Class::Unavailable),
        (500, Class::Unavailable),
        (503, Class::Unavailable),
    ] {
        let api = FakeApi::answering(&[code]);
        let mut recorder = Recorder::new(api.client(), "n", "d");
        let error = recorder.tell(&event("R", "m")).await.unwrap_err();
        assert_eq!(error.class(), class, "{code}");
        let words =
            format!("the API server refused to write an Event: no such luck ({code} Because)");
        assert_eq!(error.to_string(), words);
    }
}

#[tokio::test]
async fn outside_a_cluster_there_is_no_client() {
    let error = super::Client::in_cluster().await.unwrap_err();
    assert!(matches!(error, ClusterError::Outside(_)), "{error}");
    assert!(error.to_string().contains("--no-cluster"), "{error}");
    assert_eq!(error.class(), Class::Precondition);
}

fn snapshot(node: &str) -> OverlaySnapshotSpec {
    serde_json::from_value(serde_json::json!({
        "driver": "ovl.csi.dev", "nodeName": node, "volumeHandle": "csi-1",
        "source": {"namespace": "ci", "pod": "build-1", "podUid": "u-1", "volume": "ws"},
        "freezeTimeoutMillis": 5000, "squashAbove": 32,
    }))
    .unwrap()
}

#[tokio::test]
async fn objects_are_made_read_changed_and_deleted() {
    let api = FakeApi::default();
    let client = api.client();
    let made = client.create(&OverlaySnapshot::new("snap-1", snapshot("n"))).await.unwrap();
    let taken = client.create(&OverlaySnapshot::new("snap-1", snapshot("n"))).await.unwrap_err();
    assert_eq!(taken.class(), Class::Conflict);
    assert_eq!(client.get::<OverlaySnapshot>(None, "snap-1").await.unwrap(), Some(made.clone()));
    assert_eq!(client.get::<OverlaySnapshot>(None, "snap-2").await.unwrap(), None);
    let deleted = serde_json::json!({"spec": {"deleted": true}});
    let changed = client.patch::<OverlaySnapshot>(None, "snap-1", &deleted).await.unwrap();
    assert!(changed.unwrap().spec.deleted);
    assert_eq!(client.patch::<OverlaySnapshot>(None, "snap-2", &deleted).await.unwrap(), None);
    let status = OverlaySnapshotStatus { phase: Some(Phase::Ready), ..Default::default() };
    assert!(client.report("snap-2", &status).await.unwrap().is_none());
    assert_eq!(client.report("snap-1", &status).await.unwrap().unwrap().status, Some(status));
    // Another object of that name stays.
    client.delete::<OverlaySnapshot>(None, "snap-1", "other").await.unwrap();
    assert_eq!(client.list::<OverlaySnapshot>().await.unwrap().len(), 1);
    client
        .delete::<OverlaySnapshot>(None, "snap-1", made.metadata.uid.as_deref().unwrap())
        .await
        .unwrap();
    client.delete::<OverlaySnapshot>(None, "snap-1", "gone").await.unwrap();
    assert!(client.list::<OverlaySnapshot>().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_watch_tells_all_and_then_each_change_of_what_is_selected() {
    let api = FakeApi::default();
    let client = api.client();
    client.create(&OverlaySnapshot::new("snap-1", snapshot("n"))).await.unwrap();
    client.create(&OverlaySnapshot::new("snap-2", snapshot("other"))).await.unwrap();
    let mut watch = client.watch::<OverlaySnapshot>(Some("spec.nodeName=n"));
    let names = |change: Change<OverlaySnapshot>| -> Vec<_> {
        change.objects().into_iter().filter_map(|object| object.metadata.name).collect()
    };
    let all = watch.next().await.unwrap();
    assert!(matches!(all, Change::All(_)));
    assert_eq!(names(all), ["snap-1"]);
    for name in ["snap-3", "snap-4"] {
        let node = if name == "snap-3" { "other" } else { "n" };
        client.create(&OverlaySnapshot::new(name, snapshot(node))).await.unwrap();
    }
    api.delete("/apis/ovl.csi.dev/v1alpha1/overlaysnapshots/snap-1");
    let (applied, gone) = (watch.next().await.unwrap(), watch.next().await.unwrap());
    assert!(matches!((&applied, &gone), (Change::Applied(_), Change::Gone(_))));
    assert_eq!((names(applied), names(gone)), (vec!["snap-4".into()], vec!["snap-1".into()]));
}

#[tokio::test]
async fn a_pod_its_node_and_a_secret_are_read_as_far_as_needed() {
    let api = FakeApi::default();
    let client = api.client();
    api.put(
        "/api/v1/namespaces/ci/pods",
        serde_json::json!({
            "metadata": {"name": "p", "uid": "u-1"},
            "spec": {"nodeName": "n", "containers": [], "volumes": [
                {"name": "ws", "csi": {"driver": "ovl.csi.dev", "readOnly": true}},
                {"name": "tmp", "emptyDir": {}}]},
            "status": {"phase": "Running"},
        }),
    );
    let pod = client.pod("ci", "p").await.unwrap().unwrap();
    assert_eq!((pod.uid.as_str(), pod.node.as_deref(), pod.pending), ("u-1", Some("n"), false));
    let volume = |name: &str, driver: Option<&str>, read_only| PodVolume {
        name: name.into(),
        driver: driver.map(str::to_owned),
        read_only,
    };
    assert_eq!(pod.volumes, [volume("ws", Some("ovl.csi.dev"), true), volume("tmp", None, false)]);
    assert_eq!(client.pod("ci", "q").await.unwrap(), None);
    assert_eq!(client.find_pod(|pod| pod.uid == "u-1").await.unwrap(), Some(pod));
    assert_eq!(client.find_pod(|pod| pod.uid == "u-2").await.unwrap(), None);

    for (name, status, state) in
        [("a", "True", NodeState::Ready), ("b", "Unknown", NodeState::NotReady(None))]
    {
        let status = serde_json::json!({"conditions": [{"type": "Ready", "status": status}]});
        api.put("/api/v1/nodes", serde_json::json!({"metadata": {"name": name}, "status": status}));
        assert_eq!(client.node(name).await.unwrap(), state);
    }
    assert_eq!(client.node("c").await.unwrap(), NodeState::Gone);

    api.put(
        "/api/v1/namespaces/d/secrets",
        serde_json::json!({"metadata": {"name": "s"}, "data": {"k": "aGk="}}),
    );
    let secret = client.secret("d", "s").await.unwrap().unwrap();
    assert_eq!((secret.get("k"), secret.get("l")), (Some(&b"hi"[..]), None));
    assert!(client.secret("d", "t").await.unwrap().is_none());
    client.reachable().await.unwrap();
}

#[tokio::test]
async fn who_leads_works_until_told_to_stop() {
    let api = FakeApi::default();
    let lease = Lease { namespace: "d".into(), name: "l".into(), identity: "p-0".into() };
    let (stop, worked) = (CancellationToken::new(), AtomicUsize::new(0));
    let work = |leading: CancellationToken| {
        worked.fetch_add(1, Ordering::Relaxed);
        stop.cancel();
        async move { leading.cancelled().await }
    };
    let client = api.client();
    tokio::time::timeout(Duration::from_secs(30), client.lead(&lease, &stop, work)).await.unwrap();
    assert_eq!(worked.load(Ordering::Relaxed), 1);
    let kept = api.get("/apis/coordination.k8s.io/v1/namespaces/d/leases/l").unwrap();
    // Given back.
    assert!(kept["spec"]["holderIdentity"].is_null(), "{kept:#}");
    let held = |asked: &Asked| asked.body["spec"]["holderIdentity"] == "p-0";
    assert!(api.asked().iter().any(held), "{:#?}", api.asked());
    // Told to stop before it began, it never leads.
    let work = |_| async { panic!("it leads") };
    client.lead(&lease, &stop, work).await;
}
