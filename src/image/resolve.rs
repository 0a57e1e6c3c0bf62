//! Resolves a reference to an image: fetches the documents one after the other, and checks each against its descriptor.
//!
//! ```text
//! tag ── HEAD ──> digest: if the image is known, no further request
//! tag or digest ── GET ──> index ──> index … ──> manifest ──> config (unless it is known by its digest)
//! ```
//!
//! The rate limits of registries count GETs of manifests, but not HEADs. Each document is requested from the mirrors in
//! order, and from the registry's own server last. After any problem of a mirror the next server is tried, and the
//! problem of the last one counts.

use futures::future::BoxFuture;

use super::{
    Access, Image, Keyring, LayerBlob, Reference, Registries,
    candidates::Tried,
    config::{self, CONFIG_MAX, Config},
    endpoint::Endpoint,
    error::{ImageError, Problem},
    manifest::{self, Candidate, Descriptor, Manifest},
    platform::HostPlatform,
    registries::pull,
    request::{Place, RegistryRequest, Verb},
    transport::Document,
};
use crate::{
    digest::{BlobDigest, ManifestDigest},
    media_type,
};

/// What the caller knows about an image already.
#[derive(Clone, Copy)]
pub struct KnownImage<'a> {
    /// The current digest of the reference, from [`Registries::digest_of`].
    pub digest: Option<ManifestDigest>,
    /// Returns the config with a digest, from [`Image::config`] of an earlier image of the same repository.
    pub config: &'a (dyn Fn(BlobDigest) -> BoxFuture<'static, Option<String>> + Send + Sync),
}

/// How deep indexes may be nested.
const DEPTH: usize = 3;
pub(super) const MANIFEST: &str = "manifest";
const CONFIG: &str = "config";

/// The contents of an image manifest.
struct Layers {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

impl Registries {
    /// Resolves `reference` to the manifest for this host, its config and its layers. Every document is checked against
    /// the digest and size that lead to it. No layer is fetched.
    ///
    /// Each server is tried with all credentials that `keyring` has for it, one after the other, or anonymously without
    /// any. [`Image::access`] is anonymous only if no document required a credential.
    ///
    /// # Errors
    /// [`ImageError`], with the class of the last server's problem.
    pub async fn resolve(
        &self,
        reference: &Reference,
        keyring: &Keyring,
    ) -> Result<Image, ImageError> {
        let config = &|_| -> BoxFuture<'static, Option<String>> { Box::pin(async { None }) };
        self.resolve_knowing(reference, keyring, KnownImage { digest: None, config }).await
    }

    /// Like [`Registries::resolve`], but does not request what is known.
    ///
    /// # Errors
    /// [`ImageError`], with the class of the last server's problem.
    pub async fn resolve_knowing(
        &self,
        reference: &Reference,
        keyring: &Keyring,
        known: KnownImage<'_>,
    ) -> Result<Image, ImageError> {
        let mut fetch = Fetch { registries: self, reference, keyring, access: Access::Anonymous };
        let (digest, top) = fetch.top(known.digest.or(reference.digest().copied())).await?;
        let (manifest, joined, index) = match top {
            Manifest::Image { config, layers } => {
                let found = Layers { config, layers };
                (digest, fetch.image(&found, known, true).await?, None)
            }
            Manifest::Index(entries) => {
                let (manifest, joined) = fetch.ours(&entries, known).await?;
                (manifest, joined, Some(digest))
            }
        };
        let ((config_digest, config), layers) = joined;
        Ok(Image {
            reference: reference.clone(),
            digest: manifest,
            index,
            access: fetch.access,
            config,
            config_digest,
            layers,
        })
    }

