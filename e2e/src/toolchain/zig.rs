//! zig, whose C compiler and linker make programs for other systems and machines. The package `ziglang` of PyPI has it.
//!
//! Deliberately absent: how cargo calls it. That is what cargo-zigbuild does.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::{apt, versions};
use crate::machine::cache::Recipe;
use crate::machine::harness::Harness;
use crate::machine::process::Cmd;
use crate::machine::progress::seconds;

/// The program. Installs the package into the cache if it is missing.
///
/// # Errors
/// There is no pip, or the package cannot be downloaded, or it has another digest than the pinned ones.
pub fn ensure(h: &Harness) -> Result<PathBuf> {
    let recipe = Recipe { name: "ziglang", version: versions::ZIG, inputs: versions::ZIG_DIGESTS };
    let place = match h.cache.find(&recipe) {
        Some(place) => place,
        None => {
            if !pip().arg("--version").succeeds() {
                apt::ensure(h, &["python3-pip"])?;
            }
            h.progress.step(&format!("installing zig {}", versions::ZIG), seconds(20), |log| {
                let requirements = h.cache.scratch("ziglang.requirements")?.join("pinned.txt");
                fs::write(&requirements, pinned()).context("writing the pinned package")?;
                h.cache.product(&recipe, |place| {
                    let install = pip().args(["install", "--no-deps", "--only-binary=:all:"]);
                    let install = install.args(["--no-compile", "--target"]).arg(place);
                    install.arg("--requirement").arg(&requirements).log(log).run()
                })
            })?
        }
    };
    Ok(place.join("ziglang/zig"))
}

fn pip() -> Cmd {
    Cmd::new("python3").args(["-m", "pip"])
}

/// The package in the format of pip: its version, and the digests that its archive may have.
fn pinned() -> String {
    let digests = versions::ZIG_DIGESTS.iter().map(|digest| format!(" --hash=sha256:{digest}"));
    format!("ziglang=={}{}\n", versions::ZIG, digests.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pip_gets_the_version_and_a_digest_for_each_machine() {
        let text = pinned();
        assert!(text.starts_with("ziglang==") && text.ends_with('\n'), "{text}");
        assert_eq!(text.matches(" --hash=sha256:").count(), 2, "{text}");
    }
}
