//! Every setting: that it is documented, that it changes the rendered chart, and how.
//!
//! Deliberately absent: invalid values (`refused`).

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::env::chart;
use crate::machine::process::Cmd;
use crate::report::Report;

/// The file with a value for every setting, relative to the sources.
pub const EVERYTHING: &str = "e2e/assets/values-everything.yaml";

/// Lines that the values of [`EVERYTHING`] must produce.
const RENDERED: &[&str] = &[
    "name: second.ovl.csi.dev",
    "image: mirror.example:5000/all/ovl-csi:9.9@sha256:\
     0000000000000000000000000000000000000000000000000000000000000009",
    "- --endpoint=unix:///var/snap/kubelet/plugins/second.ovl.csi.dev/csi.sock",
    "- --root=/mnt/fast/ovl/second.ovl.csi.dev",
    "- --hosts-dir=/etc/ovl-csi/hosts",
    "path: \"registry.example:5000/hosts.toml\"",
    "path: \"[fd00::1]:5000/hosts.toml\"",
    "path: \"docker.io/hosts.toml\"",
    "path: \"docker.io/ca.crt\"",
    "path: \"private.example:5443/ca.crt\"",
    "server = \"http://[fd00::1]:5000\"",
    "ca = \"/etc/ovl-csi/hosts/private.example:5443/ca.crt\"",
    "- --extra-ca-file=/etc/ovl-csi/extra-ca/ca.crt",
    "YW5vdGhlcg==",
    "value: /mnt/fast/ovl/second.ovl.csi.dev",
    "value: \"http://proxy.example:3128\"",
    "value: \"http://proxy.example:3129/\"",
    "value: \"corp.example,.other.example:5000,192.0.2.0/24,.svc,.cluster.local,10.96.0.77\"",
    "- --credentials-file=/etc/ovl-csi/credentials/config.json",
    "secretName: node-registries",
    "- --trust-credentials-for=30m",
    "- --layer-storage=dir",
    "- --ignore-check=d_type",
    "- --default-size=10Gi",
    "- --default-inodes=1000000",
    "- --default-volatile=true",
    "- --disk-high-percent=70",
    "- --disk-low-percent=60",
    "- --disk-min-free-percent=7",
    "- --snapshots-disk-percent=40",
    "- --snapshots-namespace-disk-percent=20",
    "- --policy-file=/etc/ovl-csi/policy/policy.toml",
    "refusedImages = [\"registry.example/old/*\",\"second-registry.default.svc:5000/*\"]",
    "default = [\"registry.example/*\"]",
    "\"ci\" = [\"docker.io/library/*\",\"registry.example/ci/*\"]",
    "\"007\" = []",
    "security.openshift.io/csi-ephemeral-volume-profile: restricted",
    "resourceNames: [\"push-key\",\"registry-login\"]",
    "name: kept",
    "deletionPolicy: Retain",
    "squashAbove: \"8\"",
    "name: fast",
    "repository: \"second-registry.default.svc:5000/{namespace}/{pod}/{volume}\"",
    "pushSecretName: \"registry-login\"",
    "snapshot.storage.kubernetes.io/is-default-class: \"true\"",
    "- --retain\n",
    "replicas: 3",
    "image: mirror.example:5000/all/csi-snapshotter:v9@sha256:\
     0000000000000000000000000000000000000000000000000000000000000007",
    "- --timeout=90s",
    "image: mirror.example:5000/all/registry:9",
    "clusterIP: \"10.96.0.77\"",
    "server = \"https://10.96.0.77:5000\"",
    "path: \"second-registry.default.svc:5000/hosts.toml\"",
    "ca = \"/etc/ovl-csi/hosts/second-registry.default.svc:5000/ca.crt\"",
    "secretName: second-registry-tls",
    "ipAddresses: [\"10.96.0.77\"]",
    "kind: ClusterIssuer",
    "cidr: \"fd00::/64\"",
    "storage: 50Gi",
    "storageClassName: slow",
    "- --health-address=127.0.0.1:9818",
    "- --health-address=[::]:9818",
    "- --metrics-address=[::]:9820",
    "kind: ServiceMonitor",
    "release: prometheus",
    "kind: PrometheusRule",
    "release: rules",
    "expr: up{job=\"second-metrics\"} == 0",
    "{job=\"second-controller-metrics\"}",
    "dashboards: here",
    "in: storage",
    "  ovl-csi.json: |\n    {\n",
    "- --otlp-endpoint=http://127.0.0.1:4317",
    "kubernetes.io/metadata.name: monitoring",
    "type: OnDelete",
    "image: mirror.example:5000/all/busybox:1",
    "image: mirror.example:5000/all/volume:1",
    "ovl.csi.dev/source: second-test-snapshot-0/work",
    "    example.org/role: node\n",
    "    example.org/role: controller\n",
    "- \"--log=debug\"\n",
    "- \"--lease-name=a-lease\"\n",
    "- \"--worker-threads=20\"\n",
    "- name: TZ\n          value: Europe/Berlin\n",
    "- name: TOKEN\n          valueFrom:\n",
    "example.org/cost: storage\n",
    "  name: 'ovl-csi-more'\n",
    "  name: second-text\n",
];

