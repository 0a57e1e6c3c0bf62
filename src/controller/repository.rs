//! Where a class has snapshots pushed: a repository with holes for names.

use std::{fmt, str::FromStr};

use crate::image::{ReferenceError, Repository};

/// Registry and repository together (OCI distribution-spec, "Pulling manifests").
const LENGTH_MAX: usize = 255;
/// What a hole may be called.
const HOLES: [&str; 4] = ["namespace", "pod", "volume", "name"];

/// `registry/path`, with `{namespace}`, `{pod}`, `{volume}` and `{name}` in the path. Not in the registry: who may name a pod would
/// else choose where the push credentials go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template {
    registry: String,
    path: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// Which of [`HOLES`].
    Hole(usize),
}

/// What goes into the holes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names<'a> {
    pub(super) namespace: &'a str,
    pub(super) pod: &'a str,
    pub(super) volume: &'a str,
    /// The VolumeSnapshot's.
    pub(super) name: &'a str,
}

/// Why something is no repository.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RepositoryError {
    /// No registry before the first slash, or holes in it.
    #[error(
        "{0:?} does not begin with a registry: expected registry/path such as registry.example:5000/snapshots/{{namespace}}, \
         and no name in braces before the first slash"
    )]
    Registry(String),
    /// Braces that are not about a name.
    #[error(
        "{0:?} has braces that hold no name: known are {{namespace}}, {{pod}}, {{volume}} and {{name}}"
    )]
    Hole(String),
    /// Text that no node takes either, which read the same grammar.
    #[error("{template:?} cannot be used: {why}")]
    Grammar {
        /// As it is written, with its holes.
        template: String,
        /// With names in the holes.
        why: ReferenceError,
    },
    /// Too long with its names.
    #[error("{0:?} is longer than 255 characters: use fewer names in it")]
    Long(String),
}

impl FromStr for Template {
    type Err = RepositoryError;

    fn from_str(text: &str) -> Result<Self, RepositoryError> {
        let shown = || text.chars().take(300).collect();
        let (registry, path) =
            text.split_once('/').ok_or_else(|| RepositoryError::Registry(shown()))?;
        if registry.is_empty() || registry.contains(['{', '}']) {
            return Err(RepositoryError::Registry(shown()));
        }
        let template = Self {
            registry: registry.to_owned(),
            path: pieces(path).ok_or_else(|| RepositoryError::Hole(shown()))?,
        };
        // With the shortest of names: what is wrong then is wrong with any.
        let shortest = Names { namespace: "a", pod: "a", volume: "a", name: "a" };
        template.fill(shortest)?;
        Ok(template)
    }
}

impl Template {
    /// The repository for these names, in the form in which every name of one is the same.
    pub(super) fn fill(&self, names: Names<'_>) -> Result<String, RepositoryError> {
        let names = [names.namespace, names.pod, names.volume, names.name];
        let pieces = self.path.iter().map(|piece| match piece {
            Piece::Text(text) => text.as_str(),
            Piece::Hole(hole) => names[*hole],
        });
        let path: String = pieces.collect();
        let repository = format!("{}/{path}", self.registry);
        if repository.len() > LENGTH_MAX {
            return Err(RepositoryError::Long(repository));
        }
        let grammar = |why| RepositoryError::Grammar { template: self.to_string(), why };
        Repository::with_registry(&repository).map(|it| it.to_string()).map_err(grammar)
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.registry)?;
        self.path.iter().try_for_each(|piece| match piece {
            Piece::Text(text) => f.write_str(text),
            Piece::Hole(hole) => write!(f, "{{{}}}", HOLES[*hole]),
        })
    }
}

fn pieces(mut text: &str) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    while let Some((before, rest)) = text.split_once('{') {
        let (name, after) = rest.split_once('}')?;
        pieces.push(Piece::Text(before.to_owned()));
        pieces.push(Piece::Hole(HOLES.iter().position(|hole| *hole == name)?));
        text = after;
    }
    pieces.push(Piece::Text(text.to_owned()));
    let closed =
        pieces.iter().all(|piece| !matches!(piece, Piece::Text(text) if text.contains('}')));
    closed.then_some(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: Names<'_> = Names { namespace: "ci", pod: "dev-0", volume: "ws", name: "ws-1.a" };

    #[test]
    fn names_go_into_the_path() {
        for (template, repository) in [
            ("r.io/a", "r.io/a"),
            ("docker.io/a", "docker.io/library/a"),
            ("[0:0::1]:5000/a", "[::1]:5000/a"),
            ("localhost/a", "localhost/a"),
            ("kind-registry:5000/{namespace}/{pod}-{volume}", "kind-registry:5000/ci/dev-0-ws"),
            ("[::1]:5000/a/{name}", "[::1]:5000/a/ws-1.a"),
            ("10.0.0.1:5000/{pod}{pod}", "10.0.0.1:5000/dev-0dev-0"),
            ("R.io/a__b/c_d/e--f", "r.io/a__b/c_d/e--f"),
        ] {
            let parsed: Template = template.parse().unwrap_or_else(|e| panic!("{template}: {e}"));
            assert_eq!(parsed.to_string(), template);
            assert_eq!(parsed.fill(NAMES), Ok(repository.to_owned()));
        }
    }

    #[test]
    fn what_is_no_repository_is_refused_when_the_class_is_read() {
        for (template, words) in [
            ("", "registry"),
            ("a", "registry"),
            ("team/a", "does not begin with a registry"),
            ("/a", "registry"),
            ("https://r.io/a", "scheme"),
            ("r.io:0/a", "registry"),
            ("r.io:05000/a", "registry"),
            ("r.io:70000/a", "registry"),
            ("r..io/a", "registry"),
            ("127.1/a", "registry"),
            ("u@r.io/a", "a tag or a digest"),
            ("[::1/a", "registry"),
            ("{namespace}.r.io/a", "no name in braces before the first slash"),
            ("{name}/a", "no name in braces before"),
            ("r.io/{Namespace}", "known are {namespace}"),
            ("r.io/{pod", "braces"),
            ("r.io/pod}", "braces"),
            ("r.io/{}", "braces"),
            ("r.io/", "the part \"\" of the repository"),
            ("r.io/A", "lower-case"),
            ("r.io/a:tag", "a tag or a digest"),
            ("r.io/a@sha256:0", "a tag or a digest"),
            ("r.io/a//b", "the part \"\""),
            ("r.io/../b", "the part \"..\""),
            ("r.io/a..b", "the part \"a..b\""),
            ("r.io/-{pod}", "\"r.io/-{pod}\" cannot be used"),
            ("r.io/a b", "the part \"a b\""),
            (&format!("r.io/{}", "0".repeat(64)), "image id"),
            (&format!("r.io/{}", "a".repeat(256)), "longer than 255"),
        ] {
            let error = template.parse::<Template>().unwrap_err().to_string();
            assert!(error.contains(words), "{template}: {error}");
        }
    }

    #[test]
    fn names_that_make_it_too_long_are_refused() {
        let template: Template = "r.io/{pod}/{name}".parse().unwrap();
        let pod = "p".repeat(253);
        let error = template.fill(Names { pod: &pod, ..NAMES }).unwrap_err();
        assert!(matches!(error, RepositoryError::Long(_)), "{error}");
    }
}
