//! Where a registry is reached: a folder of `hosts.toml` files, as containerd reads it.
//!
//! ```text
//! <dir>/registry.example:5000/hosts.toml     or, for tools that cannot write a colon,
//! <dir>/registry.example_5000_/hosts.toml
//!     server = "https://registry.example:5000"            # asked last; without it, https to the registry itself
//!     [host."http://mirror.example:8080"]                 # asked first, in the order of the file
//!     capabilities = ["pull", "resolve"]                  # without it, both
//! ```
//!
//! The folder is read once, at start: a registry cannot change its address under a running pull, and a wrong
//! file is told to whoever starts the node instead of to the next pod. A key that we do not carry out is
//! refused, because every one of them (a CA, a client certificate, a header) is there to be relied on.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use reqwest::Url;
use toml::de::{DeTable, DeValue};

use super::reference::{self, Reference};
use crate::fault::Class;

const FILE: &str = "hosts.toml";
/// Docker Hub's API does not answer under the name that people write.
const DOCKER_HUB: (&str, &str) = ("docker.io", "https://registry-1.docker.io");

/// What the folder says; without a folder, https to the registry itself for everything.
#[derive(Debug, Clone, Default)]
pub struct Hosts {
    registries: BTreeMap<String, Vec<Endpoint>>,
}

/// One server that is asked for a registry's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    base: Url,
    /// May say which digest a tag is.
    pub(super) resolve: bool,
    /// May give manifests and blobs by digest.
    pub(super) pull: bool,
}

impl Endpoint {
    fn whole(base: Url) -> Self {
        Self { base, resolve: true, pull: true }
    }

    /// `scheme://host[:port]`, the identity under which tokens are kept and redirects judged.
    pub(super) fn url(&self) -> &Url {
        &self.base
    }

    /// `host[:port]`, for messages.
    pub(super) fn name(&self) -> String {
        let host = self.base.host_str().unwrap_or_default();
        self.base.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// `<base>/v2/<repository>/<kind>/<what>`. A mirror is told whose content is meant by `ns` (OCI
    /// distribution-spec, "Registry Proxying").
    pub(super) fn content(&self, reference: &Reference, kind: &str, what: &str) -> Url {
        let mut url = self.base.clone();
        let prefix = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{prefix}/v2/{}/{kind}/{what}", reference.repository()));
        let own = itself(reference.registry());
        if self.base.host_str() != own.as_ref().and_then(Url::host_str) {
            url.query_pairs_mut().append_pair("ns", reference.registry());
        }
        url
    }
}

impl Hosts {
    /// Reads every `<dir>/<host[:port]>/hosts.toml`. Names that begin with a dot are skipped (a mounted ConfigMap
    /// has such), and so are files.
    ///
    /// # Errors
    /// A folder that cannot be read, a folder whose name no reference can have, a file with a key or value
    /// that is not supported; each names the file and the key.
    pub fn load(dir: &Path) -> Result<Self, HostsError> {
        let mut registries = BTreeMap::new();
        let entries = fs::read_dir(dir).map_err(|e| HostsError::read(dir, e))?;
        for entry in entries {
            let folder = entry.map_err(|e| HostsError::read(dir, e))?.path();
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with('.') || !folder.is_dir() {
                continue;
            }
            let registry =
                registry_of(&name).ok_or(HostsError::Folder { folder: folder.clone() })?;
            let file = folder.join(FILE);
            let text = fs::read_to_string(&file).map_err(|e| HostsError::read(&file, e))?;
            let endpoints = parse(&registry, &file, &text)?;
            if registries.insert(registry, endpoints).is_some() {
                return Err(HostsError::Twice { folder });
            }
        }
        Ok(Self { registries })
    }

    /// Whom to ask for `registry`, in order. Empty only for text that no [`Reference`] holds.
    pub(super) fn endpoints(&self, registry: &str) -> Vec<Endpoint> {
        let direct = || itself(registry).map(Endpoint::whole).into_iter().collect();
        self.registries.get(registry).cloned().unwrap_or_else(direct)
    }

