//! One request to a registry's server: token, redirects, retries, bounds.
//!
//! The client below follows no redirect and knows no proxy, so every connection is one that
//! [`policy`] has seen. A secret goes to the server that it is for, and to the token realm that this server
//! names; a hop elsewhere loses it for good, and an upload that continues elsewhere never has it. A server to which a
//! redirect led, and which wants a token itself, gets an anonymous one of its own realm. Deliberately absent: a bound on
//! how long a blob may take as long as it flows.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use reqwest::{
    Client, ClientBuilder, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
    redirect,
};

use super::{
    ask::{Ask, IDLE_TIME, Verb, location, whole},
    auth::{self, Challenge, Grant, Key, Realm, Token, Tokens},
    error::{self, Problem},
    hosts::{Endpoint, Hosts},
    keyring::Access,
    pace::Pace,
    payload::Payload,
    policy::{self, Resolver, Role},
    reach::{self, Reach},
    secret::{self, Secret},
};
use crate::{
    budget::{Budget, Share},
    fault::Class,
};

const CONNECT_TIME: Duration = Duration::from_secs(10);
/// Connections to a server that wait for the next request.
const IDLE_MAX: usize = 8;
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

/// What is sent to every hop, as far as it may be.
struct Sent<'a> {
    /// The server whose settings hold as long as the request stays there.
    home: &'a Endpoint,
    /// The one whose `authorization` it is.
    owner: &'a Url,
    verb: Verb,
    headers: HeaderMap,
    authorization: Option<HeaderValue>,
    payload: Payload<'a>,
}

/// An answer, and whose it is.
struct Asked {
    response: Response,
    /// Where it is from.
    url: Url,
    /// It is from the server whose authorization was sent, and no hop left that server.
    at_owner: bool,
}

impl Asked {
    fn wants_token(&self) -> bool {
        self.at_owner && self.response.status() == StatusCode::UNAUTHORIZED
    }
}

const FORM: &str = "application/x-www-form-urlencoded";

