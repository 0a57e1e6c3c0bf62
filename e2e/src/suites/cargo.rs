//! The suites that are cargo's: format, lints, and the three kinds of Rust tests.
//!
//! Deliberately absent: a test runner of our own. libtest's words are read as they are.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::{Bench, libtest};
use crate::process::{Cmd, tail};
use crate::tally::Tally;
use crate::tools::{self, apt, golang};
use crate::{driver, engine, versions};

/// What the tests on real mounts call: makers and checkers of the file systems that they mount, and programs that are choosy
/// about inodes, descriptors and access lists.
pub const FILE_SYSTEM_TOOLS: &[&str] = &[
    "acl",
    "attr",
    "borgbackup",
    "buildah",
    "e2fsprogs",
    "erofs-utils",
    "git",
    "libarchive-tools",
    "ncdu",
    "podman",
    "postgresql",
    "restic",
    "rpm",
    "rsync",
    "skopeo",
    "sqlite3",
    "squashfs-tools",
    "umoci",
    "xfsprogs",
];

/// How many lines of a failed run are quoted.
const QUOTED: usize = 60;

/// `cargo fmt --check`.
pub fn format(bench: &Bench<'_>, log: &Path) -> Result<Tally> {
    let fmt = driver::cargo(bench.h, bench.repo).args(["fmt", "--all", "--check"]);
    let fmt = fmt.args(["--", "--color", "never"]);
    Ok(Tally::of("cargo fmt --all --check", fmt.log(log).run()))
}

/// clippy on everything, with warnings as errors.
pub fn clippy(bench: &Bench<'_>, log: &Path) -> Result<Tally> {
    let clippy = driver::cargo(bench.h, bench.repo).args(["clippy", "--workspace", "--locked"]);
    let clippy = clippy.args(["--all-targets", "--", "--deny", "warnings"]);
    Ok(Tally::of("cargo clippy", clippy.log(log).run()))
}

/// Every test that needs nothing but the compiler.
pub fn unit(bench: &Bench<'_>, log: &Path) -> Result<Tally> {
    tests(driver::cargo(bench.h, bench.repo).args(["test", "--workspace"]), &[], log)
}

/// The tests that mount and need root.
pub fn privileged(bench: &Bench<'_>, log: &Path) -> Result<Tally> {
    let h = bench.h;
    apt::ensure(h, FILE_SYSTEM_TOOLS)?;
    engine::ensure_programs(h)?;
    let test = driver::cargo(h, bench.repo).args(["test", "--workspace"]);
    let test = golang::with_caches(h, test).env("OVL_CONTAINERD", tools::containerd().ensure(h)?);
    let test = test.env("OVL_CRANE", tools::crane().ensure(h)?.join("crane"));
    let test = test.env("OVL_UMOCI", tools::umoci().ensure(h)?.join("umoci"));
    let test = test.env("OVL_BUILDX", tools::buildx().ensure(h)?.join("buildx"));
    let test = test.env("OVL_KO", tools::ko().ensure(h)?.join("ko"));
    let mut test = test.env("OVL_ESTARGZ", tools::estargz::ensure(h)?.join("estargz"));
    for (variable, module, version) in versions::ARCHIVES {
        test = test.env(variable, golang::module_dir(h, module, version)?);
    }
    tests(test, &["--ignored", "privileged_", "--skip", "emulated_"], log)
}

/// Runs `cargo test …` to its end and counts.
///
/// # Errors
/// It failed without a failed test: it did not compile, or a test ended its process.
pub fn tests(cargo: Cmd, after: &[&str], log: &Path) -> Result<Tally> {
    let cargo = cargo.args(["--locked", "--no-fail-fast", "--"]).args(after);
    let done = cargo.outcome()?;
    let said = format!("{}\n{}", done.stderr, done.stdout);
    fs::write(log, said).with_context(|| format!("writing {}", log.display()))?;
    let mut tally = libtest::tally(&done.stdout);
    if let Some(last) = tally.failures.last_mut() {
        ensure!(!done.status.success(), "cargo says success, its output does not");
        last.push_str(&format!("; the end of {}:\n{}", log.display(), tail(log, QUOTED)?));
    } else if !done.status.success() {
        bail!("{}; the end of {}:\n{}", done.status, log.display(), tail(log, QUOTED)?);
    }
    Ok(tally)
}
