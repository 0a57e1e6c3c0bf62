//! What is asked of a server, and which of its answers are answers.

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
    auth::Grant,
    error::Problem,
    hosts::Endpoint,
    keyring::{Access, Credential},
    pace,
    payload::Payload,
    policy::Role,
    reference::Reference,
    secret::Secret,
};
use crate::budget::Share;

/// Between two pieces of an answer.
pub(super) const IDLE_TIME: Duration = Duration::from_secs(30);

/// What is asked of one server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) reference: &'a Reference,
    pub(super) verb: Verb,
    pub(super) place: Place<'a>,
    /// What messages call it.
    pub(super) what: &'static str,
    pub(super) accept: &'static str,
    /// Who asks, if not anybody.
    pub(super) who: Option<&'a Credential>,
    pub(super) grant: Grant<'a>,
    /// The first byte that is wanted.
    pub(super) from: u64,
    pub(super) payload: Payload<'a>,
}

/// The methods of HTTP that registries know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Get,
    Head,
    Post,
    Patch,
    Put,
    Delete,
}

/// Where it is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'a> {
    /// `manifests` or `blobs`, and the tag or digest.
    Content(&'static str, &'a str),
    /// Where new uploads begin; with a blob's digest and another repository that has it.
    Uploads(Option<(&'a str, &'a str)>),
    /// An upload that has begun, where the server said that it is.
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

    /// Whether it leaves everything as it is; only then a redirect is followed.
    pub(super) fn is_safe(self) -> bool {
        matches!(self, Self::Get | Self::Head)
    }

    /// Whether content goes with it, which may take as long as it moves.
    pub(super) fn sends(self) -> bool {
        matches!(self, Self::Patch | Self::Put)
    }
}

impl<'a> Ask<'a> {
    /// For content, by anybody.
    pub(super) fn get(reference: &'a Reference, place: Place<'a>, what: &'static str) -> Self {
        Self {
            reference,
            verb: Verb::Get,
            place,
            what,
            accept: "*/*",
            who: None,
            grant: Grant::Pull,
            from: 0,
            payload: Payload::Nothing,
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
        self.who.map_or(Access::Anonymous, |credential| credential.access.clone())
    }

    pub(super) fn secret(&self) -> Option<&Secret> {
        self.who.map(|credential| &credential.secret)
    }

    pub(super) fn denied(&self, why: impl Into<String>) -> Problem {
        let push = self.grant != Grant::Pull;
        Problem::Denied { why: why.into(), secret: self.who.is_some(), push }
    }

    /// What goes to every server on the way.
    pub(super) fn headers(&self) -> Result<HeaderMap, Problem> {
        let mut headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(self.accept))]);
        if self.from > 0 {
            let range = HeaderValue::try_from(format!("bytes={}-", self.from));
            headers.insert(RANGE, range.map_err(|_| NO_PARTS)?);
        }
        if self.verb.sends() || self.verb == Verb::Post {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(self.payload.size()));
            headers.extend(self.payload.media_type().map(|it| (CONTENT_TYPE, it)));
        }
        if let (Verb::Patch, Payload::Part(part)) = (self.verb, self.payload) {
            headers.extend(part.range().map(|range| (CONTENT_RANGE, range)));
        }
        Ok(headers)
    }

    /// Only 200 is an answer to a GET, and 206 with the right first byte where a part was wanted; any success is
    /// one to the others.
    pub(super) fn judged(&self, response: Response) -> Result<Response, Problem> {
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
                let later = pace::retry_after(response.headers());
                Err(Problem::Answered { what, status: status.as_u16(), later })
            }
        }
    }
}

const NO_PARTS: Problem = Problem::Unsupported("it does not give a part of a layer");

/// Where an answer's `Location` leads.
pub(super) fn location(
    response: &Response,
    from: &Url,
    what: &'static str,
) -> Result<Url, Problem> {
    let place = response.headers().get(LOCATION).and_then(|place| place.to_str().ok());
    let url = place.and_then(|place| from.join(place).ok());
    let why = "its Location is not a URL".to_owned();
    url.ok_or(Problem::Malformed { what, why })
}

/// The next piece of an answer.
pub(super) async fn next(response: &mut Response) -> Result<Option<Bytes>, Problem> {
    let slow = || Problem::Unreachable { why: "it did not answer in time".to_owned() };
    let piece = tokio::time::timeout(IDLE_TIME, response.chunk()).await.map_err(|_| slow())?;
    piece.map_err(Problem::of_body)
}

/// Bytes of memory for each byte of a document while it is read: lists and maps of many small values, which grow by doubling.
const READ: u64 = 24;

/// All of an answer. What it will take to read is in `share` as soon as it is here.
pub(super) async fn whole(
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
    while let Some(chunk) = next(&mut response).await? {
        if (bytes.len() + chunk.len()) as u64 > limit {
            return Err(too_large);
        }
        if let Some(share) = share {
            let taken = share.try_take(chunk.len() as u64 * READ);
            taken.map_err(|why| Problem::Memory { what, why })?;
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}
