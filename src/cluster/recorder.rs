//! Writes Events on objects, as `kubectl describe` shows them, and counts repeated ones in one Event.
//!
//! These are core/v1 Events, because only their message may change. So the progress of a pull is one Event that is
//! updated, not a new one every half minute. The API server deletes an Event one hour after its last change.

use std::{
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::core::v1::{Event as ApiEvent, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use lru::LruCache;
use serde_json::json;

use super::{Client, ClusterError};
use crate::{dns_name::SUBDOMAIN_MAX, error::Class};

/// The API's limit for the message of an Event, in bytes.
const MESSAGE_MAX: usize = 1024;
/// How long an Event is remembered for updates: less than the hour for which the API server keeps it.
const REMEMBERED: Duration = Duration::from_secs(50 * 60);
/// The most Events that are remembered.
const REMEMBERED_MAX: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// The `type` of an Event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// Information only.
    Normal,
    /// A user or an administrator should act.
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// The object that an Event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Regarding {
    /// The API version, such as `v1`.
    pub api_version: &'static str,
    /// The kind, such as `Pod`.
    pub kind: &'static str,
    /// The namespace of the object and of the Event.
    pub namespace: String,
    /// The name of the object.
    pub name: String,
    /// The uid of the object. `kubectl describe` does not show Events of an earlier object of the same name.
    pub uid: String,
}

impl Regarding {
    /// A reference to a pod.
    pub fn pod(namespace: &str, name: &str, uid: &str) -> Self {
        let text = str::to_owned;
        Self {
            api_version: "v1",
            kind: "Pod",
            namespace: text(namespace),
            name: text(name),
            uid: text(uid),
        }
    }

    /// A reference to a VolumeSnapshot.
    pub fn volume_snapshot(namespace: &str, name: &str, uid: &str) -> Self {
        let (api_version, kind) = ("snapshot.storage.k8s.io/v1", "VolumeSnapshot");
        Self { api_version, kind, ..Self::pod(namespace, name, uid) }
    }
}

/// An Event to record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The object that it is about.
    pub regarding: Regarding,
    /// `Normal` or `Warning`.
    pub event_type: EventType,
    /// The reason, one word in CamelCase.
    pub reason: &'static str,
    /// The message for people; truncated after 1024 bytes.
    pub message: String,
}

impl Event {
    /// Whether the API server gets the two as one Event, which has the message of the later one.
    pub(super) fn is_one_with(&self, other: &Self) -> bool {
        let key = |event: &Self| Key::of(event, truncated(&event.message, MESSAGE_MAX));
        key(self) == key(other)
    }
}

/// Writes Events, and counts repeated ones in one Event.
#[derive(Debug)]
pub(super) struct Recorder {
    client: Client,
    host: String,
    driver: String,
    recorded: LruCache<Key, Recorded>,
}

/// Events with the same key are one Event in the API.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    uid: String,
    severity: EventType,
    reason: &'static str,
    message: String,
}

impl Key {
    fn of(event: &Event, message: &str) -> Self {
        let Event { regarding: about, event_type: severity, reason, .. } = event;
        let (uid, severity, reason) = (about.uid.clone(), *severity, *reason);
        Self { uid, severity, reason, message: aggregation_key(message) }
    }
}

/// An Event that this process has created in the API.
#[derive(Debug, Clone)]
struct Recorded {
    name: String,
    count: i32,
    last: Instant,
}

impl Recorder {
    /// Events name this driver and this host (a node, or the controller's pod) as their source.
    pub(super) fn new(client: Client, host: &str, driver: &str) -> Self {
        let recorded = LruCache::new(REMEMBERED_MAX);
        Self { client, host: host.to_owned(), driver: driver.to_owned(), recorded }
    }

    /// Writes an Event. If an earlier Event differs only in the numbers of its message, it increases the count of that
    /// one and replaces its message.
    ///
    /// # Errors
    /// The error of the API server; of class [`Class::Unavailable`] if a retry may help. A namespace that is being
    /// deleted takes no Events ([`Class::Denied`]).
    pub(super) async fn record(&mut self, event: &Event) -> Result<(), ClusterError> {
        let message = truncated(&event.message, MESSAGE_MAX).to_owned();
        let key = Key::of(event, &message);
        let events = Api::<ApiEvent>::namespaced(self.client.kube(), &event.regarding.namespace);
        let recorded = self.recorded.peek(&key);
        // The API server no longer has an Event of which nothing was recorded for long.
        if let Some(recorded) = recorded.filter(|event| event.last.elapsed() < REMEMBERED) {
            let count = recorded.count.saturating_add(1);
            let name = recorded.name.clone();
            let changes = json!({ "count": count, "lastTimestamp": Time(Timestamp::now()), "message": message });
            let (params, patch) = (PatchParams::default(), Patch::Merge(&changes));
            match self.client.bound("change an Event", events.patch(&name, &params, &patch)).await {
                Ok(_) => {
                    self.recorded.put(key, Recorded { name, count, last: Instant::now() });
                    return Ok(());
                }
                // A user deleted it, or the API server deleted it early: write a new one.
                Err(error) if error.class() == Class::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let new = self.event(event, message);
        let name = new.metadata.name.clone().unwrap_or_default();
        self.client.bound("write an Event", events.create(&PostParams::default(), &new)).await?;
        self.recorded.put(key, Recorded { name, count: 1, last: Instant::now() });
        Ok(())
    }

    fn event(&self, event: &Event, message: String) -> ApiEvent {
        let now = Timestamp::now();
        let about = &event.regarding;
        // The same form as in client-go. The time makes the names of two Events of one object different.
        let suffix = format!(".{:x}", now.as_nanosecond());
        let name =
            truncated(&about.name, SUBDOMAIN_MAX - suffix.len()).trim_end_matches(['.', '-']);
        ApiEvent {
            metadata: ObjectMeta {
                name: Some(format!("{name}{suffix}")),
                namespace: Some(about.namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some(about.api_version.to_owned()),
                kind: Some(about.kind.to_owned()),
                namespace: Some(about.namespace.clone()),
                name: Some(about.name.clone()),
                uid: Some(about.uid.clone()),
                ..ObjectReference::default()
            },
            type_: Some(event.event_type.as_str().to_owned()),
            reason: Some(event.reason.to_owned()),
            message: Some(message),
            count: Some(1),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            source: Some(EventSource {
                component: Some(self.driver.clone()),
                host: Some(self.host.clone()),
            }),
            reporting_component: Some(self.driver.clone()),
            reporting_instance: Some(self.host.clone()),
            ..ApiEvent::default()
        }
    }
}

/// The message with its numbers replaced. `ws` and `ws2` stay different; `3 of 5 layers` and `4 of 5 layers` become the
/// same.
fn aggregation_key(message: &str) -> String {
    let number = |word: &&str| {
        let digits = word.trim_end_matches([',', '.', ';', ')', '%']).trim_start_matches('(');
        digits.starts_with(|c: char| c.is_ascii_digit())
            && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.')
    };
    let words = message.split_whitespace().map(|word| if number(&word) { "#" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

/// The longest prefix of a text that has at most `most` bytes.
pub(super) fn truncated(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}
