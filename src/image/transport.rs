//! Sends one request to a registry's server: tokens, redirects, retries, limits.
//!
//! Every hop of a request passes [`addresses`], and before it goes to a proxy also `route`. A secret is sent to the server
//! that it is for, and to the token realm that this server names. A redirect to another server drops it for the rest of
//! the request, and an upload that continues at another server never has it. If a redirect leads to a server that
//! requires a token, that server receives an anonymous token of its own realm. Deliberately absent: the time limits for
//! the body of a blob, which are in `min_throughput`.

use std::sync::Arc;

use bytes::Bytes;
use reqwest::{
    Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
};

use super::{
    addresses::{self, Role},
    auth::{self, Challenge, Grant, Key, Realm, Token, Tokens},
    body::RequestBody,
    clients::{Clients, NO_CLIENT, SetUpError, Trust},
    endpoint::Endpoint,
    error::Problem,
    hosts::Hosts,
    keyring::Access,
    request::{IDLE_TIME, RegistryRequest, Verb, location, read_all},
    retry::RetryPolicy,
    route::Route,
    secret::{self, Secret},
    tls,
};
use crate::budget::{Budget, Share};

/// Registries need one redirect, to their storage; browsers allow 20.
const REDIRECTS_MAX: usize = 5;

/// A request for all servers of a redirect chain.
struct Sent<'a> {
    /// The server whose settings apply as long as no redirect leads to another server.
    home: &'a Endpoint,
    /// The only server that receives `authorization`.
    owner: &'a Url,
    verb: Verb,
    headers: HeaderMap,
    authorization: Option<HeaderValue>,
    body: RequestBody<'a>,
}

/// The response at the end of a redirect chain.
struct FinalResponse {
    response: Response,
    /// URL of the last hop.
    url: Url,
    /// All hops were at the server that receives the authorization.
    at_owner: bool,
}

impl FinalResponse {
    fn wants_token(&self) -> bool {
        self.at_owner && self.response.status() == StatusCode::UNAUTHORIZED
    }
}

const FORM: &str = "application/x-www-form-urlencoded";

/// A complete small response.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) bytes: Vec<u8>,
    pub(super) content_type: String,
    /// `Docker-Content-Digest`, unparsed.
    pub(super) digest_header: Option<String>,
    /// The credential that the server required; anonymous also if there was a secret that the server did not require.
    pub(super) access: Access,
    /// The memory that the document takes from the budget.
    _share: Share,
}

#[derive(Debug)]
pub(super) struct Transport {
    /// One for each entry of [`Hosts::tls_settings`].
    clients: Vec<Clients>,
    hosts: Hosts,
    tokens: Tokens,
    retry: RetryPolicy,
}

impl Transport {
    pub(super) fn new(hosts: Hosts, retry: RetryPolicy, trust: Trust) -> Result<Self, SetUpError> {
        tls::provider();
        let settings = hosts.tls_settings().iter();
        let clients = settings.map(|settings| Clients::new(settings, &hosts, trust));
        let clients = clients.collect::<Result<_, _>>()?;
        Ok(Self { clients, hosts, tokens: Tokens::default(), retry })
    }

    pub(super) fn retry(&self) -> RetryPolicy {
        self.retry
    }

    pub(super) fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// Fetches a complete response of at most `limit` bytes, if the memory budget allows it.
    pub(super) async fn document(
        &self,
        endpoint: &Endpoint,
        request: RegistryRequest<'_>,
        limit: u64,
        budget: &Arc<Budget>,
    ) -> Result<Document, Problem> {
        let mut failed = 0;
        loop {
            let once = async {
                let (response, access) = self.authorised(endpoint, request).await?;
                let header = |name| {
                    let value = response.headers().get(name).and_then(|v| v.to_str().ok());
                    value.map(str::to_owned)
                };
                let content_type = header(CONTENT_TYPE.as_str()).unwrap_or_default();
                let digest_header = header("docker-content-digest");
                let share = budget.share();
                let bytes = read_all(response, request.what, limit, Some(&share)).await?;
                Ok(Document { bytes, content_type, digest_header, access, _share: share })
            };
            match self.retry.bound(once).await {
                Ok(document) => return Ok(document),
                Err(problem) => self.retry.pause(&mut failed, problem).await?,
            }
        }
    }

