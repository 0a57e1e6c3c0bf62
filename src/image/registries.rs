//! From a reference to an image and its blobs, whichever server has them.
//!
//! Every document is asked of the mirrors in order and of the registry's own server last; whatever a mirror
//! does wrong, the next one is asked, and the last one's answer counts. A layer streams, so what goes wrong after
//! its first byte is the caller's error; the server is then in doubt, and whoever asks for that layer again gets
//! it from the next one.

use std::sync::Arc;

use super::{
    Access, Image, Keyring, LayerBlob, Repository,
    ask::{Ask, Place},
    attempts::{Attempt, Tried, attempts},
    blob::{BlobReader, Source, Wanted},
    doubts::Doubts,
    error::{ImageError, Problem},
    hosts::{Endpoint, Hosts},
    manifest::{self, Descriptor, Manifest},
    pace::Pace,
    platform::Machine,
    reference::Reference,
    transport::{Document, SetUpError, Transport, Trust},
};
use crate::digest::Digest;

/// The registries of the world, as this node may reach them.
#[derive(Debug)]
pub struct Registries {
    pub(super) transport: Arc<Transport>,
    doubts: Doubts,
}

/// What a reference led to.
pub(super) enum Top {
    Image(Digest, Layers),
    /// An index, and in it the manifest for this machine.
    Index(Descriptor),
}

pub(super) struct Layers {
    config: Descriptor,
    layers: Vec<Descriptor>,
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

    pub(super) fn with(hosts: Hosts, pace: Pace, trust: Trust) -> Result<Self, SetUpError> {
        let transport = Arc::new(Transport::new(hosts, pace, trust)?);
        Ok(Self { transport, doubts: Doubts::default() })
    }

    /// Finds what `reference` means for this machine: its manifest's digest and its layers, every document
    /// checked against the digest and size that lead to it. Nothing of a layer is fetched.
    ///
    /// A server for which `keyring` has credentials is asked with them, one after the other; any other
    /// anonymously. [`Image::access`] is anonymous only if not one of the documents needed a credential.
    ///
    /// # Errors
    /// [`ImageError`], with the class of what the last server did.
    pub async fn resolve(
        &self,
        reference: &Reference,
        keyring: &Keyring,
    ) -> Result<Image, ImageError> {
        let digest = reference.digest().copied();
        let name = digest.map(|digest| digest.to_string());
        let name = name.as_deref().or(reference.tag()).unwrap_or_default();
        let may =
            |e: &Endpoint| if digest.is_some() { e.settings.pull } else { e.settings.resolve };
        let mut fetch = Fetch { registries: self, keyring, access: Access::Anonymous };
        let ask = Ask::get(reference, Place::Content("manifests", name), MANIFEST);
        let ask = Ask { accept: manifest::ACCEPT, ..ask };
        let top = fetch.one(ask, may, manifest::MANIFEST_MAX, |d| top(d, digest)).await?;
        let (digest, Layers { config, layers }) = match top {
            Top::Image(digest, layers) => (digest, layers),
            Top::Index(chosen) => {
                let name = chosen.digest.to_string();
                let ask = Ask { place: Place::Content("manifests", &name), ..ask };
                let read = |document: &_| chosen_image(document, &chosen);
                (chosen.digest, fetch.one(ask, pull, manifest::MANIFEST_MAX, read).await?)
            }
        };
        let name = config.digest.to_string();
        let ask = Ask::get(reference, Place::Content("blobs", &name), CONFIG);
        let read = |document: &Document| {
            promised(CONFIG, &document.bytes, &config)?;
            Ok((manifest::layers(&layers, &document.bytes)?, text(&document.bytes)?))
        };
        let (layers, config) = fetch.one(ask, pull, manifest::CONFIG_MAX, read).await?;
        let reference = reference.clone();
        Ok(Image { reference, digest, access: fetch.access, config, layers })
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
        let mut attempts = self.attempts(reference, keyring, pull);
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

    pub(super) fn attempts(
        &self,
        reference: &Reference,
        keyring: &Keyring,
        may: impl Fn(&Endpoint) -> bool,
    ) -> Vec<Attempt> {
        attempts(self.transport.hosts(), reference, keyring, may)
    }
}

/// The documents of one image, and as whom they were read so far.
pub(super) struct Fetch<'a> {
    pub(super) registries: &'a Registries,
    pub(super) keyring: &'a Keyring,
    pub(super) access: Access,
}