/// Text that must not appear with these values: each is switched off.
const ABSENT: &[&str] = &[
    "verbs: [create, patch]\n",
    "user-namespaces",
    "-attributes\n",
    "seLinuxMount",
    "priorityClassName",
    "rollingUpdate",
    "CustomResourceDefinition",
    "--no-cluster",
    "aggregate-to-",
];

/// Values for a driver that only serves volumes.
const BARE: &[&str] = &[
    "--set",
    "events=false,snapshots.enabled=false,policy.refuseUserNamespaces=false,policy.checkAttributes=false",
];

/// Text that must not appear with these values.
const NOT_BARE: &[&str] = &[
    "kind: ClusterRole",
    "kind: Deployment",
    "kind: VolumeSnapshotClass",
    "CustomResourceDefinition",
    "ValidatingAdmissionPolicy",
    "automountServiceAccountToken: true",
    "POD_NAMESPACE",
];

/// Checks the rendering with every value set.
pub fn rendered(helm: &Path, repo: &Path) -> Result<()> {
    let rendered = chart::chart(helm, repo, &["--values", EVERYTHING])?;
    let rendered = rendered.replace(&format!(".{}.svc", chart::NAMESPACE), ".default.svc");
    if let Some(want) = RENDERED.iter().find(|want| !rendered.contains(**want)) {
        bail!("`{want}` is not in:\n{rendered}");
    }
    if let Some(absent) = ABSENT.iter().find(|absent| rendered.contains(**absent)) {
        bail!("`{absent}` is in:\n{rendered}");
    }
    let silent = rendered.matches("- --events=false\n").count();
    ensure!(silent == 2, "{silent} programs emit no Events, not nodes and controller:\n{rendered}");
    Ok(())
}

/// Checks that the limits of a class are those of the controller (`src/controller/parameters.rs`). `refused` has the
/// values just beyond them.
pub fn bounds(helm: &Path, repo: &Path) -> Result<()> {
    for (key, value) in [
        ("freezeTimeout", "1ms"),
        ("freezeTimeout", "60000ms"),
        ("freezeTimeout", "60s"),
        ("freezeTimeout", "1m"),
        ("squashAbove", "1"),
        ("squashAbove", "250"),
    ] {
        let set = format!("snapshots.classes.a.parameters.{key}={value}");
        let rendered = chart::chart(helm, repo, &["--set-string", &set])?;
        let line = format!("  {key}: \"{value}\"\n");
        ensure!(rendered.contains(&line), "no `{line}` in:\n{rendered}");
    }
    Ok(())
}

/// Checks that a driver without the cluster has no rights in it, and no objects that need some.
pub fn bare(helm: &Path, repo: &Path) -> Result<()> {
    let rendered = chart::chart(helm, repo, BARE)?;
    ensure!(rendered.contains("- --no-cluster"), "it needs a cluster:\n{rendered}");
    ensure!(!rendered.contains("--events"), "Events are switched off twice:\n{rendered}");
    let events = chart::chart(helm, repo, &["--set", "snapshots.enabled=false"])?;
    ensure!(events.contains("- --snapshots=false"), "nodes look for snapshots:\n{events}");
    match NOT_BARE.iter().find(|word| rendered.contains(**word)) {
        Some(word) => bail!("`{word}` is in:\n{rendered}"),
        None => Ok(()),
    }
}

