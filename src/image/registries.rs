//! An image's blobs, whichever server has them.
//!
//! A layer streams, so what goes wrong after its first byte is the caller's error; the server is then in doubt, and whoever asks
//! for that layer again gets it from the next one.

use std::sync::Arc;

use super::{
    Access, Image, Keyring, LayerBlob, Repository,
    attempts::{Attempt, Tried, attempts},
    blob::{BlobReader, Source, Wanted},
    doubts::Doubts,
    error::{ImageError, Problem},
    hosts::{Endpoint, Hosts},
    networks::Network,
    pace::Pace,
    reference::Reference,
    transport::{SetUpError, Transport, Trust},
};
use crate::{budget::Budget, digest::Digest};

/// The registries of the world, as this node may reach them.
#[derive(Debug)]
pub struct Registries {
    pub(super) transport: Arc<Transport>,
    /// What documents take from while they are read.
    pub(super) budget: Arc<Budget>,
    doubts: Doubts,
}

impl Registries {
    /// Sets up the client: the TLS provider of the process, and the machine's CA certificates as they are now.
    /// Without one certificate it starts nevertheless, with a warning: registries that are configured as plain
    /// http need none.
    ///
    /// # Errors
    /// The client library refuses; the node cannot work.
    pub fn new(hosts: Hosts) -> Result<Self, SetUpError> {
        let pace = Pace::default();
        match Self::with(hosts.clone(), pace, Trust::Machine) {
            Err(error) if error.is_tls() => {
                tracing::warn!("no registry can be reached by https: {error}");
                Self::with(hosts, pace, Trust::Nobody)
            }
            done => done,
        }
    }

    /// From now on no server in these networks is contacted, unless the hosts directory names it.
    pub fn refuse(&self, networks: Vec<Network>) {
        self.transport.hosts().refused().set(networks);
    }

    pub(super) fn with(hosts: Hosts, pace: Pace, trust: Trust) -> Result<Self, SetUpError> {
        let transport = Arc::new(Transport::new(hosts, pace, trust)?);
        Ok(Self { transport, budget: Arc::default(), doubts: Doubts::default() })
    }

    /// The same with another budget for what documents take while they are read.
    #[must_use]
    pub fn within(self, budget: Arc<Budget>) -> Self {
        Self { budget, ..self }
    }

    /// Starts the download of one layer of an image that [`Registries::resolve`] gave. Servers whose last answer
    /// with this layer did not end well are asked after the others: to go on elsewhere, ask again. A connection
    /// that breaks is taken up at that byte, where the server can.
    ///
    /// # Errors
    /// [`ImageError`] up to the first byte; later ones come out of the reader.
    pub async fn blob(
        &self,
        image: &Image,
        layer: &LayerBlob,
        keyring: &Keyring,
    ) -> Result<BlobReader, ImageError> {
        let wanted = Wanted { digest: layer.digest, size: layer.size };
        self.stream(&image.reference, wanted, keyring, Some(&image.access)).await
    }

    /// Starts the download of a blob of which nothing but its place is known; else as [`Registries::blob`].
    ///
    /// # Errors
    /// [`ImageError`] up to the first byte; later ones come out of the reader.
    pub async fn blob_of(
        &self,
        from: &Repository,
        digest: &Digest,
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
            // As whom the image was resolved comes first.
            one.sort_by_key(|attempt| first.is_some_and(|access| attempt.access() != *access));
        }
        attempts.sort_by_cached_key(|a| self.doubts.rank(a.endpoint.url(), wanted.digest));
        for attempt in attempts {
            if tried.rules_out(&attempt) {
                continue;
            }
            let source = Source::new(&self.transport, reference, wanted, &attempt);
            match source.open(0).await {
                Ok(opened) => {
                    let doubt = self.doubts.raise(attempt.endpoint.url(), wanted.digest);
                    return Ok(BlobReader::start(opened, source, doubt, tried.before()));
                }
                Err(problem) => tried.note(reference, &attempt, problem),
            }
        }
        Err(tried.gave_up(reference))
    }

    /// Whom to ask, in order.
    ///
    /// # Errors
    /// What the node's registry hosts directory says of the registry cannot be used.
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
