//! Arguments that several commands have, and parsers for their values.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use crate::{dns_name::is_subdomain, format, telemetry::Filter};

/// The cluster, the user, the namespace and the driver.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Cluster")]
pub(super) struct ClusterArgs {
    /// The kubeconfig [default: those in KUBECONFIG, else ~/.kube/config, else this pod's ServiceAccount]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig [default: its current context]
    #[arg(long, global = true, value_name = "NAME")]
    pub(super) context: Option<String>,
    /// The namespace [default: the namespace of the context]
    #[arg(short, long, global = true, value_name = "NAME")]
    pub(super) namespace: Option<String>,
    /// The driver name of the ovl-csi release
    #[arg(
        long,
        global = true,
        env = "OVL_DRIVER_NAME",
        default_value = "ovl.csi.dev",
        value_name = "NAME"
    )]
    pub(super) driver: String,
    /// The log level, or levels by module
    #[arg(
        long = "log",
        global = true,
        hide = true,
        env = "OVL_LOG",
        default_value = "ovl=warn",
        value_name = "FILTER"
    )]
    pub(super) filter: Filter,
}

/// The output format of a command.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Output {
    /// The format of the result
    #[arg(short, long, default_value = "text", value_name = "FORMAT")]
    pub(super) output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Plain text
    Text,
    /// JSON
    Json,
}

/// The timeout of a command.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct TimeoutArgs {
    /// How long to wait, such as 90s or 1h30m
    #[arg(long, default_value = "10m", value_name = "DURATION", value_parser = duration)]
    pub(super) timeout: Duration,
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    format::duration(text).ok_or_else(|| "expected a duration such as 90s or 1h30m".to_owned())
}

/// Parses the name of an object: labels of RFC 1123, joined by dots.
pub(super) fn object_name(text: &str) -> Result<String, String> {
    match is_subdomain(text) {
        true => Ok(text.to_owned()),
        false => Err("expected lower-case letters, digits, - and ., as in ws-1".to_owned()),
    }
}
