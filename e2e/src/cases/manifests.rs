//! What the API server says to our manifests when it is asked to be strict.

use std::fs;

use anyhow::{Context, Result};

use super::{Case, When};
use crate::pods::Scene;

/// See the module.
pub const CASE: Case = Case {
    name: "manifests",
    what: "the API server takes the manifests, strictly",
    when: When::Together,
    play,
};

fn play(scene: &Scene<'_>) -> Result<()> {
    for file in ["deploy/ovl-csi.yaml", "deploy/examples/pod.yaml"] {
        let text = fs::read_to_string(scene.stage.repo.join(file));
        let text = text.with_context(|| format!("reading {file}"))?;
        let apply = ["apply", "--server-side", "--force-conflicts", "--dry-run=server"];
        let kubectl = scene.cluster().kubectl_cmd().args(apply);
        let kubectl = kubectl.args(["--validate=strict", "-f", "-"]);
        kubectl.stdin(text).output().with_context(|| file.to_owned())?;
    }
    Ok(())
}
