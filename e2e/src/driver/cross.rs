//! Programs for other architectures and systems, as they are released: static, and without paths of this machine in them.
//!
//! Deliberately absent: running them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{cargo_zigbuild, ensure_target};
use crate::machine::harness::Harness;
use crate::machine::process::Cmd;
use crate::toolchain::versions;

/// Where the linker finds the frameworks of macOS, which zig does not have. rustc starts it in the directory of the
/// sources. Without `./`, `-Fe` is another option.
const FRAMEWORKS: &str = "-Clink-arg=-F./e2e/assets/frameworks";

/// The linker for Windows writes the time of the day into programs. With this it writes a hash of them.
const NO_TIME: &str = "-Clink-arg=-Wl,-Brepro";

/// cargo-zigbuild for the sources in a directory. The build output is in the cache.
pub struct CrossCargo<'a> {
    repo: &'a Path,
    cargo: Cmd,
    flags: Vec<String>,
    output: PathBuf,
}

impl<'a> CrossCargo<'a> {
    /// Installs zig and cargo-zigbuild if they are missing.
    ///
    /// # Errors
    /// One of them cannot be installed.
    pub fn ensure(h: &Harness, repo: &'a Path) -> Result<Self> {
        // Panics and generated code name files. Their directories are different on each machine.
        let flags = private_dirs(h, repo)?
            .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()));
        let output = h.cache.cross_target();
        let cargo = cargo_zigbuild(h, repo)?.env("CARGO_TARGET_DIR", &output);
        // `command` sets flags in their place. These are for the programs of this machine.
        let cargo = cargo.env_remove("RUSTFLAGS");
        Ok(Self { repo, cargo, flags: flags.into(), output })
    }

    /// A command of cargo-zigbuild (`build`, `test`) for a target, with the arguments of the command of cargo.
    ///
    /// # Errors
    /// Rust's libraries for the target cannot be installed.
    pub fn command(&self, h: &Harness, command: &str, target: &str) -> Result<Cmd> {
        ensure_target(h, self.repo, target)?;
        let (macos, windows) = (target.contains("-apple-"), target.contains("-windows-"));
        let own = macos.then_some(FRAMEWORKS).or(windows.then_some(NO_TIME));
        let flags: Vec<_> = self.flags.iter().map(String::as_str).chain(own).collect();
        let cargo = self.cargo.clone().env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
        let cargo = cargo.args([command, "--locked", "--target", target]);
        Ok(if macos { cargo.env("MACOSX_DEPLOYMENT_TARGET", versions::MACOS) } else { cargo })
    }

    /// The directory of the programs of a target that this profile makes.
    pub fn programs(&self, target: &str, profile: &str) -> PathBuf {
        self.output.join(target).join(profile)
    }
}

/// The directories of source files on this machine, each with the name that it has in programs. The last one that fits
/// a path counts.
///
/// # Errors
/// rustc does not print where it is, or the home directory is not known.
pub fn private_dirs(h: &Harness, repo: &Path) -> Result<[(PathBuf, String); 4]> {
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
    let cargo_home = cargo_home.or(home).context("neither CARGO_HOME nor HOME is set")?;
    let rustc = |argument: &[&str]| Cmd::new("rustc").dir(repo).args(argument).output();
    let version = rustc(&["--version", "--verbose"])?;
    let commit = version.lines().find_map(|line| line.strip_prefix("commit-hash: "));
    let commit = commit.context("rustc does not print its commit")?;
    // The standard library, if the component rust-src is installed. Without it, this is its name in programs.
    let library = Path::new(&rustc(&["--print", "sysroot"])?).join("lib/rustlib/src/rust");
    Ok([
        (h.cache.root().to_owned(), "/build".to_owned()),
        (repo.to_owned(), "/ovl-csi".to_owned()),
        (cargo_home, "/cargo".to_owned()),
        (library, format!("/rustc/{commit}")),
    ])
}
