//! One request to a registry server: its URL and headers, and which responses to it count as success.

use std::time::Duration;

use bytes::Bytes;
use reqwest::{
    Method, Response, StatusCode, Url,
    header::{
        ACCEPT, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION,
        RANGE,
    },
};

use super::{
    Reference,
    addresses::Role,
    auth::Grant,
    body::RequestBody,
    endpoint::Endpoint,
    error::Problem,
    keyring::{Access, Credential},
    retry,
    secret::Secret,
};
use crate::budget::Share;

/// The longest gap between two chunks of a response.
pub(super) const IDLE_TIME: Duration = Duration::from_secs(30);

/// A request to one server.
#[derive(Debug, Clone, Copy)]
pub(super) struct RegistryRequest<'a> {
    pub(super) reference: &'a Reference,
    pub(super) verb: Verb,
    pub(super) place: Place<'a>,
    /// The name of the content in messages: `manifest`, `layer` …
    pub(super) what: &'static str,
    pub(super) accept: &'static str,
    /// The credential to use; `None` for an anonymous request.
    pub(super) credential: Option<&'a Credential>,
    pub(super) grant: Grant<'a>,
    /// Offset of the first byte to fetch.
    pub(super) from: u64,
    pub(super) body: RequestBody<'a>,
}

/// The HTTP methods that registries support.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Get,
    Head,
    Post,
    Patch,
    Put,
    Delete,
}

/// The endpoint of the registry API that a request is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'a> {
    /// `manifests` or `blobs`, and the tag or digest.
    Content(&'static str, &'a str),
    /// The start of an upload. For a mount: the blob's digest, and the repository that has it.
    Uploads(Option<(&'a str, &'a str)>),
    /// An upload that has started, at the `Location` that the server gave.
    Upload(&'a Url),
}

impl Verb {
    pub(super) fn method(self) -> Method {
        match self {
            Self::Get => Method::GET,
            Self::Head => Method::HEAD,
            Self::Post => Method::POST,
            Self::Patch => Method::PATCH,
            Self::Put => Method::PUT,
            Self::Delete => Method::DELETE,
        }
    }

    /// Whether the method changes nothing at the server. A redirect is followed only then.
    pub(super) fn is_safe(self) -> bool {
        matches!(self, Self::Get | Self::Head)
    }

    /// Whether the method uploads content. An upload has no total time limit while it makes progress.
    pub(super) fn sends(self) -> bool {
        matches!(self, Self::Patch | Self::Put)
    }
}

impl<'a> RegistryRequest<'a> {
    /// An anonymous GET.
    pub(super) fn get(reference: &'a Reference, place: Place<'a>, what: &'static str) -> Self {
        Self {
            reference,
            verb: Verb::Get,
            place,
            what,
            accept: "*/*",
            credential: None,
            grant: Grant::Pull,
            from: 0,
            body: RequestBody::Nothing,
        }
    }

    pub(super) fn url(&self, endpoint: &Endpoint) -> Url {
        match self.place {
            Place::Content(kind, name) => endpoint.content(self.reference, kind, name),
            Place::Uploads(mount) => {
                let mut url = endpoint.content(self.reference, "blobs/uploads", "");
                if let Some((blob, from)) = mount {
                    url.query_pairs_mut().append_pair("mount", blob).append_pair("from", from);
                }
                url
            }
            Place::Upload(url) => url.clone(),
        }
    }

    pub(super) fn role(&self) -> Role {
        match self.place {
            Place::Upload(_) => Role::Upload,
            Place::Content(..) | Place::Uploads(_) => Role::Registry,
        }
    }

    pub(super) fn access(&self) -> Access {
        self.credential.map_or(Access::Anonymous, |credential| credential.access.clone())
    }

    pub(super) fn secret(&self) -> Option<&Secret> {
        self.credential.map(|credential| &credential.secret)
    }

