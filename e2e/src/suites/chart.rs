//! The chart, without a cluster: lint, what its schema refuses, what its settings render to, and
//! the committed rendering.
//!
//! Deliberately absent: judging the objects themselves, which an API server does (`cases`).

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::Bench;
use crate::process::Cmd;
use crate::render;
use crate::tally::Tally;
use crate::tools::found;

/// Values that must be refused, with the word by which the refusal names the setting.
const REFUSED: &[(&[&str], &str)] = &[
    (&["--set", "drivername=a.b"], "drivername"),
    (&["--set", "driverName=Ovl.CSI"], "driverName"),
    (&["--set", "driverName=a/../b"], "driverName"),
    (&["--set", "kubeletDir=var/lib/kubelet"], "kubeletDir"),
    (&["--set", "storeDir=/var/../etc"], "storeDir"),
    (&["--set", "storeDir=/var/lib/"], "storeDir"),
    (&["--set", "healthPort=0"], "healthPort"),
    (&["--set-string", "healthPort=9808"], "healthPort"),
    (&["--set", "image.pullPolicy=Sometimes"], "pullPolicy"),
    (&["--set", "image.digest=x"], "digest"),
    (&["--set", "log.format=xml"], "format"),
    (&["--set-json", r#"registries={"http://r.example":"x"}"#], "registries"),
    (&["--set-json", r#"registries={"r.example/path":"x"}"#], "registries"),
    (&["--set-json", r#"registries={"../etc":"x"}"#], "registries"),
    (&["--set-json", r#"registries={"r.example":{}}"#], "registries"),
    (&["--set-json", r#"registries={"registry":"x"}"#], "registries"),
    (&["--set", "updateStrategy.type=Recreate"], "updateStrategy"),
    (&["--set", "tolerations=all"], "tolerations"),
    (&["--set", "podLabels.app\\.kubernetes\\.io/name=x"], "app.kubernetes.io/name"),
    (&["--set", LONG], "at most 107 bytes"),
];

/// Each part is short enough, the socket's path that they make is not.
const LONG: &str = "kubeletDir=/var/lib/a-folder-with-a-long-name/and-another-one/kubelet,\
                    driverName=a-driver-whose-name-is-as-long-as-a-name-may-be.example.org";

/// A value for every setting, below the sources.
const EVERYTHING: &str = "e2e/assets/values-everything.yaml";

/// What these values have to show as, where it matters.
const RENDERED: &[&str] = &[
    "name: second.ovl.csi.dev",
    "image: registry.example:5000/ovl-csi:9.9",
    "- --endpoint=unix:///var/snap/kubelet/plugins/second.ovl.csi.dev/csi.sock",
    "- --root=/mnt/fast/ovl/second.ovl.csi.dev",
    "- --hosts-dir=/etc/ovl-csi/hosts",
    "path: \"registry.example:5000/hosts.toml\"",
    "path: \"[fd00::1]:5000/hosts.toml\"",
    "path: \"docker.io/hosts.toml\"",
    "server = \"http://[fd00::1]:5000\"",
];

/// Runs all of it.
pub fn run(bench: &Bench<'_>, _log: &Path) -> Result<Tally> {
    let helm = found::helm(bench.h)?;
    let mut tally = Tally::default();
    tally.count("helm lint --strict", lint(&helm, bench.repo, &[]));
    tally.count("helm lint with every value", lint(&helm, bench.repo, &["--values", EVERYTHING]));
    tally.count("what every value renders to", everything(&helm, bench.repo));
    tally.count("appVersion is the driver's", versions(bench.repo));
    tally.count("deploy/ is the rendered chart", render::check(&helm, bench.repo));
    for (values, word) in REFUSED {
        tally.count(&format!("refused: {}", values[1]), refused(&helm, bench.repo, values, word));
    }
    Ok(tally)
}

fn lint(helm: &Path, repo: &Path, values: &[&str]) -> Result<()> {
    let lint = Cmd::new(helm).dir(repo).args(["lint", "--strict", "charts/ovl-csi"]);
    lint.args(values).output().map(drop)
}

fn everything(helm: &Path, repo: &Path) -> Result<()> {
    let rendered = render::chart(helm, repo, &["--values", EVERYTHING])?;
    match RENDERED.iter().find(|want| !rendered.contains(**want)) {
        Some(want) => bail!("`{want}` is not in:\n{rendered}"),
        None => Ok(()),
    }
}

fn refused(helm: &Path, repo: &Path, values: &[&str], word: &str) -> Result<()> {
    match render::chart(helm, repo, values) {
        Ok(_) => bail!("helm took it"),
        Err(error) => {
            let words = format!("{error:#}");
            // The command is quoted in the error; what helm says about it comes after.
            let said = words.split_once("failed").map_or("", |(_, said)| said);
            ensure!(said.contains(word), "the refusal does not name {word}: {said}");
            Ok(())
        }
    }
}

fn versions(repo: &Path) -> Result<()> {
    let line = |file: &str, start: &str| {
        let text = std::fs::read_to_string(repo.join(file));
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
