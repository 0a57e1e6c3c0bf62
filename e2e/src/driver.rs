//! The driver itself: its static program, and its image for the nodes.
//!
//! Deliberately absent: a debug build. What is tested on a cluster is what is shipped.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::engine::{Engine, REPOSITORY};
use crate::harness::Harness;
use crate::process::Cmd;
use crate::progress::{minutes, seconds};
use crate::tools::apt;

/// The certificates by which this machine trusts registries; Debian's place for them.
const CERTIFICATES: &str = "etc/ssl/certs/ca-certificates.crt";

/// An image of the driver, in the engine.
pub struct Image {
    /// Its repository.
    pub repository: String,
    /// Its tag, which changes with its content.
    pub tag: String,
}

impl Image {
    /// Repository and tag together.
    pub fn name(&self) -> String {
        format!("{}:{}", self.repository, self.tag)
    }
}

/// The sources' root folder: the one above the harness's own, which cargo names at run time (a
/// shared target folder may hold a harness compiled for another clone).
///
/// # Errors
/// The harness was not started by cargo.
pub fn sources() -> Result<PathBuf> {
    let own = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let root = own.as_deref().and_then(Path::parent).map(Path::to_owned);
    root.context("start the harness as `cargo xtask`, so that it knows where the sources are")
}

/// `cargo` for the sources in a folder; what it builds lies in the cache, so that a fresh clone
/// finds its dependencies built.
pub fn cargo(h: &Harness, repo: &Path) -> Cmd {
    let cargo = Cmd::new("cargo").dir(repo).env("CARGO_TARGET_DIR", h.cache.cargo_target());
    // What it prints goes into logs.
    cargo.env("CARGO_TERM_COLOR", "never")
}

/// Builds the static program and returns its path.
///
/// # Errors
/// The C compiler for musl cannot be installed, or the program does not compile.
pub fn program(h: &Harness, repo: &Path) -> Result<PathBuf> {
    apt::ensure(h, &["musl-tools"])?;
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    ensure_target(h, repo, &target)?;
    h.progress.step("compiling the driver", minutes(2), |log| {
        let build = cargo(h, repo).args(["build", "--release", "--locked", "--bin", "ovl"]);
        build.args(["--target", &target]).log(log).run()
    })?;
    Ok(h.cache.cargo_target().join(target).join("release/ovl"))
}

/// Adds a target to the sources' toolchain: rustup adds those of rust-toolchain.toml only when it
/// installs the toolchain itself.
fn ensure_target(h: &Harness, repo: &Path, target: &str) -> Result<()> {
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

/// `ovl node` as a process of this machine, where there is no cluster to look for.
pub fn node(program: &Path) -> Cmd {
    Cmd::new(program).args(["node", "--no-cluster"])
}

/// Makes the image of a program, as the Dockerfile does offline. Its tag follows its content, so
/// that a cluster that runs an older one takes the new one up.
///
/// # Errors
/// A file of it cannot be read or the engine refuses to build it.
pub fn image(h: &Harness, repo: &Path, engine: &Engine, program: &Path) -> Result<Image> {
    if !Path::new("/").join(CERTIFICATES).exists() {
        apt::ensure(h, &["ca-certificates"])?;
    }
    let context = h.cache.scratch("driver-image")?;
    let files = [
        (repo.join("Dockerfile"), "Dockerfile"),
        (repo.join("LICENSE"), "LICENSE"),
        (program.to_owned(), "dist/ovl"),
        (Path::new("/").join(CERTIFICATES), &format!("dist/{CERTIFICATES}")),
    ];
    let mut content = Sha256::new();
    for (from, to) in files {
        let bytes = fs::read(&from).with_context(|| format!("reading {}", from.display()))?;
        content.update(&bytes);
        copy(&from, &context.join(to))?;
    }
    let tag = hex::encode(content.finalize())[..12].to_owned();
    let image = Image { repository: format!("{REPOSITORY}/driver"), tag };
    if !engine.has_image(&image.name()) {
        h.progress.step("building the driver's image", seconds(5), |log| {
            engine.build(&image.name(), &context, &["--target", "prebuilt"], log)
        })?;
    }
    Ok(image)
}

/// Copies one file with its permissions, making the folders above it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    to.parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::copy(from, to))
        .map(drop)
        .with_context(|| format!("copying {} to {}", from.display(), to.display()))
}

#[cfg(test)]
mod tests {
    /// The part of a text between two others.
    fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
        Some(text.split_once(before)?.1.split_once(after)?.0)
    }

    #[test]
    fn the_dockerfile_compiles_with_the_compiler_of_the_sources() {
        let wanted = include_str!("../../rust-toolchain.toml");
        let wanted = between(wanted, "channel = \"", "\"");
        let dockerfile = include_str!("../../Dockerfile");
        assert!(wanted.is_some());
        assert_eq!(between(dockerfile, "ARG RUST=rust:", "-"), wanted);
    }
}
