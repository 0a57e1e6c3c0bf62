//! The objects of a kind as a watch reports them, with the time of each.
//!
//! Deliberately absent: a restart of the watch. A gap would make the times wrong.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::objects::PHASE;
use crate::machine::progress::seconds;
use crate::machine::wait::wait_for;
use crate::oci::http;

/// Time between two checks of a condition.
const POLL: Duration = Duration::from_millis(20);

/// What is known of an object.
#[derive(Clone, Debug)]
pub struct Object {
    /// The namespace of it, or the one that it was made for.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// When the watch reported it first.
    pub added: Instant,
    /// When the watch first reported its phase as `Ready`.
    pub ready: Option<Instant>,
}

#[derive(Default)]
struct Seen {
    objects: HashMap<String, Object>,
    failed: Option<String>,
}

/// A watch of one kind in all namespaces, from before its first object is created. It ends with the proxy.
#[derive(Clone)]
pub struct Watch(Arc<Mutex<Seen>>);

impl Watch {
    /// Starts the watch of the kind at this path of the API.
    ///
    /// # Errors
    /// The API server does not serve it.
    pub fn start(proxy: SocketAddr, path: &str) -> Result<Self> {
        let path = format!("{path}?watch=1&timeoutSeconds=36000");
        // A kind that was just installed is refused with 429 at first.
        let response = wait_for("a watch", seconds(60), || {
            let response = http::send(proxy, "GET", &path, &[], &[])?;
            ensure!(response.status == 200, "{path}: status {}", response.status);
            Ok(Some(response))
        })?;
        // Nothing changes for minutes.
        let stream = response.body.get_ref();
        stream.set_read_timeout(None).context("removing a timeout")?;
        let watch = Self(Arc::default());
        let seen = watch.clone();
        thread::spawn(move || {
            let why = seen.follow(response.body);
            seen.lock().failed = Some(match why {
                Ok(()) => format!("the watch of {path} ended"),
                Err(error) => format!("the watch of {path}: {error:#}"),
            });
        });
        Ok(watch)
    }

    fn follow(&self, mut body: BufReader<TcpStream>) -> Result<()> {
        let mut line = Vec::new();
        while body.read_until(b'\n', &mut line).context("reading an event")? > 0 {
            let now = Instant::now();
            let event: Value = serde_json::from_slice(&line).context("parsing an event")?;
            self.lock().apply(&event, now)?;
            line.clear();
        }
        Ok(())
    }

    /// The objects of some namespaces.
    pub fn objects(&self, of: impl Fn(&Object) -> bool) -> Vec<Object> {
        self.lock().objects.values().filter(|object| of(object)).cloned().collect()
    }

    /// When an object was first reported. `None` if it does not exist yet.
    pub fn added(&self, namespace: &str, name: &str) -> Option<Instant> {
        self.lock().objects.get(&key(namespace, name)).map(|object| object.added)
    }

    /// Waits until this many objects fit.
    ///
    /// # Errors
    /// The watch ended, or there are not as many in time.
    pub fn wait(
        &self,
        what: &str,
        count: usize,
        limit: Duration,
        fits: impl Fn(&Object) -> bool,
    ) -> Result<()> {
        let since = Instant::now();
        loop {
            let have = {
                let seen = self.lock();
                if let Some(why) = &seen.failed {
                    bail!("{why}");
                }
                seen.objects.values().filter(|object| fits(object)).count()
            };
            if have >= count {
                return Ok(());
            }
            let waited = since.elapsed();
            ensure!(waited < limit, "waited {} s: {have} of {count} {what}", waited.as_secs());
            thread::sleep(POLL);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn apply(&mut self, event: &Value, now: Instant) -> Result<()> {
        let object = &event["object"];
        let kind = event["type"].as_str().unwrap_or_default();
        ensure!(
            matches!(kind, "ADDED" | "MODIFIED" | "DELETED"),
            "an event of another type: {event}"
        );
        let metadata = &object["metadata"];
        let name = metadata["name"].as_str().context("an event without a name")?;
        // In this order: of a VolumeSnapshot, a content and an OverlaySnapshot.
        let namespaces = [
            &metadata["namespace"],
            &object["spec"]["volumeSnapshotRef"]["namespace"],
            &object["spec"]["source"]["namespace"],
        ];
        let namespace = namespaces.iter().find_map(|value| value.as_str());
        let namespace = namespace.context("an object of no namespace")?;
        let key = key(namespace, name);
        if kind == "DELETED" {
            self.objects.remove(&key);
            return Ok(());
        }
        let entry = self.objects.entry(key).or_insert_with(|| Object {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            added: now,
            ready: None,
        });
        let phases = [&metadata["annotations"][PHASE], &object["status"]["phase"]];
        if entry.ready.is_none() && phases.iter().any(|phase| **phase == "Ready") {
            entry.ready = Some(now);
        }
        Ok(())
    }
}

fn key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_have_the_times_of_their_first_event_and_of_the_first_ready_one() -> Result<()> {
        let (mut seen, start) = (Seen::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let snapshot = |phase: &str| json!({ "metadata": { "namespace": "a", "name": "s", "annotations": { PHASE: phase } } });
        seen.apply(&json!({ "type": "ADDED", "object": snapshot("Pushing") }), at(1))?;
        assert!(seen.objects["a/s"].ready.is_none());
        for second in [2, 3] {
            seen.apply(&json!({ "type": "MODIFIED", "object": snapshot("Ready") }), at(second))?;
        }
        let object = &seen.objects["a/s"];
        assert_eq!((object.added, object.ready), (at(1), Some(at(2))));
        seen.apply(&json!({ "type": "DELETED", "object": snapshot("Ready") }), at(4))?;
        assert!(seen.objects.is_empty());
        Ok(())
    }

    #[test]
    fn the_namespace_is_that_of_the_volume_snapshot() -> Result<()> {
        let (mut seen, now) = (Seen::default(), Instant::now());
        let content = json!({ "metadata": { "name": "c" }, "spec": {
            "source": { "snapshotHandle": "h" }, "volumeSnapshotRef": { "namespace": "a" } } });
        let overlay = json!({ "metadata": { "name": "o" }, "status": { "phase": "Ready" },
            "spec": { "source": { "namespace": "b", "pod": "p" } } });
        for object in [content, overlay] {
            seen.apply(&json!({ "type": "ADDED", "object": object }), now)?;
        }
        assert!(seen.objects.contains_key("a/c") && seen.objects["b/o"].ready == Some(now));
        let error = json!({ "type": "ERROR", "object": { "metadata": {}, "code": 410 } });
        assert!(seen.apply(&error, now).is_err());
        Ok(())
    }
}
