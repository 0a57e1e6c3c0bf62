//! Tests of the requests to the API server, and of the values and errors that its responses become.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures::StreamExt as _;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{
    Change, ClusterError, Event, EventType, Lease, NodeState, PodVolume, Regarding,
    fake::{FakeApi, SeenRequest},
    overlay_snapshot::{OverlaySnapshot, OverlaySnapshotSpec, OverlaySnapshotStatus, Phase},
    recorder::Recorder,
};
use crate::error::Class;

fn event(reason: &'static str, message: &str) -> Event {
    Event {
        regarding: Regarding::pod("ci", "build-1", "11111111-2222-3333-4444-555555555555"),
        event_type: EventType::Warning,
        reason,
        message: message.into(),
    }
}

#[test]
fn a_phase_is_displayed_as_serde_writes_it() {
    for phase in Phase::ALL {
        assert_eq!(serde_json::to_value(phase).unwrap(), phase.word());
    }
}

/// Records all Events with one recorder. Returns for each the class of its error, if any.
async fn record_all(api: &FakeApi, events: &[Event]) -> Vec<Option<Class>> {
    let mut recorder = Recorder::new(api.client(), "node-1", "ovl.csi.dev");
    let mut errors = Vec::new();
    for event in events {
        errors.push(recorder.record(event).await.err().map(|e| e.class()));
    }
    errors
}

fn text<'a>(request: &'a SeenRequest, pointer: &str) -> &'a str {
    request.body.pointer(pointer).and_then(Value::as_str).unwrap_or("nothing")
}

#[tokio::test]
async fn an_event_names_the_pod_the_driver_and_the_node() {
    let api = FakeApi::default();
    assert_eq!(record_all(&api, &[event("Unclean", "volume ws was emptied")]).await, [None]);
    let request = &api.requests()[0];
    assert_eq!(
        (request.method.as_str(), request.path.as_str()),
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
        assert_eq!(text(request, pointer), want, "{pointer}");
    }
    assert!(text(request, "/metadata/name").starts_with("build-1."));
    assert_eq!(request.body["count"], 1);
    assert_eq!(request.body["firstTimestamp"], request.body["lastTimestamp"]);
}

#[tokio::test]
async fn a_repeated_event_is_counted_and_gets_the_new_numbers() {
    let api = FakeApi::default();
    let sentences =
        ["ws: 3 of 5 layers, 120.0 of 700.0 MiB", "ws: 4 of 5 layers, 512.5 of 700.0 MiB"];
    record_all(&api, &sentences.map(|sentence| event("Pulling", sentence))).await;
    let [first, second] = &api.requests()[..] else { panic!("{:?}", api.requests()) };
    assert_eq!(second.method, "PATCH");
    assert_eq!(second.path, format!("{}/{}", first.path, text(first, "/metadata/name")));
    assert_eq!(second.body["count"], 2);
    assert_eq!(text(second, "/message"), sentences[1]);
    assert!(second.body["lastTimestamp"].as_str() >= first.body["lastTimestamp"].as_str());
}

#[tokio::test]
async fn another_volume_reason_or_pod_is_another_event() {
    let api = FakeApi::default();
    let about = Regarding::pod("ci", "build-1", "other");
    let other_pod = Event { regarding: about, ..event("Unclean", "ws was emptied") };
    let events = [
        event("Unclean", "ws was emptied"),
        event("Unclean", "ws2 was emptied"),
        event("Recovered", "ws was emptied"),
        other_pod,
    ];
    assert_eq!(record_all(&api, &events).await, [None; 4]);
    let methods: Vec<_> = api.requests().into_iter().map(|request| request.method).collect();
    assert_eq!(methods, ["POST"; 4]);
    let names: std::collections::HashSet<_> =
        api.requests().iter().map(|request| text(request, "/metadata/name").to_owned()).collect();
    assert_eq!(names.len(), 4);
}

#[tokio::test]
async fn an_event_that_was_deleted_is_written_again() {
    let api = FakeApi::responding(&[200, 404, 200, 200]);
    let same = event("Pulling", "in progress");
    assert_eq!(record_all(&api, &[same.clone(), same.clone(), same]).await, [None; 3]);
    let methods: Vec<_> = api.requests().into_iter().map(|request| request.method).collect();
    assert_eq!(methods, ["POST", "PATCH", "POST", "PATCH"]);
}

#[tokio::test]
async fn an_event_that_was_not_written_is_not_counted() {
    let api = FakeApi::responding(&[503]);
    let same = event("Pulling", "in progress");
    assert_eq!(record_all(&api, &[same.clone(), same]).await, [Some(Class::Unavailable), None]);
    assert_eq!(api.requests()[1].method, "POST");
}

#[tokio::test]
async fn long_texts_are_truncated_between_characters() {
    let api = FakeApi::default();
    let about = Regarding::pod("ci", &format!("{}.{}", "p".repeat(235), "q".repeat(17)), "u");
    record_all(
        &api,
        &[Event { regarding: about, message: "ä".repeat(600) + "!", ..event("R", "") }],
    )
    .await;
    let request = &api.requests()[0];
    assert_eq!(text(request, "/message"), "ä".repeat(512));
    let name = text(request, "/metadata/name");
    assert!(name.len() <= 253 && !name.contains("..") && !name.contains("-."), "{name}");
    assert_eq!(text(request, "/involvedObject/name").len(), 253);
}

#[tokio::test]
async fn a_refused_request_has_a_class_and_the_message_of_the_server() {
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
        let api = FakeApi::responding(&[code]);
        let mut recorder = Recorder::new(api.client(), "n", "d");
        let error = recorder.record(&event("R", "m")).await.unwrap_err();
        assert_eq!(error.class(), class, "{code}");
        let message = format!(
            "the API server refused to write an Event: refused by the test ({code} Because)"
        );
        assert_eq!(error.to_string(), message);
    }
}

#[tokio::test]
async fn in_cluster_fails_outside_a_cluster() {
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
async fn objects_are_created_read_changed_and_deleted() {
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
    assert!(client.report("snap-2", None, &status).await.unwrap().is_none());
    assert_eq!(client.report("snap-1", None, &status).await.unwrap().unwrap().status, Some(status));
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
async fn a_watch_reports_all_objects_and_then_each_change_of_the_selected_ones() {
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
async fn a_pod_its_node_and_a_secret_are_read() {
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
async fn the_leader_works_until_it_is_stopped() {
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
    // Released.
    assert!(kept["spec"]["holderIdentity"].is_null(), "{kept:#}");
    let acquires = |request: &SeenRequest| request.body["spec"]["holderIdentity"] == "p-0";
    assert!(api.requests().iter().any(acquires), "{:#?}", api.requests());
    // Stopped before it started, it never leads.
    let work = |_| async { panic!("it leads") };
    client.lead(&lease, &stop, work).await;
}
