//! The image policy: which images the pods of a namespace may use.
//!
//! It is checked before any request to a registry. An image name makes this node open a connection to a host that the
//! pod's author chooses.

use std::collections::{BTreeMap, BTreeSet};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use serde::Deserialize;

use crate::{
    error::Class,
    reference::Reference,
    registry_name::{self, DOCKER_HUB, DOCKER_HUB_ALIASES},
};

/// Patterns for canonical references (`docker.io/library/alpine:3`): `*` and `?` match any characters, `/` too,
/// `[...]` one of several, `{a,b}` either. A namespace with a list of its own has that list and not the default.
///
/// As TOML: `default = ["*"]`, and under `namespaces` a list for each namespace that differs.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "Written")]
pub struct ImagePolicy {
    /// Images that no namespace may use. This list wins over the others.
    refused: GlobSet,
    default: GlobSet,
    namespaces: BTreeMap<String, GlobSet>,
    registries: BTreeSet<String>,
}

/// The policy as TOML.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default = "every_image")]
    default: Vec<String>,
    #[serde(default)]
    namespaces: BTreeMap<String, Vec<String>>,
}

fn every_image() -> Vec<String> {
    vec!["*".to_owned()]
}

/// A text that is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pattern:?} is not a pattern for images: {why}; correct it in the image policy")]
pub struct PolicyError {
    pattern: String,
    why: String,
}

impl PolicyError {
    /// The class of the error: always the author's fault.
    pub fn class(&self) -> Class {
        Class::Invalid
    }
}

impl ImagePolicy {
    /// A policy with the patterns of each namespace in `namespaces`, and `default` for all others.
    ///
    /// # Errors
    /// A text is not a pattern.
    pub fn new(
        default: &[String],
        namespaces: &BTreeMap<String, Vec<String>>,
    ) -> Result<Self, PolicyError> {
        let every = namespaces.values().flatten().chain(default);
        let registries = every.filter_map(|pattern| registry_of(pattern)).collect();
        let namespaces = namespaces.iter().map(|(name, list)| Ok((name.clone(), globs(list)?)));
        let (default, namespaces) = (globs(default)?, namespaces.collect::<Result<_, _>>()?);
        Ok(Self { refused: GlobSet::empty(), default, namespaces, registries })
    }

    /// The registries (`host[:port]`) that the allowed patterns of all namespaces name without wildcards.
    pub fn registries(&self) -> impl Iterator<Item = &str> {
        self.registries.iter().map(String::as_str)
    }

    /// The same policy, which in addition refuses images that match `patterns` to every namespace.
    ///
    /// # Errors
    /// A text is not a pattern.
    pub fn refusing(self, patterns: &[String]) -> Result<Self, PolicyError> {
        Ok(Self { refused: globs(patterns)?, ..self })
    }

    /// Whether pods of `namespace` may use the image.
    pub fn allows(&self, namespace: &str, reference: &Reference) -> bool {
        let image = reference.to_string();
        let allowed = self.namespaces.get(namespace).unwrap_or(&self.default);
        // Other names of the same registry, which a refusing pattern may contain.
        let mut names = vec![image.replacen(":443/", "/", 1)];
        if reference.registry() == DOCKER_HUB {
            names.extend(DOCKER_HUB_ALIASES.map(|alias| image.replacen(DOCKER_HUB, alias, 1)));
        }
        let refused =
            self.refused.is_match(&image) || names.iter().any(|name| self.refused.is_match(name));
        allowed.is_match(&image) && !refused
    }
}

/// Every image is allowed to every namespace.
impl Default for ImagePolicy {
    fn default() -> Self {
        // The pattern is well formed. If it were not, nothing would be allowed.
        let default = globs(&every_image()).unwrap_or_else(|_| GlobSet::empty());
        let (namespaces, registries) = (BTreeMap::new(), BTreeSet::new());
        Self { refused: GlobSet::empty(), default, namespaces, registries }
    }
}

impl TryFrom<Written> for ImagePolicy {
    type Error = PolicyError;

    fn try_from(written: Written) -> Result<Self, PolicyError> {
        Self::new(&written.default, &written.namespaces)
    }
}

/// The registry of a pattern; `None` where a wildcard or an escape is in it.
fn registry_of(pattern: &str) -> Option<String> {
    let (registry, _) = pattern.split_once('/')?;
    if registry.contains(['*', '?', '[', '{', '}', '\\', ',']) {
        return None;
    }
    registry_name::canonical(registry)
}

fn globs(patterns: &[String]) -> Result<GlobSet, PolicyError> {
    let invalid = |pattern: &str, e: globset::Error| PolicyError {
        pattern: pattern.to_owned(),
        why: e.kind().to_string(),
    };
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let glob = GlobBuilder::new(pattern).literal_separator(false).build();
        set.add(glob.map_err(|e| invalid(pattern, e))?);
    }
    set.build().map_err(|e| invalid(&patterns.join(" "), e))
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
    fn a_refused_image_is_allowed_by_no_list() {
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
    fn an_empty_policy_allows_every_image() {
        for policy in [ImagePolicy::default(), toml::from_str("").unwrap()] {
            assert!(allows(&policy, "any", "registry.example:5000/deep/a:1"));
        }
    }

    #[test]
    fn a_registry_is_named_only_without_wildcards() {
        let policy: ImagePolicy = toml::from_str(
            "default = ['*', '*/x', '*.a.io/*', '{b.io,c.io}/*', 'd?.io/*', 'e[ab].io/*', 'F.io/x', 'docker.io/library/*']\n\
             [namespaces]\nci = ['g.io:5000/{x,y}', 'plain', 'library/x']",
        )
        .unwrap();
        let named: Vec<_> = policy.registries().collect();
        assert_eq!(named, ["docker.io", "f.io", "g.io:5000"]);
        assert_eq!(ImagePolicy::default().registries().count(), 0);
    }

    #[test]
    fn the_error_names_a_bad_pattern() {
        let error = ImagePolicy::new(&["a[".to_owned()], &BTreeMap::new()).unwrap_err();
        assert!(error.to_string().contains("\"a[\""), "{error}");
        assert!(toml::from_str::<ImagePolicy>("defualt = []").is_err());
    }
}
