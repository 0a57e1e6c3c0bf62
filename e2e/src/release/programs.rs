//! The programs: `ovl` for nodes, and `kubectl-ovl` for users' machines.
//!
//! Deliberately absent: the program that the cluster tests run. It has the same sources and another C compiler.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::identify;
use super::platform::{self, Platform};
use crate::driver::{self, CrossCargo};
use crate::machine::harness::Harness;
use crate::machine::progress::minutes;
use crate::toolchain::{qemu_user, wine};

/// The program of the nodes.
pub const DRIVER: &str = "ovl";

/// The plugin of kubectl.
pub const PLUGIN: &str = "kubectl-ovl";

/// The programs for a platform.
pub fn of(platform: Platform) -> &'static [&'static str] {
    if platform.os == "linux" { &[DRIVER, PLUGIN] } else { &[PLUGIN] }
}

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
        for platform in platform::all() {
            let programs = of(platform);
            let what = format!("compiling {} for {platform}", programs.join(" and "));
            h.progress.step(&what, minutes(10), |log| {
                let build = cargo.command(h, "build", platform.target)?;
                let build = build.args(["--package", "ovl-csi", "--profile", profile]);
                build.args(programs.iter().flat_map(|name| ["--bin", name])).log(log).run()
            })?;
            for &name in programs {
                let file = platform.file(name);
                let path = cargo.programs(platform.target, profile).join(file);
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

/// Checks that a program is one for its platform, and that it prints its version: on this machine, or with qemu-user or
/// wine. Nothing runs programs for macOS here.
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
    let place = h.cache.scratch("program")?.join(platform.file(name));
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::write(&place, program).and_then(|()| fs::set_permissions(&place, mode))?;
    let printed = match platform.os {
        "linux" => qemu_user::command(h, platform.target, &place)?.arg("--version").output()?,
        "windows" => wine::output(h, &place, &["--version"])?,
        _ => return Ok(()),
    };
    let wanted = format!("{name} {version}");
    ensure!(printed == wanted, "`{name} --version` prints {printed}, not {wanted}");
    Ok(())
}
