//! Where a registry is reached: a folder of `hosts.toml` files, as containerd reads it.
//!
//! ```text
//! <dir>/registry.example:5000/hosts.toml     or, for tools that cannot write a colon,
//! <dir>/registry.example_5000_/hosts.toml    or, for every registry without a folder of its own,
//! <dir>/_default/hosts.toml
//!     server = "https://registry.example:5000"            # asked last; without it, https to the registry itself
//!     ca = "ca.crt"                                       # these keys, for the server and for each host:
//!     client = [["client.crt", "client.key"]]             #   files, relative to this one
//!     skip_verify = false
//!     dial_timeout = "10s"
//!     override_path = false                               # true: the URL's path stands for /v2
//!     header = { x-team = "ci" }
//!     rewrite = { "^library/(.*)" = "hub/$1" }            # k3s' key: another repository; the first that matches counts
//!     [host."http://mirror.example:8080"]                 # asked first, in the order of the file
//!     capabilities = ["pull", "resolve"]                  # without it, these two
//! ```
//!
//! A directory without a `hosts.toml` has a registry's certificates alone, as Docker names them: `*.crt` of CAs,
//! `NAME.cert` and `NAME.key` of a client.
//!
//! All of it is read once, at start: a registry cannot change its address under a running pull. A file that cannot be used
//! is logged then, and costs its own registry: to ask that one otherwise than was meant may give other content, or show a
//! secret. `_default` costs every registry without a directory. Plain http is what a file says by `http://`, and nothing else.
//! Pushes go to the first of them that takes them: a mirror whose `capabilities` have "push", or the server, if its own do
//! not leave it out.

use std::{collections::BTreeMap, fs, io::ErrorKind, path::Path};

use reqwest::{Url, header::HeaderMap};

use super::{
    error,
    hosts_error::HostsError,
    hosts_file::{self, HostsFile},
    networks::Refused,
    reach::Reach,
    reference::{self, Reference},
    rewrite::Rewrite,
};

const FILE: &str = "hosts.toml";
/// The folder for registries that have none.
const DEFAULT: &str = "_default";
/// Docker Hub's API does not answer under the name that people write.
const DOCKER_HUB: (&str, &str) = ("docker.io", "https://registry-1.docker.io");

/// What the folder says; without a folder, https to the registry itself for everything.
#[derive(Debug, Clone)]
pub struct Hosts {
    registries: BTreeMap<String, Said>,
    default: Said,
    /// [`Endpoint::reach`] is a place in it; the first is that of servers of which no file speaks.
    reaches: Vec<Reach>,
    /// Where nobody is contacted of whom no file speaks.
    refused: Refused,
}

/// What a file says, or why it cannot be used.
type Said = Result<HostsFile, String>;

/// One server that is asked for a registry's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    base: Url,
    /// Is the registry itself, not a mirror: it gets the credentials that are for the registry.
    pub(super) own: bool,
    pub(super) settings: Settings,
}

/// How a server is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    /// May say which digest a tag is.
    pub(super) resolve: bool,
    /// May give manifests and blobs by digest.
    pub(super) pull: bool,
    /// May take them. A mirror has to say so: most are caches, which take nothing.
    pub(super) push: bool,
    /// The path of its URL stands for `/v2`.
    pub(super) override_path: bool,
    /// What repositories are called there, the first that matches.
    pub(super) rewrite: Vec<Rewrite>,
    /// Goes with every request to it.
    pub(super) header: HeaderMap,
    /// Which of [`Hosts::reaches`].
    pub(super) reach: usize,
}

impl Default for Settings {
    fn default() -> Self {
        let (rewrite, header) = (Vec::new(), HeaderMap::new());
        let override_path = false;
        Self { resolve: true, pull: true, push: true, override_path, rewrite, header, reach: 0 }
    }
}

impl Endpoint {
    /// The server of `url`, to which the answer of another led: it gets nobody's credentials.
    pub(super) fn elsewhere(url: &Url, hosts: &Hosts) -> Self {
        let mut base = url.clone();
        base.set_path("");
        base.set_query(None);
        base.set_fragment(None);
        let settings = Settings { reach: hosts.reach(url), ..Settings::default() };
        Self { base, own: false, settings }
    }

    /// `scheme://host[:port]`, the identity under which tokens are kept and redirects judged.
    pub(super) fn url(&self) -> &Url {
        &self.base
    }

    /// `host[:port]`, for messages and keyrings.
    pub(super) fn name(&self) -> String {
        error::server(&self.base)
    }

    /// `<base>/v2/<repository>/<kind>/<what>`. A mirror is told whose content is meant by `ns` (OCI
    /// distribution-spec, "Registry Proxying").
    pub(super) fn content(&self, reference: &Reference, kind: &str, what: &str) -> Url {
        let mut url = self.base.clone();
        let prefix = url.path().trim_end_matches('/').to_owned();
        let whole = self.settings.override_path || prefix.ends_with("/v2");
        let version = if whole { "" } else { "/v2" };
        let named = reference.repository();
        let rewritten = self.settings.rewrite.iter().find_map(|rule| rule.apply(named));
        let repository = rewritten.as_deref().unwrap_or(named);
        url.set_path(&format!("{prefix}{version}/{repository}/{kind}/{what}"));
        let own = itself(reference.registry());
        if self.base.host_str() != own.as_ref().and_then(Url::host_str) {
            url.query_pairs_mut().append_pair("ns", reference.registry());
        }
        url
    }
}

