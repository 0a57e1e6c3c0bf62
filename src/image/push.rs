//! Pushes blobs and manifests to a registry, and deletes manifests and tags.
//!
//! All parts of a push go to one server, the first that accepts pushes (`hosts`): they must be in one place. Each call
//! can be repeated, whatever its result was before. Deliberately absent: which layers an image has, and what
//! is in its config.

use std::{fs::File, sync::Arc};

use bytes::Bytes;
use reqwest::Response;

use super::{
    ImageError, Keyring, Registries, Repository,
    auth::Grant,
    body::RequestBody,
    candidates::Tried,
    error::{FileError, Problem},
    manifest,
    request::{Place, RegistryRequest, Verb},
    target::{PushTarget, no_repository},
    upload::Upload,
};
use crate::{
    digest::{BlobDigest, Digest, ManifestDigest},
    error::Class,
    reference::is_tag,
};

impl Registries {
    /// Returns whether the repository has the blob.
    ///
    /// # Errors
    /// [`ImageError`], with the class of the server's problem.
    pub async fn has_blob(
        &self,
        to: &Repository,
        blob: &BlobDigest,
        keyring: &Keyring,
    ) -> Result<bool, ImageError> {
        self.push(to, keyring, |target| async move { target.has(blob).await }).await
    }

    /// Returns whether the repository has the manifest: one HEAD request to the server that accepts pushes, never to a
    /// mirror.
    ///
    /// # Errors
    /// [`ImageError`], with the class of the server's problem. Only a response that says so means that the manifest is
    /// missing.
    pub async fn has_manifest(
        &self,
        of: &Repository,
        manifest: &ManifestDigest,
        keyring: &Keyring,
    ) -> Result<bool, ImageError> {
        let head = |target: PushTarget| async move { target.head_manifest(manifest).await };
        // Some registries respond "not found" to a credential that may not read: then the next one is tried.
        match self.push(of, keyring, head).await {
            Ok(()) => Ok(true),
            Err(error) if error.class() == Class::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Mounts the blob from another repository of the same registry. Returns false if the registry does not support
    /// mounts, or does not allow this one with this secret.
    ///
    /// # Errors
    /// [`ImageError`] if the server cannot be reached or responds with an error of its own.
    pub async fn mount_blob(
        &self,
        to: &Repository,
        blob: &BlobDigest,
        from: &Repository,
        keyring: &Keyring,
    ) -> Result<bool, ImageError> {
        if from.registry() != to.registry() {
            return Ok(false);
        }
        let mount = |target: PushTarget| async move { target.mount(blob, from.repository()).await };
        match self.push(to, keyring, mount).await {
            Err(error) if error.class() == Class::Denied => Ok(false),
            done => done,
        }
    }

    /// Uploads a blob of `size` bytes, the complete `content`, to the repository: in chunks, with retries from the
    /// offset that the registry reports; in one request if the registry does not accept chunks. `sent` receives the
    /// number of bytes that the registry has; it decreases if the registry loses some. The call does not check first
    /// whether the blob exists: see [`Registries::has_blob`].
    ///
    /// `content` is read at offsets; its file position does not matter and does not change.
    ///
    /// # Errors
    /// [`ImageError`], with the class of the server's problem, or [`Class::Internal`] if `content` cannot be read.
    pub async fn push_blob(
        &self,
        to: &Repository,
        blob: &BlobDigest,
        size: u64,
        content: &File,
        keyring: &Keyring,
        sent: &(dyn Fn(u64) + Sync),
    ) -> Result<(), ImageError> {
        let file = content.try_clone().map(Arc::new);
        let file = &file;
        self.push(to, keyring, |target| async move {
            let file = file.as_ref().map_err(FileError::new)?;
            Upload::new(target, *blob, size, file, sent).run().await
        })
        .await
    }

    /// Pushes a manifest under a tag, and returns its digest.
    ///
    /// # Errors
    /// [`ImageError`], with the class of the server's problem; [`Class::Corrupt`] if the server reports another digest
    /// than that of the manifest.
    pub async fn push_manifest(
        &self,
        to: &Repository,
        tag: &str,
        media_type: &str,
        manifest: &[u8],
        keyring: &Keyring,
    ) -> Result<ManifestDigest, ImageError> {
        let (digest, bytes) = (ManifestDigest::of(manifest), &Bytes::copy_from_slice(manifest));
        self.push(to, keyring, |target| async move {
            if bytes.len() as u64 > manifest::MANIFEST_MAX {
                return Err(Problem::TooLarge { what: MANIFEST, limit: manifest::MANIFEST_MAX });
            }
            if !is_tag(tag) {
                return Err(Problem::Unsupported("the tag to push is not a valid tag"));
            }
            let body = RequestBody::Bytes(media_type, bytes);
            let request = target.request(Verb::Put, Place::Content("manifests", tag), MANIFEST);
            let response =
                target.open(RegistryRequest { body, ..request }).await.map_err(no_repository)?;
            match reported_digest(&response) {
                Some(found) if found != found.again(bytes) => {
                    Err(Problem::Mismatch { what: MANIFEST, promised: *digest.digest(), found })
                }
                _ => Ok(digest),
            }
        })
        .await
    }

    /// Deletes a manifest. Returns false if the registry does not support deletion.
    ///
    /// # Errors
    /// [`ImageError`], with the class of the server's problem.
    pub async fn delete_manifest(
        &self,
        of: &Repository,
        manifest: &ManifestDigest,
        keyring: &Keyring,
    ) -> Result<bool, ImageError> {
        self.delete(of, &manifest.to_string(), keyring).await
    }

    /// Deletes a tag. Returns false if the registry does not support it: some delete only manifests.
    ///
    /// # Errors
    /// [`ImageError`], with the class of the server's problem.
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
            let request = target.request(Verb::Delete, Place::Content("manifests", name), MANIFEST);
            match target.open(RegistryRequest { grant: Grant::Delete, ..request }).await {
                Ok(_) | Err(Problem::NotFound { .. }) => Ok(true),
                Err(Problem::Status { status: 400 | 405 | 501, .. }) => Ok(false),
                Err(problem) => Err(problem),
            }
        })
        .await
    }

    /// Runs `once` at the server that accepts pushes, with each credential of the keyring for it until one succeeds.
    async fn push<T, F: Future<Output = Result<T, Problem>>>(
        &self,
        to: &Repository,
        keyring: &Keyring,
        once: impl Fn(PushTarget) -> F,
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
            match once(PushTarget { transport, attempt: attempt.clone(), repository }).await {
                Ok(done) => return Ok(done),
                Err(problem) => tried.record(to.reference(), &attempt, problem),
            }
        }
        Err(tried.into_error(repository))
    }
}

const MANIFEST: &str = "manifest";
const NO_SERVER: &str =
    "no server of the registry accepts pushes; give one the capability \"push\" in its hosts.toml";

/// The digest of the stored manifest that the server reports; `None` without one, or in an algorithm that we do not
/// know.
fn reported_digest(response: &Response) -> Option<Digest> {
    response.headers().get("docker-content-digest")?.to_str().ok()?.parse().ok()
}
