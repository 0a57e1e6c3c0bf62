//! The chart as a package, with the image of the release.
//!
//! Deliberately absent: helm's own archive. It has the times of this machine's files, so helm's is packed again.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::archive;
use super::source::Source;
use crate::env::chart;
use crate::machine::harness::Harness;
use crate::machine::process::Cmd;
use crate::oci::files::Files;
use crate::oci::image::gzip;
use crate::toolchain::installed;

/// The chart, relative to the sources.
const CHART: &str = "charts/ovl-csi";

/// The image that a checkout names. It is made on the machine itself.
const LOCAL: &str = "localhost/ovl-csi";

/// The name that helm gives to a package.
pub fn name(version: &str) -> String {
    format!("ovl-csi-{version}.tgz")
}

/// Packs the chart with the image of this repository.
///
/// # Errors
/// helm refuses the chart, or the chart names no image of a checkout.
pub fn make(h: &Harness, repo: &Path, source: &Source, image: &str) -> Result<Vec<u8>> {
    let place = h.cache.scratch("chart")?;
    let copy = place.join("ovl-csi");
    Cmd::new("cp")
        .args(["--recursive", "--dereference"])
        .arg(repo.join(CHART))
        .arg(&copy)
        .output()?;
    for file in ["values.yaml", "Chart.yaml", "README.md"] {
        let path = copy.join(file);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {CHART}/{file}"))?;
        ensure!(text.contains(LOCAL), "{CHART}/{file} does not name {LOCAL}");
        fs::write(&path, text.replace(LOCAL, image)).with_context(|| format!("writing {file}"))?;
    }
    let package = Cmd::new(installed::helm(h)?).args(["package", "--destination"]).arg(&place);
    package.arg(&copy).output()?;
    let name = name(&source.version);
    let packed = fs::read(place.join(&name));
    let packed = packed
        .with_context(|| format!("helm made no {name}: is that the version of the chart?"))?;
    gzip(&plain(&archive::open(&name, &packed)?).tar(source.time)?)
}

/// The same files, all with the permissions that helm writes.
fn plain(files: &Files) -> Files {
    files.iter().fold(Files::default(), |all, (path, file)| all.with(path, file.bytes.clone()))
}

/// Checks that helm renders the package, with this image in all of the driver's containers.
///
/// # Errors
/// helm refuses it, or it has another image or another version.
pub fn check(h: &Harness, package: &Path, version: &str, image: &str) -> Result<()> {
    let helm = installed::helm(h)?;
    let shown = Cmd::new(&helm).args(["show", "chart"]).arg(package).output()?;
    for field in ["version", "appVersion"] {
        let line = format!("{field}: {version}");
        ensure!(shown.lines().any(|have| have == line), "Chart.yaml has no `{line}`:\n{shown}");
    }
    let wanted = format!("{image}:{version}");
    ensure!(shown.contains(&format!("image: {wanted}\n")), "Chart.yaml does not list {wanted}");
    let template = Cmd::new(&helm).args(["template", chart::RELEASE]).arg(package);
    let template = template.args(["--namespace", chart::NAMESPACE, "--api-versions"]);
    let rendered = template.arg(chart::SNAPSHOTS).output()?;
    let images = driver_images(&rendered);
    ensure!(images == BTreeSet::from([wanted.as_str()]), "the images are {images:?}, not {wanted}");
    Cmd::new(&helm).args(["lint", "--strict"]).arg(package).output().map(drop)
}

/// The images of the driver in rendered objects.
fn driver_images(rendered: &str) -> BTreeSet<&str> {
    let images = rendered.lines().filter_map(|line| line.trim().strip_prefix("image: "));
    images.map(|image| image.trim_matches('"')).filter(|image| image.contains("/ovl-csi")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chart_names_the_image_of_a_checkout_in_each_file_that_a_release_changes() {
        for text in [
            include_str!("../../../charts/ovl-csi/values.yaml"),
            include_str!("../../../charts/ovl-csi/Chart.yaml"),
            include_str!("../../../charts/ovl-csi/README.md"),
        ] {
            assert!(text.contains(LOCAL));
        }
    }

    #[test]
    fn only_images_of_the_driver_count() {
        let rendered = "image: \"r.example/ovl-csi:1\"\n  image: registry.k8s.io/a:2\n- image: r.example/ovl-csi:1\n";
        assert_eq!(driver_images(rendered), BTreeSet::from(["r.example/ovl-csi:1"]));
    }
}
