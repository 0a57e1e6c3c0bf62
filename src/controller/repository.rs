//! Where a class has snapshots pushed: a repository with holes for names.

use std::{fmt, str::FromStr};

use crate::{
    digest::Digest,
    image::{ReferenceError, Repository},
};

/// Registry and repository together (OCI distribution-spec, "Pulling manifests").
const LENGTH_MAX: usize = 255;
/// A name that is longer is shortened where the whole would be too long.
const NAME_MAX: usize = 40;
/// So much of it is then digits of its sum, so that no two names become one.
const SUM: usize = 12;
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

/// A template with names in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filled {
    pub(super) repository: String,
    /// With all of each name it would have been longer than any registry takes.
    pub(super) shortened: bool,
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
    /// The repository for these names, in the form in which every name of one is the same. Where it would be longer than 255
    /// characters, each name of more than 40 is its first 27 at most, a dash, and the first 12 digits of its SHA-256.
    pub(super) fn fill(&self, names: Names<'_>) -> Result<Filled, RepositoryError> {
        let names = [names.namespace, names.pod, names.volume, names.name];
        match self.put(names) {
            Err(RepositoryError::Long(_)) => {
                let short = names.map(short);
                let repository = self.put(short.each_ref().map(String::as_str))?;
                Ok(Filled { repository, shortened: true })
            }
            whole => Ok(Filled { repository: whole?, shortened: false }),
        }
    }

    fn put(&self, names: [&str; HOLES.len()]) -> Result<String, RepositoryError> {
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

fn short(name: &str) -> String {
    if name.len() <= NAME_MAX {
        return name.to_owned();
    }
    let begin: String = name.chars().take(NAME_MAX - SUM - 1).collect();
    let begin = begin.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
    format!("{begin}-{}", &Digest::of(name.as_bytes()).hex()[..SUM])
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
            let repository = repository.to_owned();
            assert_eq!(parsed.fill(NAMES), Ok(Filled { repository, shortened: false }));
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
    fn the_longest_pod_names_have_a_repository_and_each_its_own() {
        let template: Template = "r.io/{namespace}/{pod}/{name}".parse().unwrap();
        let fill = |pod: &str, name: &str| template.fill(Names { pod, name, ..NAMES }).unwrap();
        // What fits is as it was.
        let most = "p".repeat(255 - "r.io/ci//ws-1.a".len());
        assert!(!fill(&most, "ws-1.a").shortened);
        let [long, other] = ["p", "q"].map(|last| format!("{}{last}", "p".repeat(252)));
        let filled = fill(&long, "ws-1.a");
        let sum = &Digest::of(long.as_bytes()).hex()[..12];
        let repository = format!("r.io/ci/{}-{sum}/ws-1.a", "p".repeat(27));
        assert_eq!(filled, Filled { repository, shortened: true });
        assert_ne!(fill(&other, "ws-1.a"), filled);
        let dotted = format!("{}.a{}", "p".repeat(26), "p".repeat(220));
        assert!(
            fill(&dotted, "ws-1.a").repository.starts_with(&format!("r.io/ci/{}-", "p".repeat(26)))
        );
        // What is no name cannot be shortened.
        let fixed: Template = format!("r.io/{}/{{pod}}", "a".repeat(240)).parse().unwrap();
        let error = fixed.fill(Names { pod: &long, ..NAMES }).unwrap_err();
        assert!(matches!(error, RepositoryError::Long(_)), "{error}");
    }
}
