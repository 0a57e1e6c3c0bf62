//! Snapshots of pods' volumes in a test namespace, requested and waited for as a user does, and
//! checked from the user's side and in the cluster.
//!
//! Deliberately absent: internal states of the driver. Only the annotations that users see are
//! read.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};

use super::namespace::TestNamespace;
use super::pods::Pod;
use crate::machine::process::Cmd;
use crate::machine::progress::seconds;
use crate::machine::wait::wait_for;

/// How long a snapshot may take to be ready, with the delays of the sidecars.
const SNAPSHOT_TIMEOUT: Duration = seconds(180);

/// The prefix of the driver's annotations.
const PREFIX: &str = "ovl.csi.dev/";

/// Lists a file tree as text.
const LISTING: &str = include_str!("../../assets/listing.pl");

/// A VolumeSnapshot, as it was when it was read.
#[derive(Clone, Debug)]
pub struct Snapshot(Value);

impl Snapshot {
    /// The value of one of the driver's annotations.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.0["metadata"]["annotations"][format!("{PREFIX}{key}")].as_str()
    }

    /// An annotation as a number.
    ///
    /// # Errors
    /// The annotation is missing, or is no number.
    pub fn number(&self, key: &str) -> Result<u64> {
        let value =
            self.annotation(key).with_context(|| format!("no annotation {key}: {}", self.0))?;
        value.parse().with_context(|| format!("{key} is `{value}`"))
    }

    /// The image of the pushed snapshot, by digest.
    ///
    /// # Errors
    /// The snapshot was not pushed.
    pub fn image(&self) -> Result<&str> {
        self.annotation("image")
            .with_context(|| format!("it was not pushed: {}", self.0["metadata"]))
    }

    /// The repository and digest of the image, as in the API of a registry.
    ///
    /// # Errors
    /// The snapshot was not pushed, or not by digest.
    pub fn repository_and_digest(&self) -> Result<(&str, &str)> {
        let (name, digest) = self.image()?.split_once('@').context("no digest")?;
        Ok((name.split_once('/').context("no repository")?.1, digest))
    }

    /// Its ID in the driver.
    ///
    /// # Errors
    /// It has no uid.
    pub fn id(&self) -> Result<String> {
        let uid = self.0["metadata"]["uid"].as_str().context("it has no uid")?;
        Ok(format!("snap-{uid}"))
    }

    /// The name of its VolumeSnapshotContent.
    ///
    /// # Errors
    /// It is not bound.
    pub fn content(&self) -> Result<&str> {
        let name = self.0["status"]["boundVolumeSnapshotContentName"].as_str();
        name.with_context(|| format!("it is not bound: {}", self.0["status"]))
    }

    /// Whether a pod may use it.
    pub fn is_ready(&self) -> bool {
        self.0["status"]["readyToUse"] == true
    }

    /// Whether it has failed for good.
    fn failed(&self) -> bool {
        self.annotation("phase") == Some("Failed")
    }

    /// Its phase, message and status.
    fn summary(&self) -> String {
        let value = |key| self.annotation(key).unwrap_or("-");
        format!("{} ({}); status {}", value("phase"), value("message"), self.0["status"])
    }
}

/// The attributes of a volume from a snapshot.
pub fn volume_attributes(snapshot: &str) -> Value {
    json!({ "snapshot": snapshot })
}

/// A VolumeSnapshot of a pod's volume, as a user writes it.
pub fn manifest(namespace: &str, name: &str, pod: &str, class: &str) -> Value {
    json!({
        "apiVersion": "snapshot.storage.k8s.io/v1",
        "kind": "VolumeSnapshot",
        "metadata": {
            "name": name,
            "annotations": { format!("{PREFIX}source"): format!("{pod}/work") },
        },
        "spec": {
            "volumeSnapshotClassName": class,
            "source": { "volumeSnapshotContentName": format!("{namespace}-{name}") },
        },
    })
}

