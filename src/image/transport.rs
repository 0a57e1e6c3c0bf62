//! One GET of a registry's content: token, redirects, retries, bounds.
//!
//! The client below follows no redirect and knows no proxy, so every connection is one that
//! [`policy`] has seen. A secret goes to the server that it is for, and to the token realm that this server
//! names; a hop elsewhere loses it for good. Deliberately absent: a bound on how long a blob may take as long as
//! it flows.

use std::time::Duration;

use reqwest::{
    Client, ClientBuilder, Response, StatusCode, Url,
    header::{
        ACCEPT, AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RANGE,
    },
    redirect,
};

use super::{
    auth::{self, Challenge, Key, Realm, Token, Tokens},
    error::{self, Problem},
    hosts::{Endpoint, Hosts},
    keyring::{Access, Credential},
    pace::{self, Pace},
    policy::{self, Resolver, Role},
    reach::{self, Reach},
    reference::Reference,
    secret::{self, Secret},
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
    /// Who asks, if not anybody.
    pub(super) who: Option<&'a Credential>,
    /// The first byte that is wanted.
    pub(super) from: u64,
}

impl Ask<'_> {
    fn access(&self) -> Access {
        self.who.map_or(Access::Anonymous, |credential| credential.access.clone())
    }

    fn secret(&self) -> Option<&Secret> {
        self.who.map(|credential| &credential.secret)
    }

    fn denied(&self, why: impl Into<String>) -> Problem {
        Problem::Denied { why: why.into(), secret: self.who.is_some() }
    }
}

/// What is sent to every hop, as far as it may be.
struct Sent<'a> {
    /// The server whose settings hold as long as the request stays there.
    home: &'a Endpoint,
    accept: &'static str,
    authorization: Option<HeaderValue>,
    from: u64,
    /// A POST, which goes nowhere else.
    form: Option<String>,
}

/// A small answer, whole.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) bytes: Vec<u8>,
    pub(super) content_type: String,
    /// `Docker-Content-Digest` as it came.
    pub(super) digest_header: Option<String>,
    /// As whom it was read: as anybody also where a secret was at hand and not asked for.
    pub(super) access: Access,
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
struct Clients {
    /// For the servers that the hosts folder names, whatever their names resolve to.
    configured: Client,
    /// For all others.
    strict: Client,
}

#[derive(Debug)]
pub(super) struct Transport {
    /// One pair for each of [`Hosts::reaches`].
    clients: Vec<Clients>,
    hosts: Hosts,
    tokens: Tokens,
    pace: Pace,
}

impl Transport {
    pub(super) fn new(hosts: Hosts, pace: Pace, trust: Trust) -> Result<Self, SetUpError> {
        reach::provider();
        let clients = |reach: &Reach| {
            let client = || reach.apply(client(trust));
            let strict = client()?.dns_resolver(Resolver).build()?;
            Ok(Clients { configured: client()?.build()?, strict })
        };
        let clients = hosts.reaches().iter().map(clients).collect::<Result<_, _>>();
        let clients = clients.map_err(SetUpError)?;
        Ok(Self { clients, hosts, tokens: Tokens::default(), pace })
    }