    /// Returns the current digest of `reference`, of an index or of a manifest, and the credential that the registry
    /// required for it: one HEAD request. Returns `None` if the registry does not report a digest for HEAD.
    ///
    /// # Errors
    /// [`ImageError`], with the class of the last server's problem; also if the image does not exist.
    pub async fn digest_of(
        &self,
        reference: &Reference,
        keyring: &Keyring,
    ) -> Result<Option<(ManifestDigest, Access)>, ImageError> {
        let mut fetch = Fetch { registries: self, reference, keyring, access: Access::Anonymous };
        let pinned = reference.digest().copied();
        let name = name_of(reference, pinned);
        let request = RegistryRequest::get(reference, Place::Content("manifests", &name), MANIFEST);
        let request =
            RegistryRequest { verb: Verb::Head, accept: media_type::MANIFESTS, ..request };
        let read = |document: &Document| Ok(pinned.or_else(|| claimed(document)));
        match fetch.one(request, can_resolve(pinned), manifest::MANIFEST_MAX, read).await {
            Ok(digest) => Ok(digest.map(|digest| (digest, fetch.access))),
            // The registry may support only GET.
            Err(error) if error.is_response() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The name to request: the digest if it is known, otherwise the tag.
pub(super) fn name_of(reference: &Reference, digest: Option<ManifestDigest>) -> String {
    let digest = digest.map(|digest| digest.to_string());
    digest.or(reference.tag().map(str::to_owned)).unwrap_or_default()
}

/// The filter for servers: with a known digest every server that delivers content, otherwise those that resolve tags.
pub(super) fn can_resolve(digest: Option<ManifestDigest>) -> impl Fn(&Endpoint) -> bool {
    move |e| if digest.is_some() { e.settings.pull } else { e.settings.resolve }
}

/// The digest in the registry's header.
fn claimed(document: &Document) -> Option<ManifestDigest> {
    document.digest_header.as_deref()?.parse().ok().map(ManifestDigest::new)
}

/// Fetches the documents of one image. `access` is the credential that they required so far.
pub(super) struct Fetch<'a> {
    pub(super) registries: &'a Registries,
    pub(super) reference: &'a Reference,
    pub(super) keyring: &'a Keyring,
    pub(super) access: Access,
}

/// The config's digest, its kept fields, and the image's layers.
type Joined = ((BlobDigest, String), Vec<LayerBlob>);

/// Entries of indexes to try, each with the depth of its index.
type Pending = Vec<(Candidate, usize)>;

/// The content of an entry in an index: an image, or the entries of a nested index.
enum Found {
    Image(Joined),
    More(Pending),
}

impl Fetch<'_> {
    /// The manifest or index that the reference names, with its digest.
    async fn top(
        &mut self,
        digest: Option<ManifestDigest>,
    ) -> Result<(ManifestDigest, Manifest), ImageError> {
        let (reference, name) = (self.reference, name_of(self.reference, digest));
        let request = RegistryRequest::get(reference, Place::Content("manifests", &name), MANIFEST);
        let request = RegistryRequest { accept: media_type::MANIFESTS, ..request };
        let read = |document: &Document| top(document, digest);
        self.one(request, can_resolve(digest), manifest::MANIFEST_MAX, read).await
    }

    /// The image for this host from an index, with its manifest's digest. An entry without a platform is skipped if it
    /// is for another platform or broken. An error in an entry for this host's platform is an error of the image.
    async fn ours(
        &mut self,
        entries: &[manifest::Entry],
        known: KnownImage<'_>,
    ) -> Result<(ManifestDigest, Joined), ImageError> {
        let (mut pending, mut last) = (self.candidates(entries, 1)?, None);
        while let Some((candidate, depth)) = pending.pop() {
            match self.candidate(&candidate, depth, known).await {
                Ok(Found::Image(joined)) => return Ok((candidate.descriptor.manifest(), joined)),
                Ok(Found::More(more)) => pending.extend(more),
                Err(error) if candidate.has_platform => return Err(error),
                Err(error) => last = Some(error),
            }
        }
        let (wanted, offered) = (HostPlatform::this().name(), "others".to_owned());
        Err(last.unwrap_or_else(|| self.wrong(Problem::NoPlatform { wanted, offered })))
    }

    async fn candidate(
        &mut self,
        Candidate { descriptor, has_platform }: &Candidate,
        depth: usize,
        known: KnownImage<'_>,
    ) -> Result<Found, ImageError> {
        match self.pointed_to(descriptor).await? {
            Manifest::Image { config, layers } => {
                let found = Layers { config, layers };
                Ok(Found::Image(self.image(&found, known, *has_platform).await?))
            }
            Manifest::Index(_) if depth == DEPTH => {
                let why = "the indexes of the image are nested too deeply";
                Err(self.wrong(Problem::Unsupported(why)))
            }
            Manifest::Index(entries) => Ok(Found::More(self.candidates(&entries, depth + 1)?)),
        }
    }

    /// The entries that may be for this host, the best last.
    fn candidates(&self, entries: &[manifest::Entry], depth: usize) -> Result<Pending, ImageError> {
        let found =
            manifest::candidates(entries, HostPlatform::this()).map_err(|e| self.wrong(e))?;
        Ok(found.into_iter().rev().map(|one| (one, depth)).collect())
    }

    /// Fetches the document of an entry in an index, and checks its size, its digest and its media type against the
    /// entry.
    async fn pointed_to(&mut self, chosen: &Descriptor) -> Result<Manifest, ImageError> {
        let (reference, name) = (self.reference, chosen.digest.to_string());
        if chosen.size > manifest::MANIFEST_MAX {
            let limit = manifest::MANIFEST_MAX;
            return Err(self.wrong(Problem::TooLarge { what: MANIFEST, limit }));
        }
        let request = RegistryRequest::get(reference, Place::Content("manifests", &name), MANIFEST);
        let request = RegistryRequest { accept: media_type::MANIFESTS, ..request };
        let read = |document: &Document| {
            check_content(MANIFEST, &document.bytes, chosen)?;
            if media_type::of_header(&document.content_type) != chosen.media_type {
                let why = "its Content-Type differs from the media type in the index".to_owned();
                return Err(Problem::Malformed { what: MANIFEST, why });
            }
            checked(manifest::parse(&document.bytes, &document.content_type)?)
        };
        self.one(request, pull, manifest::MANIFEST_MAX, read).await
    }

    /// The config of a manifest, known or fetched, and its layers. If the index named no platform for the manifest, the
    /// config must name this host's platform.
    async fn image(
        &mut self,
        found: &Layers,
        known: KnownImage<'_>,
        has_platform: bool,
    ) -> Result<Joined, ImageError> {
        let read = |bytes: &[u8]| {
            let Config { kept, diff_ids, platform } = config::read(bytes)?;
            let fits = platform.as_ref().is_some_and(|p| HostPlatform::this().fit(p).is_some());
            if !has_platform && !fits {
                let offered = platform.and_then(|platform| platform.name());
                let offered = offered.unwrap_or_else(|| "others".to_owned());
                return Err(Problem::NoPlatform { wanted: HostPlatform::this().name(), offered });
            }
            Ok((kept, manifest::layers(&found.layers, diff_ids)?))
        };
        let digest = found.config.blob();
        let here = (known.config)(digest).await;
        if let Some((config, layers)) = here.and_then(|text| read(text.as_bytes()).ok()) {
            return Ok(((digest, config), layers));
        }
        let (reference, name) = (self.reference, digest.to_string());
        let request = RegistryRequest::get(reference, Place::Content("blobs", &name), CONFIG);
        let read = |document: &Document| {
            check_content(CONFIG, &document.bytes, &found.config)?;
            read(&document.bytes)
        };
        let (config, layers) = self.one(request, pull, CONFIG_MAX, read).await?;
        Ok(((digest, config), layers))
    }

    /// An error about a document that was fetched before, from any server.
    fn wrong(&self, problem: Problem) -> ImageError {
        let registry = self.reference.registry().to_owned();
        ImageError::new(self.reference, registry, problem, Vec::new())
    }

    /// Requests a document from the servers in order, until one returns a document that `read` accepts.
    pub(super) async fn one<T>(
        &mut self,
        request: RegistryRequest<'_>,
        may: impl Fn(&Endpoint) -> bool,
        limit: u64,
        read: impl Fn(&Document) -> Result<T, Problem>,
    ) -> Result<T, ImageError> {
        let mut tried = Tried::default();
        for attempt in self.registries.attempts(request.reference, self.keyring, may)? {
            if tried.rules_out(&attempt) {
                continue;
            }
            let request = RegistryRequest { credential: attempt.credential.as_deref(), ..request };
            let Registries { transport, budget, .. } = self.registries;
            let document = transport.document(&attempt.endpoint, request, limit, budget).await;
            let done = document.and_then(|document| Ok((read(&document)?, document.access)));
            match done {
                Ok((done, Access::Anonymous)) => return Ok(done),
                Ok((done, access)) => {
                    self.access = access;
                    return Ok(done);
                }
                Err(problem) => tried.record(request.reference, &attempt, problem),
            }
        }
        Err(tried.into_error(request.reference))
    }
}

/// Parses the document that a reference names, and checks it against the digest in the reference or in the server's
/// header.
pub(super) fn top(
    document: &Document,
    digest: Option<ManifestDigest>,
) -> Result<(ManifestDigest, Manifest), Problem> {
    let promised = digest.or_else(|| claimed(document));
    let manifest_digest = promised.unwrap_or_else(|| ManifestDigest::of(&document.bytes));
    let promised = *manifest_digest.digest();
    let found = promised.again(&document.bytes);
    if promised != found {
        return Err(Problem::Mismatch { what: MANIFEST, promised, found });
    }
    let manifest = checked(manifest::parse(&document.bytes, &document.content_type)?)?;
    if let Manifest::Index(entries) = &manifest {
        // Fails here, so that the next server is tried if this mirror has another index without this platform.
        manifest::candidates(entries, HostPlatform::this())?;
    }
    Ok((manifest_digest, manifest))
}

/// Rejects an unsupported image before anything of it is fetched.
fn checked(manifest: Manifest) -> Result<Manifest, Problem> {
    if let Manifest::Image { config, layers } = &manifest {
        manifest::check(config, layers)?;
    }
    Ok(manifest)
}

/// Checks size and digest of a document against its descriptor.
pub(super) fn check_content(
    what: &'static str,
    bytes: &[u8],
    descriptor: &Descriptor,
) -> Result<(), Problem> {
    if bytes.len() as u64 != descriptor.size {
        let found = bytes.len() as u64;
        return Err(Problem::WrongSize { what, promised: descriptor.size, found });
    }
    match descriptor.digest.again(bytes) {
        same if same == descriptor.digest => Ok(()),
        found => Err(Problem::Mismatch { what, promised: descriptor.digest, found }),
    }
}
