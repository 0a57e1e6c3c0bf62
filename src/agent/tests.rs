//! Notices in, requests out.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::{Events, events::Pace};
use crate::{
    cluster::fake::{Asked, FakeApi},
    volumes::{Notice, NoticeKind, Notices as _, Pod},
};

const QUICK: Pace =
    Pace { queue: 4, pause: Duration::from_millis(1), worth: Duration::from_secs(60) };

fn pod() -> Pod {
    Pod { namespace: "ci".into(), name: "build".into(), uid: "u-1".parse().unwrap() }
}

fn notice(message: &str) -> Notice {
    Notice { kind: NoticeKind::Normal, reason: "Pulling", message: message.into() }
}

fn start(api: &FakeApi) -> Events {
    Events::at_pace(api.client(), "node-1", "ovl.csi.dev", QUICK)
}

/// Waits until so many requests have come.
async fn asked(api: &FakeApi, count: usize) -> Vec<Asked> {
    let enough = async {
        while api.asked().len() < count {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(Duration::from_secs(20), enough).await.expect("the requests did not come");
    api.asked()
}

#[tokio::test]
async fn a_notice_becomes_an_event_on_its_pod() {
    let api = FakeApi::default();
    let events = start(&api);
    events.tell(&pod(), Notice { kind: NoticeKind::Warning, ..notice("ws is slow") });
    let asked = &asked(&api, 1).await[0];
    assert_eq!(asked.path, "/api/v1/namespaces/ci/events");
    assert_eq!(asked.body["involvedObject"]["name"], "build");
    assert_eq!(asked.body["involvedObject"]["uid"], "u-1");
    assert_eq!(asked.body["source"]["component"], "ovl.csi.dev");
    assert_eq!(asked.body["source"]["host"], "node-1");
    assert_eq!(asked.body["type"], "Warning");
    assert_eq!(asked.body["reason"], "Pulling");
    assert_eq!(asked.body["message"], "ws is slow");
}

#[tokio::test]
async fn an_absent_server_is_tried_again_and_nothing_is_lost_or_doubled() {
    let api = FakeApi::answering(&[503, 500]);
    let events = start(&api);
    events.tell(&pod(), notice("first"));
    events.tell(&pod(), notice("second"));
    let asked = asked(&api, 4).await;
    let told: Vec<_> = asked.iter().map(|a| a.body["message"].as_str().unwrap()).collect();
    assert_eq!(told, ["first", "first", "first", "second"]);
}

#[tokio::test]
async fn a_refusal_is_final_and_the_next_notice_is_told() {
    let api = FakeApi::answering(&[403]);
    let events = start(&api);
    events.tell(&pod(), notice("into a namespace that is going"));
    events.tell(&pod(), notice("next"));
    let asked = asked(&api, 2).await;
    assert_eq!(asked[1].body["message"], "next");
}

#[tokio::test]
async fn what_is_no_news_any_more_is_not_tried_again() {
    let api = FakeApi::answering(&[503]);
    let old = Pace { worth: Duration::ZERO, ..QUICK };
    let events = Events::at_pace(api.client(), "node-1", "ovl.csi.dev", old);
    events.tell(&pod(), notice("too late"));
    events.tell(&pod(), notice("next"));
    let asked = asked(&api, 2).await;
    assert_eq!(asked[0].body["message"], "too late");
    assert_eq!(asked[1].body["message"], "next");
}

#[tokio::test]
async fn a_name_that_is_taken_is_given_up_for_another() {
    let api = FakeApi::answering(&[409]);
    start(&api).tell(&pod(), notice("m"));
    let asked = asked(&api, 2).await;
    assert_ne!(asked[0].body["metadata"]["name"], asked[1].body["metadata"]["name"]);
}

#[tokio::test]
async fn more_than_the_queue_holds_is_counted_and_nobody_waits() {
    let api = FakeApi::default();
    let events = start(&api);
    // The task runs on this thread only, which does not yield here: nothing is taken out meanwhile.
    for n in 0..10 {
        events.tell(&pod(), notice(&format!("volume-{n}")));
    }
    assert_eq!(events.left_out(), 6);
    assert_eq!(asked(&api, 4).await.len(), 4);
    events.tell(&pod(), notice("there is room again"));
    asked(&api, 5).await;
    assert_eq!(events.left_out(), 0);
}
