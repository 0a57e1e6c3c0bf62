//! The pull policy of an image.

use serde::{Deserialize, Serialize};

use super::Reference;

/// When an image is resolved at its registry. Names and meaning are the kubelet's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullPolicy {
    /// The reference is resolved at the registry for every new volume. Layers in the store are not fetched again.
    Always,
    /// The registry is used only if the image is not in the store.
    IfNotPresent,
    /// The registry is never used.
    Never,
}

impl PullPolicy {
    /// The kubelet's default: `Always` for the tag `latest` or no tag, otherwise `IfNotPresent`.
    pub fn default_for(reference: &Reference) -> Self {
        match (reference.digest(), reference.tag()) {
            (None, Some("latest") | None) => Self::Always,
            _ => Self::IfNotPresent,
        }
    }

    /// The policy for one image of a volume with the attribute `set`, if it is set. The content of a digest cannot
    /// change, so a digest in the store needs no request.
    pub fn for_image(reference: &Reference, set: Option<Self>) -> Self {
        match set.unwrap_or_else(|| Self::default_for(reference)) {
            Self::Always if reference.digest().is_some() => Self::IfNotPresent,
            policy => policy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policy_defaults_to_what_the_kubelet_does() {
        let digest = format!("a/b:latest@{}", crate::digest::Digest::of(b""));
        for (reference, policy) in [
            ("a/b", PullPolicy::Always),
            ("a/b:latest", PullPolicy::Always),
            ("a/b:1", PullPolicy::IfNotPresent),
            (digest.as_str(), PullPolicy::IfNotPresent),
        ] {
            let reference: Reference = reference.parse().unwrap();
            assert_eq!(PullPolicy::default_for(&reference), policy, "{reference}");
        }
    }
}
