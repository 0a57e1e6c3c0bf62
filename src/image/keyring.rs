//! Credentials by registry: parses `.dockerconfigjson` and matches its entries as the kubelet does.
//!
//! Deliberately absent: credential helpers. A tenant writes the secret, so the programs that it names are never run.

use std::{collections::BTreeMap, fmt, sync::Arc};

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::{Deserialize, de::IgnoredAny};

use super::{
    Reference,
    secret::{NoSalt, Secret},
};
use crate::{
    error::Class,
    registry_name::{self, split_port},
};

/// Largest size in bytes, which is Kubernetes' limit for a Secret.
const TEXT_MAX: usize = 1 << 20;
/// Base64 with optional padding: tools write both forms.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Credentials, each with a pattern for the images that it is for. `Debug` shows only their number.
#[derive(Clone, Default)]
pub struct Keyring(Vec<Arc<Credential>>);

/// One secret, and the pattern of the repositories to which it may be sent.
pub(super) struct Credential {
    pattern: Pattern,
    pub(super) secret: Secret,
    pub(super) access: Access,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    auths: Option<BTreeMap<String, Entry>>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, IgnoredAny>,
    #[serde(default)]
    creds_store: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

impl Keyring {
    /// Parses a `.dockerconfigjson`. From each entry of `auths` it takes `auth`, or `username` and `password`, or
    /// `identitytoken`, or `registrytoken`. Helper programs are ignored with a warning.
    ///
    /// # Errors
    /// Text in another format; text whose only credentials would come from a helper program. The message never quotes
    /// it.
    pub fn from_docker_config(json: &[u8]) -> Result<Self, KeyringError> {
        parse(json).and_then(Self::of)
    }

    /// As [`Keyring::from_docker_config`], for the older `.dockercfg`, which has only the content of `auths`.
    ///
    /// # Errors
    /// Text in another format.
    pub fn from_dockercfg(json: &[u8]) -> Result<Self, KeyringError> {
        let auths = Some(parse(json)?);
        Self::of(Config { auths, cred_helpers: BTreeMap::new(), creds_store: String::new() })
    }

    fn of(config: Config) -> Result<Self, KeyringError> {
        let helpers = !config.cred_helpers.is_empty() || !config.creds_store.is_empty();
        let Some(auths) = config.auths else {
            return Err(KeyringError::new(if helpers { HELPERS } else { "it has no `auths`" }));
        };
        let mut keyring = Self::default();
        for (key, entry) in auths {
            let Some(secret) = entry.secret()? else { continue };
            let access = Access::Credential(secret.fingerprint()?);
            keyring.0.push(Arc::new(Credential { pattern: Pattern::new(&key), secret, access }));
        }
        match (helpers, keyring.0.is_empty()) {
            (true, true) => return Err(KeyringError::new(HELPERS)),
            (true, false) => {
                tracing::warn!(
                    "a registry secret names a credential helper; the driver never runs one"
                )
            }
            (false, _) => {}
        }
        // The kubelet's order: keys in descending order, so that the longer path of a host comes first.
        keyring.0.sort_by(|a, b| b.pattern.cmp(&a.pattern));
        Ok(keyring)
    }

    /// The credentials of `self`, followed by those of `other`.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.0.extend_from_slice(&other.0);
        self
    }

    /// The credentials with which an image would be requested, in order. Empty means only an anonymous request.
    pub fn accesses(&self, reference: &Reference) -> Vec<Access> {
        let credentials = self.credentials(reference.registry(), reference.repository());
        credentials.iter().map(|credential| credential.access.clone()).collect()
    }

    /// The credentials that may be sent to the server `host` (`host[:port]`) for a repository on it; each secret once.
    pub(super) fn credentials(&self, host: &str, repository: &str) -> Vec<&Arc<Credential>> {
        let mut found: Vec<&Arc<Credential>> = Vec::new();
        for credential in self.0.iter().filter(|c| c.pattern.matches(host, repository)) {
            if found.iter().all(|other| other.access != credential.access) {
                found.push(credential);
            }
        }
        found
    }
}

/// Parses JSON of a limited size.
fn parse<'j, T: Deserialize<'j>>(json: &'j [u8]) -> Result<T, KeyringError> {
    if json.len() > TEXT_MAX {
        return Err(KeyringError::new("it is larger than 1 MiB"));
    }
    serde_json::from_slice(json).map_err(|e| {
        KeyringError::new(format!("it is not valid at line {} column {}", e.line(), e.column()))
    })
}

