//! Registry authentication: parses challenges, builds token requests, and caches tokens.
//!
//! Distribution's token specification: a registry responds with 401 and `WWW-Authenticate: Bearer realm="…"`. The realm
//! issues a short-lived token: for a public repository to anonymous clients, otherwise for a user name and password
//! (GET with HTTP Basic) or for an identity token (POST, OAuth2's refresh grant). A registry that requires HTTP Basic
//! receives the user name and password itself. Deliberately absent: the rules for where a secret may be sent, which are
//! in `addresses` and `transport`.

use std::{
    collections::HashMap,
    fmt,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use reqwest::{
    Url,
    header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE},
};
use serde::Deserialize;
use serde_json::Value;

use super::{
    error::Problem,
    keyring::Access,
    secret::{Secret, header},
};

/// Largest response of a token service in bytes, our own limit. Tokens with many claims have a few KiB.
pub(super) const TOKEN_RESPONSE_MAX: u64 = 64 << 10;
/// The specification's minimum lifetime, which is also the default.
const LIFETIME_MIN: Duration = Duration::from_secs(60);
/// A token is not used in its last seconds, so that it does not expire during the request.
const MARGIN: Duration = Duration::from_secs(10);
/// How long the header of a secret that a server accepts without a token exchange is cached.
const LIFETIME_FIXED: Duration = Duration::from_secs(300);

/// The permission that a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grant<'a> {
    Pull,
    /// Includes pull: a push checks what exists.
    Push,
    /// Push, and pull from this other repository of the registry.
    Mount(&'a str),
    Delete,
}

impl Grant<'_> {
    fn scopes(self, repository: &str) -> Vec<String> {
        let may = |name: &str, actions: &str| format!("repository:{name}:{actions}");
        match self {
            Self::Pull => vec![may(repository, "pull")],
            Self::Push => vec![may(repository, "pull,push")],
            Self::Mount(from) => vec![may(repository, "pull,push"), may(from, "pull")],
            Self::Delete => vec![may(repository, "delete")],
        }
    }
}

/// The authentication that a 401 requires.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A token from a realm.
    Bearer(Realm),
    /// A user name and password.
    Basic,
}

/// A token service, and the parameters that the registry gave for it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Realm {
    pub(super) url: Url,
    service: Option<String>,
    scope: Option<String>,
}

/// A request to a token service.
pub(super) struct TokenRequest {
    pub(super) url: Url,
    pub(super) authorization: Option<HeaderValue>,
    /// The form of a POST; `None` for a GET.
    pub(super) form: Option<String>,
}

impl Realm {
    /// Builds the request for a token with the permission `grant` on `repository`.
    pub(super) fn request(
        &self,
        repository: &str,
        grant: Grant<'_>,
        secret: Option<&Secret>,
    ) -> TokenRequest {
        let scopes = self.scopes(grant, repository);
        let service = self.service.as_deref().map(|service| ("service", service));
        let mut url = self.url.clone();
        if let Some(Secret::IdentityToken(token)) = secret {
            let grant = [("grant_type", "refresh_token"), ("client_id", "ovl-csi")];
            let scopes = scopes.join(" ");
            let token = [("scope", scopes.as_str()), ("refresh_token", token)];
            url.query_pairs_mut()
                .clear()
                .extend_pairs(grant.into_iter().chain(token).chain(service));
            let form = url.query().map(str::to_owned);
            return TokenRequest { url: self.url.clone(), authorization: None, form };
        }
        let scopes = scopes.iter().map(|scope| ("scope", scope.as_str()));
        url.query_pairs_mut().extend_pairs(scopes.chain(service));
        TokenRequest { url, authorization: secret.and_then(Secret::basic), form: None }
    }

    /// The scopes to request: the registry's, or ours where it names none. A push needs several requests, and the
    /// registry names only the scope of the first one. So a push requests both, unless the registry's scope has another
    /// format.
    fn scopes(&self, grant: Grant<'_>, repository: &str) -> Vec<String> {
        let mut ours = grant.scopes(repository);
        let Some(theirs) = &self.scope else { return ours };
        let one_request = matches!(grant, Grant::Pull | Grant::Delete);
        if one_request || !theirs.starts_with("repository:") {
            return vec![theirs.clone()];
        }
        for their in theirs.split_whitespace() {
            if !ours.iter().any(|our| our == their || our.starts_with(&format!("{their},"))) {
                ours.push(their.to_owned());
            }
        }
        ours
    }
}

impl Challenge {
    /// Parses the challenges of a 401. Bearer has priority over Basic; `None` if there is neither.
    ///
    /// # Errors
    /// A bearer challenge whose realm is not an absolute URL.
    pub(super) fn read(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        let values = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|v| v.to_str().ok());
        let all: Vec<_> = values.flat_map(challenges).collect();
        let Some((_, params)) = all.iter().find(|(scheme, _)| scheme == "bearer") else {
            let basic = all.iter().any(|(scheme, _)| scheme == "basic");
            return Ok(basic.then_some(Self::Basic));
        };
        let realm = params.get("realm").and_then(|realm| Url::parse(realm).ok());
        let url = realm.ok_or(NO_REALM)?;
        let service = params.get("service").cloned();
        Ok(Some(Self::Bearer(Realm { url, service, scope: params.get("scope").cloned() })))
    }
}

