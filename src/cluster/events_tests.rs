//! Tests of the queue of Events: the requests that recorded Events become.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::{
    Event, EventType, Events, Regarding,
    events::EventLimits,
    fake::{FakeApi, SeenRequest},
};

const QUICK: EventLimits =
    EventLimits { queue: 4, pause: Duration::from_millis(1), max_age: Duration::from_secs(60) };

const EVENTS: &str = "/api/v1/namespaces/ci/events";

fn event(message: &str) -> Event {
    let about = Regarding::pod("ci", "build", "u-1");
    Event {
        regarding: about,
        event_type: EventType::Normal,
        reason: "Pulling",
        message: message.into(),
    }
}

fn start(api: &FakeApi) -> Events {
    Events::with_limits(api.client(), "node-1", "ovl.csi.dev", QUICK)
}

/// Waits until the API server has received `count` requests.
async fn requests(api: &FakeApi, count: usize) -> Vec<SeenRequest> {
    let enough = async {
        while api.requests().len() < count {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(Duration::from_secs(20), enough).await.expect("the requests did not come");
    api.requests()
}

#[tokio::test]
async fn events_are_retried_while_the_server_is_down_and_written_once() {
    let api = FakeApi::responding(&[503, 500]);
    let events = start(&api);
    events.record(event("first"));
    events.record(event("second"));
    events.flush().await;
    assert_eq!(api.requests().len(), 4);
    let mut messages: Vec<_> =
        api.all(EVENTS).iter().map(|event| event["message"].to_string()).collect();
    messages.sort();
    assert_eq!(messages, ["\"first\"", "\"second\""]);
}

#[tokio::test]
async fn a_flush_waits_for_the_events_before_it() {
    let api = FakeApi::responding(&[503]);
    let events = start(&api);
    events.record(event("first"));
    events.record(event("second"));
    events.flush().await;
    assert_eq!(api.requests().len(), 3);
    events.flush().await;
    assert_eq!(api.requests().len(), 3);
}

#[tokio::test]
async fn an_event_without_a_response_does_not_hold_up_others() {
    let api = FakeApi::responding(&[503]);
    let patient = EventLimits { pause: Duration::from_millis(500), ..QUICK };
    let events = Events::with_limits(api.client(), "node-1", "ovl.csi.dev", patient);
    events.record(event("into a namespace that takes no Events now"));
    for n in 0..3 {
        events.record(event(&format!("elsewhere-{n}")));
    }
    events.flush().await;
    let messages: Vec<_> = api.requests().iter().map(|a| a.body["message"].to_string()).collect();
    assert!(messages.len() == 5 && messages[0] != messages[1], "{messages:?}");
    assert_eq!(api.all(EVENTS).len(), 4);
}

#[tokio::test]
async fn a_refused_event_is_given_up_and_the_next_one_is_written() {
    let api = FakeApi::responding(&[403]);
    let events = start(&api);
    events.record(event("into a namespace that is being deleted"));
    events.record(event("next"));
    let requests = requests(&api, 2).await;
    assert_eq!(requests[1].body["message"], "next");
}

#[tokio::test]
async fn an_old_event_is_not_retried() {
    let api = FakeApi::responding(&[503]);
    let old = EventLimits { max_age: Duration::ZERO, ..QUICK };
    let events = Events::with_limits(api.client(), "node-1", "ovl.csi.dev", old);
    events.record(event("too late"));
    events.record(event("next"));
    let requests = requests(&api, 2).await;
    assert_eq!(requests[0].body["message"], "too late");
    assert_eq!(requests[1].body["message"], "next");
}

#[tokio::test]
async fn an_event_whose_name_is_taken_gets_another_name() {
    let api = FakeApi::responding(&[409]);
    start(&api).record(event("m"));
    let requests = requests(&api, 2).await;
    assert_ne!(requests[0].body["metadata"]["name"], requests[1].body["metadata"]["name"]);
}

#[tokio::test]
async fn a_full_queue_drops_and_counts_events_without_blocking() {
    let api = FakeApi::default();
    let events = start(&api);
    // The task runs on this thread only, which does not yield here, so nothing leaves the queue meanwhile.
    for n in 0..10 {
        events.record(event(&format!("volume-{n}")));
    }
    assert_eq!(events.dropped(), 6);
    assert_eq!(requests(&api, 4).await.len(), 4);
    events.record(event("the queue has space again"));
    requests(&api, 5).await;
    assert_eq!(events.dropped(), 0);
}
