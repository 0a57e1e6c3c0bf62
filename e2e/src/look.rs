//! What a node has of the driver's volumes, seen from outside the driver: mounts, folders, layers.
//!
//! Deliberately absent: any question to the driver.

use anyhow::{Context, Result};

use crate::stage::Stage;

/// The driver's folder on a node.
pub const STORE: &str = "/var/lib/ovl-csi/ovl.csi.dev";

/// A node, looked at from the node.
#[derive(Clone)]
pub struct Node<'a> {
    stage: &'a Stage,
    /// The node's name.
    pub name: String,
}

/// One of its mounts, from the mount table (proc(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is.
    pub target: String,
    /// Its file system.
    pub kind: String,
    /// Options of this mount.
    pub options: Vec<String>,
    /// Options of the file system.
    pub super_options: Vec<String>,
}

impl Mount {
    /// Reads one line of mountinfo: six fields, some optional ones, a dash, three more.
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

    /// As a person would like to read it, without what no one can act on.
    pub fn words(&self) -> String {
        let keep =
            |option: &&String| !option.starts_with("lowerdir") && !option.starts_with("workdir");
        let words = |list: &[String]| {
            list.iter().filter(keep).map(String::as_str).collect::<Vec<_>>().join(",")
        };
        format!("{} ({}; {})", self.kind, words(&self.options), words(&self.super_options))
    }
}

impl<'a> Node<'a> {
    /// A node of the stage by its name.
    pub fn named(stage: &'a Stage, name: &str) -> Self {
        Self { stage, name: name.to_owned() }
    }

    /// The node that a pod runs on.
    ///
    /// # Errors
    /// There is no such pod, or it is on no node yet.
    pub fn of_pod(stage: &'a Stage, pod: &str) -> Result<Self> {
        let pod = stage.cluster.kubectl_json(&["get", "pod", pod])?;
        let name = pod.pointer("/spec/nodeName").and_then(|name| name.as_str());
        Ok(Self::named(stage, name.context("the pod is on no node yet")?))
    }

    /// Runs a shell command on the node and returns what it printed.
    ///
    /// # Errors
    /// It failed.
    pub fn shell(&self, command: &str) -> Result<String> {
        self.stage.cluster.on_node(&self.name, &["sh", "-c", command])
    }

    /// Its mounts below the folders of one pod's CSI volumes, or of all pods with an empty uid.
    ///
    /// # Errors
    /// The node cannot be asked.
    pub fn volume_mounts(&self, pod_uid: &str) -> Result<Vec<Mount>> {
        let table = self.shell("cat /proc/self/mountinfo")?;
        let ours = |mount: &Mount| {
            mount.target.contains("/volumes/kubernetes.io~csi/")
                && mount.target.contains(&format!("/pods/{pod_uid}"))
        };
        Ok(table.lines().filter_map(Mount::parse).filter(ours).collect())
    }

    /// The ids of the volumes that have a folder.
    ///
    /// # Errors
    /// The node cannot be asked.
    pub fn volumes(&self) -> Result<Vec<String>> {
        let list = self.shell(&format!("ls {STORE}/volumes 2>/dev/null || true"))?;
        Ok(list.lines().map(str::to_owned).collect())
    }

    /// A digest of each file of each layer, by path.
    ///
    /// # Errors
    /// The node cannot be asked, or it has no layers.
    pub fn layers(&self) -> Result<Vec<String>> {
        let list = self.shell(&format!(
            "cd {STORE}/layers && find . -type f -print0 | sort -z | xargs -0 sha256sum"
        ))?;
        Ok(list.lines().map(str::to_owned).collect())
    }

    /// What is in the folder of unfinished work.
    ///
    /// # Errors
    /// The node cannot be asked.
    pub fn staging(&self) -> Result<Vec<String>> {
        let list = self.shell(&format!("ls -A {STORE}/staging 2>/dev/null || true"))?;
        Ok(list.lines().map(str::to_owned).collect())
    }
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
        assert!(!mount.words().contains("lowerdir"), "{}", mount.words());
        assert_eq!(Mount::parse("no mount"), None);
        Ok(())
    }
}
