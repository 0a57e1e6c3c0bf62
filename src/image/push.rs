//! Blobs and manifests on their way to a registry.
//!
//! Everything of a push goes to one server, the first that takes pushes (`hosts`): what is sent in parts must come
//! together in one place. Each call can be repeated whatever became of it before. Deliberately absent: what an image
//! is made of, which is `snapshots`'.

use std::{fs::File, sync::Arc};

use bytes::Bytes;
use reqwest::{Response, StatusCode, Url};

use super::{
    Access, ImageError, Keyring, Reference, Registries, Repository,
    ask::{self, Ask, Place, Verb},
    attempts::{Attempt, Tried},
    auth::Grant,
    error::Problem,
    manifest,
    payload::{Payload, Unreadable},
    policy::{self, Role},
    reference,
    transport::Transport,
    upload::Upload,
};
use crate::{digest::Digest, fault::Class};

impl Registries {
    /// Whether the repository has the blob.
    ///
    /// # Errors
    /// [`ImageError`], with the class of what the server did.
    pub async fn has_blob(
        &self,
        to: &Repository,
        blob: &Digest,
        keyring: &Keyring,
    ) -> Result<bool, ImageError> {
        self.push(to, keyring, |target| async move { target.has(blob).await }).await
    }

    /// Has the registry take the blob over from another repository of its own; answers whether it did. One that
    /// does not want to, or not for this secret, is one that did not.
    ///
    /// # Errors
    /// [`ImageError`] where the server cannot be reached or is in trouble.
    pub async fn mount_blob(
        &self,
        to: &Repository,
        blob: &Digest,
        from: &Repository,
        keyring: &Keyring,
    ) -> Result<bool, ImageError> {
        if from.registry() != to.registry() {
            return Ok(false);
        }
        let mount = |target: Target| async move { target.mount(blob, from.repository()).await };
        match self.push(to, keyring, mount).await {
            Err(error) if error.class() == Class::Denied => Ok(false),
            done => done,
        }
    }

    /// Brings a blob of `size` bytes, the whole of `content`, to the repository: in chunks, each again from where
    /// the registry says it is, with pauses; at once where it takes no chunks. `sent` is told the bytes that are
    /// there; they become fewer where the registry loses some. Nothing is asked before: see
    /// [`Registries::has_blob`].
    ///
    /// `content` is read at offsets; its own position neither counts nor changes.
    ///
    /// # Errors
    /// [`ImageError`], with the class of what the server did, or [`Class::Internal`] where `content` cannot be read.
    pub async fn push_blob(
        &self,
        to: &Repository,
        blob: &Digest,
        size: u64,
        content: &File,
        keyring: &Keyring,
        sent: &(dyn Fn(u64) + Sync),
    ) -> Result<(), ImageError> {
        let file = content.try_clone().map(Arc::new);
        let file = &file;
        self.push(to, keyring, |target| async move {
            let file = file.as_ref().map_err(Unreadable::new)?;
            Upload::new(target, *blob, size, file, sent).run().await
        })
        .await
    }

    /// Puts a manifest under a tag; answers its digest.
    ///
    /// # Errors
    /// [`ImageError`], with the class of what the server did; [`Class::Corrupt`] where it keeps another one than was
    /// sent.
    pub async fn push_manifest(
        &self,
        to: &Repository,
        tag: &str,
        media_type: &str,
        manifest: &[u8],
        keyring: &Keyring,
    ) -> Result<Digest, ImageError> {
        let (digest, bytes) = (Digest::of(manifest), &Bytes::copy_from_slice(manifest));
        self.push(to, keyring, |target| async move {
            if bytes.len() as u64 > manifest::MANIFEST_MAX {
                return Err(Problem::TooLarge { what: MANIFEST, limit: manifest::MANIFEST_MAX });
            }
            let wrong = |_| Problem::Unsupported("what is pushed has a tag that no registry takes");
            let tag = reference::checked_tag(tag).map_err(wrong)?;
            let payload = Payload::Bytes(media_type, bytes);
            let ask = target.ask(Verb::Put, Place::Content("manifests", &tag), MANIFEST);
            let answer = target.open(Ask { payload, ..ask }).await.map_err(no_repository)?;
            match kept(&answer) {
                Some(found) if found != found.again(bytes) => {
                    Err(Problem::Mismatch { what: MANIFEST, promised: digest, found })
                }
                _ => Ok(digest),
            }
        })
        .await
    }

    /// Removes a manifest; answers whether it is gone: some registries do not delete.
    ///
    /// # Errors
    /// [`ImageError`], with the class of what the server did.
    pub async fn delete_manifest(
        &self,
        of: &Repository,
        manifest: &Digest,
        keyring: &Keyring,
    ) -> Result<bool, ImageError> {
        self.delete(of, &manifest.to_string(), keyring).await
    }

    /// Removes a tag; answers whether it is gone: some registries remove manifests alone.
    ///
    /// # Errors
    /// [`ImageError`], with the class of what the server did.
    pub async fn delete_tag(
        &self,
        of: &Repository,
        tag: &str,
        keyring: &Keyring,
    ) -> Result<bool, ImageError> {
        self.delete(of, tag, keyring).await
    }

    async fn delete(
        &self,
        of: &Repository,
        name: &str,
        keyring: &Keyring,
    ) -> Result<bool, ImageError> {
        self.push(of, keyring, |target| async move {
            let ask = target.ask(Verb::Delete, Place::Content("manifests", name), MANIFEST);
            match target.open(Ask { grant: Grant::Delete, ..ask }).await {
                Ok(_) | Err(Problem::NotFound { .. }) => Ok(true),
                Err(Problem::Answered { status: 400 | 405 | 501, .. }) => Ok(false),
                Err(problem) => Err(problem),
            }
        })
        .await
    }

