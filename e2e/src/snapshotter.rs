//! Kubernetes' own half of snapshots in a cluster: the published kinds, and the published
//! controller, both as their modules have them.
//!
//! Deliberately absent: manifests of ours. What is tested is what a cluster's owner would apply.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::cluster::Cluster;
use crate::harness::Harness;
use crate::tools;
use crate::versions;

/// The controller's image, without its tag: a release's manifests may name the release before.
const IMAGE: &str = "image: registry.k8s.io/sig-storage/snapshot-controller:";

/// The controller's manifests, below its module.
const MANIFESTS: &[&str] = &["rbac-snapshot-controller.yaml", "setup-snapshot-controller.yaml"];

/// Installs both; fine if they are there.
///
/// # Errors
/// The modules cannot be had, or the API server refuses a manifest.
pub fn install(h: &Harness, cluster: &Cluster) -> Result<()> {
    let (controller, client) = tools::external_snapshotter_sources(h)?;
    let kinds = kinds(&client)?;
    let apply = |manifest: &str| {
        let kubectl = cluster.kubectl_cmd().args(["apply", "--server-side", "-f", "-"]);
        kubectl.stdin(manifest).output().map(drop)
    };
    apply(&kinds.join("\n---\n"))?;
    for file in MANIFESTS {
        let text = read(&controller.join("deploy/kubernetes/snapshot-controller").join(file))?;
        apply(&with_version(&text))?;
    }
    let wait = ["wait", "--for=condition=Established", "--timeout=60s", "crd"];
    let names = ["volumesnapshots", "volumesnapshotcontents", "volumesnapshotclasses"];
    let names = names.map(|name| format!("{name}.snapshot.storage.k8s.io"));
    cluster.kubectl_cmd().args(wait).args(&names).output().map(drop)
}

/// The published kinds, as manifests.
///
/// # Errors
/// The module's folder is not as expected.
pub fn kinds(client: &Path) -> Result<Vec<String>> {
    let folder = client.join("config/crd");
    let list = fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))?;
    let mut files = Vec::new();
    for file in list {
        let path = file?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Snapshots of several volumes at once, which the controller looks after only when it is told to, are left out.
        if name.starts_with("snapshot.storage.k8s.io_") {
            files.push(path);
        }
    }
    files.sort();
    ensure!(files.len() == 3, "{} has other kinds: {files:?}", folder.display());
    files.iter().map(|file| read(file)).collect()
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))
}

/// A manifest with the version of the controller that the harness pins.
fn with_version(manifest: &str) -> String {
    let line = |line: &str| match line.split_once(IMAGE) {
        Some((before, _)) => format!("{before}{IMAGE}{}\n", versions::EXTERNAL_SNAPSHOTTER),
        None => format!("{line}\n"),
    };
    manifest.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_controllers_version_is_the_pinned_one() {
        let text = "a: 1\n  image: registry.k8s.io/sig-storage/snapshot-controller:v1.0.0\n";
        let want = format!("a: 1\n  {IMAGE}{}\n", versions::EXTERNAL_SNAPSHOTTER);
        assert_eq!(with_version(text), want);
    }
}