impl TestNamespace<'_> {
    /// Requests a snapshot of a pod's volume, and does not wait.
    ///
    /// # Errors
    /// The API refused it.
    pub fn request_snapshot(&self, name: &str, pod: &str, class: &str) -> Result<()> {
        self.apply(&manifest(self.namespace, name, pod, class).to_string())
    }

    /// Requests a snapshot and waits until it is ready.
    ///
    /// # Errors
    /// It failed, or it is not ready in time.
    pub fn snapshot(&self, name: &str, pod: &str, class: &str) -> Result<Snapshot> {
        self.request_snapshot(name, pod, class)?;
        self.wait_snapshot_ready(name)
    }

    /// Reads a snapshot.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn get_snapshot(&self, name: &str) -> Result<Snapshot> {
        Ok(Snapshot(self.json(&["get", "volumesnapshot", name])?))
    }

    /// Waits until a snapshot is ready.
    ///
    /// # Errors
    /// It failed, or it is not ready in time.
    pub fn wait_snapshot_ready(&self, name: &str) -> Result<Snapshot> {
        let ended = self.wait_snapshot_finished(name)?;
        ensure!(!ended.failed(), "snapshot {name} failed: {}", ended.summary());
        Ok(ended)
    }

    /// Waits until a snapshot is ready with all annotations of the driver, or has failed.
    ///
    /// # Errors
    /// It is neither in time. The error has its state and warnings.
    pub fn wait_snapshot_finished(&self, name: &str) -> Result<Snapshot> {
        wait_for(&format!("snapshot {name} to be ready"), SNAPSHOT_TIMEOUT, || {
            let now = self.get_snapshot(name)?;
            // Kubernetes' own controllers set `readyToUse`, the driver sets the annotations, each
            // in its own time.
            let done = now.is_ready() && now.annotation("phase") == Some("Ready") || now.failed();
            ensure!(done, "it is {}; {}", now.summary(), self.warnings(name)?);
            Ok(Some(now))
        })
    }

    /// Waits until an annotation of a snapshot has a value that fits.
    ///
    /// # Errors
    /// It has none in time.
    pub fn wait_for_annotation(
        &self,
        name: &str,
        key: &str,
        is: impl Fn(&str) -> bool,
    ) -> Result<Snapshot> {
        wait_for(&format!("another {key} of snapshot {name}"), SNAPSHOT_TIMEOUT, || {
            let now = self.get_snapshot(name)?;
            let so = now.annotation(key).is_some_and(&is);
            ensure!(so, "it is {:?}; the snapshot is {}", now.annotation(key), now.summary());
            Ok(Some(now))
        })
    }

    /// Deletes a snapshot and waits until it is gone.
    ///
    /// # Errors
    /// It is still there at the timeout.
    pub fn delete_snapshot(&self, name: &str) -> Result<()> {
        let time = format!("{}s", SNAPSHOT_TIMEOUT.as_secs());
        self.kubectl(&["delete", "volumesnapshot", name, "--wait", "--timeout", &time]).map(drop)
    }

    /// The OverlaySnapshot of a snapshot.
    ///
    /// # Errors
    /// There is none.
    pub fn overlay_snapshot(&self, id: &str) -> Result<Value> {
        self.cluster().kubectl_json(&["get", "overlaysnapshot", id])
    }

    /// Whether the cluster has an object.
    ///
    /// # Errors
    /// The API server does not respond.
    pub fn exists(&self, kind: &str, name: &str) -> Result<bool> {
        Ok(!self.kubectl(&["get", kind, name, "--ignore-not-found", "-o", "name"])?.is_empty())
    }

    /// Waits until the cluster has no such object.
    ///
    /// # Errors
    /// It is still there at the timeout.
    pub fn wait_until_deleted(&self, kind: &str, name: &str) -> Result<()> {
        wait_for(&format!("the deletion of {kind} {name}"), SNAPSHOT_TIMEOUT, || {
            ensure!(!self.exists(kind, name)?, "it is there");
            Ok(Some(()))
        })
    }

    /// Starts a pod with a volume from a snapshot, on a node.
    ///
    /// # Errors
    /// It is not ready in time.
    pub fn restore(&self, pod: &str, snapshot: &str, node: &str) -> Result<String> {
        self.start(&Pod::new(pod, volume_attributes(snapshot)).on(node))
    }

    /// Lists the tree of a pod's directory.
    ///
    /// # Errors
    /// There is no such directory, or the pod's image lacks perl.
    pub fn tree(&self, pod: &str, dir: &str) -> Result<String> {
        let exec = ["exec", "--namespace", self.namespace, "--stdin", pod, "--"];
        let exec = self.cluster().kubectl_cmd().args(exec).args(["perl", "-", dir]);
        exec.stdin(LISTING).output()
    }
}

/// Lists the tree of a directory of this machine.
///
/// # Errors
/// It cannot be read.
pub fn local_tree(dir: &str) -> Result<String> {
    Cmd::new("perl").args(["-", dir]).stdin(LISTING).output()
}

/// Checks that two trees are the same.
///
/// # Errors
/// They differ. The error has the lines.
pub fn check_same_tree(what: &str, want: &str, have: &str) -> Result<()> {
    let differ = |a: &str, b: &str, sign: &str| {
        let other: Vec<&str> = b.lines().collect();
        let only = a.lines().filter(|line| !other.contains(line)).take(20);
        only.map(|line| format!("{sign} {line}\n")).collect::<String>()
    };
    let lines = format!("{}{}", differ(want, have, "-"), differ(have, want, "+"));
    if want == have { Ok(()) } else { Err(anyhow!("{what} differs:\n{lines}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_differ_by_their_lines() {
        assert!(check_same_tree("it", "./a: file\n./b: link", "./a: file\n./b: link").is_ok());
        let words = check_same_tree("it", "./a: file\n./b: link", "./a: file\n./c: link").err();
        let words = words.map(|e| e.to_string()).unwrap_or_default();
        assert!(words.contains("- ./b: link\n+ ./c: link\n") && !words.contains("./a"), "{words}");
    }

    #[test]
    fn a_snapshot_has_the_values_of_its_annotations() -> Result<()> {
        let snapshot = Snapshot(json!({
            "metadata": { "uid": "u-1", "annotations": {
                "ovl.csi.dev/image": "r:5000/a/b@sha256:12",
                "ovl.csi.dev/layers": "7",
            } },
            "status": { "readyToUse": true, "boundVolumeSnapshotContentName": "c" },
        }));
        assert_eq!(snapshot.repository_and_digest()?, ("a/b", "sha256:12"));
        assert_eq!((snapshot.number("layers")?, snapshot.id()?.as_str()), (7, "snap-u-1"));
        assert!(snapshot.is_ready() && !snapshot.failed() && snapshot.number("bytes").is_err());
        Ok(())
    }
}