    /// Whether somebody wrote this scheme, host and port into a file.
    pub(super) fn names(&self, url: &Url) -> bool {
        self.registries.values().flatten().any(|endpoint| endpoint.base.origin() == url.origin())
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

fn parse(registry: &str, file: &Path, text: &str) -> Result<Vec<Endpoint>, HostsError> {
    let value = |key: &str, why: &str| HostsError::Value {
        file: file.to_owned(),
        key: key.to_owned(),
        why: why.to_owned(),
    };
    let table = DeTable::parse(text).map_err(|e| HostsError::Syntax {
        file: file.to_owned(),
        line: 1 + text[..e.span().map_or(0, |span| span.start)].matches('\n').count(),
        why: e.message().to_owned(),
    })?;
    let mut server = None;
    let mut mirrors = Vec::new();
    for (key, entry) in table.get_ref() {
        match (key.get_ref().as_ref(), entry.get_ref()) {
            ("server", DeValue::String(url)) => {
                let base = base(url).map_err(|why| value("server", why))?;
                server = Some(Endpoint::whole(base));
            }
            ("host", DeValue::Table(hosts)) => {
                for (url, settings) in hosts {
                    let key = format!("host.{:?}", url.get_ref());
                    let base = base(url.get_ref()).map_err(|why| value(&key, why))?;
                    let DeValue::Table(settings) = settings.get_ref() else {
                        return Err(value(&key, "must be a table"));
                    };
                    mirrors.push((url.span().start, mirror(base, settings, &key, file)?));
                }
            }
            ("server", _) => return Err(value("server", "must be a text")),
            ("host", _) => return Err(value("host", "must be a table")),
            (other, _) => return Err(HostsError::unsupported(file, other)),
        }
    }
    // The parser sorts its keys; the file's own order is the order to ask in.
    mirrors.sort_by_key(|(place, _)| *place);
    let last = server.or_else(|| itself(registry).map(Endpoint::whole));
    Ok(mirrors.into_iter().map(|(_, mirror)| mirror).chain(last).collect())
}

fn mirror(
    base: Url,
    settings: &DeTable<'_>,
    key: &str,
    file: &Path,
) -> Result<Endpoint, HostsError> {
    let mut endpoint = Endpoint::whole(base);
    for (name, entry) in settings {
        let key = format!("{key}.{}", name.get_ref());
        if name.get_ref() != "capabilities" {
            return Err(HostsError::unsupported(file, &key));
        }
        let why = "must be a list of \"pull\", \"resolve\" and \"push\"".to_owned();
        let refused = || HostsError::Value { file: file.to_owned(), key: key.clone(), why };
        let words = entry.get_ref().as_array().and_then(|list| {
            list.iter().map(|word| word.get_ref().as_str()).collect::<Option<Vec<_>>>()
        });
        let Some(words) = words else { return Err(refused()) };
        if words.iter().any(|word| !matches!(*word, "pull" | "resolve" | "push")) {
            return Err(refused());
        }
        endpoint.resolve = words.contains(&"resolve");
        endpoint.pull = words.contains(&"pull");
    }
    Ok(endpoint)
}

/// A server's URL as people write it: https where no scheme is given, and a final `/v2` is ours to add.
fn base(text: &str) -> Result<Url, &'static str> {
    let spelled = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let mut url =
        Url::parse(&spelled).map_err(|_| "must be a URL such as https://mirror.example:8080")?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err("must begin with https:// or http:// and name a host");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a user name or password");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must not hold a query or fragment");
    }
    let path = url.path().trim_end_matches('/');
    let path = path.strip_suffix("/v2").unwrap_or(path).to_owned();
    url.set_path(&path);
    Ok(url)
}

/// Why the folder cannot be used. Every one is for whoever starts the node.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    /// A folder or file that cannot be read.
    #[error("registry hosts: cannot read {}: {source}", path.display())]
    Read {
        /// What was to be read.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// A folder that no image reference can lead to.
    #[error(
        "registry hosts: the folder {} is not named after a registry; write host, host:port or host_port_, \
         with a dot or a port in it",
        folder.display()
    )]
    Folder {
        /// That folder.
        folder: PathBuf,
    },
    /// Two folders for one registry.
    #[error("registry hosts: {} names a registry that another folder names too; keep one", folder.display())]
    Twice {
        /// The one of them that was read last.
        folder: PathBuf,
    },
    /// Not TOML.
    #[error("registry hosts: {} line {line}: {why}", file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The parser's words.
        why: String,
    },
    /// A key that containerd may know and that has no effect here.
    #[error("registry hosts: {}: the key {key} is not supported yet; remove it", file.display())]
    Unsupported {
        /// The file.
        file: PathBuf,
        /// The key with the tables around it.
        key: String,
    },
    /// A known key with a wrong value.
    #[error("registry hosts: {}: {key} {why}", file.display())]
    Value {
        /// The file.
        file: PathBuf,
        /// The key with the tables around it.
        key: String,
        /// What it must be.
        why: String,
    },
}

impl HostsError {
    fn read(path: &Path, source: io::Error) -> Self {
        Self::Read { path: path.to_owned(), source }
    }

    fn unsupported(file: &Path, key: &str) -> Self {
        Self::Unsupported { file: file.to_owned(), key: key.to_owned() }
    }

    /// Always [`Class::Invalid`]: the node's settings are wrong.
    pub fn class(&self) -> Class {
        Class::Invalid
    }
}

#[cfg(test)]
#[path = "hosts_tests.rs"]
mod tests;
