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
//!     [host."http://mirror.example:8080"]                 # asked first, in the order of the file
//!     capabilities = ["pull", "resolve"]                  # without it, these two
//! ```
//!
//! The folder is read once, at start: a registry cannot change its address under a running pull, and a wrong
//! file is told to whoever starts the node instead of to the next pod. Plain http is what a file says by
//! `http://`, and nothing else. Pushes go to the first of them that takes them: a mirror whose
//! `capabilities` have "push", or the server, if its own do not leave it out. A key that we do not know is refused:
//! it is there to be relied on.

use std::{collections::BTreeMap, fs, path::Path};

use reqwest::{Url, header::HeaderMap};

use super::{
    error,
    hosts_error::HostsError,
    hosts_file::{self, HostsFile},
    reach::Reach,
    reference::{self, Reference},
};

const FILE: &str = "hosts.toml";
/// The folder for registries that have none.
const DEFAULT: &str = "_default";
/// Docker Hub's API does not answer under the name that people write.
const DOCKER_HUB: (&str, &str) = ("docker.io", "https://registry-1.docker.io");

/// What the folder says; without a folder, https to the registry itself for everything.
#[derive(Debug, Clone)]
pub struct Hosts {
    registries: BTreeMap<String, HostsFile>,
    default: HostsFile,
    /// [`Endpoint::reach`] is a place in it; the first is that of servers of which no file speaks.
    reaches: Vec<Reach>,
}

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
    /// Goes with every request to it.
    pub(super) header: HeaderMap,
    /// Which of [`Hosts::reaches`].
    pub(super) reach: usize,
}

impl Default for Settings {
    fn default() -> Self {
        let header = HeaderMap::new();
        Self { resolve: true, pull: true, push: true, override_path: false, header, reach: 0 }
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
        url.set_path(&format!("{prefix}{version}/{}/{kind}/{what}", reference.repository()));
        let own = itself(reference.registry());
        if self.base.host_str() != own.as_ref().and_then(Url::host_str) {
            url.query_pairs_mut().append_pair("ns", reference.registry());
        }
        url
    }
}

impl Default for Hosts {
    fn default() -> Self {
        let (registries, default) = (BTreeMap::new(), HostsFile::default());
        Self { registries, default, reaches: vec![Reach::default()] }
    }
}

impl Hosts {
    /// Reads every `<dir>/<host[:port]>/hosts.toml` and the files that they name. Names that begin with a dot
    /// are skipped (a mounted ConfigMap has such), and so are files.
    ///
    /// # Errors
    /// A folder that cannot be read, a folder whose name no reference can have, a file with a key or value
    /// that is not known; each names the file and the key.
    pub fn load(dir: &Path) -> Result<Self, HostsError> {
        let mut hosts = Self::default();
        let entries = fs::read_dir(dir).map_err(|e| HostsError::read(dir, e))?;
        for entry in entries {
            let folder = entry.map_err(|e| HostsError::read(dir, e))?.path();
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with('.') || !folder.is_dir() {
                continue;
            }
            let registry = (name != DEFAULT)
                .then(|| registry_of(&name).ok_or(HostsError::Folder { folder: folder.clone() }));
            let registry = registry.transpose()?;
            let file = folder.join(FILE);
            let text = fs::read_to_string(&file).map_err(|e| HostsError::read(&file, e))?;
            let read = hosts_file::parse(&file, &text, &mut hosts.reaches)?;
            match registry {
                None => hosts.default = read,
                Some(registry) => {
                    if hosts.registries.insert(registry, read).is_some() {
                        return Err(HostsError::Twice { folder });
                    }
                }
            }
        }
        Ok(hosts)
    }

    /// The same, and `registry` (`host[:port]`) by plain http, unless a file says how it is reached.
    #[must_use]
    pub fn with_plain(mut self, registry: &str) -> Self {
        if let Ok(url) = Url::parse(&format!("http://{registry}")) {
            let file = HostsFile { server: Some(url), ..HostsFile::default() };
            self.registries.entry(registry.to_owned()).or_insert(file);
        }
        self
    }

    /// Whom to ask for `registry`, in order. Empty only for text that no [`Reference`] holds.
    pub(super) fn endpoints(&self, registry: &str) -> Vec<Endpoint> {
        let file = self.registries.get(registry).unwrap_or(&self.default);
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
        let HostsFile { mirrors, server, settings } = &self.default;
        let mirrors = mirrors.iter().map(|(base, settings)| (base.clone(), settings.reach));
        all.chain(mirrors).chain(server.clone().map(|base| (base, settings.reach)))
    }

    pub(super) fn reaches(&self) -> &[Reach] {
        &self.reaches
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
