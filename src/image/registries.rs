//! The registry client, and downloads of blobs from whichever server has them.
//!
//! A layer is streamed, so a failure after its first byte is an error for the caller. The server is then suspect, and
//! the next download of that layer tries the other servers first.

use std::{net::IpAddr, sync::Arc};

use super::{
    Access, Image, Keyring, LayerBlob, Reference, Repository,
    blob::{BlobReader, Source, Wanted},
    candidates::{Attempt, Tried, attempts},
    clients::{SetUpError, Trust},
    endpoint::Endpoint,
    error::{ImageError, Problem},
    hosts::Hosts,
    networks::Network,
    retry::RetryPolicy,
    suspect_mirrors::SuspectMirrors,
    transport::Transport,
};
use crate::{budget::Budget, digest::BlobDigest};

/// The client for all registries that this node may contact.
#[derive(Debug)]
pub struct Registries {
    pub(super) transport: Arc<Transport>,
    /// The memory budget for documents while they are parsed.
    pub(super) budget: Arc<Budget>,
    suspects: SuspectMirrors,
}

impl Registries {
    /// Sets up the client, with the TLS provider of the process and the current CA certificates of the system. If the
    /// system has no CA certificate, the client starts with a warning: registries that are configured as plain http
    /// need none.
    ///
    /// # Errors
    /// The HTTP library fails; the node cannot work without it.
    pub fn new(hosts: Hosts) -> Result<Self, SetUpError> {
        let retry = RetryPolicy::default();
        match Self::with(hosts.clone(), retry, Trust::System) {
            Err(error) if error.is_tls() => {
                tracing::warn!(
                    "no registry can be contacted by https: {error}; install CA certificates"
                );
                Self::with(hosts, retry, Trust::NoCa)
            }
            done => done,
        }
    }

    /// Replaces the node's own addresses: no server at them is contacted, unless the hosts directory names it.
    pub fn refuse_own_addresses(&self, addresses: Vec<IpAddr>) {
        self.transport.hosts().refused().set_own(addresses);
    }

    /// Replaces the list of refused networks: no server in them is contacted, unless the hosts directory names it.
    pub fn refuse_networks(&self, networks: Vec<Network>) {
        self.transport.hosts().refused().set(networks);
    }

    pub(super) fn with(hosts: Hosts, retry: RetryPolicy, trust: Trust) -> Result<Self, SetUpError> {
        let transport = Arc::new(Transport::new(hosts, retry, trust)?);
        Ok(Self { transport, budget: Arc::default(), suspects: SuspectMirrors::default() })
    }

    /// The same client with another memory budget for documents while they are parsed.
    #[must_use]
    pub fn with_budget(self, budget: Arc<Budget>) -> Self {
        Self { budget, ..self }
    }

    /// Starts the download of one layer of an image that [`Registries::resolve`] returned. Servers that did not deliver
    /// this layer correctly the last time are tried last: to use another server after an error, call this again. After
    /// a connection breaks, the download resumes at that byte, if the server supports ranges.
    ///
    /// # Errors
    /// [`ImageError`] up to the first byte; the reader returns later errors.
    pub async fn blob(
        &self,
        image: &Image,
        layer: &LayerBlob,
        keyring: &Keyring,
    ) -> Result<BlobReader, ImageError> {
        let wanted = Wanted { digest: layer.digest, size: layer.size };
        self.stream(&image.reference, wanted, keyring, Some(&image.access)).await
    }

    /// Starts the download of a blob of a repository, without a resolved image; otherwise like [`Registries::blob`].
    ///
    /// # Errors
    /// [`ImageError`] up to the first byte; the reader returns later errors.
    pub async fn blob_in(
        &self,
        from: &Repository,
        digest: &BlobDigest,
        size: u64,
        keyring: &Keyring,
    ) -> Result<BlobReader, ImageError> {
        self.stream(from.reference(), Wanted { digest: *digest, size }, keyring, None).await
    }

    async fn stream(
        &self,
        reference: &Reference,
        wanted: Wanted,
        keyring: &Keyring,
        first: Option<&Access>,
    ) -> Result<BlobReader, ImageError> {
        let mut tried = Tried::default();
        let mut attempts = self.attempts(reference, keyring, pull)?;
        let same_server = |a: &Attempt, b: &Attempt| a.endpoint == b.endpoint;
        for one in attempts.chunk_by_mut(same_server) {
            // The credential with which the image was resolved comes first.
            one.sort_by_key(|attempt| first.is_some_and(|access| attempt.access() != *access));
        }
        attempts.sort_by_cached_key(|a| self.suspects.rank(a.endpoint.url(), wanted.digest));
        for attempt in attempts {
            if tried.rules_out(&attempt) {
                continue;
            }
            let source = Source::new(&self.transport, reference, wanted, &attempt);
            match source.open(0).await {
                Ok(opened) => {
                    let suspicion = self.suspects.add(attempt.endpoint.url(), wanted.digest);
                    return Ok(BlobReader::start(opened, source, suspicion, tried.into_vec()));
                }
                Err(problem) => tried.record(reference, &attempt, problem),
            }
        }
        Err(tried.into_error(reference))
    }

    /// The servers and credentials to try, in order.
    ///
    /// # Errors
    /// The registry's settings in the hosts directory are invalid.
    pub(super) fn attempts(
        &self,
        reference: &Reference,
        keyring: &Keyring,
        may: impl Fn(&Endpoint) -> bool,
    ) -> Result<Vec<Attempt>, ImageError> {
        let hosts = self.transport.hosts();
        if let Some(why) = hosts.unusable(reference.registry()) {
            let (registry, problem) =
                (reference.registry().to_owned(), Problem::Hosts(why.to_owned()));
            return Err(ImageError::new(reference, registry, problem, Vec::new()));
        }
        Ok(attempts(hosts, reference, keyring, may))
    }
}

pub(super) fn pull(endpoint: &Endpoint) -> bool {
    endpoint.settings.pull
}

#[cfg(test)]
#[path = "registries_tests.rs"]
mod tests;
