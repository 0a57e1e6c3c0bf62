//! The controller with thousands of VolumeSnapshots, compared with its last version whose loop was hand-written.
//!
//! ```text
//! etcd ── kube-apiserver (loopback) ─┬─ ovl controller of the former version, then of this tree, each in its own
//!                                    └─ the bench: users, agents of nodes, the stock snapshot controllers
//! ```
//!
//! Deliberately absent: kubelets, containers, and the stock controllers themselves. The bench writes what they write,
//! so their speed does not count.

mod api;
mod audit;
mod control_plane;
mod node;
mod objects;
mod probe;
mod subject;
mod watch;

use std::collections::HashSet;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use self::audit::Requests;
use self::control_plane::CONTROLLER;
use self::objects::{CLASS, Snapshot, node_name};
use self::probe::Waits;
use self::subject::{FLOOD, Image, PROBE, PROBE_NODE, Subject, snapshots, wait_until_idle};
use super::programs::Build;
use super::table::{Limit, Row};
use super::times::{ROUNDS, median, percentile, timed};
use crate::driver;
use crate::machine::background::Background;
use crate::machine::harness::Harness;
use crate::machine::progress::minutes;
use crate::oci::image::{Layer, digest_of, push};
use crate::oci::registry::MemoryRegistry;

/// VolumeSnapshots in a full run.
pub const COUNT: usize = 5_000;

/// The most of memory and of the start are measured with this many times as many.
const LARGE: usize = 4;

/// Volumes of a node, each of another snapshot.
const VOLUMES: usize = 10;

/// How often the controller reconciles everything again. In this time there is one whole resync, whenever it begins.
const RESYNC: Duration = minutes(5);

/// How long a new VolumeSnapshot may wait for its content, in seconds.
const WAIT: f64 = 0.2;

/// The results of one version.
struct Figures {
    /// Between two OverlaySnapshots.
    each: Duration,
    /// The processor time of a snapshot, from its request until its VolumeSnapshot is ready.
    cpu: Duration,
    list: Duration,
    /// Absent in a short run.
    resync: Option<Resync>,
    /// While another namespace makes many.
    beside: Waits,
    /// Only of this tree.
    large: Option<Large>,
}

/// A time in which everything is reconciled again, and nothing has changed but some new VolumeSnapshots.
struct Resync {
    requests: Requests,
    waits: Waits,
}

/// With [`LARGE`] times as many snapshots.
struct Large {
    memory: u64,
    peak: u64,
    start: Duration,
    /// Of the process of a node, with few snapshots and with many.
    node: [Requests; 2],
}

/// Measures all of it in an empty directory, with this many VolumeSnapshots.
pub fn measure(
    h: &Harness,
    repo: &Path,
    place: &Path,
    count: usize,
    notes: &mut Vec<String>,
) -> Result<Vec<Row>> {
    let target = driver::static_target(h, repo)?;
    let build = Build {
        product: "bench-former-controller",
        former: "6d373c6",
        cargo: &["build", "--bins", "--target", &target],
        programs: ["ovl", "kubectl-ovl"],
        added: None,
    };
    let ours = build.ours(h, repo)?;
    let former = build.former(h, repo, notes)?;
    if count < COUNT {
        notes.push(format!(
            "a resync without changes, which takes {} minutes: with --count {COUNT}",
            RESYNC.as_secs() / 60
        ));
    }
    let registry = MemoryRegistry::start()?;
    push(registry.address, "bench:1", vec![Layer::new().file("file", "text")?])?;
    let image = Image {
        repository: format!("{}/bench", registry.address),
        digest: digest_of(registry.address, "bench", "1")?,
    };
    let former = former.map(|former| -> Result<Figures> {
        let subject = Subject::start(h, place, "former", &former, &image)?;
        Ok(figures(h, "the former controller", &subject, count)?.0)
    });
    let former = former.transpose()?;
    let subject = Subject::start(h, place, "ours", &ours, &image)?;
    let node = |name: &str| {
        let some = &snapshots("first", count)[..VOLUMES.min(count)];
        node::requests(&subject, &place.join(name), &registry, some)
    };
    let (mut ours, controller) = figures(h, "the controller", &subject, count)?;
    for example in ours.resync.iter().flat_map(|resync| &resync.requests.examples) {
        notes.push(format!("resync: a request for an unchanged object: {example}"));
    }
    let what = format!("the controller: {} snapshots", count * LARGE);
    ours.large = Some(h.progress.step(&what, minutes(5), |_| {
        let few = node("few")?;
        let large = at_large(&subject, controller, count)?;
        Ok(Large { node: [few, node("many")?], ..large })
    })?);
    Ok(rows(&ours, former.as_ref(), count))
}

