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

/// Creates VolumeSnapshots in a namespace of their own during some work. Returns the result of the work and the time
/// of each from its request to its content.
///
/// # Errors
/// The error of the work, or the API server refused one, or one has no content after all.
pub fn during<T>(
    subject: &Subject,
    kind: &str,
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, Vec<Duration>)> {
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
    let mut times = Vec::new();
    for (snapshot, since) in &probes {
        let name = snapshot.content();
        let added = subject.contents.added(PROBE, &name);
        times.push(added.with_context(|| format!("no content {name}"))? - *since);
    }
    let snapshots: Vec<_> = probes.into_iter().map(|(snapshot, _)| snapshot).collect();
    subject.complete(&snapshots)?;
    Ok((result, times))
}

/// Creates one at each tick, each with the time of its request, and reports earlier ones as captured.
fn probe(subject: &Subject, kind: &str, ended: &AtomicBool) -> Result<Vec<(Snapshot, Instant)>> {
    let (mut api, mut probes) = (subject.api()?, Vec::new());
    let mut tick = Instant::now();
    while !ended.load(Ordering::Relaxed) {
        let snapshot = Snapshot::new(PROBE, kind, probes.len());
        let since = Instant::now();
        subject.create(&mut api, &snapshot)?;
        probes.push((snapshot, since));
        subject.capture(|namespace| namespace == PROBE)?;
        tick += TICK;
        thread::sleep(tick.saturating_duration_since(Instant::now()));
    }
    Ok(probes)
}