/// A small answer, whole.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) bytes: Vec<u8>,
    pub(super) content_type: String,
    /// `Docker-Content-Digest` as it came.
    pub(super) digest_header: Option<String>,
    /// As whom it was read: as anybody also where a secret was at hand and not asked for.
    pub(super) access: Access,
    /// What it takes.
    _share: Share,
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
            let strict = client()?.dns_resolver(Resolver(hosts.refused().clone())).build()?;
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

    /// Fetches a whole answer of at most `limit` bytes, as far as the budget has room for it.
    pub(super) async fn document(
        &self,
        endpoint: &Endpoint,
        ask: Ask<'_>,
        limit: u64,
        budget: &Arc<Budget>,
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
                let share = budget.share();
                let bytes = whole(response, ask.what, limit, Some(&share)).await?;
                Ok(Document { bytes, content_type, digest_header, access, _share: share })
            };
            match self.pace.bound(once).await {
                Ok(document) => return Ok(document),
                Err(problem) => self.pace.pause(&mut failed, problem).await?,
            }
        }
    }

    /// Asks until there is an answer, and says as whom; its body is the caller's to read and to check. Answers with
    /// a part of it where [`Ask::from`] says so.
    pub(super) async fn open(
        &self,
        endpoint: &Endpoint,
        ask: Ask<'_>,
    ) -> Result<(Response, Access), Problem> {
        let mut failed = 0;
        loop {
            match self.once(endpoint, ask).await {
                Ok(opened) => return Ok(opened),
                Err(problem) => self.pace.pause(&mut failed, problem).await?,
            }
        }
    }

    /// Asks once.
    pub(super) async fn once(
        &self,
        endpoint: &Endpoint,
        ask: Ask<'_>,
    ) -> Result<(Response, Access), Problem> {
        let asked = self.authorised(endpoint, ask);
        if ask.verb.sends() { asked.await } else { self.pace.bound(asked).await }
    }

    /// Whether a token for it is at hand.
    pub(super) fn holds_token(&self, endpoint: &Endpoint, ask: &Ask<'_>) -> bool {
        self.tokens.get(&key(endpoint, ask)).is_some()
    }

    /// As if every token had run out.
    #[cfg(test)]
    pub(super) fn forget_tokens(&self) {
        self.tokens.forget();
    }

    /// Asks as each server on the way wants it, and says as whom it was answered. Where a redirect led to another server
    /// that wants a token, that server is asked as anybody would ask it: the secret is not for it.
    async fn authorised(
        &self,
        endpoint: &Endpoint,
        mut ask: Ask<'_>,
    ) -> Result<(Response, Access), Problem> {
        let url = ask.url(endpoint);
        policy::check(ask.role(), None, &url, &self.hosts)?;
        let (mut asked, as_whom) = self.with_token(endpoint, url, ask).await?;
        for _ in 0..REDIRECTS_MAX {
            let led_elsewhere = ask.verb.is_safe() && !asked.at_owner;
            if !led_elsewhere || asked.response.status() != StatusCode::UNAUTHORIZED {
                return Ok((ask.judged(asked.response)?, as_whom));
            }
            let other = Endpoint::elsewhere(&asked.url, &self.hosts);
            ask.who = None;
            (asked, _) = self.with_token(&other, asked.url, ask).await?;
        }
        Err(Problem::Redirects(REDIRECTS_MAX))
    }

    /// With the token that we hold for `endpoint`, and once more with a new one if that server asks for it. Returns as
    /// whom it was asked.
    async fn with_token(
        &self,
        endpoint: &Endpoint,
        url: Url,
        ask: Ask<'_>,
    ) -> Result<(Asked, Access), Problem> {
        let key = key(endpoint, &ask);
        let held = self.tokens.get(&key).map(|token| token.header);
        let as_whom = if held.is_some() { ask.access() } else { Access::Anonymous };
        let mut sent = Sent {
            home: endpoint,
            owner: endpoint.url(),
            verb: ask.verb,
            headers: ask.headers()?,
            authorization: held,
            payload: ask.payload,
        };
        let asked = self.follow(url.clone(), &sent).await?;
        if !asked.wants_token() {
            return Ok((asked, as_whom));
        }
        let challenge = Challenge::read(asked.response.headers());
        drop(asked);
        let token = self.token(endpoint, challenge?, ask).await?;
        sent.authorization = Some(token.header.clone());
        let asked = self.follow(url, &sent).await?;
        if !asked.at_owner || asked.response.status().is_success() {
            self.tokens.put(key, token);
        }
        Ok((asked, ask.access()))
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
        let request = realm.request(ask.reference.repository(), ask.grant, ask.secret());
        let json = HeaderValue::from_static("application/json");
        let mut headers = HeaderMap::from_iter([(ACCEPT, json)]);
        let form = request.form.map(Bytes::from);
        if form.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(FORM));
        }
        let sent = Sent {
            home: endpoint,
            owner: &request.url,
            verb: if form.is_some() { Verb::Post } else { Verb::Get },
            headers,
            authorization: request.authorization,
            payload: form.as_ref().map_or(Payload::Nothing, |form| Payload::Bytes(FORM, form)),
        };
        let response = self.follow(request.url.clone(), &sent).await?.response;
        let what = "the request for a token";
        match (Ask { what, from: 0, grant: Grant::Pull, ..ask }).judged(response) {
            Ok(response) => Token::read(&whole(response, "token", auth::ANSWER_MAX, None).await?),
            Err(problem) if problem.is_transient() => Err(problem),
            Err(_) if ask.who.is_some() => {
                Err(ask.denied("its token service gives no token for it"))
            }
            Err(_) => Err(ask.denied("it gives no anonymous token")),
        }
    }

    /// Goes where `url` leads. Authorization stays with the server that it is for: as soon as a hop leaves it, it is
    /// dropped for good.
    async fn follow(&self, mut url: Url, sent: &Sent<'_>) -> Result<Asked, Problem> {
        let mut at_owner = true;
        for _ in 0..=REDIRECTS_MAX {
            at_owner &= url.origin() == sent.owner.origin();
            let settings = &sent.home.settings;
            let at_home = at_owner && url.origin() == sent.home.url().origin();
            let reach = if at_home { settings.reach } else { self.hosts.reach(&url) };
            let mut headers = if at_home { settings.header.clone() } else { HeaderMap::new() };
            headers.extend(sent.headers.clone());
            if let Some(authorization) = sent.authorization.as_ref().filter(|_| at_owner) {
                headers.insert(AUTHORIZATION, authorization.clone());
            }
            let request = self.client(&url, reach)?.request(sent.verb.method(), url.clone());
            let sending = request.headers(headers).body(sent.payload.body()).send();
            let settle = if sent.verb.sends() { self.pace.settle } else { IDLE_TIME };
            let response = sent.payload.watched(self.pace.answer, settle, sending).await?;
            let response = response.map_err(Problem::of_request)?;
            if !sent.verb.is_safe() || !is_redirect(response.status()) {
                return Ok(Asked { response, url, at_owner });
            }
            let next = location(&response, &url, "redirect")?;
            policy::check(Role::Redirect, Some(&url), &next, &self.hosts)?;
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
        .pool_max_idle_per_host(IDLE_MAX)
        .connect_timeout(CONNECT_TIME);
    match trust {
        Trust::Machine => builder,
        Trust::Nobody => builder.tls_certs_only([]),
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn key(endpoint: &Endpoint, ask: &Ask<'_>) -> Key {
    Key::new(endpoint.url(), ask.reference.repository(), ask.grant, ask.access())
}
