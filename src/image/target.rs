//! Where a push goes: one server, one repository and one credential, and the requests about blobs and uploads there.

use std::sync::Arc;

use reqwest::{Response, StatusCode, Url};

use super::{
    Reference,
    addresses::{self, Role},
    auth::Grant,
    candidates::Attempt,
    error::Problem,
    keyring::Access,
    request::{self, Place, RegistryRequest, Verb},
    transport::Transport,
};
use crate::{
    digest::{BlobDigest, ManifestDigest},
    media_type,
};

/// The name of an upload in messages.
pub(super) const UPLOAD: &str = "upload";

/// A repository at one server, and the credential for it.
pub(super) struct PushTarget {
    pub(super) transport: Arc<Transport>,
    pub(super) attempt: Attempt,
    pub(super) repository: Reference,
}

impl PushTarget {
    pub(super) fn request<'a>(
        &'a self,
        verb: Verb,
        place: Place<'a>,
        what: &'static str,
    ) -> RegistryRequest<'a> {
        let request = RegistryRequest::get(&self.repository, place, what);
        RegistryRequest {
            verb,
            grant: Grant::Push,
            credential: self.attempt.credential.as_deref(),
            ..request
        }
    }

    pub(super) async fn once(&self, request: RegistryRequest<'_>) -> Result<Response, Problem> {
        let done = self.transport.once(&self.attempt.endpoint, request).await;
        done.map(|(response, _): (_, Access)| response)
    }

    pub(super) async fn open(&self, request: RegistryRequest<'_>) -> Result<Response, Problem> {
        let done = self.transport.open(&self.attempt.endpoint, request).await;
        done.map(|(response, _): (_, Access)| response)
    }

    /// Whether a valid token for the request is cached.
    pub(super) fn holds_token(&self, request: &RegistryRequest<'_>) -> bool {
        self.transport.holds_token(&self.attempt.endpoint, request)
    }

    pub(super) async fn has(&self, blob: &BlobDigest) -> Result<bool, Problem> {
        let name = blob.to_string();
        let request = self.request(Verb::Head, Place::Content("blobs", &name), "blob");
        match self.open(request).await {
            Ok(_) => Ok(true),
            Err(Problem::NotFound { .. }) => Ok(false),
            Err(problem) => Err(problem),
        }
    }

    pub(super) async fn head_manifest(&self, manifest: &ManifestDigest) -> Result<(), Problem> {
        let name = manifest.to_string();
        let request = self.request(Verb::Head, Place::Content("manifests", &name), "manifest");
        let accept = media_type::MANIFESTS;
        self.open(RegistryRequest { accept, ..request }).await.map(drop)
    }

    pub(super) async fn mount(&self, blob: &BlobDigest, from: &str) -> Result<bool, Problem> {
        let (name, what) = (blob.to_string(), "mount of a blob");
        let request = self.request(Verb::Post, Place::Uploads(Some((&name, from))), what);
        let request = RegistryRequest { grant: Grant::Mount(from), ..request };
        match self.open(request).await {
            Ok(response) if response.status() == StatusCode::CREATED => Ok(true),
            Ok(response) => {
                // The server started an upload instead.
                if let Ok(url) = self.upload(&response, &request.url(&self.attempt.endpoint)) {
                    self.cancel(&url, request.grant).await;
                }
                Ok(false)
            }
            Err(Problem::NotFound { .. }) => Ok(false),
            Err(Problem::Status { status, .. }) if (400..500).contains(&status) => Ok(false),
            Err(problem) => Err(problem),
        }
    }

    /// Starts an upload, and returns its URL.
    pub(super) async fn begin(&self) -> Result<Url, Problem> {
        let request = self.request(Verb::Post, Place::Uploads(None), UPLOAD);
        let response = self.once(request).await.map_err(no_repository)?;
        self.upload(&response, &request.url(&self.attempt.endpoint))
    }

    /// The URL at which an upload continues, from a response of `from`.
    pub(super) fn upload(&self, response: &Response, from: &Url) -> Result<Url, Problem> {
        let url = request::location(response, from, UPLOAD)?;
        addresses::check(Role::Upload, Some(from), &url, self.transport.hosts())?;
        Ok(url)
    }

    /// Cancels an upload that was started for `grant`. Errors are ignored: registries remove old uploads after some
    /// days.
    pub(super) async fn cancel(&self, url: &Url, grant: Grant<'_>) {
        // The token of the upload comes first: a user who may push may not be allowed to delete. Some registries
        // require that permission nevertheless.
        let request =
            RegistryRequest { grant, ..self.request(Verb::Delete, Place::Upload(url), UPLOAD) };
        if let Err(Problem::Denied { .. }) = self.once(request).await {
            let _ = self.once(RegistryRequest { grant: Grant::Delete, ..request }).await;
        }
    }
}

/// Converts the 404 of registries that do not create a repository on a push.
pub(super) fn no_repository(problem: Problem) -> Problem {
    if matches!(problem, Problem::NotFound { .. }) { Problem::NoRepository } else { problem }
}
