//! The servers of each registry, from a directory of `hosts.toml` files in containerd's format.
//!
//! ```text
//! <dir>/registry.example:5000/hosts.toml     or, for tools that cannot write a colon,
//! <dir>/registry.example_5000_/hosts.toml    or, for every registry without a directory of its own,
//! <dir>/_default/hosts.toml
//!     server = "https://registry.example:5000"            # tried last; without this key, https to the registry itself
//!     ca = "ca.crt"                                       # these keys, for the server and for each host:
//!     client = [["client.crt", "client.key"]]             #   files, relative to this one
//!     skip_verify = false
//!     dial_timeout = "10s"
//!     override_path = false                               # true: the URL's path replaces /v2
//!     header = { x-team = "ci" }
//!     rewrite = { "^library/(.*)" = "hub/$1" }            # k3s' key: another repository; the first match counts
//!     [host."http://mirror.example:8080"]                 # tried first, in the order of the file
//!     capabilities = ["pull", "resolve"]                  # the default
//! ```
//!
//! A directory without a `hosts.toml` has only the certificates of a registry, with Docker's names: `*.crt` of CAs,
//! `NAME.cert` and `NAME.key` of a client.
//!
//! Everything is read once, at start: a registry cannot change its address during a pull. An invalid file is logged
//! then, and its registry is not contacted: with other settings than intended, it could return other content or receive
//! a secret. An invalid `_default` affects every registry without a directory. Plain http is used only for URLs with
//! `http://`. A push goes to the first server that accepts pushes: a mirror whose `capabilities` include "push", or the
//! server, unless its own `capabilities` exclude it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::ErrorKind,
    path::Path,
};

use reqwest::Url;

use super::{
    endpoint::{Endpoint, itself},
    hosts_error::HostsError,
    hosts_file::{self, HostsFile},
    networks::RefusedNetworks,
    tls::TlsSettings,
};
use crate::{http_proxy::HttpProxies, registry_name};

const FILE: &str = "hosts.toml";
/// The directory for registries without one of their own.
const DEFAULT: &str = "_default";
/// The contents of the hosts directory. Without a directory, every registry is contacted itself by https.
#[derive(Debug, Clone)]
pub struct Hosts {
    /// By `host[:port]` of the registry.
    registries: BTreeMap<String, Parsed>,
    /// For registries that are not in `registries`.
    default: Parsed,
    /// [`Settings::tls`](super::endpoint::Settings::tls) is an index into it. The first entry is for servers that no file names.
    tls_settings: Vec<TlsSettings>,
    /// Networks in which only servers that a file names are contacted.
    refused: RefusedNetworks,
    proxies: HttpProxies,
    /// Hosts that a proxy may resolve in place of this node, in addition to those of the directory.
    known: BTreeSet<String>,
}

/// A parsed file, or why it is invalid.
type Parsed = Result<HostsFile, String>;

impl Default for Hosts {
    fn default() -> Self {
        let (registries, default) = (BTreeMap::new(), Ok(HostsFile::default()));
        let tls_settings = vec![TlsSettings::default()];
        let (refused, proxies) = (RefusedNetworks::default(), HttpProxies::default());
        Self { registries, default, tls_settings, refused, proxies, known: BTreeSet::new() }
    }
}

impl Hosts {
    /// Reads every `<dir>/<host[:port]>/hosts.toml` and the files that they name. Names that start with a dot are
    /// skipped (a mounted ConfigMap has such), and so are files. A directory whose name no reference can have is logged
    /// and skipped. If another directory is invalid, that is logged, and its registry is not contacted.
    ///
    /// # Errors
    /// `dir` cannot be read.
    pub fn load(dir: &Path) -> Result<Self, HostsError> {
        let mut hosts = Self::default();
        let entries = fs::read_dir(dir).map_err(|e| HostsError::read(dir, e))?;
        for entry in entries {
            let directory = entry.map_err(|e| HostsError::read(dir, e))?.path();
            let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with('.') || !directory.is_dir() {
                continue;
            }
            let registry = registry_of(&name);
            if name != DEFAULT && registry.is_none() {
                tracing::warn!("{}", HostsError::Dir { dir: directory });
                continue;
            }
            let mut parsed = read(&directory, &mut hosts.tls_settings);
            if registry.as_ref().is_some_and(|registry| hosts.registries.contains_key(registry)) {
                parsed = Err(HostsError::Twice { dir: directory });
            }
            let parsed = parsed.map_err(|problem| {
                tracing::error!("{problem}; no image is pulled with these settings");
                problem.to_string()
            });
            match registry.filter(|_| name != DEFAULT) {
                None => hosts.default = parsed,
                Some(registry) => drop(hosts.registries.insert(registry, parsed)),
            }
        }
        Ok(hosts)
    }

    /// Why the settings of `registry` are invalid; `None` if they are valid.
    pub(super) fn unusable(&self, registry: &str) -> Option<&str> {
        self.parsed(registry).as_ref().err().map(String::as_str)
    }

    fn parsed(&self, registry: &str) -> &Parsed {
        self.registries.get(registry).unwrap_or(&self.default)
    }

