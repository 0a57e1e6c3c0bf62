//! The chart rendered into `deploy/`, for `kubectl apply -f` without helm.
//!
//! Deliberately absent: hand-written manifests. Everything in that directory comes from the chart.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::machine::process::Cmd;

/// The rendered chart without its classes, relative to the sources.
const FILE: &str = "deploy/ovl-csi.yaml";

/// The rendered VolumeSnapshotClasses. They are apart, because `kubectl apply` refuses them in a cluster without their
/// CRD.
const CLASSES: &str = "deploy/snapshotclass.yaml";

/// The namespace of the objects. Every cluster has it, and it allows privileged pods.
pub const NAMESPACE: &str = "kube-system";

/// The name of the release.
pub const RELEASE: &str = "ovl-csi";

/// The oldest Kubernetes that the chart supports.
const OLDEST: &str = "1.33.0";

/// The kind from which the chart concludes that a cluster supports snapshots.
pub const SNAPSHOTS: &str = "snapshot.storage.k8s.io/v1/VolumeSnapshotClass";

/// Renders the chart for a cluster with snapshots. The values are arguments of helm.
///
/// # Errors
/// helm refused the chart or the values; the error quotes it.
pub fn chart(helm: &Path, repo: &Path, values: &[&str]) -> Result<String> {
    let template = Cmd::new(helm).dir(repo).args(["template", RELEASE, "charts/ovl-csi"]);
    template
        .args(["--namespace", NAMESPACE, "--kube-version", OLDEST, "--api-versions", SNAPSHOTS])
        .args(values)
        .output()
        .map(|text| tidy(&text))
}

/// Writes the rendered chart into the sources.
///
/// # Errors
/// helm failed or a file cannot be written.
pub fn write(helm: &Path, repo: &Path) -> Result<()> {
    for (file, text) in deploy(helm, repo)? {
        fs::write(repo.join(file), text).with_context(|| format!("writing {file}"))?;
    }
    Ok(())
}

/// Checks that the files in the sources are the rendered chart.
///
/// # Errors
/// They are not, or helm failed.
pub fn check(helm: &Path, repo: &Path) -> Result<()> {
    for (file, want) in deploy(helm, repo)? {
        let have =
            fs::read_to_string(repo.join(file)).with_context(|| format!("reading {file}"))?;
        let first = have.lines().zip(want.lines()).position(|(have, want)| have != want);
        let line = first.unwrap_or(have.lines().count().min(want.lines().count())) + 1;
        ensure!(
            have == want,
            "{file} differs from the rendered chart from line {line} on; run `cargo xtask render`"
        );
    }
    Ok(())
}

/// The files in the sources, with their text.
fn deploy(helm: &Path, repo: &Path) -> Result<[(&'static str, String); 2]> {
    // helm runs hooks. `kubectl apply` would leave their pods behind.
    let (classes, others) = split(&chart(helm, repo, &["--no-hooks"])?);
    ensure!(!classes.is_empty(), "the chart renders no VolumeSnapshotClass");
    let text = |objects| {
        format!(
            "# Rendered from charts/ovl-csi by `cargo xtask render`; change the chart.\n{objects}"
        )
    };
    Ok([(FILE, text(others)), (CLASSES, text(classes))])
}

/// Splits objects into those of Kubernetes' snapshot kinds and all others.
fn split(rendered: &str) -> (String, String) {
    let is_class = |object: &&str| object.starts_with("apiVersion: snapshot.storage.k8s.io/");
    let objects = rendered.split("---\n").filter(|object| !object.is_empty());
    let (classes, others): (Vec<_>, Vec<_>) = objects.partition(is_class);
    let join = |objects: Vec<&str>| objects.iter().map(|object| format!("---\n{object}")).collect();
    (join(classes), join(others))
}

/// Removes differences between versions of helm: blank lines and remarks on sources.
fn tidy(text: &str) -> String {
    let kept = text.lines().filter(|l| !l.trim().is_empty() && !l.starts_with("# Source: "));
    kept.map(|line| format!("{}\n", line.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_helm_render_the_same() {
        let three = "---\n# Source: a/b.yaml\nkind: A\n---\n# Source: a/c.yaml\nkind: B\n";
        let four = "---\n# Source: a/b.yaml\nkind: A\n\n---\n# Source: a/c.yaml\nkind: B \n";
        assert_eq!(tidy(three), tidy(four));
        assert_eq!(tidy(three), "---\nkind: A\n---\nkind: B\n");
    }

    #[test]
    fn snapshot_classes_are_split_off() {
        let class = "---\napiVersion: snapshot.storage.k8s.io/v1\nkind: VolumeSnapshotClass\n";
        let (before, after) = ("---\n# Why.\napiVersion: v1\n", "---\napiVersion: apps/v1\n");
        let split = split(&format!("{before}{class}{after}"));
        assert_eq!(split, (class.to_owned(), format!("{before}{after}")));
    }
}
