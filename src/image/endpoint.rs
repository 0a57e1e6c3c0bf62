//! One server for a registry's content, and the URLs of the content there.

use reqwest::{Url, header::HeaderMap};

use super::{Reference, rewrite::Rewrite};
use crate::registry_name::{self, DOCKER_HUB};

/// The API of Docker Hub, which has another name than references.
const DOCKER_HUB_API: &str = "https://registry-1.docker.io";

/// One server for a registry's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) base: Url,
    /// The server is the registry itself, not a mirror: it receives the credentials for the registry.
    pub(super) own: bool,
    pub(super) settings: Settings,
}

/// Settings of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    /// The server may resolve tags to digests.
    pub(super) resolve: bool,
    /// The server may deliver manifests and blobs by digest.
    pub(super) pull: bool,
    /// The server accepts pushes. For a mirror the file must say so: most mirrors are caches, which accept none.
    pub(super) push: bool,
    /// The path of the server's URL replaces `/v2`.
    pub(super) override_path: bool,
    /// Renames repositories at this server; the first match counts.
    pub(super) rewrite: Vec<Rewrite>,
    /// Headers for every request to the server.
    pub(super) header: HeaderMap,
    /// Index into `Hosts::tls_settings`.
    pub(super) tls: usize,
}

impl Default for Settings {
    fn default() -> Self {
        let (rewrite, header) = (Vec::new(), HeaderMap::new());
        let override_path = false;
        Self { resolve: true, pull: true, push: true, override_path, rewrite, header, tls: 0 }
    }
}

impl Endpoint {
    /// The server of `url`, to which another server redirected. It receives no credentials.
    /// `tls` is its entry in [`Settings::tls`].
    pub(super) fn elsewhere(url: &Url, tls: usize) -> Self {
        let mut base = url.clone();
        base.set_path("");
        base.set_query(None);
        base.set_fragment(None);
        let settings = Settings { tls, ..Settings::default() };
        Self { base, own: false, settings }
    }

    /// The base URL. Its origin `scheme://host[:port]` is the key for tokens and for the check of redirects.
    pub(super) fn url(&self) -> &Url {
        &self.base
    }

    /// `host[:port]`, for messages and keyrings.
    pub(super) fn name(&self) -> String {
        registry_name::of_url(&self.base)
    }

    /// `<base>/v2/<repository>/<kind>/<what>`. For a mirror, the query parameter `ns` names the registry (OCI
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

/// The URL of the registry itself.
pub(super) fn itself(registry: &str) -> Option<Url> {
    if registry == DOCKER_HUB {
        return Url::parse(DOCKER_HUB_API).ok();
    }
    Url::parse(&format!("https://{registry}")).ok()
}
