//! TLS settings of a server from its hosts file: CAs, client certificate, verification, connect timeout.

use std::{fmt, time::Duration};

use reqwest::{Certificate, Client, ClientBuilder, Identity};

use super::error::Problem;

/// Settings for the connections to a server. The default is for every server without settings of its own.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct TlsSettings {
    /// Contents of PEM files with CAs that are trusted in addition to the system's.
    pub(super) ca: Vec<Vec<u8>>,
    /// A client certificate and its key, PEM.
    pub(super) client: Option<Vec<u8>>,
    /// The server's certificate is not verified.
    pub(super) skip_verify: bool,
    /// Connect timeout; `None` for the default.
    pub(super) dial: Option<Duration>,
}

impl TlsSettings {
    /// Adds these settings to a client.
    ///
    /// # Errors
    /// A CA or client certificate that is not valid PEM.
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

    /// Checks that a client accepts these settings, so that a bad file is reported at start and not at the first pull.
    ///
    /// # Errors
    /// The cause, without any text of the files.
    pub(super) fn check(&self) -> Result<(), String> {
        provider();
        let cause = |error: reqwest::Error| Problem::root_cause(&error);
        for pem in &self.ca {
            if Certificate::from_pem_bundle(pem).map_err(cause)?.is_empty() {
                return Err("the file has no certificate".to_owned());
            }
        }
        let without_system_cas = Client::builder().tls_certs_only([]);
        self.apply(without_system_cas).and_then(ClientBuilder::build).map(drop).map_err(cause)
    }
}

/// Installs the TLS provider of the process.
pub(super) fn provider() {
    // An error means that a provider is installed already, which is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

impl fmt::Debug for TlsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reach({} CA files, skip_verify {})", self.ca.len(), self.skip_verify)
    }
}