    pub(super) fn pace(&self) -> Pace {
        self.pace
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
                let (response, access) = self.authorised(endpoint, ask).await?;
                let header = |name| {
                    let value = response.headers().get(name).and_then(|v| v.to_str().ok());
                    value.map(str::to_owned)
                };
                let content_type = header(CONTENT_TYPE.as_str()).unwrap_or_default();
                let digest_header = header("docker-content-digest");
                let bytes = whole(response, ask.what, limit).await?;
                Ok(Document { bytes, content_type, digest_header, access })
            };
            match self.pace.bound(once).await {
                Ok(document) => return Ok(document),
                Err(problem) => self.pace.pause(&mut failed, problem).await?,
            }
        }
    }

    /// Opens an answer, and says as whom; its body is the caller's to read and to check. Answers with a part of it
    /// where [`Ask::from`] says so.
    pub(super) async fn open(
        &self,
        endpoint: &Endpoint,
        ask: Ask<'_>,
    ) -> Result<(Response, Access), Problem> {
        let mut failed = 0;
        loop {
            match self.pace.bound(self.authorised(endpoint, ask)).await {
                Ok(opened) => return Ok(opened),
                Err(problem) => self.pace.pause(&mut failed, problem).await?,
            }
        }
    }

    /// With the token we hold, and once more with a new one if the server asks for it. Says as whom it was
    /// answered.
    async fn authorised(
        &self,
        endpoint: &Endpoint,
        ask: Ask<'_>,
    ) -> Result<(Response, Access), Problem> {
        let repository = ask.reference.repository();
        let url = endpoint.content(ask.reference, ask.kind, ask.name);
        policy::check(Role::Registry, None, &url, &self.hosts)?;
        let key = Key::new(endpoint.url(), repository, ask.access());
        let held = self.tokens.get(&key).map(|token| token.header);
        let as_whom = if held.is_some() { ask.access() } else { Access::Anonymous };
        let mut sent = Sent {
            home: endpoint,
            accept: ask.accept,
            authorization: held,
            from: ask.from,
            form: None,
        };
        let (response, at_home) = self.follow(url.clone(), &sent).await?;
        if response.status() != StatusCode::UNAUTHORIZED || !at_home {
            return Ok((judged(response, ask)?, as_whom));
        }
        let challenge = Challenge::read(response.headers());
        drop(response);
        let token = self.token(endpoint, challenge.map_err(|why| ask.denied(why))?, ask).await?;
        sent.authorization = Some(token.header.clone());
        let (response, _) = self.follow(url, &sent).await?;
        let response = judged(response, ask)?;
        self.tokens.put(key, token);
        Ok((response, ask.access()))
    }

    /// What answers a challenge.
    async fn token(
        &self,
        endpoint: &Endpoint,
        challenge: Option<Challenge>,
        ask: Ask<'_>,
    ) -> Result<Token, Problem> {
        let header = match (challenge, ask.secret()) {
            (Some(_), Some(Secret::RegistryToken(token))) => secret::header("Bearer", token),
            (Some(Challenge::Bearer(realm)), _) => return self.realm(endpoint, &realm, ask).await,
            (Some(Challenge::Basic), Some(secret)) => secret.basic(),
            (Some(Challenge::Basic), None) => None,
            (None, _) => return Err(ask.denied("HTTP 401")),
        };
        header.map(Token::fixed).ok_or_else(|| ask.denied("it asks for a user name and password"))
    }

    /// A token from the realm that `endpoint` names.
    async fn realm(
        &self,
        endpoint: &Endpoint,
        realm: &Realm,
        ask: Ask<'_>,
    ) -> Result<Token, Problem> {
        policy::check(Role::Realm, Some(endpoint.url()), &realm.url, &self.hosts)?;
        if ask.secret().is_some() {
            policy::check_secret(&realm.url, &self.hosts)?;
        }
        let request = realm.request(ask.reference.repository(), ask.secret());
        let sent = Sent {
            home: endpoint,
            accept: "application/json",
            authorization: request.authorization,
            from: 0,
            form: request.form,
        };
        let (response, _) = self.follow(request.url, &sent).await?;
        match judged(response, Ask { what: "the request for a token", from: 0, ..ask }) {
            Ok(response) => Token::read(&whole(response, "token", auth::ANSWER_MAX).await?),
            Err(problem) if problem.is_transient() => Err(problem),
            Err(_) if ask.who.is_some() => {
                Err(ask.denied("its token service gives no token for it"))
            }
            Err(_) => Err(ask.denied("it gives no anonymous token")),
        }
    }

    /// Goes where `url` leads. Authorization stays with the first server: as soon as a hop leaves it, it is
    /// dropped for good. Tells whether the answer is from that server.
    async fn follow(&self, mut url: Url, sent: &Sent<'_>) -> Result<(Response, bool), Problem> {
        let first = url.origin();
        let mut at_first = true;
        for _ in 0..=REDIRECTS_MAX {
            let settings = &sent.home.settings;
            let at_home = at_first && url.origin() == sent.home.url().origin();
            let reach = if at_home { settings.reach } else { self.hosts.reach(&url) };
            let request = match &sent.form {
                None => self.client(&url, reach)?.get(url.clone()),
                Some(form) => {
                    let kind = "application/x-www-form-urlencoded";
                    self.client(&url, reach)?
                        .post(url.clone())
                        .header(CONTENT_TYPE, kind)
                        .body(form.clone())
                }
            };
            let mut headers = if at_home { settings.header.clone() } else { HeaderMap::new() };
            headers.insert(ACCEPT, HeaderValue::from_static(sent.accept));
            if let Some(authorization) = sent.authorization.as_ref().filter(|_| at_first) {
                headers.insert(AUTHORIZATION, authorization.clone());
            }
            if sent.from > 0 {
                headers.insert(RANGE, range(sent.from)?);
            }
            let response = request.headers(headers).send().await.map_err(Problem::of_request)?;
            let Some(next) = location(&response, &url)? else { return Ok((response, at_first)) };
            if sent.form.is_some() {
                return Ok((response, at_first));
            }
            policy::check(Role::Redirect, Some(&url), &next, &self.hosts)?;
            at_first &= next.origin() == first;
            url = next;
        }
        Err(Problem::Redirects(REDIRECTS_MAX))
    }

    fn client(&self, url: &Url, reach: usize) -> Result<&Client, Problem> {
        let none = Problem::Unsupported("there is no client for it");
        let clients = self.clients.get(reach).ok_or(none)?;
        Ok(if self.hosts.names(url) { &clients.configured } else { &clients.strict })
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

fn range(from: u64) -> Result<HeaderValue, Problem> {
    HeaderValue::try_from(format!("bytes={from}-")).map_err(|_| NO_PARTS)
}

const NO_PARTS: Problem = Problem::Unsupported("it does not give a part of a layer");

/// Only 200 is an answer, and 206 with the right first byte where a part was wanted.
fn judged(response: Response, ask: Ask<'_>) -> Result<Response, Problem> {
    let what = ask.what;
    match response.status() {
        StatusCode::OK if ask.from == 0 => Ok(response),
        StatusCode::PARTIAL_CONTENT if ask.from > 0 => {
            let range = response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
            let starts = format!("bytes {}-", ask.from);
            let right = range.is_some_and(|range| range.starts_with(&starts));
            if right { Ok(response) } else { Err(NO_PARTS) }
        }
        StatusCode::OK | StatusCode::RANGE_NOT_SATISFIABLE if ask.from > 0 => Err(NO_PARTS),
        StatusCode::NOT_FOUND => Err(Problem::NotFound { what }),
        status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            Err(ask.denied(format!("HTTP {}", status.as_u16())))
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
