//! Static Linux programs of another architecture, run by qemu-user.
//!
//! Deliberately absent: a registration with the kernel (binfmt_misc). It would change the machine.

use std::path::Path;

use anyhow::{Context, Result};

use super::apt;
use crate::machine::harness::Harness;
use crate::machine::process::Cmd;

/// The command that runs a program of one of Rust's targets: the program itself, if this machine has its architecture.
///
/// # Errors
/// The emulator cannot be installed.
pub fn command(h: &Harness, target: &str, program: &Path) -> Result<Cmd> {
    let (machine, _) = target.split_once('-').context("a target without a machine")?;
    if machine == std::env::consts::ARCH {
        return Ok(Cmd::new(program));
    }
    apt::ensure(h, &["qemu-user"])?;
    Ok(Cmd::new(format!("qemu-{machine}")).arg(program))
}