/// Checks that only the nodes' driver has proxies, and that their URLs can come from a Secret.
pub fn proxies(helm: &Path, repo: &Path) -> Result<()> {
    let usual = chart::chart(helm, repo, &[])?;
    ensure!(!usual.contains("_PROXY"), "there are proxies by default:\n{usual}");
    let secret = chart::chart(helm, repo, &["--set", "proxy.existingSecret=proxy-login"])?;
    for (name, count) in [
        ("name: HTTPS_PROXY", 1),
        ("name: HTTP_PROXY", 1),
        ("name: NO_PROXY", 1),
        ("name: proxy-login", 2),
        ("optional: true", 1),
        ("value: \".svc,.cluster.local\"", 1),
    ] {
        let found = secret.matches(name).count();
        ensure!(found == count, "`{name}` is there {found} times and not {count}:\n{secret}");
    }
    let one = chart::chart(helm, repo, &["--set", "proxy.https=http://proxy.example:3128"])?;
    ensure!(!one.contains("name: HTTP_PROXY"), "plain http has a proxy:\n{one}");
    Ok(())
}

/// Checks that the driver mounts only three parts of the kubelet's directory: its pods, the
/// driver's sockets and the registration.
pub fn kubelet(rendered: &str) -> Result<()> {
    let host =
        rendered.lines().filter_map(|line| line.trim().strip_prefix("path: /var/lib/kubelet"));
    let host: Vec<_> = host.collect();
    ensure!(host == ["/pods", "/plugins/ovl.csi.dev", "/plugins_registry"], "mounted: {host:?}");
    Ok(())
}

/// Checks the notes for a cluster without snapshots, and that the chart then creates no objects of
/// their kinds.
pub fn notes(helm: &Path, repo: &Path) -> Result<()> {
    let install = || {
        Cmd::new(helm).dir(repo).args([
            "install",
            chart::RELEASE,
            "charts/ovl-csi",
            "--dry-run=client",
        ])
    };
    let known = ["--api-versions", chart::SNAPSHOTS];
    let output = |more: &[&str]| {
        let template =
            Cmd::new(helm).dir(repo).args(["template", chart::RELEASE, "charts/ovl-csi"]);
        template.args(more).output()
    };
    let kind = "kind: VolumeSnapshotClass";
    ensure!(output(&known)?.contains(kind), "there is no class where they are known");
    ensure!(!output(&[])?.contains(kind), "there is a class where they are not known");
    let less = install().args(["--set", "policy.allowedImages.default={registry.example/*}"]);
    ensure!(!less.output()?.contains("every image of"), "there is a warning for a narrow policy");
    let notes = install().output()?;
    let (_, notes) = notes.split_once("\nNOTES:").context("no notes")?;
    for word in [
        "MISSING: this cluster knows no VolumeSnapshots",
        "kubectl apply -k",
        "every image of every registry",
    ] {
        ensure!(notes.contains(word), "no `{word}` in:\n{notes}");
    }
    let other = install().args(["--set", "crds.install=false"]).output()?;
    for name in ["overlaysnapshots", "overlaydiffs", "overlaydiffresults"] {
        let file = format!("-f charts/ovl-csi/files/{name}.yaml");
        ensure!(other.contains(&file), "no `{file}` where helm does not update the CRDs:\n{other}");
        ensure!(!notes.contains(&file), "`{file}` where helm updates the CRDs:\n{notes}");
    }
    Ok(())
}

/// Checks that each setting of the file has an effect: without it the rendering differs.
///
/// # Errors
/// The file cannot be read or helm refuses it.
pub fn each(helm: &Path, repo: &Path) -> Result<Report> {
    let text = read(repo, EVERYTHING)?;
    let all = with(helm, repo, &text)?;
    let mut report = Report::default();
    // A full name for the objects makes this part of the name unused.
    for setting in settings(&text).filter(|setting| *setting != "nameOverride") {
        let less = with(helm, repo, &without(&text, setting));
        let changed = less.and_then(|less| {
            ensure!(less != all, "without it the same is rendered");
            Ok(())
        });
        report.count(&format!("{setting} is rendered"), changed);
    }
    Ok(report)
}

