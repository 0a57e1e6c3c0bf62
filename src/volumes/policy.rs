//! Which images pods may have, by their namespace.
//!
//! Asked before any registry is: to name an image is to have this node open a connection to a host of the author's choice.

use std::collections::BTreeMap;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use serde::Deserialize;

use super::Reference;
use crate::error::Class;

/// Patterns for canonical references (`docker.io/library/alpine:3`): `*` and `?` match any characters, `/` too,
/// `[...]` one of several, `{a,b}` either. A namespace with a list of its own has that list and not the default.
///
/// As TOML: `default = ["*"]`, and under `namespaces` a list for each namespace that differs.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "Written")]
pub struct ImagePolicy {
    /// Not to be had, whatever the others say.
    refused: GlobSet,
    default: GlobSet,
    namespaces: BTreeMap<String, GlobSet>,
}

/// As it is written down.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default = "anything")]
    default: Vec<String>,
    #[serde(default)]
    namespaces: BTreeMap<String, Vec<String>>,
}

fn anything() -> Vec<String> {
    vec!["*".to_owned()]
}

/// Text that is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pattern:?} is not a pattern for images: {why}")]
pub struct PolicyError {
    pattern: String,
    why: String,
}

impl PolicyError {
    /// Always the fault of whoever wrote it.
    pub fn class(&self) -> Class {
        Class::Invalid
    }
}

impl ImagePolicy {
    /// The patterns of every namespace that is not in `namespaces`, and of those that are.
    pub fn new(
        default: &[String],
        namespaces: &BTreeMap<String, Vec<String>>,
    ) -> Result<Self, PolicyError> {
        let namespaces = namespaces.iter().map(|(name, list)| Ok((name.clone(), globs(list)?)));
        let (default, namespaces) = (globs(default)?, namespaces.collect::<Result<_, _>>()?);
        Ok(Self { refused: GlobSet::empty(), default, namespaces })
    }

    /// The same, but for images that no namespace may have.
    pub fn refusing(self, patterns: &[String]) -> Result<Self, PolicyError> {
        Ok(Self { refused: globs(patterns)?, ..self })
    }

    /// Whether pods of `namespace` may have the image.
    pub fn allows(&self, namespace: &str, reference: &Reference) -> bool {
        let image = reference.to_string();
        let allowed = self.namespaces.get(namespace).unwrap_or(&self.default);
        // The same place by other names, one of which a refusal may be written with.
        let mut names = vec![image.replacen(":443/", "/", 1)];
        if reference.registry() == "docker.io" {
            let of = |name: &str| image.replacen("docker.io", name, 1);
            names.extend(["index.docker.io", "registry-1.docker.io"].map(of));
        }
        let refused =
            self.refused.is_match(&image) || names.iter().any(|name| self.refused.is_match(name));
        allowed.is_match(&image) && !refused
    }
}

/// Every image for everybody.
impl Default for ImagePolicy {
    fn default() -> Self {
        // The one pattern is well formed; were it not, nothing would be allowed.
        let default = globs(&anything()).unwrap_or_else(|_| GlobSet::empty());
        Self { refused: GlobSet::empty(), default, namespaces: BTreeMap::new() }
    }
}

impl TryFrom<Written> for ImagePolicy {
    type Error = PolicyError;

    fn try_from(written: Written) -> Result<Self, PolicyError> {
        Self::new(&written.default, &written.namespaces)
    }
}

fn globs(patterns: &[String]) -> Result<GlobSet, PolicyError> {
    let refused = |pattern: &str, e: globset::Error| PolicyError {
        pattern: pattern.to_owned(),
        why: e.kind().to_string(),
    };
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let glob = GlobBuilder::new(pattern).literal_separator(false).build();
        set.add(glob.map_err(|e| refused(pattern, e))?);
    }
    set.build().map_err(|e| refused(&patterns.join(" "), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(policy: &ImagePolicy, namespace: &str, image: &str) -> bool {
        policy.allows(namespace, &image.parse().unwrap())
    }

    #[test]
    fn a_namespaces_own_list_replaces_the_default() {
        let policy: ImagePolicy = toml::from_str(
            "default = ['docker.io/library/*']\n[namespaces]\nci = ['registry.example/*', 'quay.io/a/b{:,@}*']\nnone = []",
        )
        .unwrap();
        for (namespace, image, allowed) in [
            ("default", "alpine", true),
            ("default", "registry.example/a:1", false),
            ("default", "docker.io.example/library/a", false),
            ("ci", "registry.example/deep/er/a:1", true),
            ("ci", "registry.example.evil/a:1", false),
            ("ci", "registry.example:5000/a:1", false),
            ("ci", "alpine", false),
            ("ci", "quay.io/a/b:1", true),
            ("ci", "quay.io/a/bad:1", false),
            ("none", "alpine", false),
        ] {
            assert_eq!(allows(&policy, namespace, image), allowed, "{namespace}: {image}");
        }
    }

    #[test]
    fn what_is_refused_no_list_allows() {
        let policy = ImagePolicy::default()
            .refusing(
                &["kept.svc:5000/*", "old.io/*", "registry-1.docker.io/bad/*"].map(str::to_owned),
            )
            .unwrap();
        for (image, allowed) in [
            ("kept.svc:5000/ns/pod/ws:snap-1", false),
            (
                "kept.svc:5000/a@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                false,
            ),
            ("kept.svc/a", true),
            ("old.io:443/a", false),
            ("old.io:444/a", true),
            ("bad/a", false),
            ("index.docker.io/bad/a:1", false),
            ("good/a", true),
            ("r.io/kept.svc:1", true),
        ] {
            assert_eq!(allows(&policy, "ci", image), allowed, "{image}");
        }
        assert!(ImagePolicy::default().refusing(&["a[".to_owned()]).is_err());
    }

    #[test]
    fn without_a_word_everything_is_allowed() {
        for policy in [ImagePolicy::default(), toml::from_str("").unwrap()] {
            assert!(allows(&policy, "any", "registry.example:5000/deep/a:1"));
        }
    }

    #[test]
    fn a_bad_pattern_is_named() {
        let error = ImagePolicy::new(&["a[".to_owned()], &BTreeMap::new()).unwrap_err();
        assert!(error.to_string().contains("\"a[\""), "{error}");
        assert!(toml::from_str::<ImagePolicy>("defualt = []").is_err());
    }
}