    /// Adds plain http for `registry` (`host[:port]`), unless a file has settings for it.
    #[must_use]
    pub fn with_plain_http(mut self, registry: &str) -> Self {
        if let Ok(url) = Url::parse(&format!("http://{registry}")) {
            let file = HostsFile { server: Some(url), ..HostsFile::default() };
            self.registries.entry(registry.to_owned()).or_insert(Ok(file));
        }
        self
    }

    /// Sends requests to `proxies`. They may resolve the hosts of the `known` registries (`host[:port]`) if this node
    /// cannot.
    #[must_use]
    pub fn with_proxies(
        mut self,
        proxies: HttpProxies,
        known: impl IntoIterator<Item = String>,
    ) -> Self {
        self.proxies = proxies;
        self.known = known.into_iter().filter_map(|registry| host(&itself(&registry)?)).collect();
        self
    }

    /// Trusts CA certificates (PEM) for every server and proxy, in addition to those of the system and of the directory.
    ///
    /// # Errors
    /// [`HostsError::ExtraCa`] if the text has no valid certificate.
    pub fn with_extra_ca(mut self, pem: &[u8]) -> Result<Self, HostsError> {
        let only = TlsSettings { ca: vec![pem.to_owned()], ..TlsSettings::default() };
        only.check().map_err(|why| HostsError::ExtraCa { why })?;
        self.tls_settings.iter_mut().for_each(|settings| settings.ca.push(pem.to_owned()));
        Ok(self)
    }

    /// The servers for `registry`, in order. Empty where its settings are invalid ([`Hosts::unusable`]), and for text
    /// that is not the registry of any [`Reference`](crate::reference::Reference).
    pub(super) fn endpoints(&self, registry: &str) -> Vec<Endpoint> {
        let Ok(file) = self.parsed(registry) else { return Vec::new() };
        let server = file.server.clone().or_else(|| itself(registry));
        let own = |url: &Url| {
            let same = |other: &Url| other.origin() == url.origin();
            server.as_ref().is_some_and(same) || itself(registry).as_ref().is_some_and(same)
        };
        let last = server.clone().map(|base| (base, file.settings.clone()));
        let all = file.mirrors.iter().cloned().chain(last);
        all.map(|(base, settings)| Endpoint { own: own(&base), base, settings }).collect()
    }

    /// Whether a file names the scheme, host and port of `url`.
    pub(super) fn names(&self, url: &Url) -> bool {
        self.named().any(|(base, _)| base.origin() == url.origin())
    }

    /// The index into [`Hosts::tls_settings`] for a server to which another one redirected: the entry of the file that
    /// names it, or 0.
    pub(super) fn tls_index(&self, url: &Url) -> usize {
        let mut named = self.named();
        named.find(|(base, _)| base.origin() == url.origin()).map_or(0, |(_, tls)| tls)
    }

    /// Every server of every file, with its index into [`Hosts::tls_settings`].
    fn named(&self) -> impl Iterator<Item = (Url, usize)> {
        let all = self.registries.keys().flat_map(|registry| self.endpoints(registry));
        let all = all.map(|endpoint| (endpoint.base, endpoint.settings.tls));
        let default = self.default.iter().flat_map(|HostsFile { mirrors, server, settings }| {
            let mirrors = mirrors.iter().map(|(base, settings)| (base.clone(), settings.tls));
            mirrors.chain(server.clone().map(|base| (base, settings.tls)))
        });
        all.chain(default)
    }

    /// Whether the directory or the policy of images names this host.
    pub(super) fn knows(&self, name: &str) -> bool {
        let registries = self.registries.keys().filter_map(|registry| host(&itself(registry)?));
        let mut named = registries.chain(self.named().filter_map(|(base, _)| host(&base)));
        self.known.contains(name) || named.any(|named| named == name)
    }

    pub(super) fn proxies(&self) -> &HttpProxies {
        &self.proxies
    }

    pub(super) fn refused(&self) -> &RefusedNetworks {
        &self.refused
    }

    pub(super) fn tls_settings(&self) -> &[TlsSettings] {
        &self.tls_settings
    }
}

fn host(url: &Url) -> Option<String> {
    url.host_str().map(str::to_owned)
}

/// Reads the directory of one registry. Adds its TLS settings to `tls_settings`.
fn read(directory: &Path, tls_settings: &mut Vec<TlsSettings>) -> Result<HostsFile, HostsError> {
    let file = directory.join(FILE);
    match fs::read_to_string(&file) {
        Ok(text) => hosts_file::parse(&file, &text, tls_settings),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            hosts_file::certificates(directory, tls_settings)
        }
        Err(e) => Err(HostsError::read(&file, e)),
    }
}

/// The registry that the name of a directory means, in both of containerd's spellings.
fn registry_of(directory: &str) -> Option<String> {
    let spelled = match directory.strip_suffix('_').and_then(|name| name.rsplit_once('_')) {
        Some((host, port)) => format!("{host}:{port}"),
        None => directory.to_owned(),
    };
    registry_name::canonical(&spelled)
}

#[cfg(test)]
#[path = "hosts_tests.rs"]
mod tests;
