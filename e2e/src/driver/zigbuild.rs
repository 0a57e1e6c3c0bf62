//! cargo with zig as C compiler and linker, for other systems and machines.

use std::path::Path;

use anyhow::Result;

use super::build::in_sources;
use super::crates::CrateProgram;
use crate::machine::harness::Harness;
use crate::machine::process::Cmd;
use crate::machine::progress::minutes;
use crate::toolchain::{versions, zig};

const CARGO_ZIGBUILD: CrateProgram = CrateProgram {
    name: "cargo-zigbuild",
    version: versions::CARGO_ZIGBUILD,
    args: &[],
    usual: minutes(1),
};

/// `cargo-zigbuild` for the sources in a directory. Its subcommands `build`, `check` and `clippy` are those of cargo. The
/// targets must be there: [`super::ensure_target`].
///
/// # Errors
/// zig cannot be installed, or cargo-zigbuild does not compile.
pub fn cargo_zigbuild(h: &Harness, repo: &Path) -> Result<Cmd> {
    let zig = zig::ensure(h)?;
    let program = CARGO_ZIGBUILD.ensure(h, repo)?;
    let cache = h.cache.zig();
    let cmd = in_sources(h, repo, &program).env("CARGO_ZIGBUILD_ZIG_PATH", zig);
    Ok(cmd.env("CARGO_ZIGBUILD_CACHE_DIR", &cache).env("ZIG_GLOBAL_CACHE_DIR", &cache))
}
