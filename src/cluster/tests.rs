//! What the API server is asked, and what its answers become.

use serde_json::Value;

use super::{
    ClusterError, PodEvent, Recorder, Severity,
    fake::{Asked, FakeApi},
};
use crate::fault::Class;

fn event(reason: &'static str, message: &str) -> PodEvent {
    PodEvent {
        namespace: "ci".into(),
        pod: "build-1".into(),
        uid: "11111111-2222-3333-4444-555555555555".into(),
        severity: Severity::Warning,
        reason,
        message: message.into(),
    }
}

/// Tells all of it with one recorder; the answers' classes where one is no.
async fn told(api: &FakeApi, events: &[PodEvent]) -> Vec<Option<Class>> {
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
    let other_pod = PodEvent { uid: "other".into(), ..event("Unclean", "ws was emptied") };
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
    let long =
        PodEvent { pod: format!("{}.{}", "p".repeat(235), "q".repeat(17)), ..event("R", "") };
    told(&api, &[PodEvent { message: "ä".repeat(600) + "!", ..long }]).await;
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