/// The figures without those of [`Large`], and the controller, which still runs.
fn figures(
    h: &Harness,
    who: &str,
    subject: &Subject,
    count: usize,
) -> Result<(Figures, Background)> {
    let step = |what: &str| format!("{who}: {what}");
    let first = snapshots("first", count);
    h.progress
        .step(&step("VolumeSnapshots are waiting"), minutes(1), |_| subject.create_all(&first))?;
    let controller = subject.controller()?;
    let what = step(&format!("{count} snapshots"));
    let (each, cpu) = h.progress.step(&what, minutes(5), |_| {
        subject.complete(&first)?;
        wait_until_idle(&controller)?;
        let mut added: Vec<_> =
            subject.overlays.objects(|_| true).iter().map(|o| o.added).collect();
        added.sort();
        let times = added.first().zip(added.last());
        let (first, last) = times.context("no OverlaySnapshot")?;
        Ok(((*last - *first) / to_u32(added.len()), controller.cpu_time()? / to_u32(count)))
    })?;
    let list = h.progress.step(&step("kubectl ovl list"), minutes(1), |_| list(subject, count))?;
    let mut resync = None;
    if count >= COUNT {
        let what = step("a resync without changes");
        resync = Some(h.progress.step(&what, RESYNC, |_| one_resync(subject))?);
    }
    let what = step("a namespace that makes many");
    let beside = h.progress.step(&what, minutes(2), |_| {
        let many: Vec<_> = (0..count / 2).map(|n| Snapshot::new(FLOOD, "flood", n)).collect();
        let ((), waits) = probe::during(subject, "beside", || {
            subject.create_all(&many)?;
            subject.wait_for_contents(many.len(), |namespace| namespace == FLOOD)
        })?;
        subject.complete(&many)?;
        Ok(waits)
    })?;
    Ok((Figures { each, cpu, list, resync, beside, large: None }, controller))
}

fn list(subject: &Subject, count: usize) -> Result<Duration> {
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let mut output = String::new();
        times.push(timed(|| {
            output = subject.kubectl_ovl(&["list", "-A"]).output()?;
            Ok(())
        })?);
        // A head, and a line each.
        let lines = output.lines().count();
        ensure!(lines == count + 1, "{lines} lines for {count} snapshots");
    }
    median(&mut times).context("no time")
}

fn one_resync(subject: &Subject) -> Result<Resync> {
    let log = subject.audit_log();
    let begun = log.end()?;
    let ((), waits) = probe::during(subject, "resync", || {
        thread::sleep(RESYNC);
        Ok(())
    })?;
    // The new ones have their objects now.
    let new = |watch: &watch::Watch| watch.objects(|object| object.namespace == PROBE);
    let new = [new(&subject.contents), new(&subject.overlays)].concat();
    let mut without: HashSet<String> = new.into_iter().map(|object| object.name).collect();
    without.extend([CLASS.to_owned(), node_name(PROBE_NODE)]);
    let requests = log.requests(CONTROLLER, begun, |namespace, name| {
        namespace == PROBE || without.contains(name)
    })?;
    Ok(Resync { requests, waits })
}

fn at_large(subject: &Subject, mut controller: Background, count: usize) -> Result<Large> {
    let have = subject.snapshots.objects(|_| true).len();
    let more = snapshots("more", (count * LARGE).saturating_sub(have));
    subject.create_all(&more)?;
    subject.complete(&more)?;
    let (mut memory, mut peak) = (0, 0);
    let mut weigh = |controller: &Background| -> Result<()> {
        wait_until_idle(controller)?;
        memory = memory.max(controller.memory("VmRSS")?);
        peak = peak.max(controller.memory("VmHWM")?);
        Ok(())
    };
    weigh(&controller)?;
    drop(controller);
    let since = Instant::now();
    controller = subject.controller()?;
    let new = [Snapshot::new(PROBE, "start", 0)];
    subject.create_all(&new)?;
    subject.wait_for_all_contents()?;
    let added = subject.contents.added(PROBE, &new[0].content()).context("no content")?;
    weigh(&controller)?;
    Ok(Large { memory, peak, start: added - since, node: Default::default() })
}

