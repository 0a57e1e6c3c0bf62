//! References to images, and repositories: parses and normalizes the names that users write.

mod repository;
#[cfg(test)]
mod tests;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    digest::{DigestError, ManifestDigest},
    error::Class,
    registry_name::{self, DOCKER_HUB, is_registry},
};
pub use repository::Repository;

/// The directory in Docker Hub of a name without a slash. That, and Docker Hub as the registry of a name without one,
/// are Docker's rules, which every tool follows.
const DEFAULT_DIR: &str = "library";
const DEFAULT_TAG: &str = "latest";

/// Largest length of registry and repository together, in bytes (OCI distribution-spec, "Pulling manifests").
pub const NAME_MAX: usize = 255;
const TAG_MAX: usize = 128;

/// A valid, canonical image reference: `registry/repository`, then `:tag`, `@sha256:…` or both.
///
/// It is parsed from the names that users write: `alpine` is `docker.io/library/alpine:latest`. If there are a tag and
/// a digest, the digest decides and the tag is a comment. Its parts are safe in a URL path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<ManifestDigest>,
}

impl Reference {
    /// The registry's host in canonical form, with its port if the text has one: `docker.io`, `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The registry's host without its port: `localhost`, `[::1]`.
    pub fn host(&self) -> &str {
        registry_name::split_port(&self.registry).0
    }

    /// The repository inside the registry: `library/alpine`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `None` only if there is a digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest or index, if the reference is pinned.
    pub fn digest(&self) -> Option<&ManifestDigest> {
        self.digest.as_ref()
    }

    /// Registry and repository without tag or digest, for a [`Repository`]. It is not a valid reference by
    /// itself.
    fn place(&self) -> Self {
        Self { tag: None, digest: None, ..self.clone() }
    }

    /// The reference of a manifest by digest in the same repository.
    pub fn pinned(&self, digest: &ManifestDigest) -> Self {
        Self { digest: Some(*digest), ..self.place() }
    }

    /// Parses a repository: text without tag and digest. If `registry` is true, it must start with a registry.
    fn parse_place(text: &str, registry: bool) -> Result<Self, ReferenceError> {
        let refused = |rule| ReferenceError {
            text: text.chars().take(300).collect(),
            kind: "a repository",
            rule,
        };
        if text.contains('@') || split_tag(text).1.is_some() {
            return Err(refused(Rule::Bare));
        }
        if registry && split_registry(text).0.is_none() {
            return Err(refused(Rule::NoRegistry));
        }
        parse(text).map(|reference| reference.place()).map_err(refused)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not an image reference, and the rule that it breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {kind}: {rule}")]
pub struct ReferenceError {
    text: String,
    kind: &'static str,
    rule: Rule,
}

impl ReferenceError {
    /// Always [`Class::Invalid`].
    pub fn class(&self) -> Class {
        Class::Invalid
    }
}

/// The rules of the grammar (distribution's reference specification, [`NAME_MAX`] and [`TAG_MAX`]).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Rule {
    #[error("it is empty; write a name such as alpine:3 or registry.example/team/tool:1")]
    Empty,
    #[error("it starts with a scheme; write registry/repository without https://")]
    Scheme,
    #[error("registry and repository together may have at most 255 characters")]
    TooLong,
    #[error("{0}")]
    Digest(#[from] DigestError),
    #[error(
        "the tag {0:?} must have 1 to 128 letters, digits, `_`, `.` or `-`, and must not start with `.` or `-`"
    )]
    Tag(String),
    #[error(
        "the registry {0:?} must be a host name, an IPv4 address or an IPv6 address in brackets, with a port \
         of 1 to 65535 if any"
    )]
    Registry(String),
    #[error(
        "it does not start with a registry; write registry/path such as registry.example:5000/snapshots"
    )]
    NoRegistry,
    #[error("repository names must be lower-case; {0:?} is not")]
    UpperCase(String),
    #[error(
        "the part {0:?} of the repository must be lower-case letters and digits, joined by `.`, `_`, `__` or dashes"
    )]
    Path(String),
    #[error("it has a tag or a digest; write only registry/repository")]
    Bare,
    #[error("64 hexadecimal digits are an image id, not a name; write name@sha256:…")]
    ImageId,
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let kind = "an image reference";
        let shown = || text.chars().take(300).collect();
        parse(text).map_err(|rule| ReferenceError { text: shown(), kind, rule })
    }
}

fn parse(text: &str) -> Result<Reference, Rule> {
    if text.is_empty() {
        return Err(Rule::Empty);
    }
    if text.contains("://") {
        return Err(Rule::Scheme);
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(ManifestDigest::new(digest.parse()?))),
        None => (text, None),
    };
    let (name, tag) = split_tag(rest);
    if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
        return Err(Rule::Tag(tag.chars().take(140).collect()));
    }
    let (registry, path) = split_registry(name);
    let registry = match registry {
        Some(text) => registry_name::canonical(text)
            .ok_or_else(|| Rule::Registry(text.chars().take(300).collect()))?,
        None => DOCKER_HUB.to_owned(),
    };
    let repository = match path.split_once('/') {
        None if registry == DOCKER_HUB => format!("{DEFAULT_DIR}/{path}"),
        _ => path.to_owned(),
    };
    check_path(path)?;
    if path.len() == 64 && path.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Rule::ImageId);
    }
    if registry.len() + 1 + repository.len() > NAME_MAX {
        return Err(Rule::TooLong);
    }
    let tag = tag.or(digest.is_none().then_some(DEFAULT_TAG)).map(str::to_owned);
    Ok(Reference { registry, repository, tag, digest })
}

/// Splits at the colon of the tag. A colon before the last slash belongs to a port.
fn split_tag(text: &str) -> (&str, Option<&str>) {
    let last = text.rfind('/').map_or(0, |slash| slash + 1);
    match text[last..].rfind(':') {
        Some(colon) => (&text[..last + colon], Some(&text[last + colon + 1..])),
        None => (text, None),
    }
}

/// Splits at the first slash, if the part before it is a registry and not a directory of the default one.
fn split_registry(name: &str) -> (Option<&str>, &str) {
    match name.split_once('/') {
        Some((first, path)) if is_registry(first) => (Some(first), path),
        _ => (None, name),
    }
}

/// Whether a text is a tag: 1 to 128 letters, digits, `_`, `.` or `-`, with no `.` or `-` at its start.
pub fn is_tag(text: &str) -> bool {
    let is_inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    (1..=TAG_MAX).contains(&text.len())
        && text.bytes().all(is_inner)
        && !text.starts_with(['.', '-'])
}

fn check_path(path: &str) -> Result<(), Rule> {
    for part in path.split('/') {
        if part.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(Rule::UpperCase(part.to_owned()));
        }
        if !is_path_part(part) {
            return Err(Rule::Path(part.to_owned()));
        }
    }
    Ok(())
}

/// Sequences of letters and digits, joined by one `.`, one or two `_`, or any number of `-`.
fn is_path_part(part: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let joint = |s: &str| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-');
    part.starts_with(word)
        && part.ends_with(word)
        && part.split(word).filter(|between| !between.is_empty()).all(joint)
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

impl TryFrom<String> for Reference {
    type Error = ReferenceError;

    fn try_from(text: String) -> Result<Self, ReferenceError> {
        text.parse()
    }
}
