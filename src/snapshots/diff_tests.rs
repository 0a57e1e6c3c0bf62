//! Compares snapshots and mounted volumes of real nodes.

use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;
use crate::{
    changeset::{Change, Difference},
    volumes::Medium,
};

/// A difference as one line.
fn line(difference: &Difference) -> String {
    let letter = match difference.change {
        Change::Added => 'A',
        Change::Changed => 'C',
        Change::Removed => 'D',
    };
    let path = String::from_utf8(difference.path.clone()).unwrap();
    let properties: Vec<_> = difference.properties.iter().map(|one| format!("{one:?}")).collect();
    format!("{letter} {path} {}", properties.join("+")).trim_end().to_owned()
}

fn take(lines: &mut Vec<String>, difference: Difference) {
    lines.push(line(&difference));
}

impl Node {
    fn named(&self, name: &str) -> NamedSnapshot {
        let found = self.cluster.0.lock().unwrap()[name].clone();
        NamedSnapshot { name: name.to_owned(), found }
    }

    async fn diff(&self, base: Option<&str>, name: &str) -> Result<Vec<String>, DiffError> {
        let (base, state) = (base.map(|base| self.named(base)), self.named(name));
        let state = VolumeState::Snapshot(state);
        let request = DiffRequest { namespace: "ci".to_owned(), base, state };
        Box::pin(self.snapshots.diff(&request, Vec::new(), take)).await
    }

    async fn diff_mounted(
        &self,
        base: Option<&str>,
        id: &str,
        pod: Pod,
    ) -> Result<Vec<String>, DiffError> {
        let request = self.mounted(base, id, pod);
        Box::pin(self.snapshots.diff(&request, Vec::new(), take)).await
    }

    fn mounted(&self, base: Option<&str>, id: &str, pod: Pod) -> DiffRequest {
        let base = base.map(|base| self.named(base));
        let volume = NamedVolume { name: "ws".to_owned(), id: id.parse().unwrap(), pod };
        DiffRequest { namespace: "ci".to_owned(), base, state: VolumeState::Mounted(volume) }
    }
}

/// Changes a volume of the base image.
fn change_much(at: &Path) {
    fs::remove_file(at.join("gone")).unwrap();
    fs::set_permissions(at.join("mode"), Permissions::from_mode(0o600)).unwrap();
    fs::rename(at.join("dir"), at.join("renamed")).unwrap();
    fs::write(at.join("renamed/new"), "new").unwrap();
    fs::write(at.join("kept"), "KEPT\n").unwrap();
    // Copied up without a change.
    File::options().append(true).open(at.join("covered/old")).unwrap();
}

const MUCH: [&str; 8] = [
    "D dir",
    "D gone",
    "C kept Content",
    "C mode Mode",
    "A renamed",
    "A renamed/new",
    "A renamed/one",
    "A renamed/two",
];

fn change_more(at: &Path) {
    fs::remove_file(at.join("renamed/new")).unwrap();
    fs::write(at.join("more"), "more").unwrap();
}

