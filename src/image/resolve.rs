//! From a reference to what it means: document after document, each checked against what led to it.
//!
//! ```text
//! tag ── HEAD ──> digest: known? nothing more is asked
//! tag or digest ── GET ──> index ──> index … ──> manifest ──> config (where its digest is not known)
//! ```
//!
//! Registries count GETs of manifests, and not HEADs. Every document is asked of the mirrors in order and of the registry's own
//! server last; whatever a mirror does wrong, the next one is asked, and the last one's answer counts.

use futures::future::BoxFuture;

use super::{
    Access, Image, Keyring, LayerBlob, Registries,
    ask::{Ask, Place, Verb},
    attempts::Tried,
    config::{self, CONFIG_MAX, Config},
    error::{ImageError, Problem},
    hosts::Endpoint,
    manifest::{self, Candidate, Descriptor, Manifest},
    platform::Machine,
    reference::Reference,
    registries::pull,
    transport::Document,
};
use crate::digest::Digest;

/// What whoever asks knows already.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    /// What the reference means now, as [`Registries::digest_of`] has said.
    pub digest: Option<Digest>,
    /// The config with this digest, as [`Image::config`] was when an image of the same repository had it.
    pub config: &'a (dyn Fn(Digest) -> BoxFuture<'static, Option<String>> + Send + Sync),
}

/// How deep an index may lie in another.
const DEPTH: usize = 3;
pub(super) const MANIFEST: &str = "manifest";
const CONFIG: &str = "config";

/// An image's manifest.
struct Layers {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

impl Registries {
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
        let config = &|_| -> BoxFuture<'static, Option<String>> { Box::pin(async { None }) };
        self.resolve_knowing(reference, keyring, Known { digest: None, config }).await
    }

