//! A pushed snapshot is a normal image: a pod runs it, the engine runs it, other programs copy and
//! unpack it, and all see the same tree.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cases::case::{Case, Concurrency};
use crate::cluster::engine::{LABEL, RUN_DIR};
use crate::env::namespace::TestNamespace;
use crate::env::pods::Pod;
use crate::env::snapshots;
use crate::machine::mounts;
use crate::machine::process::Cmd;
use crate::machine::progress::seconds;
use crate::oci::image::any_signature;

/// See the module.
pub const CASE: Case = Case {
    name: "snapshot-run",
    what: "a pushed snapshot is an image that others run and unpack",
    concurrency: Concurrency::Parallel,
    run,
};

/// Changes of every kind, in the image's own directory.
const CHANGES: &str = "cd /work && echo kept > note && cd demo && rm twin && mv changed moved && chmod 0600 hello && \
     ln symlink other && mkdir new && echo in > new/in && ln new/in new/twin && rm -r owned && mkdir owned && \
     echo in > owned/in && truncate -s 30M sparse";

/// A pod that runs an image, with an empty volume.
pub fn as_image(name: &str, image: &str) -> Pod {
    let pod = Pod::new(name, json!({})).with("/spec/containers/0/image", json!(image));
    pod.with("/spec/containers/0/imagePullPolicy", json!("IfNotPresent"))
}

fn run(ns: &TestNamespace<'_>) -> Result<()> {
    let worker = ns.env.worker().name;
    ns.start(&Pod::new("source", json!({ "image": ns.env.image })).on(&worker))?;
    ns.shell("source", CHANGES)?;
    let tree = ns.tree("source", "/work/demo")?;
    // An engine as old as Debian's does not support zstd.
    for (name, class) in [("by-zstd", "pushed"), ("by-gzip", "gzip")] {
        let taken = ns.snapshot(name, "source", class)?;
        ns.start(&as_image(name, taken.image()?))?;
        ns.expect_output(name, &[("cat /note", "kept")])?;
        snapshots::check_same_tree("the pod's own root", &tree, &ns.tree(name, "/demo")?)?;
        let (repository, digest) = taken.repository_and_digest()?;
        let here = format!("{}/{repository}@{digest}", ns.env.registry.here);
        unpacked(ns, name, &here, &tree)?;
        podman(ns, name, &here, &tree)?;
        if class == "gzip" {
            engine(ns, &here)?;
        }
    }
    Ok(())
}

/// Copied by skopeo, unpacked by umoci.
fn unpacked(ns: &TestNamespace<'_>, name: &str, image: &str, tree: &str) -> Result<()> {
    let programs = ns.env.programs()?;
    let dir = programs.scratch.join(format!("{}-{name}", ns.namespace));
    let (layout, bundle) = (dir.join("layout"), dir.join("bundle"));
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let skopeo = Cmd::new("skopeo").args(["--insecure-policy", "copy", "--src-tls-verify=false"]);
    let to = format!("oci:{}:it", layout.display());
    skopeo.args([&format!("docker://{image}"), &to]).limit(seconds(120)).output()?;
    let umoci = Cmd::new(&programs.umoci).args(["unpack", "--image"]);
    let umoci = umoci.arg(format!("{}:it", layout.display())).arg(&bundle);
    umoci.limit(seconds(120)).output()?;
    let annotations = &manifest(&layout)?["annotations"];
    ensure!(annotations["dev.csi.ovl.pod"] == "source", "wrong annotations: {annotations}");
    let demo = bundle.join("rootfs/demo").display().to_string();
    let have = snapshots::local_tree(&demo)?;
    snapshots::check_same_tree("what umoci unpacks", tree, &have)?;
    std::fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))
}

/// Pulled and shown by podman, in a store of its own.
fn podman(ns: &TestNamespace<'_>, name: &str, image: &str, tree: &str) -> Result<()> {
    let scratch = &ns.env.programs()?.scratch;
    let dir = scratch.join(format!("{}-{name}-podman", ns.namespace));
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let policy = any_signature(&dir)?;
    // podman allows at most 50 characters for this path.
    let run = Path::new(RUN_DIR).join("podman");
    let podman = || {
        let podman = Cmd::new("podman").arg("--root").arg(dir.join("root"));
        let podman = podman.arg("--runroot").arg(&run).limit(seconds(120));
        podman.args(["--storage-driver", "overlay"])
    };
    let seen = (|| {
        let pull = podman().args(["pull", "--quiet", "--tls-verify=false", "--signature-policy"]);
        pull.arg(&policy).arg(image).output()?;
        let at = podman().args(["image", "mount", image]).output()?;
        snapshots::local_tree(&format!("{}/demo", at.trim()))
    })();
    mounts::unmount_below(&[&dir, &run])?;
    mounts::remove(&dir)?;
    mounts::remove(&run)?;
    snapshots::check_same_tree("what podman shows", tree, &seen?)
}

/// Run by the engine beside the cluster.
fn engine(ns: &TestNamespace<'_>, image: &str) -> Result<()> {
    let engine = &ns.env.cluster.prerequisites.engine;
    let run = ["run", "--rm", "--label", LABEL, "--network", "none", image];
    let output = engine.docker(run).args(["sh", "-c", "cat /note; ls /demo/new; ls /demo/twin"]);
    let output = output.limit(seconds(120)).outcome()?;
    ensure!(output.stdout == "kept\nin\ntwin\n", "it prints {} {}", output.stdout, output.stderr);
    engine.docker(["rmi", image]).output().map(drop)
}

/// The one manifest of an OCI layout.
fn manifest(layout: &Path) -> Result<Value> {
    let read = |file: &Path| -> Result<Value> {
        let bytes = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        Ok(serde_json::from_slice(&bytes)?)
    };
    let index = read(&layout.join("index.json"))?;
    let digest = index["manifests"][0]["digest"].as_str().context("the layout has no manifest")?;
    read(&layout.join("blobs").join(digest.replace(':', "/")))
}