    /// Has `once` do its work at the server, as each of those whom the keyring has for it until one may.
    async fn push<T, F: Future<Output = Result<T, Problem>>>(
        &self,
        to: &Repository,
        keyring: &Keyring,
        once: impl Fn(Target) -> F,
    ) -> Result<T, ImageError> {
        let repository = to.reference();
        let mut attempts = self.attempts(repository, keyring, |e| e.settings.push)?;
        let Some(endpoint) = attempts.first().map(|first| first.endpoint.clone()) else {
            let none = Problem::Unsupported(NO_SERVER);
            return Err(ImageError::new(repository, to.registry().to_owned(), none, Vec::new()));
        };
        attempts.retain(|attempt| attempt.endpoint == endpoint);
        let mut tried = Tried::default();
        for attempt in attempts {
            if tried.rules_out(&attempt) {
                continue;
            }
            let transport = Arc::clone(&self.transport);
            let repository = repository.clone();
            match once(Target { transport, attempt: attempt.clone(), repository }).await {
                Ok(done) => return Ok(done),
                Err(problem) => tried.note(to.reference(), &attempt, problem),
            }
        }
        Err(tried.gave_up(repository))
    }
}

const MANIFEST: &str = "manifest";
const NO_SERVER: &str =
    "no server of it takes pushes; give one the capability \"push\" in its hosts.toml";

/// A repository at one server, and who comes to it.
pub(super) struct Target {
    pub(super) transport: Arc<Transport>,
    attempt: Attempt,
    repository: Reference,
}

impl Target {
    pub(super) fn ask<'a>(&'a self, verb: Verb, place: Place<'a>, what: &'static str) -> Ask<'a> {
        let ask = Ask::get(&self.repository, place, what);
        Ask { verb, grant: Grant::Push, who: self.attempt.who.as_deref(), ..ask }
    }

    pub(super) async fn once(&self, ask: Ask<'_>) -> Result<Response, Problem> {
        let asked = self.transport.once(&self.attempt.endpoint, ask).await;
        asked.map(|(response, _): (_, Access)| response)
    }

    async fn open(&self, ask: Ask<'_>) -> Result<Response, Problem> {
        let asked = self.transport.open(&self.attempt.endpoint, ask).await;
        asked.map(|(response, _): (_, Access)| response)
    }

    /// Whether there is a token with which it would be asked.
    pub(super) fn holds_token(&self, ask: &Ask<'_>) -> bool {
        self.transport.holds_token(&self.attempt.endpoint, ask)
    }

    pub(super) async fn has(&self, blob: &Digest) -> Result<bool, Problem> {
        let name = blob.to_string();
        let ask = self.ask(Verb::Head, Place::Content("blobs", &name), "blob");
        match self.open(ask).await {
            Ok(_) => Ok(true),
            Err(Problem::NotFound { .. }) => Ok(false),
            Err(problem) => Err(problem),
        }
    }

    async fn mount(&self, blob: &Digest, from: &str) -> Result<bool, Problem> {
        let (name, what) = (blob.to_string(), "a blob of another repository");
        let ask = self.ask(Verb::Post, Place::Uploads(Some((&name, from))), what);
        let ask = Ask { grant: Grant::Mount(from), ..ask };
        match self.open(ask).await {
            Ok(response) if response.status() == StatusCode::CREATED => Ok(true),
            Ok(response) => {
                // An upload is what the server offers instead.
                if let Ok(url) = self.upload(&response, &ask.url(&self.attempt.endpoint)) {
                    self.cancel(&url, ask.grant).await;
                }
                Ok(false)
            }
            Err(Problem::NotFound { .. }) => Ok(false),
            Err(Problem::Answered { status, .. }) if (400..500).contains(&status) => Ok(false),
            Err(problem) => Err(problem),
        }
    }

    /// Begins an upload.
    pub(super) async fn begin(&self) -> Result<Url, Problem> {
        let ask = self.ask(Verb::Post, Place::Uploads(None), UPLOAD);
        let response = self.once(ask).await.map_err(no_repository)?;
        self.upload(&response, &ask.url(&self.attempt.endpoint))
    }

    /// Where an upload goes on, as an answer from `from` says.
    pub(super) fn upload(&self, response: &Response, from: &Url) -> Result<Url, Problem> {
        let url = ask::location(response, from, UPLOAD)?;
        policy::check(Role::Upload, Some(from), &url, self.transport.hosts())?;
        Ok(url)
    }

    /// Lets an upload go that was begun for `grant`. Registries do so by themselves after some days, so nobody needs to know how
    /// it went.
    pub(super) async fn cancel(&self, url: &Url, grant: Grant<'_>) {
        // With the token of the upload first: who may push need not be somebody who may delete. There are registries that ask
        // for that nevertheless.
        let ask = Ask { grant, ..self.ask(Verb::Delete, Place::Upload(url), UPLOAD) };
        if let Err(Problem::Denied { .. }) = self.once(ask).await {
            let _ = self.once(Ask { grant: Grant::Delete, ..ask }).await;
        }
    }
}

pub(super) const UPLOAD: &str = "upload";

/// Which manifest the server says that it keeps, if it says it in an algorithm of ours.
fn kept(response: &Response) -> Option<Digest> {
    response.headers().get("docker-content-digest")?.to_str().ok()?.parse().ok()
}

/// Some registries have only the repositories that somebody created.
fn no_repository(problem: Problem) -> Problem {
    if matches!(problem, Problem::NotFound { .. }) { Problem::NoRepository } else { problem }
}
