//! One GET of a registry's content: token, redirects, retries, bounds.
//!
//! The client below follows no redirect and knows no proxy, so every connection is one that
//! [`policy`] has seen. Deliberately absent: a bound on how long a blob may take as long as it flows.

use std::time::Duration;

use reqwest::{
    Client, ClientBuilder, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, LOCATION},
    redirect,
};

use super::{
    auth::{self, Challenge, Token, Tokens},
    error::{self, Problem},
    hosts::{Endpoint, Hosts},
    pace::{self, Pace},
    policy::{self, Resolver, Role},
    reference::Reference,
};
use crate::fault::Class;

const CONNECT_TIME: Duration = Duration::from_secs(10);
/// Between two pieces of an answer.
const IDLE_TIME: Duration = Duration::from_secs(30);
/// Registries need one, to their storage; browsers allow 20.
const REDIRECTS_MAX: usize = 5;

/// The HTTP client could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client for registries cannot be set up: {}", Problem::words(.0))]
pub struct SetUpError(reqwest::Error);

impl SetUpError {
    /// Whether it is for want of a CA certificate, or another matter of TLS.
    pub(super) fn is_tls(&self) -> bool {
        error::find::<rustls::Error>(&self.0).is_some()
    }

    /// Always [`Class::Internal`].
    pub fn class(&self) -> Class {
        Class::Internal
    }
}

/// What is asked of one server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) reference: &'a Reference,
    /// `manifests` or `blobs`.
    pub(super) kind: &'static str,
    /// The tag or digest.
    pub(super) name: &'a str,
    /// What messages call it.
    pub(super) what: &'static str,
    pub(super) accept: &'static str,
}

/// A small answer, whole.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) bytes: Vec<u8>,
    pub(super) content_type: String,
    /// `Docker-Content-Digest` as it came.
    pub(super) digest_header: Option<String>,
}

/// Whose certificates are believed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Trust {
    /// Those whom the machine trusts: the files of `SSL_CERT_FILE` and `SSL_CERT_DIR`, else the usual places
    /// beneath /etc/ssl, read now.
    Machine,
    /// Nobody's: every https connection fails. Reads no file.
    Nobody,
}

#[derive(Debug)]
pub(super) struct Transport {
    /// For the servers that the hosts folder names, whatever their names resolve to.
    configured: Client,
    /// For all others.
    strict: Client,
    hosts: Hosts,
    tokens: Tokens,
    pace: Pace,
}

impl Transport {
    pub(super) fn new(hosts: Hosts, pace: Pace, trust: Trust) -> Result<Self, SetUpError> {
        // An error means that somebody installed one before us, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let strict = client(trust).dns_resolver(Resolver).build().map_err(SetUpError)?;
        let configured = client(trust).build().map_err(SetUpError)?;
        Ok(Self { configured, strict, hosts, tokens: Tokens::default(), pace })
    }

    pub(super) fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// Fetches a whole answer of at most `limit` bytes.
    pub(super) async fn document(
        &self,
        endpoint: &Endpoint,
        ask: Ask<'_>,
        limit: u64,
    ) -> Result<Document, Problem> {
        let mut failed = 0;
        loop {
            let once = async {
                let response = self.authorised(endpoint, ask).await?;
                let header = |name| {
                    let value = response.headers().get(name).and_then(|v| v.to_str().ok());
                    value.map(str::to_owned)
                };
                let content_type = header(CONTENT_TYPE.as_str()).unwrap_or_default();
                let digest_header = header("docker-content-digest");
                let bytes = whole(response, ask.what, limit).await?;
                Ok(Document { bytes, content_type, digest_header })
            };
            match self.pace.bound(once).await {
                Ok(document) => return Ok(document),
                Err(problem) => self.pace.pause(&mut failed, problem).await?,
            }
        }
    }

    /// Opens an answer; its body is the caller's to read and to check.
    pub(super) async fn open(
        &self,
        endpoint: &Endpoint,
        ask: Ask<'_>,
    ) -> Result<Response, Problem> {
        let mut failed = 0;
        loop {
            match self.pace.bound(self.authorised(endpoint, ask)).await {
                Ok(response) => return Ok(response),
                Err(problem) => self.pace.pause(&mut failed, problem).await?,
            }
        }
    }

