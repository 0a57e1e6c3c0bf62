//! The API server accepts our manifests with strict validation.

use std::fs;

use anyhow::{Context, Result};

use crate::cases::case::{Case, Concurrency};
use crate::env::namespace::TestNamespace;

/// See the module.
pub const CASE: Case = Case {
    name: "manifests",
    what: "the API server accepts the manifests, strictly",
    concurrency: Concurrency::Parallel,
    run,
};

fn run(ns: &TestNamespace<'_>) -> Result<()> {
    for file in [
        "deploy/ovl-csi.yaml",
        "deploy/snapshotclass.yaml",
        "deploy/examples/pod.yaml",
        "deploy/examples/cronjob.yaml",
    ] {
        let text = fs::read_to_string(ns.env.repo.join(file));
        let text = text.with_context(|| format!("reading {file}"))?;
        let apply = ["apply", "--server-side", "--force-conflicts", "--dry-run=server"];
        let kubectl = ns.cluster().kubectl_cmd().args(apply);
        let kubectl = kubectl.args(["--validate=strict", "-f", "-"]);
        kubectl.stdin(text).output().with_context(|| file.to_owned())?;
    }
    Ok(())
}