fn rows(ours: &Figures, former: Option<&Figures>, count: usize) -> Vec<Row> {
    let mut rows = Vec::new();
    let compared = |row: Row, theirs: fn(&Figures) -> Duration, limit| match former {
        Some(former) => row.beside("former", theirs(former), limit),
        None => row,
    };
    let each = Row::milliseconds("time for each OverlaySnapshot", ours.each);
    // Four times the rate.
    rows.push(compared(each, |of| of.each, Limit::AtMost(0.25)));
    let cpu = Row::milliseconds("CPU of each until it is ready", ours.cpu);
    rows.push(compared(cpu, |of| of.cpu, Limit::AtMost(0.3)));
    let what = format!("kubectl ovl list -A, {count}");
    rows.push(Row::seconds(&what, ours.list).within(2.0));
    rows.extend(
        former.map(|former| {
            Row::seconds(&what, ours.list).beside("former", former.list, Limit::None)
        }),
    );
    if let Some(resync) = &ours.resync {
        // An object of each kind for each snapshot.
        let per_object = |of: &Resync| of.requests.of_objects as f64 / (3 * count) as f64;
        let what = "resync: requests per object";
        rows.push(Row::count(what, per_object(resync)).within(0.0));
        let theirs = former.and_then(|former| former.resync.as_ref());
        rows.extend(theirs.map(|theirs| Row::count("the same, former", per_object(theirs))));
        rows.push(Row::count("resync: lists and watches", resync.requests.of_kinds as f64));
        waits("resync: content", &resync.waits, theirs.map(|of| &of.waits), &mut rows);
    }
    let what = format!("content, beside {} others", count / 2);
    waits(&what, &ours.beside, former.map(|of| &of.beside), &mut rows);
    if let Some(large) = &ours.large {
        let many = count * LARGE;
        rows.push(Row::mebibytes(&format!("memory, {many} snapshots"), large.memory).within(150.0));
        rows.push(Row::mebibytes(&format!("memory, {many}, peak"), large.peak));
        let what = format!("start to a content, {many}");
        rows.push(Row::seconds(&what, large.start).within(10.0));
        let [few, all] = large.node.each_ref().map(|node| (node.of_objects + node.of_kinds) as f64);
        let what = |snapshots: usize| format!("a node's requests, {snapshots}");
        rows.push(Row::count(&what(count), few));
        rows.push(Row::count(&what(many), all).within(few));
    }
    rows
}

/// The rows of the time from a request to its content, and of the request alone.
fn waits(what: &str, ours: &Waits, former: Option<&Waits>, rows: &mut Vec<Row>) {
    let p99 = |times: &[Duration]| percentile(&mut times.to_vec(), 99);
    let (name, content) = (format!("{what}, p99"), p99(&ours.contents));
    rows.push(Row::seconds(&name, content).within(WAIT));
    let one = p99(&ours.requests);
    rows.push(Row::seconds(&name, content).beside("one request", one, Limit::None));
    rows.extend(former.map(|former| {
        Row::seconds(&name, content).beside("former", p99(&former.contents), Limit::None)
    }));
}

fn to_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::table;

    fn figures(factor: u32) -> Figures {
        let time = Duration::from_millis(10) * factor;
        let waits = || Waits { contents: vec![time; 100], requests: vec![time; 100] };
        Figures {
            each: time,
            cpu: time,
            list: time,
            resync: Some(Resync {
                requests: Requests { of_objects: 300, of_kinds: 4, ..Requests::default() },
                waits: waits(),
            }),
            beside: waits(),
            large: Some(Large {
                memory: 1 << 20,
                peak: 1 << 20,
                start: time,
                node: Default::default(),
            }),
        }
    }

    #[test]
    fn each_bar_has_a_row_and_the_former_version_is_beside_ours() {
        let text = |ours: &Figures, former| table::text(&rows(ours, former, 100), None, &[]);
        let (ours, former) = (figures(1), figures(10));
        let compared = text(&ours, Some(&former));
        assert_eq!(compared.matches("former ").count(), 6, "{compared}");
        // One of ours and one of the former version for each of 300 objects.
        assert_eq!(compared.matches("MISSED").count(), 1, "{compared}");
        assert_eq!(compared.matches("holds").count(), 8, "{compared}");
        let alone = text(&ours, None);
        assert_eq!(
            (alone.matches("holds").count(), alone.matches("former").count()),
            (6, 0),
            "{alone}"
        );
    }

    #[test]
    fn a_short_run_has_no_resync() {
        let ours = Figures { resync: None, ..figures(1) };
        let text = table::text(&rows(&ours, None, 100), None, &[]);
        assert!(!text.contains("resync") && text.contains("beside 50 others"), "{text}");
    }
}
