//! The chart without a cluster: lint, values that its schema refuses, the effect of its settings,
//! the objects against the schemas of Kubernetes, and the committed rendering.
//!
//! Deliberately absent: checks that need an API server, such as whether an expression compiles
//! (`cases`).

mod alerts;
mod objects;
mod published;
mod refused;
mod registry;
mod schemas;
mod settings;
mod storage;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::env::{chart, chart_readme};
use crate::machine::process::Cmd;
use crate::report::Report;
use crate::suites::context::SuiteContext;
use crate::toolchain::{installed, programs, versions};

/// A second release beside the default one. It has its own values for everything that a node has
/// only once.
const SECOND: &[&str] = &[
    "--set",
    "fullnameOverride=second,driverName=second.ovl.csi.dev,healthPort=9809,\
     metrics.enabled=true,metrics.port=9811,crds.install=false,\
     snapshots.classes.ovl-csi=null,snapshots.classes.second.default=true,\
     registry.enabled=true,registry.clusterIP=10.96.0.51",
];

/// The kind from which the chart concludes that the API server can fill fields (Kubernetes 1.36).
const MUTATING: &[&str] =
    &["--api-versions", "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy"];

/// Runs all checks.
pub fn run(ctx: &SuiteContext<'_>, log: &Path) -> Result<Report> {
    let helm = installed::helm(ctx.h)?;
    let (helm, repo) = (helm.as_path(), ctx.repo);
    let mut report = Report::default();
    report.count("helm lint --strict", lint(helm, repo, &[]));
    report
        .count("helm lint with every value", lint(helm, repo, &["--values", settings::EVERYTHING]));
    report.count("appVersion is the driver's", versions(repo));
    report.count("deploy/ is the rendered chart", chart::check(helm, repo));
    report.count("the README has the values", chart_readme::check(ctx.h, repo));
    report.count("every setting is in the values and the tests", settings::named(repo));
    report.count("every value is rendered", settings::rendered(helm, repo));
    report.count("the limits of a class are the controller's", settings::bounds(helm, repo));
    report.count("without a cluster there are no rights", settings::bare(helm, repo));
    report.count("one registry replaces all", published::mirrored(helm, repo));
    report.count("the notes name what is missing", settings::notes(helm, repo));
    report.add(settings::each(helm, repo)?);
    report.count("the driver takes every argument", settings::arguments(helm, repo));
    for (values, word) in refused::REFUSED {
        let name = format!("refused: {}", values[1]);
        report.count(&name, refused::check(helm, repo, values, word));
    }
    let usual = chart::chart(helm, repo, &[])?;
    let every = chart::chart(helm, repo, &["--values", settings::EVERYTHING])?;
    let second = chart::chart(helm, repo, SECOND)?;
    let newer = chart::chart(helm, repo, MUTATING)?;
    report.count("two releases have no object in common", objects::apart(&usual, &second));
    report.count(
        "each account has its rights and no others",
        objects::rights(&usual, objects::RIGHTS),
    );
    report.count("names are filled only where the API server can", mutating(&usual, &newer));
    report.count("the chart renders twice to the same", registry::twice(helm, repo));
    report.count("the registry's secrets are made in the cluster", registry::secrets(helm, repo));
    report.count("the registry is reached by https", registry::reached(helm, repo));
    report.count("the nodes have the proxies of the values", settings::proxies(helm, repo));
    report.count("the registry's images are on a claim", registry::stored(helm, repo));
    report.count("a claim needs a StorageClass", storage::looked_up(helm, repo));
    report.count("of the kubelet's directory three parts are mounted", settings::kubelet(&usual));
    let example = fs::read_to_string(repo.join("deploy/examples/pod.yaml"));
    let conform = Conform {
        program: programs::kubeconform().ensure(ctx.h)?.join("kubeconform"),
        schemas: schemas::dir(ctx.h)?,
        log,
    };
    for (name, objects) in [
        ("the chart", &usual),
        ("the chart with every value", &every),
        ("the chart with its registry", &second),
        ("the chart for Kubernetes 1.36", &newer),
        ("the example", &example.context("reading the example")?),
    ] {
        let name = format!("{name} fits the schemas of Kubernetes {}", versions::KUBERNETES);
        report.count(&name, conform.check(objects));
    }
    report.count("a misspelt field is found", conform.finds(&usual));
    report.add(alerts::check(ctx.h, helm, repo)?);
    report.count("Chart.yaml lists the images and CRDs", published::check(repo, &usual, &second));
    Ok(report)
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
        // Kinds of the Prometheus operator and of cert-manager: the sources of Kubernetes do not
        // have them.
        let theirs = "ServiceMonitor,PrometheusRule,Certificate";
        let conform = conform.arg(files).args(["-skip", theirs, "-"]);
        let done = conform.stdin(objects).outcome()?;
        fs::write(self.log, &done.stdout).context("writing the log")?;
        ensure!(done.status.success(), "{}{}", done.stdout, done.stderr);
        Ok(())
    }

    /// Checks that it finds a mistake.
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
            ensure!(!passed, "{wrong} was accepted");
        }
        Ok(())
    }
}

fn mutating(usual: &str, newer: &str) -> Result<()> {
    let kind = "kind: MutatingAdmissionPolicy\n";
    ensure!(!usual.contains(kind), "a cluster that does not serve the kind gets an object of it");
    ensure!(newer.contains(kind), "a cluster that serves the kind gets no object of it");
    Ok(())
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
    ensure!(chart == crate_, "the chart has {chart}, Cargo.toml {crate_}");
    Ok(())
}