    /// Sends the request, with retries, and returns the response and the credential that the server required. The
    /// caller reads and checks the body. With [`RegistryRequest::from`] the response is the part from that byte on.
    pub(super) async fn open(
        &self,
        endpoint: &Endpoint,
        request: RegistryRequest<'_>,
    ) -> Result<(Response, Access), Problem> {
        let mut failed = 0;
        loop {
            match self.once(endpoint, request).await {
                Ok(opened) => return Ok(opened),
                Err(problem) => self.retry.pause(&mut failed, problem).await?,
            }
        }
    }

    /// Sends the request once, without retries.
    pub(super) async fn once(
        &self,
        endpoint: &Endpoint,
        request: RegistryRequest<'_>,
    ) -> Result<(Response, Access), Problem> {
        let sending = self.authorised(endpoint, request);
        if request.verb.sends() { sending.await } else { self.retry.bound(sending).await }
    }

    /// Whether a valid token for the request is cached.
    pub(super) fn holds_token(&self, endpoint: &Endpoint, request: &RegistryRequest<'_>) -> bool {
        self.tokens.get(&key(endpoint, request)).is_some()
    }

    /// Removes all tokens from the cache.
    #[cfg(test)]
    pub(super) fn forget_tokens(&self) {
        self.tokens.forget();
    }

    /// Sends the request with the authorization that each server of a redirect chain requires, and returns the
    /// credential that was used. If a redirect leads to another server that requires a token, that server gets an
    /// anonymous request: the secret is not for it.
    async fn authorised(
        &self,
        endpoint: &Endpoint,
        mut request: RegistryRequest<'_>,
    ) -> Result<(Response, Access), Problem> {
        let url = request.url(endpoint);
        addresses::check(request.role(), None, &url, &self.hosts)?;
        let (mut last, access) = self.with_token(endpoint, url, request).await?;
        for _ in 0..REDIRECTS_MAX {
            let at_other_server = request.verb.is_safe() && !last.at_owner;
            if !at_other_server || last.response.status() != StatusCode::UNAUTHORIZED {
                return Ok((request.check_status(last.response)?, access));
            }
            let other = Endpoint::elsewhere(&last.url, self.hosts.tls_index(&last.url));
            request.credential = None;
            (last, _) = self.with_token(&other, last.url, request).await?;
        }
        Err(Problem::Redirects(REDIRECTS_MAX))
    }

    /// Sends the request with the cached token for `endpoint`, and again with a new token if that server requires one.
    /// Returns the credential that was used.
    async fn with_token(
        &self,
        endpoint: &Endpoint,
        url: Url,
        request: RegistryRequest<'_>,
    ) -> Result<(FinalResponse, Access), Problem> {
        let key = key(endpoint, &request);
        let cached = self.tokens.get(&key).map(|token| token.header);
        let access = if cached.is_some() { request.access() } else { Access::Anonymous };
        let mut sent = Sent {
            home: endpoint,
            owner: endpoint.url(),
            verb: request.verb,
            headers: request.headers()?,
            authorization: cached,
            body: request.body,
        };
        let first = self.follow(url.clone(), &sent).await?;
        if !first.wants_token() {
            return Ok((first, access));
        }
        let challenge = Challenge::read(first.response.headers());
        drop(first);
        let token = self.token(endpoint, challenge?, request).await?;
        sent.authorization = Some(token.header.clone());
        let second = self.follow(url, &sent).await?;
        if !second.at_owner || second.response.status().is_success() {
            self.tokens.put(key, token);
        }
        Ok((second, request.access()))
    }