const NO_REALM: Problem = Problem::Unsupported(
    "the registry requires a token, and the realm in its WWW-Authenticate header is not an absolute URL; the \
     administrator of the registry must fix it",
);

type Params = HashMap<String, String>;

/// Parses the challenges in one header (RFC 9110, 11.6.1). A word with a `=` after it is a parameter of the scheme
/// before it; any other word is the next scheme. Names are returned in lower case.
fn challenges(mut text: &str) -> Vec<(String, Params)> {
    let mut found: Vec<(String, Params)> = Vec::new();
    loop {
        text = text.trim_start_matches([' ', '\t', ',', '=']);
        if text.is_empty() {
            return found;
        }
        let end = text.find([' ', '\t', ',', '=']).unwrap_or(text.len());
        let word = text[..end].to_ascii_lowercase();
        text = text[end..].trim_start_matches([' ', '\t']);
        match text.strip_prefix('=') {
            Some(rest) => {
                let (value, rest) = value(rest.trim_start_matches([' ', '\t']));
                text = rest;
                if let Some((_, params)) = found.last_mut() {
                    params.entry(word).or_insert(value);
                }
            }
            None => found.push((word, Params::new())),
        }
    }
}

/// A token or a quoted string at the start of `text`, and the text after it.
fn value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

/// A cached `Authorization` header. `Debug` does not show it.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) header: HeaderValue,
    until: Instant,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// Parses the response of a token service.
    ///
    /// # Errors
    /// [`Problem::Malformed`] if it has no token that a header can contain.
    pub(super) fn read(response: &[u8]) -> Result<Self, Problem> {
        #[derive(Deserialize)]
        struct TokenResponse {
            token: Option<String>,
            access_token: Option<String>,
            expires_in: Option<Value>,
        }
        let malformed =
            || Problem::Malformed { what: "token", why: "it cannot be read".to_owned() };
        let response: TokenResponse = serde_json::from_slice(response).map_err(|_| malformed())?;
        let given = |token: &String| !token.is_empty();
        let token = response.token.filter(given).or(response.access_token.filter(given));
        let token = token.ok_or_else(malformed)?;
        let header = header("Bearer", &token).ok_or_else(malformed)?;
        let lifetime = Duration::from_secs(response.expires_in.map_or(0, seconds).min(86_400));
        let until = Instant::now() + lifetime.max(LIFETIME_MIN) - MARGIN;
        Ok(Self { header, until })
    }

    /// The header of a secret that the server accepts without a token exchange.
    pub(super) fn fixed(header: HeaderValue) -> Self {
        Self { header, until: Instant::now() + LIFETIME_FIXED }
    }
}

/// Largest number of cached tokens, and their total bytes. A user who names an image chooses the server that issues
/// tokens.
const TOKENS_MAX: usize = 1024;
const TOKEN_BYTES_MAX: usize = 4 << 20;

/// Parses seconds, which some services write as a string or as a float.
fn seconds(value: Value) -> u64 {
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text,
        _ => String::new(),
    };
    text.trim().parse::<f64>().map_or(0, |seconds| seconds as u64)
}

/// The token cache. A token is used only for the same server, repository, permission and secret. If there are too many,
/// those that expire first are removed first.
#[derive(Debug, Default)]
pub(super) struct Tokens(Mutex<HashMap<Key, Token>>);

/// Server, permission and credential of a token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    server: String,
    scopes: Vec<String>,
    access: Access,
}

impl Key {
    pub(super) fn new(server: &Url, repository: &str, grant: Grant<'_>, access: Access) -> Self {
        let server = server.origin().ascii_serialization();
        Self { server, scopes: grant.scopes(repository), access }
    }
}

impl Tokens {
    pub(super) fn get(&self, key: &Key) -> Option<Token> {
        let tokens = self.0.lock();
        let token = tokens.get(key)?;
        (token.until > Instant::now()).then(|| token.clone())
    }

    /// Removes all tokens, as if they had expired.
    #[cfg(test)]
    pub(super) fn forget(&self) {
        self.0.lock().clear();
    }

    /// Adds a token, and removes the expired ones.
    pub(super) fn put(&self, key: Key, token: Token) {
        let mut tokens = self.0.lock();
        tokens.retain(|_, token| token.until > Instant::now());
        tokens.insert(key, token);
        let bytes = |token: &Token| token.header.len();
        let mut all: usize = tokens.values().map(bytes).sum();
        while tokens.len() > TOKENS_MAX || all > TOKEN_BYTES_MAX {
            let first = tokens.iter().min_by_key(|(_, token)| token.until);
            let Some(first) = first.map(|(key, _)| key.clone()) else { return };
            all -= tokens.remove(&first).as_ref().map_or(0, bytes);
        }
    }
}

#[cfg(test)]
#[path = "auth_tests.rs"]
mod tests;
