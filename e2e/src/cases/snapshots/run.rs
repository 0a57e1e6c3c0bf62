//! A pushed snapshot is an image like any other: a pod runs it, the engine runs it, other programs
//! copy and unpack it, and all of them see the same tree.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cases::{Case, When};
use crate::clean;
use crate::engine::{LABEL, RUN_DIR};
use crate::oci::any_signature;
use crate::pods::{Pod, Scene};
use crate::process::Cmd;
use crate::progress::seconds;
use crate::snapshots;

/// See the module.
pub const CASE: Case = Case {
    name: "snapshot-run",
    what: "a pushed snapshot is an image that others run and unpack",
    when: When::Together,
    play,
};

/// Changes of every kind, made in the image's own folder.
const CHANGES: &str = "cd /work && echo kept > note && cd demo && rm twin && mv changed moved && chmod 0600 hello && \
     ln symlink other && mkdir new && echo in > new/in && ln new/in new/twin && rm -r owned && mkdir owned && \
     echo in > owned/in && truncate -s 30M sparse";

/// A pod that runs an image, with an empty volume.
pub fn as_image(name: &str, image: &str) -> Pod {
    let pod = Pod::new(name, json!({})).with("/spec/containers/0/image", json!(image));
    pod.with("/spec/containers/0/imagePullPolicy", json!("IfNotPresent"))
}

fn play(scene: &Scene<'_>) -> Result<()> {
    let worker = scene.stage.worker().name;
    scene.start(&Pod::new("source", json!({ "image": scene.stage.image })).on(&worker))?;
    scene.shell("source", CHANGES)?;
    let tree = scene.tree("source", "/work/demo")?;
    // An engine as old as Debian's knows no zstd.
    for (name, class) in [("by-zstd", "pushed"), ("by-gzip", "gzip")] {
        let taken = scene.snapshot(name, "source", class)?;
        scene.start(&as_image(name, taken.image()?))?;
        scene.facts(name, &[("cat /note", "kept")])?;
        snapshots::same("the pod's own root", &tree, &scene.tree(name, "/demo")?)?;
        let (repository, digest) = taken.place()?;
        let here = format!("{}/{repository}@{digest}", scene.stage.registry.here);
        unpacked(scene, name, &here, &tree)?;
        podman(scene, name, &here, &tree)?;
        if class == "gzip" {
            engine(scene, &here)?;
        }
    }
    Ok(())
}

/// Copied by skopeo, unpacked by umoci.
fn unpacked(scene: &Scene<'_>, name: &str, image: &str, tree: &str) -> Result<()> {
    let programs = scene.stage.programs()?;
    let folder = programs.scratch.join(format!("{}-{name}", scene.namespace));
    let (layout, bundle) = (folder.join("layout"), folder.join("bundle"));
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let skopeo = Cmd::new("skopeo").args(["--insecure-policy", "copy", "--src-tls-verify=false"]);
    let to = format!("oci:{}:it", layout.display());
    skopeo.args([&format!("docker://{image}"), &to]).limit(seconds(120)).output()?;
    let umoci = Cmd::new(&programs.umoci).args(["unpack", "--image"]);
    let umoci = umoci.arg(format!("{}:it", layout.display())).arg(&bundle);
    umoci.limit(seconds(120)).output()?;
    let annotations = &manifest(&layout)?["annotations"];
    ensure!(annotations["dev.csi.ovl.pod"] == "source", "of what it is: {annotations}");
    let demo = bundle.join("rootfs/demo").display().to_string();
    let have = snapshots::tree_here(&demo)?;
    snapshots::same("what umoci unpacks", tree, &have)?;
    std::fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))
}

/// Pulled and shown by podman, in a store of its own.
fn podman(scene: &Scene<'_>, name: &str, image: &str, tree: &str) -> Result<()> {
    let scratch = &scene.stage.programs()?.scratch;
    let folder = scratch.join(format!("{}-{name}-podman", scene.namespace));
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let policy = any_signature(&folder)?;
    // podman takes no longer name than 50 characters for it.
    let run = Path::new(RUN_DIR).join("podman");
    let podman = || {
        let podman = Cmd::new("podman").arg("--root").arg(folder.join("root"));
        let podman = podman.arg("--runroot").arg(&run).limit(seconds(120));
        podman.args(["--storage-driver", "overlay"])
    };
    let seen = (|| {
        let pull = podman().args(["pull", "--quiet", "--tls-verify=false", "--signature-policy"]);
        pull.arg(&policy).arg(image).output()?;
        let at = podman().args(["image", "mount", image]).output()?;
        snapshots::tree_here(&format!("{}/demo", at.trim()))
    })();
    clean::unmount_below(&[&folder, &run])?;
    clean::remove(&folder)?;
    clean::remove(&run)?;
    snapshots::same("what podman shows", tree, &seen?)
}

/// Run by the engine beside the cluster.
fn engine(scene: &Scene<'_>, image: &str) -> Result<()> {
    let engine = &scene.stage.cluster.ground.engine;
    let run = ["run", "--rm", "--label", LABEL, "--network", "none", image];
    let said = engine.docker(run).args(["sh", "-c", "cat /note; ls /demo/new; ls /demo/twin"]);
    let said = said.limit(seconds(120)).outcome()?;
    ensure!(said.stdout == "kept\nin\ntwin\n", "it says {} {}", said.stdout, said.stderr);
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
