//! `ovl crd`: prints the CustomResourceDefinition of OverlaySnapshots for this version.

use std::io::{self, Write as _};

use anyhow::{Context as _, anyhow};

use super::failure::Failure;
use crate::cluster::overlay_snapshot;

pub(super) fn run() -> Result<(), Failure> {
    let text = overlay_snapshot::crd_yaml().map_err(|e| anyhow!(e))?;
    io::stdout().write_all(text.as_bytes()).context("cannot write to stdout")?;
    Ok(())
}
