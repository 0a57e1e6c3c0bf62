//! Events in, requests out.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::{
    About, Event, Events, Severity,
    events::Pace,
    fake::{Asked, FakeApi},
};

const QUICK: Pace =
    Pace { queue: 4, pause: Duration::from_millis(1), worth: Duration::from_secs(60) };

const EVENTS: &str = "/api/v1/namespaces/ci/events";

fn event(message: &str) -> Event {
    let about = About::pod("ci", "build", "u-1");
    Event { about, severity: Severity::Normal, reason: "Pulling", message: message.into() }
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
async fn an_absent_server_is_tried_again_and_nothing_is_lost_or_doubled() {
    let api = FakeApi::answering(&[503, 500]);
    let events = start(&api);
    events.tell(event("first"));
    events.tell(event("second"));
    events.flush().await;
    assert_eq!(api.asked().len(), 4);
    let mut told: Vec<_> =
        api.all(EVENTS).iter().map(|event| event["message"].to_string()).collect();
    told.sort();
    assert_eq!(told, ["\"first\"", "\"second\""]);
}

#[tokio::test]
async fn a_flush_waits_for_what_was_told_before_it() {
    let api = FakeApi::answering(&[503]);
    let events = start(&api);
    events.tell(event("first"));
    events.tell(event("second"));
    events.flush().await;
    assert_eq!(api.asked().len(), 3);
    events.flush().await;
    assert_eq!(api.asked().len(), 3);
}

#[tokio::test]
async fn what_has_no_answer_is_in_nobodys_way() {
    let api = FakeApi::answering(&[503]);
    let patient = Pace { pause: Duration::from_millis(500), ..QUICK };
    let events = Events::at_pace(api.client(), "node-1", "ovl.csi.dev", patient);
    events.tell(event("into a namespace that takes none now"));
    for n in 0..3 {
        events.tell(event(&format!("elsewhere-{n}")));
    }
    events.flush().await;
    let told: Vec<_> = api.asked().iter().map(|a| a.body["message"].to_string()).collect();
    assert!(told.len() == 5 && told[0] != told[1], "{told:?}");
    assert_eq!(api.all(EVENTS).len(), 4);
}

#[tokio::test]
async fn a_refusal_is_final_and_the_next_notice_is_told() {
    let api = FakeApi::answering(&[403]);
    let events = start(&api);
    events.tell(event("into a namespace that is going"));
    events.tell(event("next"));
    let asked = asked(&api, 2).await;
    assert_eq!(asked[1].body["message"], "next");
}

#[tokio::test]
async fn what_is_no_news_any_more_is_not_tried_again() {
    let api = FakeApi::answering(&[503]);
    let old = Pace { worth: Duration::ZERO, ..QUICK };
    let events = Events::at_pace(api.client(), "node-1", "ovl.csi.dev", old);
    events.tell(event("too late"));
    events.tell(event("next"));
    let asked = asked(&api, 2).await;
    assert_eq!(asked[0].body["message"], "too late");
    assert_eq!(asked[1].body["message"], "next");
}

#[tokio::test]
async fn a_name_that_is_taken_is_given_up_for_another() {
    let api = FakeApi::answering(&[409]);
    start(&api).tell(event("m"));
    let asked = asked(&api, 2).await;
    assert_ne!(asked[0].body["metadata"]["name"], asked[1].body["metadata"]["name"]);
}

#[tokio::test]
async fn more_than_the_queue_holds_is_counted_and_nobody_waits() {
    let api = FakeApi::default();
    let events = start(&api);
    // The task runs on this thread only, which does not yield here: nothing is taken out meanwhile.
    for n in 0..10 {
        events.tell(event(&format!("volume-{n}")));
    }
    assert_eq!(events.left_out(), 6);
    assert_eq!(asked(&api, 4).await.len(), 4);
    events.tell(event("there is room again"));
    asked(&api, 5).await;
    assert_eq!(events.left_out(), 0);
}
