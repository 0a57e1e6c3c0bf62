//! Where a class has snapshots pushed: a repository with holes for names.

use std::{fmt, str::FromStr};

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
    /// No registry before the first slash.
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
    /// A part that no registry takes.
    #[error(
        "{0:?} is no repository: each part between slashes is lower-case letters and digits, joined by `.`, `_`, `__` or dashes, \
         without tag or digest"
    )]
    Path(String),
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
        if !is_registry(registry) {
            return Err(RepositoryError::Registry(shown()));
        }
        let template = Self {
            registry: registry.to_owned(),
            path: pieces(path).ok_or_else(|| RepositoryError::Hole(shown()))?,
        };
        // With the shortest of names: what is wrong then is wrong with any.
        let shortest = Names { namespace: "a", pod: "a", volume: "a", name: "a" };
        template.fill(shortest).map_err(|error| match error {
            RepositoryError::Path(_) => RepositoryError::Path(shown()),
            other => other,
        })?;
        Ok(template)
    }
}

impl Template {
    /// The repository for these names.
    pub(super) fn fill(&self, names: Names<'_>) -> Result<String, RepositoryError> {
        let names = [names.namespace, names.pod, names.volume, names.name];
        let pieces = self.path.iter().map(|piece| match piece {
            Piece::Text(text) => text.as_str(),
            Piece::Hole(hole) => names[*hole],
        });
        let path: String = pieces.collect();
        let repository = format!("{}/{path}", self.registry);
        if !path.split('/').all(is_part) {
            return Err(RepositoryError::Path(repository));
        }
        match repository.len() <= LENGTH_MAX {
            true => Ok(repository),
            false => Err(RepositoryError::Long(repository)),
        }
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

/// A host that could not be a folder of a default registry, with a port if any.
fn is_registry(text: &str) -> bool {
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let (host, port, plain) = match bracketed {
        Some((host, rest)) => {
            let host_fits = !host.is_empty()
                && host.bytes().all(|b| b.is_ascii_hexdigit() || b":.".contains(&b));
            (
                host,
                if rest.is_empty() { None } else { Some(rest.strip_prefix(':').unwrap_or("-")) },
                host_fits,
            )
        }
        None => {
            let (host, port) =
                text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
            let label = |label: &str| {
                let inner = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
                inner && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
            };
            (host, port, host.split('.').all(label))
        }
    };
    let port_fits = port.is_none_or(|port| {
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    let is_host =
        bracketed.is_some() || host.contains('.') || port.is_some() || host == "localhost";
    plain && port_fits && is_host
}

/// A part of a path (distribution's reference grammar, `path-component`).
fn is_part(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut between = text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    let ends = [text.bytes().next(), text.bytes().last()];
    ends.iter().all(|end| end.is_some_and(alphanumeric))
        && between
            .all(|joint| matches!(joint, "" | "." | "_" | "__") || joint.bytes().all(|b| b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: Names<'_> = Names { namespace: "ci", pod: "dev-0", volume: "ws", name: "ws-1.a" };

    #[test]
    fn names_go_into_the_path() {
        for (template, repository) in [
            ("r.io/a", "r.io/a"),
            ("localhost/a", "localhost/a"),
            ("kind-registry:5000/{namespace}/{pod}-{volume}", "kind-registry:5000/ci/dev-0-ws"),
            ("[::1]:5000/a/{name}", "[::1]:5000/a/ws-1.a"),
            ("10.0.0.1:5000/{pod}{pod}", "10.0.0.1:5000/dev-0dev-0"),
            ("R.io/a__b/c_d/e--f", "R.io/a__b/c_d/e--f"),
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
            ("https://r.io/a", "registry"),
            ("r.io:0/a", "registry"),
            ("r.io:70000/a", "registry"),
            ("r..io/a", "registry"),
            ("u@r.io/a", "registry"),
            ("[::1/a", "registry"),
            ("{namespace}.r.io/a", "no name in braces before the first slash"),
            ("{name}/a", "no name in braces before"),
            ("r.io/{Namespace}", "known are {namespace}"),
            ("r.io/{pod", "braces"),
            ("r.io/pod}", "braces"),
            ("r.io/{}", "braces"),
            ("r.io/", "no repository"),
            ("r.io/A", "no repository"),
            ("r.io/a:tag", "no repository"),
            ("r.io/a@sha256:0", "no repository"),
            ("r.io/a//b", "no repository"),
            ("r.io/../b", "no repository"),
            ("r.io/a..b", "no repository"),
            ("r.io/-{pod}", "no repository"),
            ("r.io/a b", "no repository"),
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