    /// The same; what is known is not asked for.
    ///
    /// # Errors
    /// [`ImageError`], with the class of what the last server did.
    pub async fn resolve_knowing(
        &self,
        reference: &Reference,
        keyring: &Keyring,
        known: Known<'_>,
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

    /// The digest that `reference` means now, of an index or of a manifest, and as whom that was told: one HEAD. Nothing where
    /// the registry does not say it by HEAD; one that knows no such image is an error.
    ///
    /// # Errors
    /// [`ImageError`], with the class of what the last server did.
    pub async fn digest_of(
        &self,
        reference: &Reference,
        keyring: &Keyring,
    ) -> Result<Option<(Digest, Access)>, ImageError> {
        let mut fetch = Fetch { registries: self, reference, keyring, access: Access::Anonymous };
        let pinned = reference.digest().copied();
        let name = name_of(reference, pinned);
        let ask = Ask::get(reference, Place::Content("manifests", &name), MANIFEST);
        let ask = Ask { verb: Verb::Head, accept: manifest::ACCEPT, ..ask };
        let said = |document: &Document| Ok(pinned.or_else(|| claimed(document)));
        match fetch.one(ask, may_say(pinned), manifest::MANIFEST_MAX, said).await {
            Ok(digest) => Ok(digest.map(|digest| (digest, fetch.access))),
            // It may know GET alone.
            Err(error) if error.is_an_answer() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What is asked for: the digest where there is one.
pub(super) fn name_of(reference: &Reference, digest: Option<Digest>) -> String {
    let digest = digest.map(|digest| digest.to_string());
    digest.or(reference.tag().map(str::to_owned)).unwrap_or_default()
}

/// Who may be asked: any server that gives content, where the digest is known.
pub(super) fn may_say(digest: Option<Digest>) -> impl Fn(&Endpoint) -> bool {
    move |e| if digest.is_some() { e.settings.pull } else { e.settings.resolve }
}

fn claimed(document: &Document) -> Option<Digest> {
    document.digest_header.as_deref()?.parse().ok()
}

/// The documents of one image, and as whom they were read so far.
pub(super) struct Fetch<'a> {
    pub(super) registries: &'a Registries,
    pub(super) reference: &'a Reference,
    pub(super) keyring: &'a Keyring,
    pub(super) access: Access,
}

/// A config by its digest, and the layers that it is about.
type Joined = ((Digest, String), Vec<LayerBlob>);

/// Entries of indexes that are to be looked at, each with the depth of its index.
type Waiting = Vec<(Candidate, usize)>;

/// What an entry of an index is.
enum Found {
    Image(Joined),
    More(Waiting),
}

impl Fetch<'_> {
    /// What the reference leads to at once, with its digest.
    async fn top(&mut self, digest: Option<Digest>) -> Result<(Digest, Manifest), ImageError> {
        let (reference, name) = (self.reference, name_of(self.reference, digest));
        let ask = Ask::get(reference, Place::Content("manifests", &name), MANIFEST);
        let ask = Ask { accept: manifest::ACCEPT, ..ask };
        let read = |document: &Document| top(document, digest);
        self.one(ask, may_say(digest), manifest::MANIFEST_MAX, read).await
    }

    /// This machine's image of an index, with its manifest's digest. An entry that may be ours, and is not or is broken, costs only
    /// itself; one that says that it is ours has to be right.
    async fn ours(
        &mut self,
        entries: &[manifest::Entry],
        known: Known<'_>,
    ) -> Result<(Digest, Joined), ImageError> {
        let (mut waiting, mut last) = (self.candidates(entries, 1)?, None);
        while let Some((candidate, depth)) = waiting.pop() {
            match self.candidate(&candidate, depth, known).await {
                Ok(Found::Image(joined)) => return Ok((candidate.descriptor.digest, joined)),
                Ok(Found::More(more)) => waiting.extend(more),
                Err(error) if candidate.is_named => return Err(error),
                Err(error) => last = Some(error),
            }
        }
        let (wanted, offered) = (Machine::this().name(), "others".to_owned());
        Err(last.unwrap_or_else(|| self.wrong(Problem::NoPlatform { wanted, offered })))
    }

    async fn candidate(
        &mut self,
        Candidate { descriptor, is_named }: &Candidate,
        depth: usize,
        known: Known<'_>,
    ) -> Result<Found, ImageError> {
        match self.pointed_to(descriptor).await? {
            Manifest::Image { config, layers } => {
                let found = Layers { config, layers };
                Ok(Found::Image(self.image(&found, known, *is_named).await?))
            }
            Manifest::Index(_) if depth == DEPTH => {
                Err(self.wrong(Problem::Unsupported("its indexes lie too deep in one another")))
            }
            Manifest::Index(entries) => Ok(Found::More(self.candidates(&entries, depth + 1)?)),
        }
    }

    /// What may be for this machine, the best last.
    fn candidates(&self, entries: &[manifest::Entry], depth: usize) -> Result<Waiting, ImageError> {
        let found = manifest::candidates(entries, Machine::this()).map_err(|e| self.wrong(e))?;
        Ok(found.into_iter().rev().map(|one| (one, depth)).collect())
    }

    /// The document that an index leads to: its size, its digest and its kind as the index says.
    async fn pointed_to(&mut self, chosen: &Descriptor) -> Result<Manifest, ImageError> {
        let (reference, name) = (self.reference, chosen.digest.to_string());
        if chosen.size > manifest::MANIFEST_MAX {
            let limit = manifest::MANIFEST_MAX;
            return Err(self.wrong(Problem::TooLarge { what: MANIFEST, limit }));
        }
        let ask = Ask::get(reference, Place::Content("manifests", &name), MANIFEST);
        let ask = Ask { accept: manifest::ACCEPT, ..ask };
        let read = |document: &Document| {
            promised(MANIFEST, &document.bytes, chosen)?;
            if manifest::media_type(&document.content_type) != chosen.media_type {
                let why = "its Content-Type is not the one that the index promises".to_owned();
                return Err(Problem::Malformed { what: MANIFEST, why });
            }
            checked(manifest::parse(&document.bytes, &document.content_type)?)
        };
        self.one(ask, pull, manifest::MANIFEST_MAX, read).await
    }

    /// The config of a manifest, from whoever has it, and its layers. Where the manifest's index did not say for which machine it
    /// is, the config must say that it is for this one.
    async fn image(
        &mut self,
        found: &Layers,
        known: Known<'_>,
        is_named: bool,
    ) -> Result<Joined, ImageError> {
        let read = |bytes: &[u8]| {
            let Config { kept, diff_ids, platform } = config::read(bytes)?;
            let fits = platform.as_ref().is_some_and(|p| Machine::this().fit(p).is_some());
            if !is_named && !fits {
                let offered = platform.and_then(|platform| platform.name());
                let offered = offered.unwrap_or_else(|| "others".to_owned());
                return Err(Problem::NoPlatform { wanted: Machine::this().name(), offered });
            }
            Ok((kept, manifest::layers(&found.layers, diff_ids)?))
        };
        let digest = found.config.digest;
        let here = (known.config)(digest).await;
        if let Some((config, layers)) = here.and_then(|text| read(text.as_bytes()).ok()) {
            return Ok(((digest, config), layers));
        }
        let (reference, name) = (self.reference, digest.to_string());
        let ask = Ask::get(reference, Place::Content("blobs", &name), CONFIG);
        let read = |document: &Document| {
            promised(CONFIG, &document.bytes, &found.config)?;
            read(&document.bytes)
        };
        let (config, layers) = self.one(ask, pull, CONFIG_MAX, read).await?;
        Ok(((digest, config), layers))
    }

    /// A problem with what was read already, whichever server gave it.
    fn wrong(&self, problem: Problem) -> ImageError {
        let registry = self.reference.registry().to_owned();
        ImageError::new(self.reference, registry, problem, Vec::new())
    }

    /// Asks the servers in order until one gives a document that `read` accepts.
    pub(super) async fn one<T>(
        &mut self,
        ask: Ask<'_>,
        may: impl Fn(&Endpoint) -> bool,
        limit: u64,
        read: impl Fn(&Document) -> Result<T, Problem>,
    ) -> Result<T, ImageError> {
        let mut tried = Tried::default();
        for attempt in self.registries.attempts(ask.reference, self.keyring, may)? {
            if tried.rules_out(&attempt) {
                continue;
            }
            let ask = Ask { who: attempt.who.as_deref(), ..ask };
            let Registries { transport, budget, .. } = self.registries;
            let document = transport.document(&attempt.endpoint, ask, limit, budget).await;
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

/// What a reference led to, checked against the digest it names or the one that the server claims.
pub(super) fn top(
    document: &Document,
    digest: Option<Digest>,
) -> Result<(Digest, Manifest), Problem> {
    let promised = digest.or_else(|| claimed(document));
    let promised = promised.unwrap_or_else(|| Digest::of(&document.bytes));
    let found = promised.again(&document.bytes);
    if promised != found {
        return Err(Problem::Mismatch { what: MANIFEST, promised, found });
    }
    let manifest = checked(manifest::parse(&document.bytes, &document.content_type)?)?;
    if let Manifest::Index(entries) = &manifest {
        // A mirror that has another index is not the last to be asked.
        manifest::candidates(entries, Machine::this())?;
    }
    Ok((promised, manifest))
}

/// Refuses an image that cannot be taken before anything of it is fetched.
fn checked(manifest: Manifest) -> Result<Manifest, Problem> {
    if let Manifest::Image { config, layers } = &manifest {
        manifest::check(config, layers)?;
    }
    Ok(manifest)
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
    match descriptor.digest.again(bytes) {
        same if same == descriptor.digest => Ok(()),
        found => Err(Problem::Mismatch { what, promised: descriptor.digest, found }),
    }
}