    /// The token, or the header of a secret, that a challenge requires.
    async fn token(
        &self,
        endpoint: &Endpoint,
        challenge: Option<Challenge>,
        request: RegistryRequest<'_>,
    ) -> Result<Token, Problem> {
        let header = match (challenge, request.secret()) {
            (Some(_), Some(Secret::RegistryToken(token))) => secret::header("Bearer", token),
            (Some(Challenge::Bearer(realm)), _) => {
                return self.realm(endpoint, &realm, request).await;
            }
            (Some(Challenge::Basic), Some(secret)) => secret.basic(),
            (Some(Challenge::Basic), None) => None,
            (None, _) => return Err(request.denied("HTTP 401")),
        };
        header
            .map(Token::fixed)
            .ok_or_else(|| request.denied("it requires a user name and password"))
    }

    /// Requests a token from the realm that `endpoint` names.
    async fn realm(
        &self,
        endpoint: &Endpoint,
        realm: &Realm,
        request: RegistryRequest<'_>,
    ) -> Result<Token, Problem> {
        addresses::check(Role::Realm, Some(endpoint.url()), &realm.url, &self.hosts)?;
        if request.secret().is_some() {
            addresses::check_secret(&realm.url, &self.hosts)?;
        }
        let token_request =
            realm.request(request.reference.repository(), request.grant, request.secret());
        let json = HeaderValue::from_static("application/json");
        let mut headers = HeaderMap::from_iter([(ACCEPT, json)]);
        let form = token_request.form.map(Bytes::from);
        if form.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(FORM));
        }
        let sent = Sent {
            home: endpoint,
            owner: &token_request.url,
            verb: if form.is_some() { Verb::Post } else { Verb::Get },
            headers,
            authorization: token_request.authorization,
            body: form.as_ref().map_or(RequestBody::Nothing, |form| RequestBody::Bytes(FORM, form)),
        };
        let response = self.follow(token_request.url.clone(), &sent).await?.response;
        let what = "token";
        match (RegistryRequest { what, from: 0, grant: Grant::Pull, ..request })
            .check_status(response)
        {
            Ok(response) => {
                let limit = auth::TOKEN_RESPONSE_MAX;
                Token::read(&read_all(response, what, limit, None).await?)
            }
            Err(problem) if problem.is_transient() => Err(problem),
            Err(_) if request.credential.is_some() => {
                Err(request.denied("its token service issued no token"))
            }
            Err(_) => Err(request.denied("its token service issued no anonymous token")),
        }
    }

    /// Sends the request to `url`, and follows redirects. Only the owner receives the authorization: after the first
    /// hop to another server it is not sent again, not even to the owner.
    async fn follow(&self, mut url: Url, sent: &Sent<'_>) -> Result<FinalResponse, Problem> {
        let mut at_owner = true;
        for _ in 0..=REDIRECTS_MAX {
            at_owner &= url.origin() == sent.owner.origin();
            let settings = &sent.home.settings;
            let at_home = at_owner && url.origin() == sent.home.url().origin();
            let tls = if at_home { settings.tls } else { self.hosts.tls_index(&url) };
            let mut headers = if at_home { settings.header.clone() } else { HeaderMap::new() };
            headers.extend(sent.headers.clone());
            if let Some(authorization) = sent.authorization.as_ref().filter(|_| at_owner) {
                headers.insert(AUTHORIZATION, authorization.clone());
            }
            let route = Route::to(&url, &self.hosts).await?;
            let client = self.clients.get(tls).ok_or(NO_CLIENT)?.of(&url, route, &self.hosts)?;
            let request = client.request(sent.verb.method(), url.clone());
            let sending = request.headers(headers).body(sent.body.to_body()).send();
            let after = if sent.verb.sends() { self.retry.upload_response } else { IDLE_TIME };
            let response = sent.body.watched(self.retry.response, after, sending).await?;
            let response = response.map_err(|error| route.problem(&url, error))?;
            route.check(&response)?;
            if !sent.verb.is_safe() || !is_redirect(response.status()) {
                return Ok(FinalResponse { response, url, at_owner });
            }
            let next = location(&response, &url, "redirect")?;
            addresses::check(Role::Redirect, Some(&url), &next, &self.hosts)?;
            url = next;
        }
        Err(Problem::Redirects(REDIRECTS_MAX))
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn key(endpoint: &Endpoint, request: &RegistryRequest<'_>) -> Key {
    Key::new(endpoint.url(), request.reference.repository(), request.grant, request.access())
}
