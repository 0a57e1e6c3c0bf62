//! Events on objects, as `kubectl describe` shows them.
//!
//! They are core/v1 Events, because only of those may the sentence change: a pull's progress is one Event that moves on, not one
//! every half minute. The API server forgets an Event an hour after its last change.

use std::{
    collections::HashMap,
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
use serde_json::json;

use super::{Client, ClusterError, client::bound};
use crate::fault::Class;

/// The API's own bound on an Event's sentence.
const MESSAGE_MAX: usize = 1024;
/// The API's bound on an object's name.
const NAME_MAX: usize = 253;
/// How long an Event is remembered as ours to change: less than the hour for which the API server keeps it.
const REMEMBERED: Duration = Duration::from_secs(50 * 60);
/// How many are remembered at most.
const REMEMBERED_MAX: usize = 1024;

/// How bad it is: an Event's `type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    /// Good to know.
    Normal,
    /// Somebody should look.
    Warning,
}

impl Severity {
    fn word(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// An object that something can be told about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// As `v1`.
    pub api_version: &'static str,
    /// As `Pod`.
    pub kind: &'static str,
    /// The object's namespace, where the Event goes too.
    pub namespace: String,
    /// The object's name.
    pub name: String,
    /// The object's uid: of an earlier one of that name, `kubectl describe` does not show it.
    pub uid: String,
}

impl About {
    /// A pod.
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

    /// A VolumeSnapshot.
    pub fn volume_snapshot(namespace: &str, name: &str, uid: &str) -> Self {
        let (api_version, kind) = ("snapshot.storage.k8s.io/v1", "VolumeSnapshot");
        Self { api_version, kind, ..Self::pod(namespace, name, uid) }
    }
}

/// One thing to tell about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// About which.
    pub about: About,
    /// How bad it is.
    pub severity: Severity,
    /// One word in CamelCase.
    pub reason: &'static str,
    /// The sentence; cut after 1024 bytes.
    pub message: String,
}

impl Event {
    /// Whether the two are told as one Event, which has the sentence of the later.
    pub(super) fn is_one_with(&self, other: &Self) -> bool {
        let key = |event: &Self| Key::of(event, cut(&event.message, MESSAGE_MAX));
        key(self) == key(other)
    }
}

/// Writes Events, and counts in one what is told again.
#[derive(Debug)]
pub(super) struct Recorder {
    client: Client,
    host: String,
    driver: String,
    told: HashMap<Key, Told>,
}

/// What makes two notices one Event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    uid: String,
    severity: Severity,
    reason: &'static str,
    gist: String,
}

impl Key {
    fn of(event: &Event, message: &str) -> Self {
        let Event { about, severity, reason, .. } = event;
        let (uid, severity, reason) = (about.uid.clone(), *severity, *reason);
        Self { uid, severity, reason, gist: gist(message) }
    }
}

/// An Event that is there.
#[derive(Debug, Clone)]
struct Told {
    name: String,
    count: i32,
    last: Instant,
}

impl Recorder {
    /// For the driver of this name on this host (a node, or the controller's pod), which is what Events give as their source.
    pub(super) fn new(client: Client, host: &str, driver: &str) -> Self {
        Self { client, host: host.to_owned(), driver: driver.to_owned(), told: HashMap::new() }
    }

    /// Tells it: as a new Event, or as one more of an Event whose sentence differs in its numbers only, which takes the new
    /// sentence.
    ///
    /// # Errors
    /// The API server's; of class [`Class::Unavailable`] where another try may help. A namespace that is going takes no Events
    /// ([`Class::Denied`]).
    pub(super) async fn tell(&mut self, event: &Event) -> Result<(), ClusterError> {
        let message = cut(&event.message, MESSAGE_MAX).to_owned();
        let key = Key::of(event, &message);
        self.forget();
        let events = Api::<ApiEvent>::namespaced(self.client.kube(), &event.about.namespace);
        if let Some(told) = self.told.get(&key) {
            let count = told.count.saturating_add(1);
            let name = told.name.clone();
            let changes = json!({ "count": count, "lastTimestamp": Time(Timestamp::now()), "message": message });
            let (params, patch) = (PatchParams::default(), Patch::Merge(&changes));
            match bound("change an Event", events.patch(&name, &params, &patch)).await {
                Ok(_) => {
                    self.told.insert(key, Told { name, count, last: Instant::now() });
                    return Ok(());
                }
                // Somebody deleted it, or the API server forgot it early.
                Err(error) if error.class() == Class::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let new = self.event(event, message);
        let name = new.metadata.name.clone().unwrap_or_default();
        bound("write an Event", events.create(&PostParams::default(), &new)).await?;
        self.told.insert(key, Told { name, count: 1, last: Instant::now() });
        Ok(())
    }

    fn event(&self, event: &Event, message: String) -> ApiEvent {
        let now = Timestamp::now();
        let about = &event.about;
        // As client-go names them; the time keeps two of one object apart.
        let suffix = format!(".{:x}", now.as_nanosecond());
        let name = cut(&about.name, NAME_MAX - suffix.len()).trim_end_matches(['.', '-']);
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
            type_: Some(event.severity.word().to_owned()),
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

    /// Drops what the API server no longer has, and the oldest where there are too many.
    fn forget(&mut self) {
        self.told.retain(|_, told| told.last.elapsed() < REMEMBERED);
        if self.told.len() >= REMEMBERED_MAX {
            let oldest = self.told.iter().min_by_key(|(_, told)| told.last);
            if let Some(key) = oldest.map(|(key, _)| key.clone()) {
                self.told.remove(&key);
            }
        }
    }
}

/// A sentence without its numbers: `ws` and `ws2` stay apart, `3 of 5 layers` and `4 of 5 layers` do not.
fn gist(message: &str) -> String {
    let number = |word: &&str| {
        let digits = word.trim_end_matches([',', '.', ';', ')', '%']).trim_start_matches('(');
        digits.starts_with(|c: char| c.is_ascii_digit())
            && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.')
    };
    let words = message.split_whitespace().map(|word| if number(&word) { "#" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

/// The longest beginning of a text that is no longer than so many bytes.
pub(super) fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}
