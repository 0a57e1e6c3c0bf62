//! The manifest with which krew, the plugin manager of kubectl, installs the plugin.
//!
//! krew itself checks it: `validate-krew-manifest`, and an installation of each archive.
//!
//! Deliberately absent: the index of krew. A pull request there follows a release.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::platform::Platform;
use super::source::Source;
use crate::machine::harness::Harness;
use crate::machine::process::Cmd;
use crate::toolchain::programs;

/// The name of the manifest's file. krew requires that it is the name of the plugin.
pub const NAME: &str = "ovl.yaml";

/// An archive of the plugin.
#[derive(Clone, Debug)]
pub struct Archive {
    /// For which platform it is.
    pub platform: Platform,
    /// The name of its file.
    pub name: String,
    /// The name of the program in it.
    pub program: String,
    /// The SHA-256 of its file, in hex.
    pub sha256: String,
}

/// The text of the manifest.
pub fn manifest(source: &Source, archives: &[Archive]) -> String {
    let Source { home, .. } = source;
    let mut text = format!(
        "apiVersion: krew.googlecontainertools.github.com/v1alpha2
kind: Plugin
metadata:
  name: ovl
spec:
  version: {}
  homepage: {home}
  shortDescription: Snapshot and fork overlay volumes of pods
  description: |
    Takes snapshots of running pods' volumes, lists and compares them, and starts pods and workloads from them.
    It works with volumes of the CSI driver ovl-csi.
  caveats: |
    The cluster needs the CSI driver ovl-csi with snapshots:
    {home}/tree/{}/docs/install.md
  platforms:
",
        source.tag(),
        source.tag()
    );
    for Archive { platform: Platform { os, arch, .. }, name, program, sha256 } in archives {
        // Writing to a string cannot fail.
        write!(
            text,
            "  - selector:
      matchLabels:
        os: {os}
        arch: {arch}
    uri: {}
    sha256: {sha256}
    bin: {program}
",
            source.download(name)
        )
        .unwrap_or_default();
    }
    text
}

/// Checks the manifest in this directory with krew, and installs each archive beside it with krew, which compares its
/// checksum and links its program.
///
/// # Errors
/// krew refuses the manifest or an archive.
pub fn check(h: &Harness, place: &Path, archives: &[Archive], log: &Path) -> Result<()> {
    let (krew, manifest) = (programs::krew().ensure(h)?, place.join(NAME));
    let validate = Cmd::new(krew.join("validate-krew-manifest")).arg("-skip-install");
    validate.arg("-manifest").arg(&manifest).log(log).run()?;
    for archive in archives {
        let Platform { os, arch, .. } = archive.platform;
        let root = h.cache.scratch(&format!("krew.{os}.{arch}"))?;
        let install = Cmd::new(krew.join("krew")).arg("install").arg("--manifest").arg(&manifest);
        let install = install.arg("--archive").arg(place.join(&archive.name));
        let install = install.env("KREW_ROOT", &root).env("KREW_OS", os).env("KREW_ARCH", arch);
        install.env("KREW_NO_UPGRADE_CHECK", "1").log(log).run()?;
        let store = root.join("store/ovl");
        let version = fs::read_dir(&store).context("krew installed nothing")?.next();
        let version = version.context("krew installed nothing")??.path();
        for file in [archive.program.as_str(), super::archive::LICENSE] {
            ensure!(
                version.join(file).is_file(),
                "krew did not install {file} of {}",
                archive.name
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::archive;
    use crate::release::platform;

    fn archives() -> Vec<Archive> {
        let archive = |platform: Platform| Archive {
            platform,
            name: archive::name("kubectl-ovl", "1.2.3", platform),
            program: platform.file("kubectl-ovl"),
            sha256: "0".repeat(64),
        };
        platform::all().map(archive).collect()
    }

    #[test]
    fn each_archive_has_an_entry_with_its_address() {
        let text = manifest(&Source::example(), &archives());
        for line in [
            "  version: v1.2.3",
            "        arch: arm64",
            "    uri: https://github.com/Example/ovl/releases/download/v1.2.3/kubectl-ovl_1.2.3_linux_arm64.tar.gz",
            &format!("    sha256: {}", "0".repeat(64)),
            "    bin: kubectl-ovl",
            "        os: darwin",
            "    uri: https://github.com/Example/ovl/releases/download/v1.2.3/kubectl-ovl_1.2.3_windows_amd64.zip",
            "    bin: kubectl-ovl.exe",
        ] {
            assert!(text.lines().any(|have| have == line), "{line}\n{text}");
        }
        assert_eq!(text.matches("  - selector:\n").count(), 5);
    }

    /// krew's guide for authors of plugins.
    #[test]
    fn the_short_description_is_short_and_names_neither_kubectl_nor_a_plugin() {
        let text = manifest(&Source::example(), &[]);
        let short = text.lines().find_map(|line| line.trim().strip_prefix("shortDescription: "));
        let short = short.unwrap_or_default();
        assert!((10..50).contains(&short.len()) && !short.ends_with('.'), "{short}");
        assert!(!short.contains("kubectl") && !short.contains("plugin"), "{short}");
    }
}