const MORE: [&str; 2] = ["A more", "D renamed/new"];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts"]
async fn privileged_snapshots_and_mounted_volumes_are_compared() {
    for owner in [None, Some(OWNER)] {
        let (registry, cluster) = (FakeRegistry::start().await, FakeCluster::default());
        let base = base(&registry).await;
        let (one, two) = (Node::new(&[&registry], &cluster), Node::new(&[&registry], &cluster));
        let at = one.publish("v0", spec(&base.image, owner)).await;
        assert_eq!(one.diff_mounted(None, "v0", ci_pod()).await.unwrap(), [""; 0]);
        change_much(&at);
        assert_eq!(one.diff_mounted(None, "v0", ci_pod()).await.unwrap(), MUCH);
        one.capture("snap-0", "v0").await;
        assert_eq!(one.diff(None, "snap-0").await.unwrap(), MUCH);
        assert_eq!(one.diff_mounted(Some("snap-0"), "v0", ci_pod()).await.unwrap(), [""; 0]);

        // A volume that starts from the snapshot.
        let at = one.publish("v1", of("snap-0", owner)).await;
        assert_eq!(one.diff_mounted(None, "v1", ci_pod()).await.unwrap(), [""; 0]);
        change_more(&at);
        assert_eq!(one.diff_mounted(None, "v1", ci_pod()).await.unwrap(), MORE);
        one.capture("snap-1", "v1").await;
        assert_eq!(one.diff(None, "snap-1").await.unwrap(), MORE);
        assert_eq!(one.diff(Some("snap-0"), "snap-1").await.unwrap(), MORE);
        assert_eq!(one.diff(Some("snap-1"), "snap-0").await.unwrap(), ["D more", "A renamed/new"]);
        assert_eq!(one.diff(Some("snap-1"), "snap-1").await.unwrap(), [""; 0]);

        // On another node, only what was pushed can be compared.
        let apart = two.diff(Some("snap-0"), "snap-1").await.unwrap_err().to_string();
        assert!(apart.starts_with("snapshot snap-0 is only on node node-1"), "{apart}");
        for format in [Format::Portable, Format::Native] {
            for id in ["snap-0", "snap-1"] {
                one.push(&push_request(id, &registry, format)).await;
            }
        }
        assert_eq!(two.diff(Some("snap-0"), "snap-1").await.unwrap(), MORE);
        let unknown = two.diff(None, "snap-1").await.unwrap_err().to_string();
        assert!(unknown.contains("name the snapshot to compare it with"), "{unknown}");

        // The squashed layer has the changes of the parent, too.
        let id = "snap-1".parse().unwrap();
        one.snapshots.squash(&id, None).await.unwrap();
        assert_eq!(one.store.snapshots.get(&id).unwrap().own_layers, 1);
        assert_eq!(one.diff(None, "snap-1").await.unwrap(), MORE);
        assert!(one.store.snapshots.remove(&"snap-0".parse().unwrap()).unwrap());
        let squashed = one.diff(None, "snap-1").await.unwrap_err().to_string();
        assert!(squashed.contains("snap-1") && squashed.contains("squashed"), "{squashed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts"]
async fn privileged_a_volume_that_cannot_be_compared_is_named_as_in_its_pod() {
    let (registry, cluster) = (FakeRegistry::start().await, FakeCluster::default());
    let base = base(&registry).await;
    let one = Node::new(&[&registry], &cluster);
    one.publish("v0", spec(&base.image, None)).await;
    one.publish("ro", VolumeSpec { read_only: true, ..spec(&base.image, None) }).await;
    let other_uid = Pod { uid: "pod-2".parse().unwrap(), ..ci_pod() };
    let other_name = Pod { name: "other".to_owned(), ..ci_pod() };
    let other_namespace = Pod { namespace: "other".to_owned(), ..ci_pod() };
    for (id, pod, message) in [
        ("none", ci_pod(), "volume ws of pod build is not mounted"),
        ("v0", other_uid, "volume ws does not belong to pod ci/build"),
        ("v0", other_name, "volume ws does not belong to pod ci/other"),
        ("v0", other_namespace, "volume ws does not belong to pod other/build"),
        ("ro", ci_pod(), "volume ws is read-only"),
    ] {
        let error = one.diff_mounted(None, id, pod).await.unwrap_err().to_string();
        assert!(error.starts_with(message), "{id}: {error}");
    }
}

/// Takes differences, and waits after the first one until the test lets it go on.
type Gate = (Vec<String>, Option<(Sender<()>, Receiver<()>)>);

fn take_gated((lines, gate): &mut Gate, difference: Difference) {
    take(lines, difference);
    if let Some((began, go_on)) = gate.take() {
        began.send(()).unwrap();
        go_on.recv().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts"]
async fn privileged_no_operation_on_a_volume_waits_for_its_comparison() {
    let (registry, cluster) = (FakeRegistry::start().await, FakeCluster::default());
    let base = base(&registry).await;
    let node = Arc::new(Node::new(&[&registry], &cluster));
    let begin = |id: &str| {
        let ((began, has_begun), (go_on, gate)) = (channel(), channel());
        let (node, request) = (node.clone(), node.mounted(None, id, ci_pod()));
        let diff = tokio::spawn(async move {
            let found: Gate = (Vec::new(), Some((began, gate)));
            node.snapshots.diff(&request, found, take_gated).await.map(|(lines, _)| lines)
        });
        has_begun.recv().unwrap();
        (diff, go_on)
    };
    for (id, medium) in [("disk", Medium::Disk), ("memory", Medium::Memory)] {
        let at = node.publish(id, VolumeSpec { medium, ..spec(&base.image, None) }).await;
        change_much(&at);
        // A capture, and a write by the pod.
        let (diff, go_on) = begin(id);
        node.capture(&format!("snap-{id}"), id).await;
        fs::write(at.join("zz"), "later").unwrap();
        go_on.send(()).unwrap();
        let found = diff.await.unwrap().unwrap();
        assert!(MUCH.iter().all(|line| found.iter().any(|found| found == line)), "{found:?}");
        // The end of the pod.
        let (diff, go_on) = begin(id);
        let target: Target = node.target(id).try_into().unwrap();
        node.volumes.unpublish(&id.parse().unwrap(), &target).await.unwrap();
        assert!(!at.exists());
        go_on.send(()).unwrap();
        let error = diff.await.unwrap().unwrap_err();
        assert_eq!(error.class(), Class::NotFound);
        assert_eq!(
            error.to_string(),
            "volume ws of pod build: the volume was unmounted while it was compared, because its pod has ended"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts"]
async fn privileged_a_comparison_that_is_dropped_ends_and_returns_its_permit() {
    let (registry, cluster) = (FakeRegistry::start().await, FakeCluster::default());
    let base = base(&registry).await;
    let node = Arc::new(Node::new(&[&registry], &cluster));
    let at = node.publish("v0", spec(&base.image, None)).await;
    change_much(&at);
    let ((began, has_begun), (go_on, gate)) = (channel(), channel());
    let (running, request) = (node.clone(), node.mounted(None, "v0", ci_pod()));
    let diff = tokio::spawn(async move {
        let found: Gate = (Vec::new(), Some((began, gate)));
        running.snapshots.diff(&request, found, take_gated).await.map(|_| ())
    });
    has_begun.recv().unwrap();
    assert_eq!(node.snapshots.0.diffs.in_use(), 1);
    diff.abort();
    go_on.send(()).unwrap();
    while node.snapshots.0.diffs.in_use() > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    assert_eq!(node.diff_mounted(None, "v0", ci_pod()).await.unwrap(), MUCH);
}
