//! Tokens: the challenge that asks for one, how it is asked for, and the ones we hold.
//!
//! Distribution's token specification: a registry answers 401 with `WWW-Authenticate: Bearer realm="…"`; the
//! realm gives a short-lived token, to anybody for public repositories, else for a user name and password (GET
//! with HTTP Basic) or for an identity token (POST, OAuth2's refresh grant). A registry that wants HTTP Basic
//! gets it itself. Deliberately absent: where a secret may go, which is `policy`'s and `transport`'s.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

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

/// Our own bound; tokens with many claims have a few KiB.
pub(super) const ANSWER_MAX: u64 = 64 << 10;
/// The specification's least lifetime, which is also what holds where none is given.
const LIFETIME_MIN: Duration = Duration::from_secs(60);
/// A token is not used in its last moments, so that it does not run out on the way.
const MARGIN: Duration = Duration::from_secs(10);
/// How long it is remembered that a server takes a secret as it is.
const LIFETIME_FIXED: Duration = Duration::from_secs(300);

/// What a token is to be good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grant<'a> {
    Pull,
    /// To pull too: whoever pushes asks what is there.
    Push,
    /// To push, and to pull from this other repository of the registry.
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

/// What a 401 asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A token from a realm.
    Bearer(Realm),
    /// A user name and password.
    Basic,
}

/// Where a token is to be had, and for what.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Realm {
    pub(super) url: Url,
    service: Option<String>,
    scope: Option<String>,
}

/// How a realm is asked.
pub(super) struct TokenRequest {
    pub(super) url: Url,
    pub(super) authorization: Option<HeaderValue>,
    /// The form of a POST; without one it is a GET.
    pub(super) form: Option<String>,
}

impl Realm {
    /// The request for a token that is good for `grant` on `repository`.
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
            let asked = [("scope", scopes.as_str()), ("refresh_token", token)];
            url.query_pairs_mut()
                .clear()
                .extend_pairs(grant.into_iter().chain(asked).chain(service));
            let form = url.query().map(str::to_owned);
            return TokenRequest { url: self.url.clone(), authorization: None, form };
        }
        let scopes = scopes.iter().map(|scope| ("scope", scope.as_str()));
        url.query_pairs_mut().extend_pairs(scopes.chain(service));
        TokenRequest { url, authorization: secret.and_then(Secret::basic), form: None }
    }

    /// What the registry names, or else what we want. A push takes several requests, of which the registry names
    /// only what the first one needs; so both are asked for, unless its words are of another kind.
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
    /// What the challenges of a 401 ask for; bearer before basic. Nothing where there is neither.
    ///
    /// # Errors
    /// A bearer challenge without a realm that is a whole URL.
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
    "it wants a token, and the realm in its WWW-Authenticate is not a whole URL; whoever runs the registry must mend it",
);

type Params = HashMap<String, String>;

/// The challenges in one header (RFC 9110, 11.6.1): a word followed by `=` is a parameter of the scheme before
/// it, any other word is the next scheme. Names come out in lower case.
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

/// A token or a quoted string at the start of `text`, and what follows it.
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

/// What a server accepts, as the header that carries it. Shows as nothing.
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
    /// Reads the realm's answer.
    ///
    /// # Errors
    /// [`Problem::Malformed`] where it holds no token that a header can carry.
    pub(super) fn read(answer: &[u8]) -> Result<Self, Problem> {
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
            expires_in: Option<Value>,
        }
        let malformed =
            || Problem::Malformed { what: "token", why: "it is not readable".to_owned() };
        let answer: Answer = serde_json::from_slice(answer).map_err(|_| malformed())?;
        let given = |token: &String| !token.is_empty();
        let token = answer.token.filter(given).or(answer.access_token.filter(given));
        let token = token.ok_or_else(malformed)?;
        let header = header("Bearer", &token).ok_or_else(malformed)?;
        let lifetime = Duration::from_secs(answer.expires_in.map_or(0, seconds).min(86_400));
        let until = Instant::now() + lifetime.max(LIFETIME_MIN) - MARGIN;
        Ok(Self { header, until })
    }

    /// A secret that the server takes as it is.
    pub(super) fn fixed(header: HeaderValue) -> Self {
        Self { header, until: Instant::now() + LIFETIME_FIXED }
    }
}

/// How many tokens are held, and their bytes: whoever names an image chooses the server that gives one.
const HELD_MAX: usize = 1024;
const HELD_BYTES_MAX: usize = 4 << 20;

/// Seconds, which there are services that write as text or as a float.
fn seconds(value: Value) -> u64 {
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text,
        _ => String::new(),
    };
    text.trim().parse::<f64>().map_or(0, |seconds| seconds as u64)
}

/// The tokens we hold: what was got as one is never shown to another server, nor used for another repository or
/// purpose, or by somebody with another secret. Of too many those go first that run out first.
#[derive(Debug, Default)]
pub(super) struct Tokens(Mutex<HashMap<Key, Token>>);

/// To whom, for what and as whom.
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
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let token = held.get(key)?;
        (token.until > Instant::now()).then(|| token.clone())
    }

    /// As if all had run out.
    #[cfg(test)]
    pub(super) fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Keeps a token and forgets those that have run out.
    pub(super) fn put(&self, key: Key, token: Token) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|_, token| token.until > Instant::now());
        held.insert(key, token);
        let bytes = |token: &Token| token.header.len();
        let mut all: usize = held.values().map(bytes).sum();
        while held.len() > HELD_MAX || all > HELD_BYTES_MAX {
            let first = held.iter().min_by_key(|(_, token)| token.until);
            let Some(first) = first.map(|(key, _)| key.clone()) else { return };
            all -= held.remove(&first).as_ref().map_or(0, bytes);
        }
    }
}

#[cfg(test)]
#[path = "auth_tests.rs"]
mod tests;
