//! How long a new VolumeSnapshot waits for its content while something else goes on.
//!
//! A VolumeSnapshot is created at each tick, also while earlier ones still wait. Otherwise slow times would be counted
//! less often. Deliberately absent: a limit for the number that wait.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use super::objects::Snapshot;
use super::subject::{PROBE, Subject};

/// Time between two of them.
const TICK: Duration = Duration::from_millis(200);

/// The times of VolumeSnapshots that were created during some work.
#[derive(Default)]
pub struct Waits {
    /// From the request of each to its content.
    pub contents: Vec<Duration>,
    /// Of the request itself: the least that the API server takes for one of the controller's.
    pub requests: Vec<Duration>,
}

/// A VolumeSnapshot, when it was requested, and how long the request took.
type Probe = (Snapshot, Instant, Duration);

/// Creates VolumeSnapshots in a namespace of their own during some work. Returns the result of the work and their
/// times.
///
/// # Errors
/// The error of the work, or the API server refused one, or one has no content after all.
pub fn during<T>(
    subject: &Subject,
    kind: &str,
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, Waits)> {
    let ended = AtomicBool::new(false);
    let (result, probes) = thread::scope(|scope| {
        let probing = scope.spawn(|| probe(subject, kind, &ended));
        let result = work();
        ended.store(true, Ordering::Relaxed);
        let probes = probing.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked")));
        (result, probes)
    });
    let (result, probes) = (result?, probes?);
    subject.wait_for_all_contents()?;
    let mut waits = Waits::default();
    for (snapshot, since, request) in &probes {
        let name = snapshot.content();
        let added = subject.contents.added(PROBE, &name);
        waits.contents.push(added.with_context(|| format!("no content {name}"))? - *since);
        waits.requests.push(*request);
    }
    let snapshots: Vec<_> = probes.into_iter().map(|(snapshot, ..)| snapshot).collect();
    subject.complete(&snapshots)?;
    Ok((result, waits))
}

/// Creates one at each tick, each with the time of its request, and reports earlier ones as captured.
fn probe(subject: &Subject, kind: &str, ended: &AtomicBool) -> Result<Vec<Probe>> {
    let (mut api, mut probes) = (subject.api()?, Vec::new());
    let mut tick = Instant::now();
    while !ended.load(Ordering::Relaxed) {
        let snapshot = Snapshot::new(PROBE, kind, probes.len());
        let since = Instant::now();
        subject.create(&mut api, &snapshot)?;
        probes.push((snapshot, since, since.elapsed()));
        subject.capture(|namespace| namespace == PROBE)?;
        tick += TICK;
        thread::sleep(tick.saturating_duration_since(Instant::now()));
    }
    Ok(probes)
}
