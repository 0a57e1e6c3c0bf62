//! Anonymous tokens: the challenge that asks for one, and the ones we hold.
//!
//! Distribution's token specification: a registry answers 401 with `WWW-Authenticate: Bearer realm="…"`, the
//! realm gives a short-lived token to anybody for public repositories. Deliberately absent: user names,
//! passwords and secrets of any kind; nothing here is worth stealing for longer than a token lives.

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

use super::error::Problem;

/// Our own bound; tokens with many claims have a few KiB.
pub(super) const ANSWER_MAX: u64 = 64 << 10;
/// The specification's least lifetime, which is also what holds where none is given.
const LIFETIME_MIN: Duration = Duration::from_secs(60);
/// A token is not used in its last moments, so that it does not run out on the way.
const MARGIN: Duration = Duration::from_secs(10);

/// Where a token is to be had, and for what.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    pub(super) realm: Url,
    service: Option<String>,
    scope: Option<String>,
}

impl Challenge {
    /// The URL to ask, for pulling `repository` unless the registry named the scope itself.
    pub(super) fn url(&self, repository: &str) -> Url {
        let mut url = self.realm.clone();
        let pull = format!("repository:{repository}:pull");
        let scope = self.scope.as_deref().unwrap_or(&pull);
        url.query_pairs_mut().append_pair("scope", scope);
        if let Some(service) = &self.service {
            url.query_pairs_mut().append_pair("service", service);
        }
        url
    }

    /// The bearer challenge among those of a 401.
    ///
    /// # Errors
    /// [`Problem::Denied`] where there is none, or none with a realm that is a URL.
    pub(super) fn read(headers: &HeaderMap) -> Result<Self, Problem> {
        let values = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|v| v.to_str().ok());
        let all: Vec<_> = values.flat_map(challenges).collect();
        let denied = |why: &str| Problem::Denied { why: why.to_owned() };
        let Some((_, params)) = all.iter().find(|(scheme, _)| scheme == "bearer") else {
            let basic = all.iter().any(|(scheme, _)| scheme == "basic");
            let why = if basic { "it asks for a user name and password" } else { "HTTP 401" };
            return Err(denied(why));
        };
        let realm = params.get("realm").and_then(|realm| Url::parse(realm).ok());
        let realm = realm.ok_or_else(|| denied("it names no place to get a token"))?;
        let service = params.get("service").cloned();
        Ok(Self { realm, service, scope: params.get("scope").cloned() })
    }
}

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

/// A token as the header that carries it. Shows as nothing.
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
            expires_in: Option<u64>,
        }
        let malformed =
            || Problem::Malformed { what: "token", why: "it is not readable".to_owned() };
        let answer: Answer = serde_json::from_slice(answer).map_err(|_| malformed())?;
        let token = answer.token.or(answer.access_token).ok_or_else(malformed)?;
        let mut header =
            HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| malformed())?;
        header.set_sensitive(true);
        let lifetime = Duration::from_secs(answer.expires_in.unwrap_or(0).min(86_400));
        let until = Instant::now() + lifetime.max(LIFETIME_MIN) - MARGIN;
        Ok(Self { header, until })
    }
}

/// The tokens we hold, by server and repository: a token for one repository is shown to no other server.
#[derive(Debug, Default)]
pub(super) struct Tokens(Mutex<HashMap<(String, String), Token>>);

impl Tokens {
    pub(super) fn get(&self, server: &Url, repository: &str) -> Option<Token> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let token = held.get(&key(server, repository))?;
        (token.until > Instant::now()).then(|| token.clone())
    }

    /// Keeps a token and forgets those that have run out.
    pub(super) fn put(&self, server: &Url, repository: &str, token: Token) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|_, token| token.until > Instant::now());
        held.insert(key(server, repository), token);
    }
}

fn key(server: &Url, repository: &str) -> (String, String) {
    (server.origin().ascii_serialization(), repository.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&str]) -> Result<Challenge, Problem> {
        let values = values.iter().map(|v| (WWW_AUTHENTICATE, v.parse().unwrap()));
        Challenge::read(&values.collect())
    }

    #[test]
    fn the_bearer_challenge_is_found_wherever_it_stands() {
        let bearer = r#"Bearer realm="https://auth.io/t?a=b",service="r, \"x\"",error=invalid"#;
        let basic = r#"Basic realm="Bearer realm=evil""#;
        for values in [
            &[bearer][..],
            &[basic, bearer],
            &[&format!("{basic}, {bearer}")],
            &[&format!("Negotiate abc==, {bearer}")],
            &[&bearer.replace("Bearer", "bearer").replace("realm=", "Realm = ")],
        ] {
            let challenge = read(values).unwrap();
            assert_eq!(challenge.realm.as_str(), "https://auth.io/t?a=b", "{values:?}");
            assert_eq!(challenge.service.as_deref(), Some(r#"r, "x""#), "{values:?}");
            assert_eq!(
                challenge.url("a/b").query(),
                Some("a=b&scope=repository%3Aa%2Fb%3Apull&service=r%2C+%22x%22")
            );
        }
        let own = read(&[r#"Bearer realm="https://a.io",scope="aws""#]).unwrap();
        assert_eq!(own.url("a").query(), Some("scope=aws"), "the registry's own scope is used");
    }

    #[test]
    fn anything_else_is_a_denial() {
        for (values, words) in [
            (&["Basic realm=\"x\""][..], "user name and password"),
            (&[], "HTTP 401"),
            (&["Bearer"], "no place to get a token"),
            (&["Bearer realm=\"/token\""], "no place to get a token"),
            (&["Bearer realm=\""], "no place to get a token"),
            (&["=,=,\"\\"], "HTTP 401"),
        ] {
            let error = read(values).unwrap_err();
            assert!(error.to_string().contains(words), "{values:?}: {error}");
        }
    }

    #[test]
    fn a_token_is_kept_for_its_server_and_repository_and_never_shown() {
        let token = Token::read(br#"{"token":"hush","expires_in":300}"#).unwrap();
        assert_eq!(token.header, "Bearer hush");
        let tokens = Tokens::default();
        let url = |text| Url::parse(text).unwrap();
        tokens.put(&url("https://r.io/x"), "a", token);
        assert!(tokens.get(&url("https://r.io/y"), "a").is_some());
        assert!(tokens.get(&url("https://r.io"), "b").is_none());
        assert!(tokens.get(&url("https://r.io:8443"), "a").is_none());
        assert!(tokens.get(&url("http://r.io"), "a").is_none());
        assert!(!format!("{tokens:?}").contains("hush"), "{tokens:?}");
    }

    #[test]
    fn answers_without_a_usable_token_are_refused_without_quoting_them() {
        assert!(Token::read(br#"{"access_token":"x"}"#).is_ok());
        for answer in [&b"<html>hush"[..], b"{}", br#"{"token":"hush\n"}"#, br#"{"token":1}"#] {
            let error = Token::read(answer).unwrap_err();
            assert!(!error.to_string().contains("hush"), "{error}");
        }
    }
}
