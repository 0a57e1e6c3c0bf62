//! The programs: `ovl` for nodes, and `kubectl-ovl` for users' machines.
//!
//! Deliberately absent: the program that the cluster tests run. It has the same sources and another C compiler.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::identify;
use super::platform::{NODES, Platform};
use crate::driver::{self, CrossCargo};
use crate::machine::harness::Harness;
use crate::machine::progress::minutes;
use crate::toolchain::qemu_user;

/// The program of the nodes.
pub const DRIVER: &str = "ovl";

/// The plugin of kubectl.
pub const PLUGIN: &str = "kubectl-ovl";

/// The bytes of programs, by name and platform.
pub struct Programs(BTreeMap<(&'static str, &'static str), Vec<u8>>);

impl Programs {
    /// Compiles all of them with a profile of cargo.
    ///
    /// # Errors
    /// One does not compile.
    pub fn build(h: &Harness, repo: &Path, profile: &str) -> Result<Self> {
        let cargo = CrossCargo::ensure(h, repo)?;
        let mut all = BTreeMap::new();
        for platform in NODES {
            let what = format!("compiling {DRIVER} and {PLUGIN} for {platform}");
            h.progress.step(&what, minutes(10), |log| {
                let build = cargo.command(h, "build", platform.target)?;
                let build = build.args(["--package", "ovl-csi", "--bin", DRIVER, "--bin", PLUGIN]);
                build.args(["--profile", profile]).log(log).run()
            })?;
            for name in [DRIVER, PLUGIN] {
                let path = cargo.programs(platform.target, profile).join(name);
                let bytes =
                    fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
                all.insert((name, platform.target), bytes);
            }
        }
        Ok(Self(all))
    }

    /// A program for a platform.
    ///
    /// # Errors
    /// It was not compiled.
    pub fn get(&self, name: &str, platform: Platform) -> Result<Vec<u8>> {
        let found = self.0.get(&(name, platform.target)).cloned();
        found.with_context(|| format!("{name} was not compiled for {platform}"))
    }
}

/// Checks that a program names no directory of this machine.
///
/// # Errors
/// It names one.
pub fn check_paths(h: &Harness, repo: &Path, program: &[u8]) -> Result<()> {
    let text = String::from_utf8_lossy(program);
    for (dir, _) in driver::private_dirs(h, repo)? {
        ensure!(!text.contains(&*dir.to_string_lossy()), "it names {}", dir.display());
    }
    Ok(())
}

/// Checks that a program is one for its platform, and, if this machine can run it or emulate it, that it prints its
/// version.
///
/// # Errors
/// It is another program, or has another version.
pub fn check(
    h: &Harness,
    name: &str,
    version: &str,
    platform: Platform,
    program: &[u8],
) -> Result<()> {
    identify::check(program, platform)?;
    if platform.os != "linux" {
        return Ok(());
    }
    let place = h.cache.scratch("program")?.join(name);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::write(&place, program).and_then(|()| fs::set_permissions(&place, mode))?;
    let printed = qemu_user::command(h, platform.target, &place)?.arg("--version").output()?;
    let wanted = format!("{name} {version}");
    ensure!(printed == wanted, "`{name} --version` prints {printed}, not {wanted}");
    Ok(())
}
