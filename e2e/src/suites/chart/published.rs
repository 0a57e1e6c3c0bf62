//! The images of the chart: what Chart.yaml says of them for Artifact Hub, and one registry for all of them.
//!
//! Deliberately absent: the text of the annotations.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::env::chart;

/// The files of the chart, relative to the sources. Each CRD is one of them.
const FILES: &str = "charts/ovl-csi/files";

/// Checks that the annotations list the images of the default chart and of the chart with its registry, and the CRDs.
pub fn check(repo: &Path, usual: &str, with_registry: &str) -> Result<()> {
    let chart = fs::read_to_string(repo.join("charts/ovl-csi/Chart.yaml"));
    let chart = chart.context("reading Chart.yaml")?;
    let rendered: BTreeSet<_> = images(usual).chain(images(with_registry)).collect();
    let (_, listed) = chart.split_once("artifacthub.io/images: |\n").context("no images")?;
    let (listed, _) = listed.split_once("\n  artifacthub.io/").unwrap_or((listed, ""));
    let listed: BTreeSet<_> = images(listed).collect();
    ensure!(listed == rendered, "Chart.yaml lists {listed:?}, the chart has {rendered:?}");
    let mut crds = 0;
    for file in fs::read_dir(repo.join(FILES)).with_context(|| format!("listing {FILES}"))? {
        let text = fs::read_to_string(file?.path()).context("reading a file of the chart")?;
        if text.contains("\nkind: CustomResourceDefinition\n") {
            let name = text.lines().find_map(|line| line.strip_prefix("  name: "));
            let line = format!("\n      name: {}\n", name.context("a CRD without a name")?);
            ensure!(chart.contains(&line), "Chart.yaml does not list the CRD {line}");
            crds += 1;
        }
    }
    ensure!(crds > 0, "{FILES} has no CRD");
    Ok(())
}

/// The images of containers.
fn images(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix("image: "));
    // A volume has an image too. Its attribute is in a pod of `helm test`, and that image is listed.
    lines.map(|image| image.trim_matches('"'))
}

/// Checks that one registry can replace those of all images, also where a name has none.
pub fn mirrored(helm: &Path, repo: &Path) -> Result<()> {
    let image = "test.image=busybox,registry.enabled=true,registry.clusterIP=10.96.0.50,\
                 global.imageRegistry=mirror.example:5000/all";
    let rendered = chart::chart(helm, repo, &["--set", image])?;
    let images = rendered.lines().filter_map(|line| line.trim().strip_prefix("image: "));
    let images: BTreeSet<_> = images.map(|image| image.trim_matches('"')).collect();
    let names = ["ovl-csi:", "sig-storage/csi-snapshotter:", "library/registry:", "busybox"];
    let names = names.map(|name| format!("mirror.example:5000/all/{name}"));
    let fits = |image: &&str| names.iter().any(|name| image.starts_with(name.as_str()));
    ensure!(images.len() == names.len() && images.iter().all(fits), "its images are {images:?}");
    Ok(())
}
