//! The programs of two versions, both compiled in the profile of this harness: this tree's, and those of an earlier
//! commit in the history of this clone ("former").
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

/// The profile of this harness. The former version of a busy disk does not have the quick one.
const PROFILE: &str = if cfg!(debug_assertions) { "quick" } else { "release" };

/// Which programs of both versions are compiled, and how.
pub struct Build<'a> {
    /// The name of the former version's product in the cache.
    pub product: &'a str,
    /// The commit of the former version.
    pub former: &'a str,
    /// The command of cargo and its arguments, without those for the profile and the target directory.
    pub cargo: &'a [&'a str],
    /// The names of the programs.
    pub programs: [&'a str; 2],
    /// A file of the former version and code that is added at its end.
    pub added: Option<(&'a str, &'a str)>,
}

/// The paths of the programs, in the order of [`Build::programs`].
pub type Programs = [PathBuf; 2];

impl Build<'_> {
    /// Those of this tree, built beside the harness, so common dependencies are compiled once.
    ///
    /// # Errors
    /// They do not compile.
    pub fn ours(&self, h: &Harness, repo: &Path) -> Result<Programs> {
        // <target>/<profile>/xtask
        let myself = std::env::current_exe().context("finding this program")?;
        let target = myself.ancestors().nth(2);
        let target = target.context("this program is in no target directory")?;
        h.progress
            .step("compiling the driver", minutes(2), |log| self.compile(repo, target, &[], log))
    }

    /// Those of the former version. `None`, with a note, if the history of this clone does not have it.
    ///
    /// # Errors
    /// They do not compile.
    pub fn former(
        &self,
        h: &Harness,
        repo: &Path,
        notes: &mut Vec<String>,
    ) -> Result<Option<Programs>> {
        let Self { product, former, programs, added, .. } = *self;
        let manifest = repo.join("Cargo.toml");
        let manifest = fs::read_to_string(&manifest).context("reading the manifest")?;
        let profile = profile(&manifest, PROFILE);
        let code = added.map_or("", |(_, code)| code);
        let recipe = Recipe { name: product, version: former, inputs: &[&profile, code] };
        let commit = format!("{former}^{{commit}}");
        let known = Cmd::new("git").dir(repo).args(["cat-file", "-e", &commit]).succeeds();
        if h.cache.find(&recipe).is_none() && !known {
            notes.push(format!(
                "the former version: the history of this clone does not have commit {former}; get it with git fetch --unshallow"
            ));
            return Ok(None);
        }
        let kept = h.cache.product(&recipe, |kept| {
            h.progress.step(&format!("compiling the former version {former}"), minutes(4), |log| {
                let place = h.cache.scratch("former")?;
                let sources = place.join("sources");
                unpack(repo, former, &sources, &place.join("archive.tar"))?;
                let settings = place.join("profile.toml");
                fs::write(&settings, &profile).context("writing a profile")?;
                if let Some((file, code)) = added {
                    let file = sources.join(file);
                    let text = fs::read_to_string(&file).context("reading a former file")?;
                    fs::write(&file, format!("{text}\n{code}")).context("writing a former file")?;
                }
                // In a target directory of its own: cargo distinguishes packages of the same name and
                // version apart only by the age of their files.
                let settings = ["--config".as_ref(), settings.as_path()];
                let built = self.compile(&sources, &place.join("target"), &settings, log)?;
                for (from, name) in built.iter().zip(programs) {
                    fs::copy(from, kept.join(name)).context("keeping the former programs")?;
                }
                fs::remove_dir_all(&place).context("removing the former sources")
            })
        })?;
        Ok(Some(programs.map(|name| kept.join(name))))
    }

    fn compile(
        &self,
        sources: &Path,
        target: &Path,
        settings: &[&Path],
        log: &Path,
    ) -> Result<Programs> {
        let cargo = Cmd::new("cargo").dir(sources).args(self.cargo).arg("--locked");
        let cargo = cargo.args(["--profile", PROFILE, "--package", "ovl-csi"]);
        let cargo = cargo.args(["--message-format", "json-render-diagnostics", "--target-dir"]);
        let cargo = cargo.arg(target).args(settings).env("CARGO_TERM_COLOR", "never");
        // cargo sets these for the programs that it runs. They are no settings of this build, and
        // would make some crates compile again.
        let unset = std::env::vars_os().map(|(name, _)| name).filter(|name| {
            let name = name.to_string_lossy();
            name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
        });
        let done = unset.fold(cargo, Cmd::env_remove).limit(minutes(40)).outcome()?;
        fs::write(log, &done.stderr).context("writing the log")?;
        let [first, second] = self.programs.map(|name| find_program(&done.stdout, name));
        let found = first.zip(second).filter(|_| done.status.success());
        let (first, second) =
            found.with_context(|| format!("it does not compile; see {}", log.display()))?;
        Ok([first, second])
    }
}

fn unpack(repo: &Path, commit: &str, sources: &Path, archive: &Path) -> Result<()> {
    fs::create_dir_all(sources).context("making a directory")?;
    let git = Cmd::new("git").dir(repo).args(["archive", "--output"]);
    git.arg(archive).arg(commit).run()?;
    Cmd::new("tar").arg("-xf").arg(archive).arg("-C").arg(sources).run()
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
        let own = profile(include_str!("../../../Cargo.toml"), "quick");
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
