//! The repository of a class: a template with placeholders for names, and the repository that it becomes.

use std::{fmt, str::FromStr};

use crate::{
    digest::Digest,
    reference::{NAME_MAX, ReferenceError, Repository},
};

/// A name that is longer than this is shortened if the whole would be too long.
const LONG_NAME: usize = 40;
/// The number of hash digits at the end of a shortened name, so that different names stay different.
const SUM: usize = 12;
/// The names of the placeholders.
const PLACEHOLDERS: [&str; 4] = ["namespace", "pod", "volume", "name"];

/// `registry/path`, with `{namespace}`, `{pod}`, `{volume}` and `{name}` in the path. The registry may have no
/// placeholder: otherwise a user who names a pod would choose where the push credentials are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template {
    registry: String,
    path: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// An index into [`PLACEHOLDERS`].
    Placeholder(usize),
}

/// The values of the placeholders.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names<'a> {
    pub(super) namespace: &'a str,
    pub(super) pod: &'a str,
    pub(super) volume: &'a str,
    /// The name of the VolumeSnapshot.
    pub(super) name: &'a str,
}

/// The repository that a template becomes with names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filled {
    pub(super) repository: String,
    /// Whether names were shortened, because the repository with the whole names is longer than registries accept.
    pub(super) shortened: bool,
}

/// A reason for which a template is no valid repository.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RepositoryError {
    /// There is no registry before the first slash, or it has placeholders.
    #[error(
        "{0:?} does not start with a registry: expected registry/path such as \
         registry.example:5000/snapshots/{{namespace}}, and no placeholder before the first slash"
    )]
    Registry(String),
    /// Braces that are no known placeholder.
    #[error(
        "{0:?} has braces without a known placeholder: known are {{namespace}}, {{pod}}, {{volume}} and {{name}}"
    )]
    Placeholder(String),
    /// A repository that nodes would refuse too: they use the same grammar.
    #[error("{template:?} cannot be used: {why}")]
    Grammar {
        /// The template, with its placeholders.
        template: String,
        /// The error of the repository with names.
        why: ReferenceError,
    },
    /// The repository is too long with names.
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
            path: pieces(path).ok_or_else(|| RepositoryError::Placeholder(shown()))?,
        };
        // The shortest names: an error with these is an error with any names.
        let shortest = Names { namespace: "a", pod: "a", volume: "a", name: "a" };
        template.fill(shortest)?;
        Ok(template)
    }
}

impl Template {
    /// The repository for these names, in its normal form. If it would be longer than 255 characters, each name of more
    /// than 40 characters becomes at most its first 27 characters, a dash, and the first 12 digits of its SHA-256.
    pub(super) fn fill(&self, names: Names<'_>) -> Result<Filled, RepositoryError> {
        let names = [names.namespace, names.pod, names.volume, names.name];
        match self.substitute(names) {
            Err(RepositoryError::Long(_)) => {
                let short = names.map(short);
                let repository = self.substitute(short.each_ref().map(String::as_str))?;
                Ok(Filled { repository, shortened: true })
            }
            whole => Ok(Filled { repository: whole?, shortened: false }),
        }
    }

    fn substitute(&self, names: [&str; PLACEHOLDERS.len()]) -> Result<String, RepositoryError> {
        let pieces = self.path.iter().map(|piece| match piece {
            Piece::Text(text) => text.as_str(),
            Piece::Placeholder(index) => names[*index],
        });
        let path: String = pieces.collect();
        let repository = format!("{}/{path}", self.registry);
        if repository.len() > NAME_MAX {
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
            Piece::Placeholder(index) => write!(f, "{{{}}}", PLACEHOLDERS[*index]),
        })
    }
}

fn short(name: &str) -> String {
    if name.len() <= LONG_NAME {
        return name.to_owned();
    }
    let start: String = name.chars().take(LONG_NAME - SUM - 1).collect();
    let start = start.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
    format!("{start}-{}", &Digest::of(name.as_bytes()).hex()[..SUM])
}

fn pieces(mut text: &str) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    while let Some((before, rest)) = text.split_once('{') {
        let (name, after) = rest.split_once('}')?;
        pieces.push(Piece::Text(before.to_owned()));
        pieces.push(Piece::Placeholder(PLACEHOLDERS.iter().position(|known| *known == name)?));
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
    fn names_replace_the_placeholders_of_the_path() {
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
    fn an_invalid_repository_is_refused_when_the_class_is_read() {
        for (template, message) in [
            ("", "registry"),
            ("a", "registry"),
            ("team/a", "does not start with a registry"),
            ("/a", "registry"),
            ("https://r.io/a", "scheme"),
            ("r.io:0/a", "registry"),
            ("r.io:05000/a", "registry"),
            ("r.io:70000/a", "registry"),
            ("r..io/a", "registry"),
            ("127.1/a", "registry"),
            ("u@r.io/a", "a tag or a digest"),
            ("[::1/a", "registry"),
            ("{namespace}.r.io/a", "no placeholder before the first slash"),
            ("{name}/a", "no placeholder before"),
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
            assert!(error.contains(message), "{template}: {error}");
        }
    }

    #[test]
    fn long_names_are_shortened_and_stay_different() {
        let template: Template = "r.io/{namespace}/{pod}/{name}".parse().unwrap();
        let fill = |pod: &str, name: &str| template.fill(Names { pod, name, ..NAMES }).unwrap();
        // A repository that is short enough keeps the whole names.
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
        // The fixed text of the template cannot be shortened.
        let fixed: Template = format!("r.io/{}/{{pod}}", "a".repeat(240)).parse().unwrap();
        let error = fixed.fill(Names { pod: &long, ..NAMES }).unwrap_err();
        assert!(matches!(error, RepositoryError::Long(_)), "{error}");
    }
}
