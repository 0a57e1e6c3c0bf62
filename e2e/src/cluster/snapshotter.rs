//! Kubernetes' own part of snapshots: the published kinds and the published controller, from their
//! modules.
//!
//! Deliberately absent: manifests of ours. The tests use what a cluster administrator applies.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::kind::Cluster;
use crate::machine::harness::Harness;
use crate::toolchain::{programs, versions};

/// The image of the controller, without its tag: the manifests of a release may name the previous
/// one.
const IMAGE: &str = "image: registry.k8s.io/sig-storage/snapshot-controller:";

/// The manifests of the controller, relative to its module.
const MANIFESTS: &[&str] = &["rbac-snapshot-controller.yaml", "setup-snapshot-controller.yaml"];

/// Installs both. Existing objects are no error.
///
/// # Errors
/// The modules cannot be downloaded, or the API server refuses a manifest.
pub fn install(h: &Harness, cluster: &Cluster) -> Result<()> {
    let (controller, client) = programs::external_snapshotter_sources(h)?;
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

/// The manifests of the published kinds.
///
/// # Errors
/// The directory of the module has other files.
pub fn kinds(client: &Path) -> Result<Vec<String>> {
    let dir = client.join("config/crd");
    let list = fs::read_dir(&dir).with_context(|| format!("listing {}", dir.display()))?;
    let mut files = Vec::new();
    for file in list {
        let path = file?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Snapshots of several volumes at once are left out. The controller handles them only on
        // request.
        if name.starts_with("snapshot.storage.k8s.io_") {
            files.push(path);
        }
    }
    files.sort();
    ensure!(files.len() == 3, "{} has other kinds: {files:?}", dir.display());
    files.iter().map(|file| read(file)).collect()
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))
}

/// A manifest with the pinned version of the controller.
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
