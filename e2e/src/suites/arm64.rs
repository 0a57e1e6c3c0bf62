//! The programs for arm64, tried: the tests of formats with qemu-user and on an emulated arm64 machine, and there the
//! demonstration of the driver.
//!
//! Deliberately absent: the privileged tests. They call programs that the machine does not have.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::emulated::compiled;
use crate::demo;
use crate::driver::CrossCargo;
use crate::emulated::{self, Arch, Job, Kernel};
use crate::machine::harness::Harness;
use crate::machine::progress::minutes;
use crate::report::{Report, libtest};
use crate::toolchain::{qemu_user, versions};

/// Rust's target.
const TARGET: &str = "aarch64-unknown-linux-musl";

/// The profile of cargo: everything here is emulated, so it is slow anyway, and this compiles quickly.
const PROFILE: &str = "quick";

/// The modules of formats: layers, EROFS images, and documents of registries.
const FORMATS: &[&str] = &["changeset::", "erofs::", "image::", "digest::", "media_type::"];

/// The modules among them whose tests run on the machine: they call openat2(2), which Debian's qemu-user does not have.
const NEEDS_KERNEL: &str = "changeset::diff::";

/// A test that needs GNU tar. The machine has that of busybox.
const NEEDS_TAR: &str = "gnu_tar_reads_packed_layers";

/// Fewer tests than these, with qemu-user and on the machine, mean that the names above are no modules any more.
const FEWEST: [usize; 2] = [250, 20];

/// What the machine runs: the hidden command of the demonstration. It needs cgroups to freeze pods. Pods change their
/// root, which the kernel refuses if it is that of the initramfs itself (pivot_root(2)).
const COMMANDS: &str = "mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir /machine
mount -o rbind / /machine
OVL_CACHE=/mnt/ext4/cache chroot /machine /program";

/// The path of the driver in the machine.
const DRIVER: &str = "/usr/bin/ovl";

/// Compiles the programs and tries them.
///
/// # Errors
/// One does not compile, or a test failed.
pub fn run(h: &Harness, repo: &Path) -> Result<()> {
    let cargo = CrossCargo::ensure(h, repo)?;
    let tests = h.progress.step("compiling the tests for arm64", minutes(6), |_| {
        let test = cargo.command(h, "test", TARGET)?.args(["--package", "ovl-csi", "--lib"]);
        compiled(test.args(["--profile", PROFILE]))
    })?;
    h.progress.step("compiling the programs for arm64", minutes(6), |log| {
        for (package, program) in [("ovl-csi", "ovl"), ("ovl-e2e", "xtask")] {
            let build = cargo.command(h, "build", TARGET)?.args(["--package", package]);
            build.args(["--bin", program, "--profile", PROFILE]).log(log).run()?;
        }
        Ok(())
    })?;
    with_qemu_user(h, &tests)?;
    emulated::ensure_tools(h, Arch::Arm64)?;
    let (series, meta) = versions::KERNEL_ARM64;
    let kernel = Kernel::of(h, Arch::Arm64, series, meta)?;
    on_the_machine(h, &kernel, &tests)?;
    demonstration(h, &kernel, &cargo.programs(TARGET, PROFILE))
}

fn with_qemu_user(h: &Harness, tests: &Path) -> Result<()> {
    let report = h.progress.step("the tests of formats with qemu-user", minutes(4), |log| {
        let run = qemu_user::command(h, TARGET, tests)?.args(["--test-threads", "2"]);
        let printed = run.args(FORMATS).args(["--skip", NEEDS_KERNEL]).outcome()?;
        std::fs::write(log, format!("{}\n{}", printed.stderr, printed.stdout))
            .with_context(|| format!("writing {}", log.display()))?;
        let report = libtest::parse(&printed.stdout);
        complete(&report, FEWEST[0])?;
        // A test that ends the process has no line.
        ensure!(printed.status.success(), "{}; see {}", printed.status, log.display());
        Ok(report)
    })?;
    h.progress.say(&format!("  the tests of formats with qemu-user: {}", report.counts()));
    Ok(())
}

fn on_the_machine(h: &Harness, kernel: &Kernel, tests: &Path) -> Result<()> {
    let what = format!("the tests of {NEEDS_KERNEL} on arm64, Linux {}", kernel.release());
    let report = h.progress.step(&what, minutes(3), |log| {
        let commands = format!("/program --test-threads 2 {NEEDS_KERNEL} --skip {NEEDS_TAR}");
        let job = Job { program: tests, files: &[], commands: &commands };
        let report = libtest::parse(&emulated::run(h, kernel, &job, log)?);
        complete(&report, FEWEST[1])?;
        Ok(report)
    })?;
    h.progress.say(&format!("  {what}: {}", report.counts()));
    Ok(())
}

fn demonstration(h: &Harness, kernel: &Kernel, programs: &Path) -> Result<()> {
    let what = format!("the demonstration on arm64, Linux {}", kernel.release());
    let printed = h.progress.step(&what, minutes(1), |log| {
        let job = Job {
            program: &programs.join("xtask"),
            files: &[(&programs.join("ovl"), DRIVER)],
            commands: &format!("{COMMANDS} {} {DRIVER}", demo::WITH),
        };
        let printed = emulated::run(h, kernel, &job, log)?;
        ensure!(printed.contains(demo::DONE), "it failed; see {}:\n{printed}", log.display());
        Ok(printed)
    })?;
    // The rest is what to try next, and what the machine says at its end.
    let lines = printed.lines().take_while(|line| !line.starts_with(demo::DONE));
    lines.for_each(|line| println!("  {line}"));
    Ok(())
}

/// Checks that tests ran and all passed.
fn complete(report: &Report, fewest: usize) -> Result<()> {
    let failed = report.failures.join("\n");
    ensure!(report.failures.is_empty(), "tests of formats failed on arm64:\n{failed}");
    ensure!(report.passed >= fewest, "only {} tests of formats ran on arm64", report.passed);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_test_or_too_few_of_them_are_an_error() {
        let report = |passed, failures: &[&str]| Report {
            passed,
            failures: failures.iter().map(|name| String::from(*name)).collect(),
        };
        assert!(complete(&report(3, &[]), 3).is_ok());
        assert!(complete(&report(2, &[]), 3).is_err());
        assert!(complete(&report(3, &["erofs::a"]), 3).is_err());
    }
}