impl Default for Hosts {
    fn default() -> Self {
        let (registries, default) = (BTreeMap::new(), Ok(HostsFile::default()));
        Self { registries, default, reaches: vec![Reach::default()], refused: Refused::default() }
    }
}

impl Hosts {
    /// Reads every `<dir>/<host[:port]>/hosts.toml` and the files that they name. Names that begin with a dot
    /// are skipped (a mounted ConfigMap has such), and so are files. A directory whose name no reference can have is
    /// logged and skipped; what cannot be used of another one is logged, and its registry is not asked.
    ///
    /// # Errors
    /// `dir` cannot be read.
    pub fn load(dir: &Path) -> Result<Self, HostsError> {
        let mut hosts = Self::default();
        let entries = fs::read_dir(dir).map_err(|e| HostsError::read(dir, e))?;
        for entry in entries {
            let folder = entry.map_err(|e| HostsError::read(dir, e))?.path();
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with('.') || !folder.is_dir() {
                continue;
            }
            let registry = registry_of(&name);
            if name != DEFAULT && registry.is_none() {
                tracing::warn!("{}", HostsError::Folder { folder });
                continue;
            }
            let mut said = read(&folder, &mut hosts.reaches);
            if registry.as_ref().is_some_and(|registry| hosts.registries.contains_key(registry)) {
                said = Err(HostsError::Twice { folder });
            }
            let said = said.map_err(|problem| {
                tracing::error!("{problem}; no image is pulled by it");
                problem.to_string()
            });
            match registry.filter(|_| name != DEFAULT) {
                None => hosts.default = said,
                Some(registry) => drop(hosts.registries.insert(registry, said)),
            }
        }
        Ok(hosts)
    }

    /// Why nobody can be asked for `registry`, if what the directory says of it cannot be used.
    pub(super) fn unusable(&self, registry: &str) -> Option<&str> {
        self.said(registry).as_ref().err().map(String::as_str)
    }

    fn said(&self, registry: &str) -> &Said {
        self.registries.get(registry).unwrap_or(&self.default)
    }

    /// The same, and `registry` (`host[:port]`) by plain http, unless a file says how it is reached.
    #[must_use]
    pub fn with_plain(mut self, registry: &str) -> Self {
        if let Ok(url) = Url::parse(&format!("http://{registry}")) {
            let file = HostsFile { server: Some(url), ..HostsFile::default() };
            self.registries.entry(registry.to_owned()).or_insert(Ok(file));
        }
        self
    }

    /// Whom to ask for `registry`, in order. Empty where it is [`Hosts::unusable`], and for text that no [`Reference`] holds.
    pub(super) fn endpoints(&self, registry: &str) -> Vec<Endpoint> {
        let Ok(file) = self.said(registry) else { return Vec::new() };
        let server = file.server.clone().or_else(|| itself(registry));
        let own = |url: &Url| {
            let same = |other: &Url| other.origin() == url.origin();
            server.as_ref().is_some_and(same) || itself(registry).as_ref().is_some_and(same)
        };
        let last = server.clone().map(|base| (base, file.settings.clone()));
        let all = file.mirrors.iter().cloned().chain(last);
        all.map(|(base, settings)| Endpoint { own: own(&base), base, settings }).collect()
    }

    /// Whether somebody wrote this scheme, host and port into a file.
    pub(super) fn names(&self, url: &Url) -> bool {
        self.named().any(|(base, _)| base.origin() == url.origin())
    }

    /// How a server is reached to which the answer of another led: as a file says that names it.
    pub(super) fn reach(&self, url: &Url) -> usize {
        let mut named = self.named();
        named.find(|(base, _)| base.origin() == url.origin()).map_or(0, |(_, reach)| reach)
    }

    /// Every server of every file.
    fn named(&self) -> impl Iterator<Item = (Url, usize)> {
        let all = self.registries.keys().flat_map(|registry| self.endpoints(registry));
        let all = all.map(|endpoint| (endpoint.base, endpoint.settings.reach));
        let default = self.default.iter().flat_map(|HostsFile { mirrors, server, settings }| {
            let mirrors = mirrors.iter().map(|(base, settings)| (base.clone(), settings.reach));
            mirrors.chain(server.clone().map(|base| (base, settings.reach)))
        });
        all.chain(default)
    }

    pub(super) fn refused(&self) -> &Refused {
        &self.refused
    }

    pub(super) fn reaches(&self) -> &[Reach] {
        &self.reaches
    }
}

/// What one directory says.
fn read(folder: &Path, reaches: &mut Vec<Reach>) -> Result<HostsFile, HostsError> {
    let file = folder.join(FILE);
    match fs::read_to_string(&file) {
        Ok(text) => hosts_file::parse(&file, &text, reaches),
        Err(e) if e.kind() == ErrorKind::NotFound => hosts_file::certificates(folder, reaches),
        Err(e) => Err(HostsError::read(&file, e)),
    }
}

fn itself(registry: &str) -> Option<Url> {
    if registry == DOCKER_HUB.0 {
        return Url::parse(DOCKER_HUB.1).ok();
    }
    Url::parse(&format!("https://{registry}")).ok()
}

/// The registry that a folder's name stands for, in both of containerd's spellings.
fn registry_of(folder: &str) -> Option<String> {
    let spelled = match folder.strip_suffix('_').and_then(|name| name.rsplit_once('_')) {
        Some((host, port)) => format!("{host}:{port}"),
        None => folder.to_owned(),
    };
    reference::checked_registry(&spelled).ok()
}

#[cfg(test)]
#[path = "hosts_tests.rs"]
mod tests;