    /// With the token we hold, and once more with a new one if the server asks for it.
    async fn authorised(&self, endpoint: &Endpoint, ask: Ask<'_>) -> Result<Response, Problem> {
        let repository = ask.reference.repository();
        let url = endpoint.content(ask.reference, ask.kind, ask.name);
        policy::check(Role::Registry, None, &url, &self.hosts)?;
        let held = self.tokens.get(endpoint.url(), repository);
        let (response, at_home) = self.follow(url.clone(), ask.accept, held.as_ref()).await?;
        if response.status() != StatusCode::UNAUTHORIZED || !at_home {
            return judged(response, ask.what);
        }
        let challenge = Challenge::read(response.headers())?;
        drop(response);
        let token = self.token(endpoint, &challenge, repository).await?;
        let (response, _) = self.follow(url, ask.accept, Some(&token)).await?;
        self.tokens.put(endpoint.url(), repository, token);
        judged(response, ask.what)
    }

    async fn token(
        &self,
        endpoint: &Endpoint,
        challenge: &Challenge,
        repository: &str,
    ) -> Result<Token, Problem> {
        policy::check(Role::Realm, Some(endpoint.url()), &challenge.realm, &self.hosts)?;
        let url = challenge.url(repository);
        let (response, _) = self.follow(url, "application/json", None).await?;
        match judged(response, "the request for a token") {
            Ok(response) => Token::read(&whole(response, "token", auth::ANSWER_MAX).await?),
            Err(problem) if problem.is_transient() => Err(problem),
            Err(_) => Err(Problem::Denied { why: "it gives no anonymous token".to_owned() }),
        }
    }

    /// Goes where `url` leads. The token stays with the first server: as soon as a hop leaves it, the token is
    /// dropped for good. Tells whether the answer is from that server.
    async fn follow(
        &self,
        mut url: Url,
        accept: &'static str,
        token: Option<&Token>,
    ) -> Result<(Response, bool), Problem> {
        let home = url.origin();
        let mut at_home = true;
        for _ in 0..=REDIRECTS_MAX {
            let client = if self.hosts.names(&url) { &self.configured } else { &self.strict };
            let mut request = client.get(url.clone()).header(ACCEPT, accept);
            if let Some(token) = token.filter(|_| at_home) {
                request = request.header(AUTHORIZATION, token.header.clone());
            }
            let response = request.send().await.map_err(Problem::of_request)?;
            let Some(next) = location(&response, &url)? else { return Ok((response, at_home)) };
            policy::check(Role::Redirect, Some(&url), &next, &self.hosts)?;
            at_home &= next.origin() == home;
            url = next;
        }
        Err(Problem::Redirects(REDIRECTS_MAX))
    }
}

fn client(trust: Trust) -> ClientBuilder {
    let builder = Client::builder()
        .user_agent(concat!("ovl-csi/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .no_proxy()
        .connect_timeout(CONNECT_TIME)
        .read_timeout(IDLE_TIME);
    match trust {
        Trust::Machine => builder,
        Trust::Nobody => builder.tls_certs_only([]),
    }
}

/// Where a redirect leads, if the answer is one.
fn location(response: &Response, from: &Url) -> Result<Option<Url>, Problem> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let place = response.headers().get(LOCATION).and_then(|place| place.to_str().ok());
    let url = place.and_then(|place| from.join(place).ok());
    let why = "its Location is not a URL".to_owned();
    url.map(Some).ok_or(Problem::Malformed { what: "redirect", why })
}

/// Only 200 is an answer.
fn judged(response: Response, what: &'static str) -> Result<Response, Problem> {
    match response.status() {
        StatusCode::OK => Ok(response),
        StatusCode::NOT_FOUND => Err(Problem::NotFound { what }),
        status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            Err(Problem::Denied { why: format!("HTTP {}", status.as_u16()) })
        }
        status => {
            let later = pace::retry_after(response.headers());
            Err(Problem::Answered { what, status: status.as_u16(), later })
        }
    }
}

async fn whole(mut response: Response, what: &'static str, limit: u64) -> Result<Vec<u8>, Problem> {
    let too_large = Problem::TooLarge { what, limit };
    if response.content_length().is_some_and(|length| length > limit) {
        return Err(too_large);
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(Problem::of_body)? {
        if (bytes.len() + chunk.len()) as u64 > limit {
            return Err(too_large);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}
