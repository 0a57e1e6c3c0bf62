//! The programs under test, both compiled in the profile of this harness: this tree's, and those of
//! [`FORMER`] from the history of this clone.
//!
//! `cargo xtask bench busy` uses the quick profile, in which a call on a quiet disk needs three
//! times as much work. `cargo run --release --locked --package ovl-e2e -- bench busy` optimizes
//! both. Deliberately absent: other profiles.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::machine::cache::Recipe;
use crate::machine::harness::Harness;
use crate::machine::process::Cmd;
use crate::machine::progress::minutes;

/// The last version whose calls waited for the disk.
pub const FORMER: &str = "b3f2e73";

/// The profile of this harness. The former version does not have the quick one.
const PROFILE: &str = if cfg!(debug_assertions) { "quick" } else { "release" };

/// The test program for captures, and the code that is added to the former version's.
const CAPTURES: &str = "bench_snapshots";
const BESIDE: &str = include_str!("../../../../tests/bench_captures/beside.rs");

/// The programs of one version.
pub struct Programs {
    /// `ovl`.
    pub node: PathBuf,
    /// The test program that captures.
    pub captures: PathBuf,
}

/// Those of this tree, built beside the harness, so common dependencies are compiled once.
///
/// # Errors
/// They do not compile.
pub fn ours(h: &Harness, repo: &Path) -> Result<Programs> {
    // <target>/<profile>/xtask
    let myself = std::env::current_exe().context("finding this program")?;
    let target = myself.ancestors().nth(2).context("this program is in no target directory")?;
    h.progress.step("compiling the driver", minutes(2), |log| build(repo, target, &[], log))
}

/// Those of the former version. `None` if the history of this clone does not have it.
///
/// # Errors
/// They do not compile.
pub fn former(h: &Harness, repo: &Path) -> Result<Option<Programs>> {
    let manifest = repo.join("Cargo.toml");
    let manifest = fs::read_to_string(&manifest).context("reading the manifest")?;
    let profile = profile(&manifest, PROFILE);
    let recipe = Recipe { name: "bench-former", version: FORMER, inputs: &[&profile, BESIDE] };
    let commit = format!("{FORMER}^{{commit}}");
    let known = Cmd::new("git").dir(repo).args(["cat-file", "-e", &commit]).succeeds();
    if h.cache.find(&recipe).is_none() && !known {
        return Ok(None);
    }
    let kept = h.cache.product(&recipe, |kept| {
        h.progress.step("compiling the former version", minutes(4), |log| {
            let place = h.cache.scratch("former")?;
            let sources = place.join("sources");
            unpack(repo, &sources, &place.join("archive.tar"))?;
            let settings = place.join("profile.toml");
            fs::write(&settings, &profile).context("writing a profile")?;
            let test = sources.join(format!("tests/{CAPTURES}.rs"));
            let text = fs::read_to_string(&test).context("reading the former test")?;
            fs::write(&test, format!("{text}\n{BESIDE}")).context("writing the former test")?;
            // In a target directory of its own: cargo distinguishes packages of the same name and version
            // apart only by the age of their files.
            let settings = ["--config".as_ref(), settings.as_path()];
            let programs = build(&sources, &place.join("target"), &settings, log)?;
            for (from, to) in [(programs.node, "ovl"), (programs.captures, CAPTURES)] {
                fs::copy(from, kept.join(to)).context("keeping the former programs")?;
            }
            fs::remove_dir_all(&place).context("removing the former sources")
        })
    })?;
    Ok(Some(Programs { node: kept.join("ovl"), captures: kept.join(CAPTURES) }))
}

fn unpack(repo: &Path, sources: &Path, archive: &Path) -> Result<()> {
    fs::create_dir_all(sources).context("making a directory")?;
    let git = Cmd::new("git").dir(repo).args(["archive", "--output"]);
    git.arg(archive).arg(FORMER).run()?;
    Cmd::new("tar").arg("-xf").arg(archive).arg("-C").arg(sources).run()
}

fn build(sources: &Path, target: &Path, settings: &[&Path], log: &Path) -> Result<Programs> {
    // cargo builds the program of a package beside its test programs.
    let cargo = Cmd::new("cargo").dir(sources).args(["test", "--no-run", "--locked"]);
    let cargo = cargo.args(["--profile", PROFILE, "--package", "ovl-csi", "--test", CAPTURES]);
    let cargo = cargo.args(["--message-format", "json-render-diagnostics", "--target-dir"]);
    let cargo = cargo.arg(target).args(settings).env("CARGO_TERM_COLOR", "never");
    // cargo sets these for the programs that it runs. They are no settings of this build, and would
    // make some crates compile again.
    let unset = std::env::vars_os().map(|(name, _)| name).filter(|name| {
        let name = name.to_string_lossy();
        name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
    });
    let done = unset.fold(cargo, Cmd::env_remove).limit(minutes(40)).outcome()?;
    fs::write(log, &done.stderr).context("writing the log")?;
    let find = |name| find_program(&done.stdout, name);
    let found = find("ovl").zip(find(CAPTURES)).filter(|_| done.status.success());
    let (node, captures) =
        found.with_context(|| format!("it does not compile; see {}", log.display()))?;
    Ok(Programs { node, captures })
}

/// The path of a program in cargo's messages.
fn find_program(output: &str, name: &str) -> Option<PathBuf> {
    output.lines().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_it = message["reason"] == "compiler-artifact" && message["target"]["name"] == name;
        is_it.then(|| message["executable"].as_str().map(PathBuf::from)).flatten()
    })
}

/// The parts of a manifest that define a profile.
fn profile(manifest: &str, name: &str) -> String {
    let header = format!("[profile.{name}");
    let mut in_it = false;
    let lines = manifest.lines().filter(|line| {
        if line.starts_with('[') {
            in_it = line.starts_with(&header);
        }
        in_it && !line.starts_with('#')
    });
    lines.map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_is_found_in_the_manifest() {
        let own = profile(include_str!("../../../../Cargo.toml"), "quick");
        assert!(own.starts_with("[profile.quick]\n") && own.contains("inherits"), "{own}");
        assert!(own.contains("[profile.quick.package.") && !own.contains("release"), "{own}");
    }

    #[test]
    fn a_program_is_found_in_the_output_of_cargo() {
        let line =
            r#"{"reason":"compiler-artifact","target":{"name":"ovl"},"executable":"/t/ovl"}"#;
        let output = format!("{{\"reason\":\"other\"}}\nno message\n{line}\n");
        assert_eq!(find_program(&output, "ovl"), Some("/t/ovl".into()));
        assert_eq!(find_program(&output, "other"), None);
    }
}
