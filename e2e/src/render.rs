//! The chart rendered into `deploy/`, for `kubectl apply -f` without helm.
//!
//! Deliberately absent: hand-written manifests. What is in that folder comes from the chart.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::process::Cmd;

/// The rendered file, below the sources.
const FILE: &str = "deploy/ovl-csi.yaml";

/// Where the objects go: a namespace that every cluster has, with room for privileged pods.
pub const NAMESPACE: &str = "kube-system";

/// What the release is called.
pub const RELEASE: &str = "ovl-csi";

/// The oldest Kubernetes that the chart says it supports.
const OLDEST: &str = "1.33.0";

/// The kind by which the chart sees that a cluster knows snapshots.
pub const SNAPSHOTS: &str = "snapshot.storage.k8s.io/v1/VolumeSnapshotClass";

/// Renders the chart, for a cluster that knows snapshots, with values given as helm's own arguments.
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
/// helm failed or the file cannot be written.
pub fn write(helm: &Path, repo: &Path) -> Result<()> {
    let file = repo.join(FILE);
    fs::write(&file, deploy(helm, repo)?).with_context(|| format!("writing {}", file.display()))
}

/// Checks that the file in the sources is what the chart renders to.
///
/// # Errors
/// It is not, or helm failed.
pub fn check(helm: &Path, repo: &Path) -> Result<()> {
    let file = repo.join(FILE);
    let have = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let want = deploy(helm, repo)?;
    let first = have.lines().zip(want.lines()).position(|(have, want)| have != want);
    let line = first.unwrap_or(have.lines().count().min(want.lines().count())) + 1;
    ensure!(
        have == want,
        "{FILE} differs from the rendered chart from line {line} on; run `cargo xtask render`"
    );
    Ok(())
}

fn deploy(helm: &Path, repo: &Path) -> Result<String> {
    // A hook is helm's to run; applied, it would be a pod that runs once and stays.
    let rendered = chart(helm, repo, &["--skip-tests"])?;
    Ok(format!(
        "# Rendered from charts/ovl-csi by `cargo xtask render`; change the chart.\n{rendered}"
    ))
}

/// Without what helm's versions differ in, blank lines, and without its remarks on sources.
fn tidy(text: &str) -> String {
    let kept = text.lines().filter(|l| !l.trim().is_empty() && !l.starts_with("# Source: "));
    kept.map(|line| format!("{}\n", line.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_between_helms_is_none() {
        let three = "---\n# Source: a/b.yaml\nkind: A\n---\n# Source: a/c.yaml\nkind: B\n";
        let four = "---\n# Source: a/b.yaml\nkind: A\n\n---\n# Source: a/c.yaml\nkind: B \n";
        assert_eq!(tidy(three), tidy(four));
        assert_eq!(tidy(three), "---\nkind: A\n---\nkind: B\n");
    }
}
