//! Snapshots of pods' volumes in a scene: asked for as a user would, waited for, looked at from
//! the user's side and from the cluster's.
//!
//! Deliberately absent: the driver's own words for a snapshot's state, but for the annotations that
//! users see.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};

use crate::cluster::wait_for;
use crate::pods::{Pod, Scene};
use crate::process::Cmd;
use crate::progress::seconds;

/// How long a snapshot may take to be ready, side-cars' pauses included.
const PATIENCE: Duration = seconds(180);

/// What a person's annotations begin with.
const PREFIX: &str = "ovl.csi.dev/";

/// Writes a tree down as a text.
const LISTING: &str = include_str!("../assets/listing.pl");

/// A VolumeSnapshot as it was looked at.
#[derive(Clone, Debug)]
pub struct Snapshot(Value);

impl Snapshot {
    /// What the driver says of it to its users.
    pub fn said(&self, key: &str) -> Option<&str> {
        self.0["metadata"]["annotations"][format!("{PREFIX}{key}")].as_str()
    }

    /// The same as a number.
    ///
    /// # Errors
    /// It does not say, or not a number.
    pub fn number(&self, key: &str) -> Result<u64> {
        let said = self.said(key).with_context(|| format!("no annotation {key}: {}", self.0))?;
        said.parse().with_context(|| format!("{key} is `{said}`"))
    }

    /// The image that it was pushed as, by digest.
    ///
    /// # Errors
    /// It was not.
    pub fn image(&self) -> Result<&str> {
        self.said("image").with_context(|| format!("it was not pushed: {}", self.0["metadata"]))
    }

    /// The image's repository and digest, as a registry's API has them.
    ///
    /// # Errors
    /// It was not pushed, or not by digest.
    pub fn place(&self) -> Result<(&str, &str)> {
        let (name, digest) = self.image()?.split_once('@').context("no digest")?;
        Ok((name.split_once('/').context("no repository")?.1, digest))
    }

    /// What the driver calls it.
    ///
    /// # Errors
    /// It has no uid.
    pub fn id(&self) -> Result<String> {
        let uid = self.0["metadata"]["uid"].as_str().context("it has no uid")?;
        Ok(format!("snap-{uid}"))
    }

    /// Its content.
    ///
    /// # Errors
    /// It is not bound.
    pub fn content(&self) -> Result<&str> {
        let name = self.0["status"]["boundVolumeSnapshotContentName"].as_str();
        name.with_context(|| format!("it is not bound: {}", self.0["status"]))
    }

    /// Whether a pod may have it.
    pub fn is_ready(&self) -> bool {
        self.0["status"]["readyToUse"] == true
    }

    /// Whether it will never be ready.
    fn failed(&self) -> bool {
        self.said("phase") == Some("Failed")
    }

    /// How far it is.
    fn words(&self) -> String {
        let said = |key| self.said(key).unwrap_or("-");
        format!("{} ({}); status {}", said("phase"), said("message"), self.0["status"])
    }
}

/// What a volume is made of that goes on from a snapshot.
pub fn of(snapshot: &str) -> Value {
    json!({ "snapshot": snapshot })
}

/// A pod's VolumeSnapshot, as a person writes it.
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

