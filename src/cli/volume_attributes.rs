//! `ovl volume-attributes`: prints the checks of volume attributes for the chart's admission policies.

use std::io::{self, Write as _};

use anyhow::Context as _;

use super::failure::Failure;
use crate::csi;

pub(super) fn run() -> Result<(), Failure> {
    io::stdout().write_all(csi::policy_yaml().as_bytes()).context("cannot write to stdout")?;
    Ok(())
}