impl Entry {
    /// The most specific secret of an entry; `None` for an empty entry, which tools with helpers write.
    fn secret(self) -> Result<Option<Secret>, KeyringError> {
        let Self { auth, mut username, mut password, identitytoken, registrytoken } = self;
        if !registrytoken.is_empty() {
            return Ok(Some(Secret::RegistryToken(registrytoken)));
        }
        if !identitytoken.is_empty() {
            return Ok(Some(Secret::IdentityToken(identitytoken)));
        }
        if !auth.is_empty() {
            let wrong = || KeyringError::new("an `auth` in it is not the base64 of user:password");
            let bytes = BASE64.decode(auth.trim()).map_err(|_| wrong())?;
            let text = String::from_utf8(bytes).map_err(|_| wrong())?;
            let (user, pass) = text.split_once(':').ok_or_else(wrong)?;
            (username, password) = (user.to_owned(), pass.to_owned());
        }
        if username.contains(':') {
            return Err(KeyringError::new("a `username` in it has a colon"));
        }
        let empty = username.is_empty() && password.is_empty();
        Ok((!empty).then_some(Secret::Password { username, password }))
    }
}

/// A key of `auths`: a host whose labels may be globs, a port, a path prefix.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pattern {
    host: String,
    port: String,
    path: String,
}

impl Pattern {
    /// Parses a key such as `https://index.docker.io/v1/` or `*.example.com:5000/team`.
    fn new(key: &str) -> Self {
        let key =
            key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
        let (server, path) = key.find('/').map_or((key, ""), |slash| key.split_at(slash));
        let version = ["/v1", "/v2"].into_iter().find_map(|v| path.strip_prefix(v));
        let path = version.filter(|rest| rest.is_empty() || rest.starts_with('/')).unwrap_or(path);
        // Image references name Docker Hub docker.io, and its credentials usually have another of its names. A glob is
        // not a registry name, and is kept unchanged.
        let server =
            registry_name::canonical(server).unwrap_or_else(|| server.to_ascii_lowercase());
        let (host, port) = split_port(&server);
        let path = if path == "/" { "" } else { path };
        let port = port.unwrap_or_default().to_owned();
        Self { host: host.to_owned(), port, path: path.to_owned() }
    }

    /// The kubelet's rule (`pkg/credentialprovider/keyring.go`, `URLsMatch`): the same number of labels, and each label
    /// matches; the same port, or none on both sides; the path is a prefix of the image's path.
    fn matches(&self, server: &str, repository: &str) -> bool {
        let (host, port) = split_port(server);
        let (patterns, labels) = (self.host.split('.'), host.split('.'));
        self.port == port.unwrap_or_default()
            && patterns.clone().count() == labels.clone().count()
            && format!("/{repository}").starts_with(&self.path)
            && patterns.zip(labels).all(|(pattern, label)| label_matches(pattern, label))
    }
}

fn label_matches(pattern: &str, label: &str) -> bool {
    let globs = || {
        let glob = globset::Glob::new(pattern).ok()?.compile_matcher();
        Some(glob.is_match(label))
    };
    pattern == label || pattern.contains(['*', '?', '[']) && globs().unwrap_or(false)
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential")
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring({} credentials)", self.0.len())
    }
}

const HELPERS: &str = "its credentials come from a helper program (credHelpers, credsStore), and such programs \
     are never run; put user name and password into `auths`";

/// The text is not a usable `.dockerconfigjson`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a usable .dockerconfigjson: {why}")]
pub struct KeyringError {
    why: String,
    class: Class,
}

impl KeyringError {
    fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), class: Class::Invalid }
    }

    /// [`Class::Invalid`], or [`Class::Internal`] if the system's random number generator failed.
    pub fn class(&self) -> Class {
        self.class
    }
}

impl From<NoSalt> for KeyringError {
    fn from(NoSalt: NoSalt) -> Self {
        let why = "the system's random number generator failed".to_owned();
        Self { why, class: Class::Internal }
    }
}

/// The credential with which an image or blob was read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Access {
    /// Without a credential.
    Anonymous,
    /// With a credential: its HMAC under a salt of this process, which is equal for equal credentials.
    Credential([u8; 32]),
}

#[cfg(test)]
#[path = "keyring_tests.rs"]
mod tests;