impl Scene<'_> {
    /// Asks for a snapshot of a pod's volume, and does not wait.
    ///
    /// # Errors
    /// The API refused it.
    pub fn ask(&self, name: &str, pod: &str, class: &str) -> Result<()> {
        self.apply(&manifest(self.namespace, name, pod, class).to_string())
    }

    /// Asks for a snapshot and waits until it is ready.
    ///
    /// # Errors
    /// It failed, or it is not ready in time.
    pub fn snapshot(&self, name: &str, pod: &str, class: &str) -> Result<Snapshot> {
        self.ask(name, pod, class)?;
        self.taken(name)
    }

    /// A snapshot as it is.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn look(&self, name: &str) -> Result<Snapshot> {
        Ok(Snapshot(self.json(&["get", "volumesnapshot", name])?))
    }

    /// Waits until a snapshot is ready.
    ///
    /// # Errors
    /// It failed, or it is not ready in time.
    pub fn taken(&self, name: &str) -> Result<Snapshot> {
        let ended = self.ended(name)?;
        ensure!(!ended.failed(), "snapshot {name} failed: {}", ended.words());
        Ok(ended)
    }

    /// Waits until a snapshot is ready, and the driver has said all of it, or has failed; one of which it has to.
    ///
    /// # Errors
    /// It is neither in time; the error has what it was told.
    pub fn ended(&self, name: &str) -> Result<Snapshot> {
        wait_for(&format!("snapshot {name} to be ready"), PATIENCE, || {
            let now = self.look(name)?;
            // Kubernetes' own controllers say that it is ready, the driver says the rest: each at its time.
            let done = now.is_ready() && now.said("phase") == Some("Ready") || now.failed();
            ensure!(done, "it is {}; {}", now.words(), self.warnings(name)?);
            Ok(Some(now))
        })
    }

    /// Waits until the driver says something of a snapshot, and that is so.
    ///
    /// # Errors
    /// It is not in time.
    pub fn until(&self, name: &str, key: &str, is: impl Fn(&str) -> bool) -> Result<Snapshot> {
        wait_for(&format!("snapshot {name} to say another {key}"), PATIENCE, || {
            let now = self.look(name)?;
            let so = now.said(key).is_some_and(&is);
            ensure!(so, "it says {:?}; it is {}", now.said(key), now.words());
            Ok(Some(now))
        })
    }

    /// Deletes a snapshot and waits until it is gone.
    ///
    /// # Errors
    /// It is still there when the time is up.
    pub fn delete_snapshot(&self, name: &str) -> Result<()> {
        let time = format!("{}s", PATIENCE.as_secs());
        self.kubectl(&["delete", "volumesnapshot", name, "--wait", "--timeout", &time]).map(drop)
    }

    /// The order to a node that a snapshot is for the driver.
    ///
    /// # Errors
    /// There is none.
    pub fn order(&self, id: &str) -> Result<Value> {
        self.cluster().kubectl_json(&["get", "overlaysnapshot", id])
    }

    /// Whether the cluster has an object.
    ///
    /// # Errors
    /// It does not say.
    pub fn has(&self, kind: &str, name: &str) -> Result<bool> {
        Ok(!self.kubectl(&["get", kind, name, "--ignore-not-found", "-o", "name"])?.is_empty())
    }

    /// Waits until the cluster no longer has an object.
    ///
    /// # Errors
    /// It still has when the time is up.
    pub fn without(&self, kind: &str, name: &str) -> Result<()> {
        wait_for(&format!("{kind} {name} to go"), PATIENCE, || {
            ensure!(!self.has(kind, name)?, "it is there");
            Ok(Some(()))
        })
    }

    /// Starts a pod whose volume goes on from a snapshot, on a node.
    ///
    /// # Errors
    /// It is not ready in time.
    pub fn restore(&self, pod: &str, snapshot: &str, node: &str) -> Result<String> {
        self.start(&Pod::new(pod, of(snapshot)).on(node))
    }

    /// A folder of a pod, written down.
    ///
    /// # Errors
    /// There is none, or the pod's image lacks perl.
    pub fn tree(&self, pod: &str, folder: &str) -> Result<String> {
        let exec = ["exec", "--namespace", self.namespace, "--stdin", pod, "--"];
        let exec = self.cluster().kubectl_cmd().args(exec).args(["perl", "-", folder]);
        exec.stdin(LISTING).output()
    }
}

/// A folder of this machine, written down in the same way.
///
/// # Errors
/// It cannot be read.
pub fn tree_here(folder: &str) -> Result<String> {
    Cmd::new("perl").args(["-", folder]).stdin(LISTING).output()
}

/// Checks that two trees are the same.
///
/// # Errors
/// They differ; the error has the lines.
pub fn same(what: &str, want: &str, have: &str) -> Result<()> {
    let differ = |a: &str, b: &str, mark: &str| {
        let other: Vec<&str> = b.lines().collect();
        let only = a.lines().filter(|line| !other.contains(line)).take(20);
        only.map(|line| format!("{mark} {line}\n")).collect::<String>()
    };
    let lines = format!("{}{}", differ(want, have, "-"), differ(have, want, "+"));
    if want == have { Ok(()) } else { Err(anyhow!("{what} is another tree:\n{lines}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_are_told_apart_by_their_lines() {
        assert!(same("it", "./a: file\n./b: link", "./a: file\n./b: link").is_ok());
        let words = same("it", "./a: file\n./b: link", "./a: file\n./c: link").err();
        let words = words.map(|e| e.to_string()).unwrap_or_default();
        assert!(words.contains("- ./b: link\n+ ./c: link\n") && !words.contains("./a"), "{words}");
    }

    #[test]
    fn a_snapshot_says_what_its_annotations_say() -> Result<()> {
        let snapshot = Snapshot(json!({
            "metadata": { "uid": "u-1", "annotations": {
                "ovl.csi.dev/image": "r:5000/a/b@sha256:12",
                "ovl.csi.dev/layers": "7",
            } },
            "status": { "readyToUse": true, "boundVolumeSnapshotContentName": "c" },
        }));
        assert_eq!(snapshot.place()?, ("a/b", "sha256:12"));
        assert_eq!((snapshot.number("layers")?, snapshot.id()?.as_str()), (7, "snap-u-1"));
        assert!(snapshot.is_ready() && !snapshot.failed() && snapshot.number("bytes").is_err());
        Ok(())
    }
}
