//! `ovl crd`: prints the CustomResourceDefinitions of this version.

use std::io::{self, Write as _};

use anyhow::{Context as _, anyhow};
use clap::{Args, ValueEnum};

use super::failure::Failure;
use crate::cluster::{overlay_diff, overlay_snapshot};

/// Print the CustomResourceDefinitions, as the chart ships them
#[derive(Debug, Args)]
pub(super) struct CrdArgs {
    /// Only this one
    #[arg(value_name = "NAME")]
    name: Option<CrdName>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CrdName {
    Overlaysnapshots,
    Overlaydiffs,
    Overlaydiffresults,
}

impl CrdName {
    fn yaml(self) -> Result<String, String> {
        match self {
            Self::Overlaysnapshots => overlay_snapshot::crd_yaml(),
            Self::Overlaydiffs => overlay_diff::crd_yaml(),
            Self::Overlaydiffresults => overlay_diff::result_crd_yaml(),
        }
    }
}

pub(super) fn run(args: &CrdArgs) -> Result<(), Failure> {
    let all = CrdName::value_variants();
    let names = all.iter().filter(|name| args.name.is_none_or(|only| only == **name));
    let texts = names.map(|name| name.yaml()).collect::<Result<Vec<_>, _>>();
    let text = texts.map_err(|e| anyhow!(e))?.join("---\n");
    io::stdout().write_all(text.as_bytes()).context("cannot write to stdout")?;
    Ok(())
}