    pub(super) fn denied(&self, why: impl Into<String>) -> Problem {
        let push = self.grant != Grant::Pull;
        Problem::Denied { why: why.into(), secret: self.credential.is_some(), push }
    }

    /// The headers for every server of a redirect chain.
    pub(super) fn headers(&self) -> Result<HeaderMap, Problem> {
        let mut headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(self.accept))]);
        if self.from > 0 {
            let range = HeaderValue::try_from(format!("bytes={}-", self.from));
            headers.insert(RANGE, range.map_err(|_| NO_PARTS)?);
        }
        if self.verb.sends() || self.verb == Verb::Post {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(self.body.size()));
            headers.extend(self.body.media_type().map(|it| (CONTENT_TYPE, it)));
        }
        if let (Verb::Patch, RequestBody::Part(part)) = (self.verb, self.body) {
            headers.extend(part.range().map(|range| (CONTENT_RANGE, range)));
        }
        Ok(headers)
    }

    /// Accepts or rejects a response by its status. For a pull: 200, or 206 with the right first byte where a range was
    /// requested. For a push or delete: every 2xx status.
    pub(super) fn check_status(&self, response: Response) -> Result<Response, Problem> {
        let what = self.what;
        match response.status() {
            StatusCode::OK if self.from == 0 => Ok(response),
            StatusCode::PARTIAL_CONTENT if self.from > 0 => {
                let range =
                    response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
                let starts = format!("bytes {}-", self.from);
                let right = range.is_some_and(|range| range.starts_with(&starts));
                if right { Ok(response) } else { Err(NO_PARTS) }
            }
            StatusCode::OK | StatusCode::RANGE_NOT_SATISFIABLE if self.from > 0 => Err(NO_PARTS),
            status if status.is_success() && self.grant != Grant::Pull => Ok(response),
            StatusCode::NOT_FOUND => Err(Problem::NotFound { what }),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Err(self.denied(format!("HTTP {}", status.as_u16())))
            }
            status => {
                let later = retry::retry_after(response.headers());
                Err(Problem::Status { what, status: status.as_u16(), later })
            }
        }
    }
}

const NO_PARTS: Problem =
    Problem::Unsupported("the server does not support range requests for layers");

/// The URL in the `Location` header of a response.
pub(super) fn location(
    response: &Response,
    from: &Url,
    what: &'static str,
) -> Result<Url, Problem> {
    let place = response.headers().get(LOCATION).and_then(|place| place.to_str().ok());
    let url = place.and_then(|place| from.join(place).ok());
    let why = "the Location header is not a URL".to_owned();
    url.ok_or(Problem::Malformed { what, why })
}

/// The next chunk of a response body; `None` at its end.
pub(super) async fn next_chunk(response: &mut Response) -> Result<Option<Bytes>, Problem> {
    let slow = || Problem::Unreachable { why: "the server did not respond in time".to_owned() };
    let piece = tokio::time::timeout(IDLE_TIME, response.chunk()).await.map_err(|_| slow())?;
    piece.map_err(Problem::of_body)
}

/// Bytes of memory for each byte of a document while it is parsed: lists and maps of many small values, which grow by
/// doubling.
const PARSE_FACTOR: u64 = 24;

/// Reads a complete response body of at most `limit` bytes. Takes the memory that parsing needs from `share`.
pub(super) async fn read_all(
    mut response: Response,
    what: &'static str,
    limit: u64,
    share: Option<&Share>,
) -> Result<Vec<u8>, Problem> {
    let too_large = Problem::TooLarge { what, limit };
    if response.content_length().is_some_and(|length| length > limit) {
        return Err(too_large);
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = next_chunk(&mut response).await? {
        if (bytes.len() + chunk.len()) as u64 > limit {
            return Err(too_large);
        }
        if let Some(share) = share {
            let taken = share.try_take(chunk.len() as u64 * PARSE_FACTOR);
            taken.map_err(|why| Problem::Memory { what, why })?;
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}
