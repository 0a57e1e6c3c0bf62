//! The programs of a node image: binaries at their paths, and the control plane as images in the
//! runtime's store.
//!
//! Deliberately absent: image names of our own. kubeadm lists the names that it uses.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::programs::Programs;
use super::system::image_name;
use crate::cluster::engine::Engine;
use crate::machine::cache::Recipe;
use crate::machine::harness::Harness;
use crate::machine::process::Cmd;
use crate::machine::progress::seconds;
use crate::toolchain::versions;

const NODE: &str = include_str!("../../../assets/node.Dockerfile");
const COMPONENTS: &str = include_str!("../../../assets/components.Dockerfile");
const STORAGE: &str = include_str!("../../../assets/default-storage.yaml");

/// The image with which kind's runtime configuration starts pods, whatever kubeadm uses.
const SANDBOX_IMAGE: &str = "registry.k8s.io/pause:3.10";

/// The images of the snapshot programs, with the names in their published manifests and the chart.
fn snapshot_images() -> [String; 2] {
    ["snapshot-controller", "csi-snapshotter"].map(|program| {
        format!("registry.k8s.io/sig-storage/{program}:{}", versions::EXTERNAL_SNAPSHOTTER)
    })
}

/// The name of the node image of this system and these programs. The image may not exist.
fn name(node_base: &str, programs: &Programs) -> String {
    let dirs = programs.dirs().map(|dir| dir.display().to_string());
    let mut inputs: Vec<&str> = dirs.iter().map(String::as_str).collect();
    inputs.extend([node_base, NODE, COMPONENTS, STORAGE]);
    let recipe = Recipe { name: "node", version: versions::KUBERNETES, inputs: &inputs };
    image_name("node", &recipe)
}

/// Builds the node image if the engine does not have it. Returns its name.
///
/// # Errors
/// A build in the engine failed. The error quotes the end of the log.
pub fn assemble(
    h: &Harness,
    engine: &Engine,
    node_base: &str,
    programs: &Programs,
) -> Result<String> {
    let image = name(node_base, programs);
    if engine.has_image(&image) {
        return Ok(image);
    }
    h.progress.step("assembling the node image", seconds(60), |log| {
        let context = h.cache.scratch("node")?;
        let images = component_images(&programs.kubernetes)?;
        save_components(engine, node_base, programs, &images, &context, log)?;
        lay_out(&context.join("root"), programs)?;
        fs::write(context.join("Dockerfile"), NODE).context("writing the node's Dockerfile")?;
        let base = format!("NODE_BASE={node_base}");
        engine.build(&image, &context, &["--build-arg", &base], log)?;
        fs::remove_dir_all(&context).with_context(|| format!("removing {}", context.display()))
    })?;
    Ok(image)
}

impl Programs {
    fn dirs(&self) -> [&Path; 9] {
        [
            &self.kubernetes,
            &self.containerd,
            &self.runc,
            &self.cni_plugins,
            &self.crictl,
            &self.etcd,
            &self.coredns,
            &self.pause,
            &self.snapshotter,
        ]
    }

    /// The directory with the program of a component.
    fn of_component(&self, component: &str) -> &Path {
        match component {
            "etcd" => &self.etcd,
            "coredns" => &self.coredns,
            "pause" => &self.pause,
            "snapshot-controller" | "csi-snapshotter" => &self.snapshotter,
            _ => &self.kubernetes,
        }
    }
}

/// Puts every program where kind's base expects it.
fn lay_out(root: &Path, programs: &Programs) -> Result<()> {
    let kubernetes = programs.kubernetes.as_path();
    for name in ["kubelet", "kubeadm", "kubectl"] {
        place(&kubernetes.join(name), &root.join("usr/bin"))?;
    }
    for (from, to) in [
        (&programs.containerd, "usr/local/bin"),
        (&programs.crictl, "usr/local/bin"),
        (&programs.runc, "usr/local/sbin"),
        (&programs.cni_plugins, "opt/cni/bin"),
    ] {
        let files = fs::read_dir(from).with_context(|| format!("listing {}", from.display()))?;
        for file in files {
            place(&file?.path(), &root.join(to))?;
        }
    }
    let kind = root.join("kind/manifests");
    fs::create_dir_all(&kind).with_context(|| format!("making {}", kind.display()))?;
    fs::write(kind.join("default-storage.yaml"), STORAGE).context("writing a manifest")?;
    let version = format!("v{}", versions::KUBERNETES);
    fs::write(root.join("kind/version"), version).context("writing the node's version")
}

fn place(file: &Path, dir: &Path) -> Result<()> {
    let name = file.file_name().with_context(|| format!("no file: {}", file.display()))?;
    let to = dir.join(name);
    fs::create_dir_all(dir)
        .and_then(|()| fs::hard_link(file, &to))
        .with_context(|| format!("placing {} at {}", file.display(), to.display()))
}

/// Builds the images of the components and saves them all as `images.tar` in the context.
fn save_components(
    engine: &Engine,
    node_base: &str,
    programs: &Programs,
    images: &[String],
    context: &Path,
    log: &Path,
) -> Result<()> {
    let dir = context.join("components");
    for image in images {
        let component = component(image);
        let program = programs.of_component(component).join(component);
        if !dir.join(component).exists() {
            place(&program, &dir)?;
        }
    }
    fs::write(dir.join("Dockerfile"), COMPONENTS).context("writing a Dockerfile")?;
    let base = format!("NODE_BASE={node_base}");
    for image in images {
        let args = ["--target", component(image), "--build-arg", &base];
        engine.build(image, &dir, &args, log)?;
    }
    let save = engine.docker(["save", "--output"]).arg(context.join("images.tar"));
    save.args(images).log(log).run()?;
    // Their names are those of other projects. Other users of the engine could take them for the
    // originals.
    engine.docker(["rmi", "--no-prune"]).args(images).log(log).run()?;
    fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))
}

/// The images that kubeadm uses, the one that pods start with, and those of snapshots.
fn component_images(kubernetes: &Path) -> Result<Vec<String>> {
    let version = format!("v{}", versions::KUBERNETES);
    let list = Cmd::new(kubernetes.join("kubeadm"));
    let list =
        list.args(["config", "images", "list", "--kubernetes-version", &version]).output()?;
    let mut images: Vec<String> = list.lines().map(str::to_owned).collect();
    ensure!(images.len() >= 6, "kubeadm names too few images:\n{list}");
    if !images.iter().any(|image| image == SANDBOX_IMAGE) {
        images.push(SANDBOX_IMAGE.into());
    }
    images.extend(snapshot_images());
    Ok(images)
}

/// The component in the name of an image: `coredns` of `registry.k8s.io/coredns/coredns:v1.14.2`.
fn component(image: &str) -> &str {
    let path = image.split(':').next().unwrap_or(image);
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_is_the_last_part_of_its_image() {
        assert_eq!(component("registry.k8s.io/coredns/coredns:v1.14.2"), "coredns");
        assert_eq!(component("registry.k8s.io/kube-proxy:v1.36.3"), "kube-proxy");
    }

    #[test]
    fn every_component_has_a_target() {
        let snapshots = snapshot_images();
        let of_snapshots = snapshots.iter().map(|image| component(image));
        let others = ["kube-apiserver", "kube-proxy", "etcd", "coredns", "pause"];
        for name in others.into_iter().chain(of_snapshots) {
            assert!(COMPONENTS.contains(&format!("AS {name}\n")), "{name}");
        }
    }
}
