//! The driver's volumes on a node, seen from outside the driver: mounts, directories, layers.
//!
//! Deliberately absent: calls of the driver.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::pods::{POD_TIMEOUT, volume_id};
use crate::cluster::kind::Cluster;
use crate::machine::progress::seconds;
use crate::machine::wait::wait_for;

/// The driver's directory on a node.
pub const STORE: &str = "/var/lib/ovl-csi/ovl.csi.dev";

/// A digest of each file of each layer, by path.
pub type Layers = BTreeMap<String, String>;

/// A node.
#[derive(Clone)]
pub struct Node<'a> {
    cluster: &'a Cluster,
    /// The node's name.
    pub name: String,
}

/// A mount, from the mount table (proc(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its mount point.
    pub target: String,
    /// The type of its file system.
    pub kind: String,
    /// Options of this mount.
    pub options: Vec<String>,
    /// Options of the file system.
    pub super_options: Vec<String>,
}

impl Mount {
    /// Parses a line of mountinfo: six fields, some optional ones, a dash, three more.
    fn parse(line: &str) -> Option<Self> {
        let (front, back) = line.split_once(" - ")?;
        let (front, back): (Vec<_>, Vec<_>) =
            (front.split(' ').collect(), back.split(' ').collect());
        let list = |text: &str| text.split(',').map(str::to_owned).collect();
        Some(Self {
            target: (*front.get(4)?).to_owned(),
            kind: (*back.first()?).to_owned(),
            options: list(front.get(5)?),
            super_options: list(back.get(2)?),
        })
    }

    /// Whether either list has this option.
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().chain(&self.super_options).any(|have| have == option)
    }

    /// The value of `key=value` in the file system's options.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.super_options.iter().find_map(|o| o.strip_prefix(key)?.strip_prefix('='))
    }

    /// A readable form, without options that say nothing to a user.
    pub fn summary(&self) -> String {
        let keep =
            |option: &&String| !option.starts_with("lowerdir") && !option.starts_with("workdir");
        let words = |list: &[String]| {
            list.iter().filter(keep).map(String::as_str).collect::<Vec<_>>().join(",")
        };
        format!("{} ({}; {})", self.kind, words(&self.options), words(&self.super_options))
    }
}

impl<'a> Node<'a> {
    /// A node of a cluster, by its name.
    pub fn new(cluster: &'a Cluster, name: &str) -> Self {
        Self { cluster, name: name.to_owned() }
    }

    /// Runs a shell command on the node and returns what it printed.
    ///
    /// # Errors
    /// It failed.
    pub fn shell(&self, command: &str) -> Result<String> {
        self.cluster.on_node(&self.name, &["sh", "-c", command])
    }

