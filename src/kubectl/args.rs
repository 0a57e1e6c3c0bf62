//! Arguments that several commands have, and parsers for their values.

use std::{path::PathBuf, str::FromStr, time::Duration};

use anstream::ColorChoice;
use anyhow::anyhow;
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{failure::Failure, print};
use crate::{
    cluster::{BearerToken, Connection},
    dns_name::{is_label, is_subdomain},
    format,
    telemetry::Filter,
};

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
    /// A cluster of the kubeconfig [default: the cluster of the context]
    #[arg(long, global = true, value_name = "NAME")]
    pub(super) cluster: Option<String>,
    /// A user of the kubeconfig [default: the user of the context]
    #[arg(long, global = true, value_name = "NAME")]
    pub(super) user: Option<String>,
    /// The URL of the API server [default: the server of the cluster]
    #[arg(short, long, global = true, value_name = "URL")]
    pub(super) server: Option<String>,
    /// A bearer token, in place of the user's credentials
    #[arg(long, global = true, value_name = "TOKEN")]
    pub(super) token: Option<BearerToken>,
    /// The namespace [default: the namespace of the context]
    #[arg(short, long, global = true, value_name = "NAME")]
    pub(super) namespace: Option<String>,
    /// The user to impersonate
    #[arg(long = "as", global = true, value_name = "USER")]
    pub(super) impersonate: Option<String>,
    /// A group of the user to impersonate; can be repeated
    #[arg(long = "as-group", global = true, value_name = "GROUP")]
    pub(super) impersonate_groups: Vec<String>,
    /// The timeout of one request to the API server, such as 30s; 0 for none [default: 10s]
    #[arg(long, global = true, value_name = "DURATION", value_parser = request_timeout)]
    pub(super) request_timeout: Option<Duration>,
    /// The driver name of the ovl-csi release
    #[arg(
        long,
        global = true,
        env = "OVL_DRIVER_NAME",
        default_value = "ovl.csi.dev",
        value_name = "NAME"
    )]
    pub(super) driver: String,
    /// When to use colours. With auto, NO_COLOR turns them off
    #[arg(
        long,
        global = true,
        default_value = "auto",
        value_name = "WHEN",
        help_heading = "Output"
    )]
    pub(super) color: Color,
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

impl ClusterArgs {
    /// How to connect to the cluster.
    pub(super) fn connection(&self) -> Connection {
        Connection {
            kubeconfig: self.kubeconfig.clone(),
            context: self.context.clone(),
            cluster: self.cluster.clone(),
            user: self.user.clone(),
            server: self.server.clone(),
            token: self.token.clone(),
            impersonate: self.impersonate.clone(),
            impersonate_groups: self.impersonate_groups.clone(),
            request_timeout: self.request_timeout,
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Color {
    /// On a terminal
    #[default]
    Auto,
    Always,
    Never,
}

impl Color {
    /// Applies it to everything that this process prints.
    pub(super) fn apply(self) {
        match self {
            Self::Auto => ColorChoice::Auto,
            Self::Always => ColorChoice::Always,
            Self::Never => ColorChoice::Never,
        }
        .write_global();
    }
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
    /// YAML
    Yaml,
}

/// The output format of a command about objects with a name.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct NamedOutput {
    /// The format of the result
    #[arg(short, long, default_value = "text", value_name = "FORMAT")]
    pub(super) output: NamedFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum NamedFormat {
    /// Plain text
    Text,
    /// JSON
    Json,
    /// YAML
    Yaml,
    /// The kind and the name of each object, for other commands
    Name,
}

impl Format {
    /// Prints a result in this format.
    pub(super) fn print(
        self,
        result: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> anyhow::Result<()> {
        match self {
            Self::Text => print::out(&text()),
            Self::Json => print::json(result),
            Self::Yaml => print::yaml(result),
        }
    }
}

/// Whether a command only shows what it would do.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct DryRunArgs {
    /// Change nothing. client: only print what would be done; server: let the API server check it, too
    #[arg(long, value_name = "WHERE", default_value = "none", default_missing_value = "client",
          num_args = 0..=1, require_equals = true)]
    pub(super) dry_run: DryRun,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum DryRun {
    /// Do it
    None,
    /// Send nothing that changes something
    Client,
    /// Send it, for the API server to check and not to store
    Server,
}

impl DryRun {
    /// What follows the line of a result, as in the output of kubectl.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Client => " (dry run)",
            Self::Server => " (server dry run)",
        }
    }
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

/// Parses the timeout of requests. As in kubectl, 0 is no timeout.
fn request_timeout(text: &str) -> Result<Duration, String> {
    match text {
        "0" => Ok(Duration::MAX),
        text => duration(text).map(|time| if time.is_zero() { Duration::MAX } else { time }),
    }
}

/// Parses the name of an object: labels of RFC 1123, joined by dots.
pub(super) fn object_name(text: &str) -> Result<String, String> {
    match is_subdomain(text) {
        true => Ok(text.to_owned()),
        false => Err("expected lower-case letters, digits, - and ., as in ws-1".to_owned()),
    }
}

/// Parses the name of a volume of a pod: a label of RFC 1123.
pub(super) fn volume_name(text: &str) -> Result<String, String> {
    match is_label(text) {
        true => Ok(text.to_owned()),
        false => {
            Err("expected lower-case letters, digits and -, at most 63, as in work".to_owned())
        }
    }
}

/// Parses a word whose meaning depends on other words, so clap cannot parse it. `argument` is its name in the usage. The
/// error is the one of clap.
pub(super) fn value<T>(
    argument: &str,
    text: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<T, Failure> {
    parse(text).map_err(|why| {
        Failure::Usage(anyhow!("invalid value '{text}' for '{argument}': {why}; try '--help'"))
    })
}

/// Parses the start of a name, to which a dash or letters can be added.
pub(super) fn name_prefix(text: &str) -> Result<String, String> {
    object_name(text.trim_end_matches(['-', '.'])).map(|_| text.to_owned())
}

/// A pod, and perhaps one of its volumes: `POD` or `POD/VOLUME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PodVolume {
    pub(super) pod: String,
    pub(super) volume: Option<String>,
}

impl FromStr for PodVolume {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (pod, volume) = match text.split_once('/') {
            Some((pod, volume)) if is_label(volume) => (pod, Some(volume.to_owned())),
            Some((_, volume)) => return Err(format!("{volume:?} is not the name of a volume")),
            None => (text, None),
        };
        Ok(Self { pod: object_name(pod)?, volume })
    }
}
