//! How connections to a server are made, where a hosts file says more than its URL.

use std::{fmt, time::Duration};

use reqwest::{Certificate, Client, ClientBuilder, Identity};

use super::error::Problem;

/// Whom to believe, who to be, and for how long to knock. The default is what every other server gets.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Reach {
    /// PEM files of CAs that are believed beside the machine's.
    pub(super) ca: Vec<Vec<u8>>,
    /// A client certificate and its key, PEM.
    pub(super) client: Option<Vec<u8>>,
    /// No certificate is checked.
    pub(super) skip_verify: bool,
    pub(super) dial: Option<Duration>,
}

impl Reach {
    /// Has a client do so.
    ///
    /// # Errors
    /// Text that is no PEM.
    pub(super) fn apply(
        &self,
        mut builder: ClientBuilder,
    ) -> Result<ClientBuilder, reqwest::Error> {
        for pem in &self.ca {
            builder = builder.tls_certs_merge(Certificate::from_pem_bundle(pem)?);
        }
        if let Some(pem) = &self.client {
            builder = builder.identity(Identity::from_pem(pem)?);
        }
        if let Some(dial) = self.dial {
            builder = builder.connect_timeout(dial);
        }
        Ok(builder.tls_danger_accept_invalid_certs(self.skip_verify))
    }

    /// Whether a client can do so: what is in the files is said before the first pull needs it.
    ///
    /// # Errors
    /// What is wrong, without a word of the files.
    pub(super) fn check(&self) -> Result<(), String> {
        provider();
        let words = |error: reqwest::Error| Problem::words(&error);
        for pem in &self.ca {
            if Certificate::from_pem_bundle(pem).map_err(words)?.is_empty() {
                return Err("no certificate in it".to_owned());
            }
        }
        let alone = Client::builder().tls_certs_only([]);
        self.apply(alone).and_then(ClientBuilder::build).map(drop).map_err(words)
    }
}

/// Has the process use one TLS provider.
pub(super) fn provider() {
    // An error means that somebody installed one before us, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

impl fmt::Debug for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reach({} CA files, skip_verify {})", self.ca.len(), self.skip_verify)
    }
}
