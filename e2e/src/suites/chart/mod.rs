//! The chart, without a cluster: lint, what its schema refuses, what its settings render to, the
//! objects against Kubernetes' own schemas, and the committed rendering.
//!
//! Deliberately absent: what only an API server knows, such as whether an expression compiles
//! (`cases`).

mod objects;
mod refused;
mod registry;
mod settings;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::Bench;
use crate::process::Cmd;
use crate::render;
use crate::tally::Tally;
use crate::tools::{self, found};
use crate::{schemas, versions};

/// A value for every setting, below the sources.
const EVERYTHING: &str = "e2e/assets/values-everything.yaml";

/// A second release beside the usual one; what each node has once is given to it anew.
const SECOND: &[&str] = &[
    "--set",
    "fullnameOverride=second,driverName=second.ovl.csi.dev,healthPort=9809,\
     metrics.enabled=true,metrics.port=9811,crds.install=false,\
     snapshots.classes.ovl-csi=null,snapshots.classes.second.default=true,\
     registry.enabled=true,registry.clusterIP=10.96.0.51",
];

/// Runs all of it.
pub fn run(bench: &Bench<'_>, log: &Path) -> Result<Tally> {
    let helm = found::helm(bench.h)?;
    let (helm, repo) = (helm.as_path(), bench.repo);
    let mut tally = Tally::default();
    tally.count("helm lint --strict", lint(helm, repo, &[]));
    tally.count("helm lint with every value", lint(helm, repo, &["--values", EVERYTHING]));
    tally.count("appVersion is the driver's", versions(repo));
    tally.count("deploy/ is the rendered chart", render::check(helm, repo));
    tally.count("every setting is in the values and the tests", settings::named(repo));
    tally.count("what every value renders to", settings::rendered(helm, repo));
    tally.count("without a cluster there are no rights", settings::bare(helm, repo));
    tally.count("what is missing is told", settings::told(helm, repo));
    tally.add(settings::each(helm, repo)?);
    tally.count("the driver takes every argument", settings::arguments(helm, repo));
    for (values, word) in refused::REFUSED {
        let name = format!("refused: {}", values[1]);
        tally.count(&name, refused::check(helm, repo, values, word));
    }
    let usual = render::chart(helm, repo, &[])?;
    let every = render::chart(helm, repo, &["--values", EVERYTHING])?;
    let second = render::chart(helm, repo, SECOND)?;
    tally.count("two releases have no object in common", objects::apart(&usual, &second));
    tally.count(
        "each account has its rights and no others",
        objects::rights(&usual, objects::RIGHTS),
    );
    tally.count("the chart renders twice to the same", registry::twice(helm, repo));
    tally.count("the registry's secrets are made in the cluster", registry::secrets(helm, repo));
    tally.count("the registry is reached by https", registry::reached(helm, repo));
    tally.count("of the kubelet's directory three parts are mounted", settings::kubelet(&usual));
    let example = fs::read_to_string(repo.join("deploy/examples/pod.yaml"));
    let conform = Conform {
        program: tools::kubeconform().ensure(bench.h)?.join("kubeconform"),
        schemas: schemas::folder(bench.h)?,
        log,
    };
    for (name, objects) in [
        ("the chart", &usual),
        ("the chart with every value", &every),
        ("the chart with its registry", &second),
        ("the example", &example.context("reading the example")?),
    ] {
        let name = format!("{name} is what Kubernetes {} knows", versions::KUBERNETES);
        tally.count(&name, conform.check(objects));
    }
    tally.count("a misspelt field is found", conform.finds(&usual));
    Ok(tally)
}

/// kubeconform with our schemas.
struct Conform<'a> {
    program: std::path::PathBuf,
    schemas: std::path::PathBuf,
    log: &'a Path,
}

impl Conform<'_> {
    fn check(&self, objects: &str) -> Result<()> {
        let files = self.schemas.join(schemas::FILES);
        let conform = Cmd::new(&self.program).args(["-strict", "-verbose", "-schema-location"]);
        // Kinds of the Prometheus operator and of cert-manager: Kubernetes' sources do not have them.
        let conform = conform.arg(files).args(["-skip", "ServiceMonitor,Certificate", "-"]);
        let done = conform.stdin(objects).outcome()?;
        fs::write(self.log, &done.stdout).context("writing the log")?;
        ensure!(done.status.success(), "{}{}", done.stdout, done.stderr);
        Ok(())
    }

    /// Whether a mistake is one.
    fn finds(&self, objects: &str) -> Result<()> {
        for (right, wrong) in [
            ("podInfoOnMount:", "podInfoOnMounts:"),
            ("mountPropagation:", "mountPropagations:"),
            ("failurePolicy:", "failPolicy:"),
            ("hostNetwork: true", "hostNetwork: wide"),
            ("deletionPolicy: Delete", "deletionPolicies: Delete"),
            ("selectableFields:", "selectedFields:"),
            ("topologySpreadConstraints:", "topologySpread:"),
        ] {
            ensure!(objects.contains(right), "the chart has no {right}");
            let passed = self.check(&objects.replace(right, wrong)).is_ok();
            ensure!(!passed, "{wrong} was taken");
        }
        Ok(())
    }
}

fn lint(helm: &Path, repo: &Path, values: &[&str]) -> Result<()> {
    let lint = Cmd::new(helm).dir(repo).args(["lint", "--strict", "charts/ovl-csi"]);
    lint.args(values).output().map(drop)
}

fn versions(repo: &Path) -> Result<()> {
    let line = |file: &str, start: &str| {
        let text = fs::read_to_string(repo.join(file));
        let text = text.with_context(|| format!("reading {file}"))?;
        let found = text
            .lines()
            .find_map(|line| line.strip_prefix(start))
            .map(|rest| rest.trim_matches(['"', ' ']).to_owned());
        found.with_context(|| format!("{file} has no line that starts with `{start}`"))
    };
    let (chart, crate_) =
        (line("charts/ovl-csi/Chart.yaml", "appVersion: ")?, line("Cargo.toml", "version = ")?);
    ensure!(chart == crate_, "the chart says {chart}, Cargo.toml {crate_}");
    Ok(())
}
