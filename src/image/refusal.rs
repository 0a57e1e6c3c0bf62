//! Why an address is not contacted.

use reqwest::Url;

use crate::registry_name;

/// Why a host is not contacted. It never contains more of a URL than the host: queries contain signatures.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// From https to http, or a scheme that is neither.
    #[error(
        "{role} leads to {host} by {scheme}, which is not encrypted; the registry must use https"
    )]
    Scheme {
        /// [`Role::name`](super::addresses::Role::name).
        role: &'static str,
        /// Host of the URL.
        host: String,
        /// Scheme of the URL.
        scheme: String,
    },
    /// A loopback or link-local address, a cloud's metadata service, an address of the node, or a network of the
    /// cluster.
    #[error(
        "{host} is {kind}; to allow it, add a hosts.toml with its URL to the node's registry hosts directory, in the \
         chart's values: registries: {{\"{host}\": 'server = \"https://{host}\"'}}"
    )]
    Address {
        /// The host as written, with its port where that is known.
        host: String,
        /// `a loopback address` and the like.
        kind: &'static str,
    },
    /// A name that a proxy would resolve in place of this node, which cannot.
    #[error(
        "{host} does not resolve on this node, so its addresses cannot be checked before a proxy contacts it; to allow \
         it, name the host without wildcards in the chart's values: in policy.allowedImages (\"{host}/*\") or in \
         registries"
    )]
    Unresolved {
        /// Host of the URL.
        host: String,
    },
    /// A URL with a user name or password.
    #[error(
        "{role} leads to {host} with a user name or password in its URL; such URLs are not followed"
    )]
    Credentials {
        /// [`Role::name`](super::addresses::Role::name).
        role: &'static str,
        /// Host of the URL.
        host: String,
    },
    /// A secret would be sent over plain http.
    #[error(
        "the token realm leads to {host} by http, and secrets are not sent by http; to allow it, add a hosts.toml with \
         its URL to the node's registry hosts directory"
    )]
    Plain {
        /// Host of the URL.
        host: String,
    },
}

impl Refusal {
    /// The same refusal with the host and port of `url`. A resolver knows only the host name.
    pub(super) fn of(self, url: Option<&Url>) -> Self {
        match (self, url) {
            (Self::Address { kind, .. }, Some(url)) => {
                Self::Address { host: registry_name::of_url(url), kind }
            }
            (other, _) => other,
        }
    }
}