    /// Kills the driver of the node with SIGKILL. The command line distinguishes it from the controller,
    /// which is the same program. Only the node's own process table is searched.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill_driver(&self) -> Result<()> {
        self.shell("kill -9 $(pgrep --full '^/usr/bin/ovl node ')").map(drop)
    }

    /// Frozen cgroups of either version, and the driver's records of freezes.
    ///
    /// # Errors
    /// The command on the node failed.
    pub fn frozen(&self) -> Result<String> {
        let groups = "grep -rlsx FROZEN --include=freezer.state /sys/fs/cgroup; \
                      grep -rlsx 1 --include=cgroup.freeze /sys/fs/cgroup";
        self.shell(&format!("{groups}; ls -A {STORE}/frozen 2>/dev/null; true"))
    }

    /// The mounts below the directories of one pod's CSI volumes, or of all pods with an empty UID.
    ///
    /// # Errors
    /// The command on the node failed.
    pub fn volume_mounts(&self, pod_uid: &str) -> Result<Vec<Mount>> {
        let table = self.shell("cat /proc/self/mountinfo")?;
        let ours = |mount: &Mount| {
            mount.target.contains("/volumes/kubernetes.io~csi/")
                && mount.target.contains(&format!("/pods/{pod_uid}"))
        };
        Ok(table.lines().filter_map(Mount::parse).filter(ours).collect())
    }

    /// The one mount of a pod's volume.
    ///
    /// # Errors
    /// There is none, or there are several.
    pub fn volume_mount(&self, pod_uid: &str) -> Result<Mount> {
        let mounts = self.volume_mounts(pod_uid)?;
        let [mount] = mounts.as_slice() else {
            bail!("expected one mount of the pod, found {mounts:?}")
        };
        Ok(mount.clone())
    }

    /// Waits until it has no mount and no directory of a pod's volume.
    ///
    /// # Errors
    /// A mount or directory is still there at the timeout.
    pub fn wait_until_removed(&self, pod_uid: &str) -> Result<()> {
        let volume = volume_id(pod_uid);
        wait_for(&format!("{} to remove volume {volume}", self.name), POD_TIMEOUT, || {
            let mounts = self.volume_mounts(pod_uid)?;
            ensure!(mounts.is_empty(), "mounted: {mounts:?}");
            ensure!(!self.volumes()?.contains(&volume), "its directory is there");
            Ok(Some(()))
        })
    }

    /// The content of a pod's upper: for each path, a letter for its type (find's `%y`) and the
    /// path, without the upper itself.
    ///
    /// # Errors
    /// The volume is not mounted, or the command on the node failed.
    pub fn upper(&self, pod_uid: &str) -> Result<Vec<String>> {
        let mount = self.volume_mount(pod_uid)?;
        let upper = mount.value("upperdir").context("the mount names no upper")?;
        let find = format!("cd {upper} && find . -mindepth 1 -printf '%y %P\\n' | sort -k2");
        Ok(self.shell(&find)?.lines().map(str::to_owned).collect())
    }

    /// The IDs of the volumes that have a directory.
    ///
    /// # Errors
    /// The command on the node failed.
    pub fn volumes(&self) -> Result<Vec<String>> {
        let list = self.shell(&format!("ls {STORE}/volumes 2>/dev/null || true"))?;
        Ok(list.lines().map(str::to_owned).collect())
    }

    /// A digest of each file of each layer, by path. (`layer.json` records the last use of a layer
    /// and is left out.) A layer that is collected meanwhile is left out.
    ///
    /// # Errors
    /// The command on the node failed, or the node has no layers.
    pub fn layers(&self) -> Result<Layers> {
        let list = self.shell(&format!(
            "cd {STORE}/layers && find . -type f ! -name layer.json -print0 | xargs -0 sha256sum || true"
        ))?;
        let layers = list.lines().filter_map(|line| line.split_once("  "));
        let layers: Layers =
            layers.map(|(digest, path)| (path.to_owned(), digest.to_owned())).collect();
        ensure!(!layers.is_empty(), "{} has no layers", self.name);
        Ok(layers)
    }

    /// The names of the layers of an image that a pod has used.
    ///
    /// # Errors
    /// The command on the node failed, or the node has no such image.
    pub fn layers_of(&self, image: &str) -> Result<Vec<String>> {
        let records =
            self.shell(&format!("grep -lF '\"{image}\"' {STORE}/images/* | xargs cat"))?;
        let record: Value = serde_json::from_str(&records).context("not one image's record")?;
        let layers = record["layers"].as_array().context("an image without layers")?;
        let hex = |layer: &Value| Some(layer.as_str()?.rsplit(':').next()?.to_owned());
        layers.iter().map(|layer| hex(layer).context("a layer without a name")).collect()
    }

    /// The disk space of its layers, in bytes. A layer that is collected meanwhile may or may not
    /// count.
    ///
    /// # Errors
    /// The command on the node failed.
    pub fn layers_bytes(&self) -> Result<u64> {
        let output =
            self.shell(&format!("du --summarize --block-size=1 {STORE}/layers || true"))?;
        let number = output.split_whitespace().next().context("du prints nothing")?;
        number.parse().with_context(|| format!("du prints {output}"))
    }

    /// Waits until the staging directory is empty. A probe creates a file there from time to time.
    /// Incomplete files of a crash stay until the driver restarts.
    ///
    /// # Errors
    /// A file stays.
    pub fn wait_until_staging_empty(&self) -> Result<()> {
        wait_for(&format!("an empty staging directory on {}", self.name), seconds(20), || {
            let staging = self.shell(&format!("ls -A {STORE}/staging 2>/dev/null || true"))?;
            ensure!(staging.is_empty(), "it has {staging}");
            Ok(Some(()))
        })
    }
}

/// Checks that no file of a layer has changed. Unused layers may be gone.
///
/// # Errors
/// A file has changed.
pub fn check_unchanged(before: &Layers, after: &Layers) -> Result<()> {
    let is_another =
        |(path, digest): &(&String, &String)| after.get(*path).is_some_and(|now| now != *digest);
    let changed: Vec<_> = before.iter().filter(is_another).collect();
    ensure!(changed.is_empty(), "of the layers, these changed: {changed:?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "612 401 0:91 / /var/lib/kubelet/pods/u-1/volumes/kubernetes.io~csi/work/mount \
                        rw,nosuid,nodev shared:7 - overlay ovl \
                        rw,lowerdir+=/,upperdir=/s/volumes/v/upper,workdir=/s/w,metacopy=on,fsync=volatile";

    #[test]
    fn a_mount_is_read_with_both_kinds_of_options() -> Result<()> {
        let mount = Mount::parse(LINE).context(LINE)?;
        assert_eq!(mount.kind, "overlay");
        assert!(mount.has("nodev") && mount.has("fsync=volatile") && !mount.has("volatile"));
        assert_eq!(mount.value("upperdir"), Some("/s/volumes/v/upper"));
        assert!(!mount.summary().contains("lowerdir"), "{}", mount.summary());
        assert_eq!(Mount::parse("no mount"), None);
        Ok(())
    }
}
