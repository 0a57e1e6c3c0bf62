//! What the API server says to our manifests when it is asked to be strict.

use std::fs;

use anyhow::{Context, Result};

use super::Case;
use crate::stage::Stage;

/// See the module.
pub const CASE: Case = Case {
    name: "manifests",
    what: "the API server takes the manifests, strictly",
    pods: &[],
    play,
};

fn play(stage: &Stage) -> Result<()> {
    for file in ["deploy/ovl-csi.yaml", "deploy/examples/pod.yaml"] {
        let text = fs::read_to_string(stage.repo.join(file));
        let text = text.with_context(|| format!("reading {file}"))?;
        let apply = ["apply", "--server-side", "--force-conflicts", "--dry-run=server"];
        let kubectl =
            stage.cluster.kubectl_cmd().args(apply).args(["--validate=strict", "-f", "-"]);
        kubectl.stdin(text).output().with_context(|| file.to_owned())?;
    }
    Ok(())
}