/// Checks that the chart's values and the file with everything name each setting of the schema.
pub fn named(repo: &Path) -> Result<()> {
    let schema: Value = serde_json::from_str(&read(repo, "charts/ovl-csi/values.schema.json")?)?;
    let mut names = BTreeSet::new();
    collect(&schema, &schema["properties"], &mut names);
    ensure!(names.len() > 40, "the schema names only {names:?}");
    for file in ["charts/ovl-csi/values.yaml", EVERYTHING] {
        let text = read(repo, file)?;
        for name in &names {
            // Fields that Kubernetes defines, and fields that must not be set.
            let theirs = ["global", "podSelector", "ipBlock", "podAffinity", "podAntiAffinity"];
            let theirs = theirs.iter().chain(&["tolerationSeconds", "maxSurge"]);
            let known = theirs.copied().any(|n| n == name) || SHAPES.contains(&name.as_str());
            ensure!(known || text.contains(&format!("{name}:")), "{file} does not name {name}");
        }
    }
    Ok(())
}

/// Parts of objects that Kubernetes defines. One example of each is enough.
const SHAPES: &[&str] = &[
    "key",
    "operator",
    "value",
    "effect",
    "nodeAffinity",
    "namespaceSelector",
    "requests",
    "rollingUpdate",
    "maxUnavailable",
];

/// Arguments of csi-snapshotter.
const THEIRS: &[&str] =
    &["csi-address", "leader-election", "extra-create-metadata", "timeout", "v", "worker-threads"];

/// Checks that each argument in the chart is one of `ovl node` or `ovl controller`.
pub fn arguments(helm: &Path, repo: &Path) -> Result<()> {
    let mut code = String::new();
    sources(&repo.join("src/cli"), &mut code)?;
    for values in [&["--values", EVERYTHING][..], &["--set", "events=true"], BARE] {
        let rendered = chart::chart(helm, repo, values)?;
        let arguments = rendered.lines().filter_map(|line| {
            line.trim().strip_prefix("- ")?.trim_matches('"').strip_prefix("--")
        });
        for argument in arguments {
            let name = argument.split('=').next().unwrap_or_default();
            let field = format!("{}:", name.replace('-', "_"));
            let known = code.contains(&field) || code.contains(&format!("\"{name}\""));
            ensure!(known || THEIRS.contains(&name), "no argument of `ovl` is called --{name}");
        }
    }
    Ok(())
}

fn sources(dir: &Path, code: &mut String) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, code)?;
        } else {
            code.push_str(&fs::read_to_string(&path)?);
        }
    }
    Ok(())
}

/// Collects the names of all settings below a schema's properties, without names that the user
/// chooses.
fn collect(all: &Value, properties: &Value, names: &mut BTreeSet<String>) {
    for (name, schema) in properties.as_object().into_iter().flatten() {
        names.insert(name.clone());
        below(all, schema, names);
    }
}

fn below(all: &Value, schema: &Value, names: &mut BTreeSet<String>) {
    let pointer = schema["$ref"].as_str().and_then(|to| to.strip_prefix('#'));
    if let Some(schema) = pointer.and_then(|pointer| all.pointer(pointer)) {
        below(all, schema, names);
    }
    collect(all, &schema["properties"], names);
    collect(all, &schema["items"]["properties"], names);
    for (_, schema) in schema["patternProperties"].as_object().into_iter().flatten() {
        below(all, schema, names);
    }
}

fn with(helm: &Path, repo: &Path, values: &str) -> Result<String> {
    let template = Cmd::new(helm).dir(repo).args(["template", chart::RELEASE, "charts/ovl-csi"]);
    let template = template.args(["--api-versions", chart::SNAPSHOTS, "--values", "-"]);
    template.stdin(values).output()
}

fn read(repo: &Path, file: &str) -> Result<String> {
    fs::read_to_string(repo.join(file)).with_context(|| format!("reading {file}"))
}

/// The top-level settings of a file.
fn settings(text: &str) -> impl Iterator<Item = &str> {
    let named = text.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_alphabetic()));
    named.filter_map(|line| Some(line.split_once(':')?.0))
}

/// The file without one setting and everything below it.
fn without(text: &str, setting: &str) -> String {
    let mut below = false;
    let kept = text.lines().filter(|line| {
        if line.starts_with(|c: char| c.is_ascii_alphabetic()) {
            below = line.split_once(':').is_some_and(|(name, _)| name == setting);
        }
        !below
    });
    kept.map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_removed_with_all_below_it() {
        let text = "# Why.\na: 1\nb:\n  a: 2\n- x\nc: {}\n";
        assert_eq!(settings(text).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(without(text, "b"), "# Why.\na: 1\nc: {}\n");
    }
}
