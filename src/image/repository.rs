//! Where snapshots are pushed to, and blobs come from.

use std::{fmt, str::FromStr};

use super::{Reference, ReferenceError};
use crate::digest::Digest;

/// A repository in a registry, without tag or digest: what people write is read as in a [`Reference`], so `team/x` is
/// `docker.io/team/x`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository(Reference);

impl Repository {
    /// The one that an image is in.
    pub fn of(reference: &Reference) -> Self {
        Self(reference.place())
    }

    /// Reads text that names its registry: nothing is pushed to a public one by default.
    ///
    /// # Errors
    /// Text that is no repository, or leaves out the registry.
    pub fn with_registry(text: &str) -> Result<Self, ReferenceError> {
        Reference::parse_place(text, true).map(Self)
    }

    /// What stands under a digest in it.
    pub fn at(&self, digest: &Digest) -> Reference {
        self.0.pinned(digest)
    }

    /// The registry's host as written, lower-case, with its port if one was given.
    pub fn registry(&self) -> &str {
        self.0.registry()
    }

    /// The repository inside the registry.
    pub fn repository(&self) -> &str {
        self.0.repository()
    }

    pub(super) fn reference(&self) -> &Reference {
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
        let hex = Digest::of(b"").hex();
        for (text, canonical) in [
            ("r.io/team/x", "r.io/team/x"),
            ("Localhost:5000/a", "localhost:5000/a"),
            ("[fd00::7]:5000/a", "[fd00::7]:5000/a"),
            ("team/x", "docker.io/team/x"),
            ("x", "docker.io/library/x"),
        ] {
            let repository: Repository = text.parse().expect(text);
            assert_eq!(repository.to_string(), canonical);
            let at = repository.at(&Digest::of(b""));
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
            ("https://r.io/a", "it begins with a scheme"),
            ("r.io/A", "lower-case"),
            ("r.io/{namespace}", "must be lower-case letters"),
            ("r.io/../a", "must be lower-case letters"),
        ] {
            let shown = text.parse::<Repository>().unwrap_err().to_string();
            assert!(shown.contains(words), "{text}: {shown}");
        }
    }
}
