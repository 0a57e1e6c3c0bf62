//! From a reference to an image and its blobs, whichever server has them.
//!
//! Every document is asked of the mirrors in order and of the registry's own server last; whatever a mirror
//! does wrong, the next one is asked, and the last one's answer counts. A layer streams, so what goes wrong after
//! its first byte is the caller's error; the server is then in doubt, and whoever asks for that layer again gets
//! it from the next one.

use super::{
    Image, LayerBlob,
    blob::{BlobReader, Source},
    doubts::Doubts,
    error::{ImageError, Problem},
    hosts::{Endpoint, Hosts},
    manifest::{self, Descriptor, Manifest},
    pace::Pace,
    platform::Machine,
    reference::Reference,
    transport::{Ask, Document, SetUpError, Transport, Trust},
};
use crate::digest::Digest;

/// The registries of the world, as this node may reach them. Anonymous; credentials come later.
#[derive(Debug)]
pub struct Registries {
    transport: Transport,
    doubts: Doubts,
}

/// What a reference led to.
enum Top {
    Image(Digest, Layers),
    /// An index, and in it the manifest for this machine.
    Index(Descriptor),
}

struct Layers {
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
        Ok(Self { transport: Transport::new(hosts, pace, trust)?, doubts: Doubts::default() })
    }

    /// Finds what `reference` means for this machine: its manifest's digest and its layers, every document
    /// checked against the digest and size that lead to it. Nothing of a layer is fetched.
    ///
    /// # Errors
    /// [`ImageError`], with the class of what the last server did.
    pub async fn resolve(&self, reference: &Reference) -> Result<Image, ImageError> {
        let digest = reference.digest().copied();
        let name = digest.map(|digest| digest.to_string());
        let name = name.as_deref().or(reference.tag()).unwrap_or_default();
        let may = |e: &Endpoint| if digest.is_some() { e.pull } else { e.resolve };
        let ask =
            Ask { reference, kind: "manifests", name, what: MANIFEST, accept: manifest::ACCEPT };
        let top = self.fetch(ask, may, manifest::MANIFEST_MAX, |d| top(d, digest)).await?;
        let (digest, Layers { config, layers }) = match top {
            Top::Image(digest, layers) => (digest, layers),
            Top::Index(chosen) => {
                let ask = Ask { name: &chosen.digest.to_string(), ..ask };
                let read = |document| chosen_image(&document, &chosen);
                (chosen.digest, self.fetch(ask, pull, manifest::MANIFEST_MAX, read).await?)
            }
        };
        let name = config.digest.to_string();
        let ask = Ask { reference, kind: "blobs", name: &name, what: CONFIG, accept: "*/*" };
        let read = |document: Document| {
            promised(CONFIG, &document.bytes, &config)?;
            manifest::layers(&layers, &document.bytes)
        };
        let layers = self.fetch(ask, pull, manifest::CONFIG_MAX, read).await?;
        Ok(Image { reference: reference.clone(), digest, layers })
    }

    /// Starts the download of one layer of an image that [`Registries::resolve`] gave. Servers whose last answer
    /// with this layer did not end well are asked after the others: to go on elsewhere, ask again.
    ///
    /// # Errors
    /// [`ImageError`] up to the first byte; later ones come out of the reader.
    pub async fn blob(&self, image: &Image, layer: &LayerBlob) -> Result<BlobReader, ImageError> {
        let reference = &image.reference;
        let name = layer.digest.to_string();
        let ask = Ask { reference, kind: "blobs", name: &name, what: "layer", accept: "*/*" };
        let mut tried = Vec::new();
        let mut endpoints = self.endpoints(reference, pull);
        endpoints.sort_by_cached_key(|e| self.doubts.rank(e.url(), layer.digest));
        for endpoint in endpoints {
            match self.transport.open(&endpoint, ask).await {
                Ok(response) => {
                    let doubt = self.doubts.raise(endpoint.url(), layer.digest);
                    let source =
                        Source { reference: reference.clone(), host: endpoint.name(), tried };
                    return Ok(BlobReader::start(response, layer, source, doubt));
                }
                Err(problem) => note(&mut tried, reference, &endpoint, problem),
            }
        }
        Err(gave_up(reference, tried))
    }

    /// Asks the servers in order until one gives a document that `read` accepts.
    async fn fetch<T>(
        &self,
        ask: Ask<'_>,
        may: impl Fn(&Endpoint) -> bool,
        limit: u64,
        read: impl Fn(Document) -> Result<T, Problem>,
    ) -> Result<T, ImageError> {
        let mut tried = Vec::new();
        for endpoint in self.endpoints(ask.reference, may) {
            let document = self.transport.document(&endpoint, ask, limit).await;
            match document.and_then(&read) {
                Ok(done) => return Ok(done),
                Err(problem) => note(&mut tried, ask.reference, &endpoint, problem),
            }
        }
        Err(gave_up(ask.reference, tried))
    }

    fn endpoints(&self, reference: &Reference, may: impl Fn(&Endpoint) -> bool) -> Vec<Endpoint> {
        let mut endpoints = self.transport.hosts().endpoints(reference.registry());
        endpoints.retain(may);
        endpoints
    }
}

const MANIFEST: &str = "manifest";
const CONFIG: &str = "config";

fn pull(endpoint: &Endpoint) -> bool {
    endpoint.pull
}

fn note(
    tried: &mut Vec<(String, Problem)>,
    reference: &Reference,
    endpoint: &Endpoint,
    problem: Problem,
) {
    let host = endpoint.name();
    tracing::info!(image = %reference, host, %problem, "a registry server did not give what was asked");
    tried.push((host, problem));
}

fn gave_up(reference: &Reference, mut tried: Vec<(String, Problem)>) -> ImageError {
    let none = || {
        let problem = Problem::Unsupported("no server is configured for it");
        (reference.registry().to_owned(), problem)
    };
    let (host, problem) = tried.pop().unwrap_or_else(none);
    ImageError::new(reference, host, problem, tried)
}

/// What a reference led to, checked against the digest it names or the one that the server claims.
fn top(document: Document, digest: Option<Digest>) -> Result<Top, Problem> {
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

fn promised(what: &'static str, bytes: &[u8], descriptor: &Descriptor) -> Result<(), Problem> {
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
