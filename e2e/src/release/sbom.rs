//! The crates in the programs of a platform (SBOM, CycloneDX), written by cargo-cyclonedx.
//!
//! Deliberately absent: crates that only run at build time. They are not in the programs.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::platform::Platform;
use super::source::Source;
use crate::driver::{self, CrateProgram};
use crate::machine::harness::Harness;
use crate::machine::process::Cmd;
use crate::machine::progress::minutes;
use crate::toolchain::versions;

/// cargo-cyclonedx.
const CARGO_CYCLONEDX: CrateProgram = CrateProgram {
    name: "cargo-cyclonedx",
    version: versions::CARGO_CYCLONEDX,
    args: &[],
    usual: minutes(2),
};

/// The version of CycloneDX.
const FORMAT: &str = "1.5";

/// The name of the list for a platform.
pub fn name(version: &str, platform: Platform) -> String {
    format!("ovl-csi_{version}_{platform}.cdx.json")
}

/// Makes the list for a platform.
///
/// # Errors
/// cargo-cyclonedx failed.
pub fn make(
    h: &Harness,
    repo: &Path,
    source: &Source,
    platform: Platform,
    log: &Path,
) -> Result<Vec<u8>> {
    let cyclonedx = CARGO_CYCLONEDX.ensure(h, repo)?;
    // It writes beside each Cargo.toml.
    let copy = h.cache.scratch(&format!("sbom.{platform}"))?;
    copy_sources(repo, &copy)?;
    let list = Cmd::new(cyclonedx).dir(&copy).args(["cyclonedx", "--format", "json", "--all"]);
    let list = list.args(["--no-build-deps", "--spec-version", FORMAT]);
    let list = list.args(["--target", platform.target, "--override-filename", "bom"]);
    // Without it there are a random number and the time of the day in it.
    let list = list.env("SOURCE_DATE_EPOCH", source.time.to_string());
    let list = list.env("CARGO_TARGET_DIR", h.cache.cargo_target());
    list.log(log).run()?;
    let text = fs::read(copy.join("bom.json")).context("cargo-cyclonedx made no list")?;
    let text = String::from_utf8(text).context("the list is no text")?;
    // The address of the package is a path of this machine.
    let text = text.replace(&format!("file://{}", copy.display()), "file:///ovl-csi");
    let text = text.replace(&copy.display().to_string(), "/ovl-csi");
    Ok(text.into_bytes())
}

/// Copies the files of the checkout that git knows.
fn copy_sources(repo: &Path, to: &Path) -> Result<()> {
    let files = Cmd::new("git").dir(repo).args(["ls-files", "-z"]).output()?;
    for file in files.split('\0').filter(|file| !file.is_empty()) {
        let (from, to) = (repo.join(file), to.join(file));
        // A file that is removed and not committed.
        if !from.is_file() {
            continue;
        }
        let copied = to.parent().map_or(Ok(()), fs::create_dir_all);
        copied.and_then(|()| fs::copy(&from, &to)).with_context(|| format!("copying {file}"))?;
    }
    Ok(())
}

/// Checks that a list names each crate that cargo links for the platform, with its version.
///
/// # Errors
/// It is no such list, or a crate is missing.
pub fn check(h: &Harness, repo: &Path, platform: Platform, list: &[u8]) -> Result<()> {
    let list: Value = serde_json::from_slice(list).context("parsing it")?;
    ensure!(
        list["bomFormat"] == "CycloneDX" && list["specVersion"] == FORMAT,
        "no CycloneDX {FORMAT}"
    );
    let tree = driver::cargo(h, repo).args(["tree", "--locked", "--package", "ovl-csi"]);
    let tree = tree.args(["--edges", "normal,no-proc-macro", "--target", platform.target]);
    let tree = tree.args(["--prefix", "none", "--format", "{p}"]).output()?;
    let missing: Vec<_> = linked(&tree).difference(&components(&list)).cloned().collect();
    ensure!(missing.is_empty(), "it does not name {}", missing.join(", "));
    Ok(())
}

/// `name version` of each crate in the output of `cargo tree`, without the package itself.
fn linked(tree: &str) -> BTreeSet<String> {
    let crates = tree.lines().skip(1).filter_map(|line| {
        let mut words = line.split(' ');
        let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
        Some(format!("{name} {version}"))
    });
    crates.collect()
}

/// `name version` of each component of a list.
fn components(list: &Value) -> BTreeSet<String> {
    let components = list["components"].as_array().into_iter().flatten();
    let component = |component: &Value| {
        Some(format!("{} {}", component["name"].as_str()?, component["version"].as_str()?))
    };
    components.filter_map(component).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn crates_of_the_tree_are_compared_with_the_components() {
        let tree = "ovl-csi v0.1.0 (/x)\nanyhow v1.0.1\nkube v5.0.0\nanyhow v1.0.1 (*)\n";
        assert_eq!(linked(tree), ["anyhow 1.0.1", "kube 5.0.0"].map(String::from).into());
        let list = json!({ "components": [{ "name": "anyhow", "version": "1.0.1" }] });
        let missing: Vec<_> = linked(tree).difference(&components(&list)).cloned().collect();
        assert_eq!(missing, ["kube 5.0.0"]);
        assert!(components(&json!({})).is_empty());
    }
}
