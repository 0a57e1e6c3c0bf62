//! Registry secrets: their fingerprints and their `Authorization` headers. `Debug` never shows one.

use std::{fmt, sync::OnceLock};

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use reqwest::header::HeaderValue;
use sha2::Sha256;

/// A registry credential.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Secret {
    /// For HTTP Basic, at the registry or at its token service.
    Password { username: String, password: String },
    /// An OAuth2 refresh token, for the token service alone.
    IdentityToken(String),
    /// A bearer token that goes to the registry unchanged.
    RegistryToken(String),
}

/// The system's random number generator failed.
#[derive(Debug)]
pub(super) struct NoSalt;

impl Secret {
    /// An HMAC under a salt of this process: equal for equal secrets, and useless outside of the process.
    pub(super) fn fingerprint(&self) -> Result<[u8; 32], NoSalt> {
        let (kind, parts): (u8, [&str; 2]) = match self {
            Self::Password { username, password } => (0, [username, password]),
            Self::IdentityToken(token) => (1, [token, ""]),
            Self::RegistryToken(token) => (2, [token, ""]),
        };
        let mut mac = Hmac::<Sha256>::new_from_slice(salt()?).map_err(|_| NoSalt)?;
        mac.update(&[kind]);
        for part in parts {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part.as_bytes());
        }
        Ok(mac.finalize().into_bytes().into())
    }

    /// The `Authorization` header for HTTP Basic; `None` for a token.
    pub(super) fn basic(&self) -> Option<HeaderValue> {
        let Self::Password { username, password } = self else { return None };
        header("Basic", &STANDARD.encode(format!("{username}:{password}")))
    }
}

/// An `Authorization` header that `Debug` does not show; `None` where a header cannot contain the text.
pub(super) fn header(scheme: &str, text: &str) -> Option<HeaderValue> {
    let mut header = HeaderValue::try_from(format!("{scheme} {text}")).ok()?;
    header.set_sensitive(true);
    Some(header)
}

fn salt() -> Result<&'static [u8; 32], NoSalt> {
    static SALT: OnceLock<Option<[u8; 32]>> = OnceLock::new();
    let draw = || {
        let mut salt = [0; 32];
        let random = rustls::crypto::ring::default_provider().secure_random;
        random.fill(&mut salt).is_ok().then_some(salt)
    };
    SALT.get_or_init(draw).as_ref().ok_or(NoSalt)
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}
