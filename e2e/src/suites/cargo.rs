//! The suites that run cargo: format, lints, and the three kinds of Rust tests.
//!
//! Deliberately absent: a test runner. The output of libtest is parsed as it is.

use std::fs;
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::context::SuiteContext;
use crate::machine::process::{Cmd, tail};
use crate::report::{Report, libtest};
use crate::toolchain::{apt, estargz, golang, programs, versions};
use crate::{cluster::engine, driver};

/// Packages that the tests on real mounts call: tools that create and check the mounted file
/// systems, and programs that depend on inodes, descriptors and access lists. iproute2 and tinyproxy are for the
/// tests of proxies, busybox-static is the content of small trees, and builds go on in copies of directories.
pub const FILE_SYSTEM_TOOLS: &[&str] = &[
    "acl",
    "attr",
    "borgbackup",
    "btrfs-progs",
    "buildah",
    "busybox-static",
    "cmake",
    "e2fsprogs",
    "erofs-utils",
    "fuse-overlayfs",
    "git",
    "iproute2",
    "libarchive-tools",
    "libcap2-bin",
    "make",
    "ncdu",
    "ninja-build",
    "podman",
    "postgresql",
    "python3-venv",
    "restic",
    "rpm",
    "rsync",
    "skopeo",
    "sqlite3",
    "squashfs-tools",
    "tinyproxy-bin",
    "umoci",
    "xfsprogs",
];

/// A test binary and the name of a long test of it that uses at most one core.
type Long = (&'static str, &'static str);

/// The long test among those that need only the compiler. It runs beside all others.
const LONG_UNIT: &[Long] =
    &[("changeset_memory", "a_hostile_layer_uses_no_more_memory_than_its_limit")];

/// The long tests among those on real mounts. They run beside all others.
const LONG_PRIVILEGED: &[Long] = &[
    ("privileged_hostile", "privileged_hostile_tenants_neither_end_the_driver_nor_delay_others"),
    ("names_memory", "privileged_an_upper_of_many_files_needs_little_memory"),
];

/// Threads of a test binary for each core. Half of the tests wait most of their time: for a disk, a timeout or another process.
const THREADS_PER_CORE: usize = 2;

/// Lines of a failed run that are quoted.
const QUOTED: usize = 60;

/// `cargo fmt --check`.
pub fn format(ctx: &SuiteContext<'_>, log: &Path) -> Result<Report> {
    let fmt = driver::cargo(ctx.h, ctx.repo).args(["fmt", "--all", "--check"]);
    let fmt = fmt.args(["--", "--color", "never"]);
    Ok(Report::of("cargo fmt --all --check", fmt.log(log).run()))
}

/// clippy on everything, and rustdoc for the links of doc comments, with warnings as errors.
pub fn clippy(ctx: &SuiteContext<'_>, log: &Path) -> Result<Report> {
    let clippy = driver::cargo(ctx.h, ctx.repo).args(["clippy", "--workspace", "--locked"]);
    let clippy = clippy.args(["--all-targets", "--", "--deny", "warnings"]);
    let mut report = Report::of("cargo clippy", clippy.log(log).run());
    let doc = driver::cargo(ctx.h, ctx.repo).args(["doc", "--locked", "--no-deps"]);
    let doc = doc
        .arg("--document-private-items")
        .env("RUSTDOCFLAGS", "--deny rustdoc::broken_intra_doc_links");
    report.count("cargo doc", doc.log(log).run());
    Ok(report)
}

/// Every test that needs only the compiler.
pub fn unit(ctx: &SuiteContext<'_>, log: &Path) -> Result<Report> {
    let test = driver::cargo(ctx.h, ctx.repo).args(["test", "--workspace"]);
    beside(&test, LONG_UNIT, &[], log)
}

/// The tests that mount and need root.
pub fn privileged(ctx: &SuiteContext<'_>, log: &Path) -> Result<Report> {
    let h = ctx.h;
    apt::ensure(h, FILE_SYSTEM_TOOLS)?;
    engine::ensure_programs(h)?;
    let test = driver::cargo(h, ctx.repo).args(["test", "--workspace"]);
    let test = golang::with_caches(h, test);
    let test = test.env("OVL_CONTAINERD", programs::containerd().ensure(h)?);
    let test = test.env("OVL_CRANE", programs::crane().ensure(h)?.join("crane"));
    let test = test.env("OVL_UMOCI", programs::umoci().ensure(h)?.join("umoci"));
    let test = test.env("OVL_BUILDX", programs::buildx().ensure(h)?.join("buildx"));
    let test = test.env("OVL_KO", programs::ko().ensure(h)?.join("ko"));
    let mut test = test.env("OVL_ESTARGZ", estargz::ensure(h)?.join("estargz"));
    for (variable, module, version) in versions::ARCHIVES {
        test = test.env(variable, golang::module_dir(h, module, version)?);
    }
    beside(&test, LONG_PRIVILEGED, &["--ignored", "privileged_", "--skip", "emulated_"], log)
}

/// Runs the long tests, and the others at the same time. `after` has the arguments for libtest.
fn beside(test: &Cmd, long: &[Long], after: &[&str], log: &Path) -> Result<Report> {
    let long_log = log.with_extension("long.log");
    thread::scope(|scope| {
        let binaries = long.iter().flat_map(|(binary, _)| ["--test", binary]);
        let binaries = test.clone().args(binaries);
        let long_run = scope.spawn(|| tests(binaries, after, &long_log));
        let skipped = long.iter().flat_map(|(_, name)| ["--skip", name]);
        let others: Vec<_> = after.iter().copied().chain(skipped).collect();
        let report = tests(test.clone(), &others, log);
        let long = long_run.join().map_err(|_| anyhow!("the thread of the long tests panicked"))?;
        let mut report = report?;
        report.add(long?);
        Ok(report)
    })
}

/// Runs `cargo test …` and counts the results.
///
/// # Errors
/// The run failed without a failed test: the code did not compile, or a test ended its process.
pub fn tests(cargo: Cmd, after: &[&str], log: &Path) -> Result<Report> {
    let threads = thread::available_parallelism().context("counting the cores")?.get();
    let cargo = cargo.env("RUST_TEST_THREADS", (threads * THREADS_PER_CORE).to_string());
    let cargo = cargo.args(["--locked", "--no-fail-fast", "--"]).args(after);
    let done = cargo.outcome()?;
    let output = format!("{}\n{}", done.stderr, done.stdout);
    fs::write(log, output).with_context(|| format!("writing {}", log.display()))?;
    let mut report = libtest::parse(&done.stdout);
    if let Some(last) = report.failures.last_mut() {
        ensure!(!done.status.success(), "cargo reports success, its output does not");
        last.push_str(&format!("; the end of {}:\n{}", log.display(), tail(log, QUOTED)?));
    } else if !done.status.success() {
        bail!("{}; the end of {}:\n{}", done.status, log.display(), tail(log, QUOTED)?);
    }
    Ok(report)
}
