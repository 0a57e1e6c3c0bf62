//! The programs' half of a node: binaries in their places, the control plane's programs as images
//! in the runtime's store.
//!
//! Deliberately absent: image names of our own making. kubeadm says what it will ask for.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::Programs;
use super::system::image_name;
use crate::cache::Recipe;
use crate::engine::Engine;
use crate::harness::Harness;
use crate::process::Cmd;
use crate::progress::seconds;
use crate::versions;

const NODE: &str = include_str!("../../assets/node.Dockerfile");
const COMPONENTS: &str = include_str!("../../assets/components.Dockerfile");
const STORAGE: &str = include_str!("../../assets/default-storage.yaml");

/// The image that kind's runtime configuration starts pods with, whatever kubeadm would take.
const SANDBOX_IMAGE: &str = "registry.k8s.io/pause:3.10";

/// The programs of snapshots, under the names that their published manifests and the chart give.
fn snapshot_images() -> [String; 2] {
    ["snapshot-controller", "csi-snapshotter"].map(|program| {
        format!("registry.k8s.io/sig-storage/{program}:{}", versions::EXTERNAL_SNAPSHOTTER)
    })
}

/// The name of the node image made of this system and these programs, present or not.
fn name(node_base: &str, programs: &Programs) -> String {
    let folders = programs.folders().map(|folder| folder.display().to_string());
    let mut inputs: Vec<&str> = folders.iter().map(String::as_str).collect();
    inputs.extend([node_base, NODE, COMPONENTS, STORAGE]);
    let recipe = Recipe { name: "node", version: versions::KUBERNETES, inputs: &inputs };
    image_name("node", &recipe)
}

/// Makes the node image unless the engine holds it; returns its name.
///
/// # Errors
/// A build in the engine failed; the error quotes the end of the log.
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
    h.progress.step("putting the node image together", seconds(60), |log| {
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
    fn folders(&self) -> [&Path; 9] {
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

    /// The folder that holds a component's program.
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

fn place(file: &Path, folder: &Path) -> Result<()> {
    let name = file.file_name().with_context(|| format!("no file: {}", file.display()))?;
    let to = folder.join(name);
    fs::create_dir_all(folder)
        .and_then(|()| fs::hard_link(file, &to))
        .with_context(|| format!("placing {} at {}", file.display(), to.display()))
}

/// Builds the components' images and saves them all as `images.tar` in the context.
fn save_components(
    engine: &Engine,
    node_base: &str,
    programs: &Programs,
    images: &[String],
    context: &Path,
    log: &Path,
) -> Result<()> {
    let folder = context.join("components");
    for image in images {
        let component = component(image);
        let program = programs.of_component(component).join(component);
        if !folder.join(component).exists() {
            place(&program, &folder)?;
        }
    }
    fs::write(folder.join("Dockerfile"), COMPONENTS).context("writing a Dockerfile")?;
    let base = format!("NODE_BASE={node_base}");
    for image in images {
        let args = ["--target", component(image), "--build-arg", &base];
        engine.build(image, &folder, &args, log)?;
    }
    let save = engine.docker(["save", "--output"]).arg(context.join("images.tar"));
    save.args(images).log(log).run()?;
    // Their names are other people's; in an engine that others use they would be taken for theirs.
    engine.docker(["rmi", "--no-prune"]).args(images).log(log).run()?;
    fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))
}

/// The images that kubeadm will ask for, the one that pods start with, and those of snapshots.
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

/// The component in an image's name: `coredns` of `registry.k8s.io/coredns/coredns:v1.14.2`.
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
