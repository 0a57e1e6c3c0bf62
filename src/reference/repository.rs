//! Repositories: the targets of snapshot pushes, and the sources of their blobs.

use std::{fmt, str::FromStr};

use super::{Reference, ReferenceError};
use crate::digest::ManifestDigest;

/// A repository in a registry, without tag or digest. Its text is parsed like a [`Reference`], so `team/x` is
/// `docker.io/team/x`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository(Reference);

impl Repository {
    /// The repository of an image.
    pub fn of(reference: &Reference) -> Self {
        Self(reference.place())
    }

    /// Parses a repository whose registry must be explicit: nothing is pushed to a public registry by default.
    ///
    /// # Errors
    /// Text that is not a repository, or has no registry.
    pub fn with_registry(text: &str) -> Result<Self, ReferenceError> {
        Reference::parse_place(text, true).map(Self)
    }

    /// The reference of the manifest with this digest in the repository.
    pub fn at(&self, digest: &ManifestDigest) -> Reference {
        self.0.pinned(digest)
    }

    /// The registry's host in canonical form, with its port if the text has one.
    pub fn registry(&self) -> &str {
        self.0.registry()
    }

    /// The path of the repository inside the registry: `team/x`.
    pub fn repository(&self) -> &str {
        self.0.repository()
    }

    /// Registry and repository as a reference without tag and digest.
    pub fn reference(&self) -> &Reference {
        &self.0
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Repository {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Reference::parse_place(text, false).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_canonical_and_has_neither_tag_nor_digest() {
        let hex = ManifestDigest::of(b"").digest().hex();
        for (text, canonical) in [
            ("r.io/team/x", "r.io/team/x"),
            ("Localhost:5000/a", "localhost:5000/a"),
            ("[fd00::7]:5000/a", "[fd00::7]:5000/a"),
            ("team/x", "docker.io/team/x"),
            ("x", "docker.io/library/x"),
        ] {
            let repository: Repository = text.parse().expect(text);
            assert_eq!(repository.to_string(), canonical);
            let at = repository.at(&ManifestDigest::of(b""));
            assert_eq!(at.to_string(), format!("{canonical}@sha256:{hex}"));
            assert_eq!(at.to_string().parse::<Reference>().unwrap(), at);
            assert_eq!(Repository::of(&at), repository);
            let tagged = format!("{canonical}:1").parse().unwrap();
            assert_eq!(Repository::of(&tagged), repository);
        }
        for (text, words) in [
            ("r.io/a:1", "\"r.io/a:1\" is not a repository: it has a tag or a digest"),
            (&format!("r.io/a@sha256:{hex}"), "it has a tag or a digest"),
            ("localhost:5000", "it has a tag or a digest"),
            ("r.io/a@", "it has a tag or a digest"),
            ("", "it is empty"),
            ("https://r.io/a", "it starts with a scheme"),
            ("r.io/A", "lower-case"),
            ("r.io/{namespace}", "must be lower-case letters"),
            ("r.io/../a", "must be lower-case letters"),
        ] {
            let shown = text.parse::<Repository>().unwrap_err().to_string();
            assert!(shown.contains(words), "{text}: {shown}");
        }
    }
}