impl Fetch<'_> {
    /// Asks the servers in order until one gives a document that `read` accepts.
    pub(super) async fn one<T>(
        &mut self,
        ask: Ask<'_>,
        may: impl Fn(&Endpoint) -> bool,
        limit: u64,
        read: impl Fn(&Document) -> Result<T, Problem>,
    ) -> Result<T, ImageError> {
        let mut tried = Tried::default();
        for attempt in self.registries.attempts(ask.reference, self.keyring, may) {
            if tried.rules_out(&attempt) {
                continue;
            }
            let ask = Ask { who: attempt.who.as_deref(), ..ask };
            let document = self.registries.transport.document(&attempt.endpoint, ask, limit).await;
            let done = document.and_then(|document| Ok((read(&document)?, document.access)));
            match done {
                Ok((done, Access::Anonymous)) => return Ok(done),
                Ok((done, access)) => {
                    self.access = access;
                    return Ok(done);
                }
                Err(problem) => tried.note(ask.reference, &attempt, problem),
            }
        }
        Err(tried.gave_up(ask.reference))
    }
}

pub(super) const MANIFEST: &str = "manifest";
const CONFIG: &str = "config";

fn pull(endpoint: &Endpoint) -> bool {
    endpoint.settings.pull
}

/// A config is handed on, and must not become another on the way.
fn text(config: &[u8]) -> Result<String, Problem> {
    let why = || "it is not UTF-8".to_owned();
    let text = str::from_utf8(config).map_err(|_| Problem::Malformed { what: CONFIG, why: why() });
    text.map(str::to_owned)
}

/// What a reference led to, checked against the digest it names or the one that the server claims.
pub(super) fn top(document: &Document, digest: Option<Digest>) -> Result<Top, Problem> {
    let found = Digest::of(&document.bytes);
    let claimed = || document.digest_header.as_deref()?.parse().ok();
    let promised = digest.or_else(claimed).unwrap_or(found);
    if promised != found {
        return Err(Problem::Mismatch { what: MANIFEST, promised, found });
    }
    match manifest::parse(&document.bytes, &document.content_type)? {
        Manifest::Index(entries) => {
            let chosen = manifest::choose(&entries, Machine::this())?;
            if chosen.size > manifest::MANIFEST_MAX {
                return Err(Problem::TooLarge { what: MANIFEST, limit: manifest::MANIFEST_MAX });
            }
            Ok(Top::Index(chosen))
        }
        Manifest::Image { config, layers } => {
            manifest::check(&config, &layers)?;
            Ok(Top::Image(found, Layers { config, layers }))
        }
    }
}

/// The manifest that an index leads to: its size, its digest and its kind as the index says.
fn chosen_image(document: &Document, chosen: &Descriptor) -> Result<Layers, Problem> {
    promised(MANIFEST, &document.bytes, chosen)?;
    if manifest::media_type(&document.content_type) != chosen.media_type {
        let why = "its Content-Type is not the one that the index promises".to_owned();
        return Err(Problem::Malformed { what: MANIFEST, why });
    }
    match manifest::parse(&document.bytes, &document.content_type)? {
        Manifest::Image { config, layers } => {
            manifest::check(&config, &layers)?;
            Ok(Layers { config, layers })
        }
        Manifest::Index(_) => Err(Problem::Unsupported("its index leads to another index")),
    }
}

pub(super) fn promised(
    what: &'static str,
    bytes: &[u8],
    descriptor: &Descriptor,
) -> Result<(), Problem> {
    if bytes.len() as u64 != descriptor.size {
        let found = bytes.len() as u64;
        return Err(Problem::WrongSize { what, promised: descriptor.size, found });
    }
    match Digest::of(bytes) {
        same if same == descriptor.digest => Ok(()),
        found => Err(Problem::Mismatch { what, promised: descriptor.digest, found }),
    }
}

#[cfg(test)]
#[path = "registries_tests.rs"]
mod tests;
