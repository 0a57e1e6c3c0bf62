//! The driver's static program.
//!
//! Deliberately absent: a debug build. The cluster tests run what is released.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::machine::harness::Harness;
use crate::machine::process::Cmd;
use crate::machine::progress::{minutes, seconds};
use crate::toolchain::apt;

/// The root directory of the sources: the parent of the harness's own, which cargo names at run
/// time. (A shared target directory may hold a harness compiled for another clone.)
///
/// # Errors
/// cargo did not start the harness.
pub fn sources() -> Result<PathBuf> {
    let own = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let root = own.as_deref().and_then(Path::parent).map(Path::to_owned);
    root.context("start the harness as `cargo xtask`: it needs the path of the sources")
}

/// `cargo` for the sources in a directory. Its build output is in the cache, so a fresh clone finds
/// its dependencies built.
pub fn cargo(h: &Harness, repo: &Path) -> Cmd {
    in_sources(h, repo, Path::new("cargo"))
}

/// A program that runs cargo, with the settings of [`cargo`].
pub(super) fn in_sources(h: &Harness, repo: &Path, program: &Path) -> Cmd {
    let cmd = Cmd::new(program).dir(repo).env("CARGO_TARGET_DIR", h.cache.cargo_target());
    // Its output goes to logs.
    cmd.env("CARGO_TERM_COLOR", "never")
}

/// The target of static programs, after a check that this machine can build them.
///
/// # Errors
/// The C compiler for musl or Rust's libraries for the target cannot be installed.
pub fn static_target(h: &Harness, repo: &Path) -> Result<String> {
    apt::ensure(h, &["musl-tools"])?;
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    ensure_target(h, repo, &target)?;
    Ok(target)
}

/// Builds the static program and returns its path.
///
/// # Errors
/// As [`static_target`], or the program does not compile.
pub fn program(h: &Harness, repo: &Path) -> Result<PathBuf> {
    compiled(h, repo, "the driver", "ovl")
}

/// Builds the kubectl plugin, also as a static program, and returns its path.
///
/// # Errors
/// As [`program`].
pub fn plugin(h: &Harness, repo: &Path) -> Result<PathBuf> {
    compiled(h, repo, "the kubectl plugin", "kubectl-ovl")
}

fn compiled(h: &Harness, repo: &Path, what: &str, program: &str) -> Result<PathBuf> {
    let target = static_target(h, repo)?;
    h.progress.step(&format!("compiling {what}"), minutes(2), |log| {
        let build = cargo(h, repo).args(["build", "--release", "--locked", "--bin", program]);
        build.args(["--target", &target]).log(log).run()
    })?;
    Ok(h.cache.cargo_target().join(target).join("release").join(program))
}

/// Adds a target to the toolchain of the sources. rustup adds those of rust-toolchain.toml only
/// when it installs the toolchain itself.
///
/// # Errors
/// There is no rustup, or it has no libraries for the target.
pub fn ensure_target(h: &Harness, repo: &Path, target: &str) -> Result<()> {
    let rustc = Cmd::new("rustc").dir(repo).args(["--print", "target-libdir"]);
    let libraries = rustc.args(["--target", target]).output()?;
    if Path::new(&libraries).is_dir() {
        return Ok(());
    }
    let what = format!("adding Rust's libraries for {target}");
    h.progress.step(&what, seconds(10), |log| {
        let add = Cmd::new("rustup").dir(repo).args(["target", "add", target]).log(log).run();
        add.with_context(|| format!("without rustup, install Rust's libraries for {target}"))
    })
}

#[cfg(test)]
mod tests {
    /// The part of a text between two others.
    fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
        Some(text.split_once(before)?.1.split_once(after)?.0)
    }

    #[test]
    fn the_dockerfile_compiles_with_the_compiler_of_the_sources() {
        let wanted = include_str!("../../../rust-toolchain.toml");
        let wanted = between(wanted, "channel = \"", "\"");
        let dockerfile = include_str!("../../../Dockerfile");
        assert!(wanted.is_some());
        assert_eq!(between(dockerfile, "ARG RUST=rust:", "-"), wanted);
    }
}
