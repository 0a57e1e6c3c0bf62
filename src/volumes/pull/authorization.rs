//! The authorization to use a layer of the store without a download.
//!
//! The decision depends on who requests the layer, never on its content: a registry may claim any diff ID.
//!
//! A layer has origins: the repositories that delivered its bytes. One of them must allow the layer. An origin counts
//! only if the requester could name an image of it:
//!
//! - the image policy allows that repository to the requester's namespace, or
//! - the volume names an image of the same repository, which the policy has allowed.
//!
//! An origin to which a snapshot was pushed counts only for the namespace of that snapshot.

use std::time::Instant;

use super::{auth_cache::AuthCache, image_policy::ImagePolicy};
use crate::{
    digest::ManifestDigest,
    image::{Access, Image, Keyring},
    layers::Origin,
    reference::{Reference, Repository},
};

/// The pod that needs images.
#[derive(Debug, Clone, Copy)]
pub struct Requester<'a> {
    /// The pod's namespace.
    pub namespace: &'a str,
    /// The pod's credentials, and the node's.
    pub keyring: &'a Keyring,
}

/// The inputs of the decision for one requester.
pub(super) struct Authorization<'a> {
    pub(super) requester: Requester<'a>,
    pub(super) policy: &'a ImagePolicy,
    pub(super) auth_cache: &'a AuthCache,
    /// The images that the volume names.
    pub(super) named: &'a [Reference],
}

/// Proof that a registry has just given an image's manifest and configuration to the requester.
#[derive(Debug, Clone, Copy)]
pub(super) struct Given<'a> {
    pub(super) reference: &'a Reference,
    pub(super) access: &'a Access,
}

impl<'a> From<&'a Image> for Given<'a> {
    fn from(Image { reference, access, .. }: &'a Image) -> Self {
        Self { reference, access }
    }
}

impl Authorization<'_> {
    /// Whether the requester may use a layer with these origins: an origin that counts is public, or accepted the
    /// requester's credentials now or lately.
    pub(super) fn allow(&self, origins: &[Origin], given: &[Given<'_>]) -> bool {
        // The repositories that the volume names come first: they need neither the policy nor a parse.
        let mut others = Vec::new();
        for origin in origins {
            match self.named.iter().find(|image| is_from(image, origin)) {
                Some(image) if self.is_authorized(origin, image, given) => return true,
                Some(_) => {}
                None => others.push(origin),
            }
        }
        others.into_iter().any(|origin| {
            let repository = format!("{}/{}", origin.registry, origin.repository);
            // An origin that is not a repository: the layer was squashed on this node.
            let Ok(repository) = repository.parse::<Repository>() else { return origin.public };
            // Some image of the repository. No pattern names it by its tag, because it has none.
            let image = repository.at(&ManifestDigest::new(*origin.blob.digest()));
            self.policy.allows(self.requester.namespace, &image)
                && self.is_authorized(origin, &image, given)
        })
    }

    /// Whether an origin, from which `image` is, is for the requester's namespace, and is public or accepted the
    /// requester's credentials.
    fn is_authorized(&self, origin: &Origin, image: &Reference, given: &[Given<'_>]) -> bool {
        if origin.namespace.as_deref().is_some_and(|pushed| pushed != self.requester.namespace) {
            return false;
        }
        // A public manifest does not prove that the layer is public. Its bytes must be pulled anonymously.
        let was_given = |given: &Given<'_>| {
            is_from(given.reference, origin) && *given.access != Access::Anonymous
        };
        origin.public
            || given.iter().any(was_given)
            || self.auth_cache.accepted(
                (&origin.registry, &origin.repository),
                &self.requester.keyring.accesses(image),
                Instant::now(),
            )
    }
}

/// Whether the image is in the repository of the origin.
fn is_from(image: &Reference, origin: &Origin) -> bool {
    (image.registry(), image.repository()) == (&*origin.registry, &*origin.repository)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::*;
    use crate::{digest::BlobDigest, image::fake::keyring};

    const CHART: &str = "ovl-registry.kube-system.svc:5000";

    fn origin(registry: &str, repository: &str, public: bool, namespace: Option<&str>) -> Origin {
        let (registry, repository) = (registry.to_owned(), repository.to_owned());
        let (blob, namespace) = (BlobDigest::of(b"blob"), namespace.map(str::to_owned));
        Origin { registry, repository, blob, public, packed: None, namespace }
    }

    /// Two teams, the node's credentials for all registries, and a registry of snapshots whose images no pod may name.
    #[test]
    fn an_origin_counts_for_those_who_may_name_its_images() {
        let list = |patterns: &[&str]| patterns.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
        let namespaces = [
            ("red", list(&["r.io/red/*", "docker.io/*"])),
            ("blue", list(&["r.io/blue/*"])),
            ("pinned", list(&["r.io/red/tool:1"])),
        ];
        let namespaces = namespaces.map(|(name, list)| (name.to_owned(), list));
        let policy = ImagePolicy::new(&list(&["*"]), &BTreeMap::from(namespaces)).unwrap();
        let policy = policy.refusing(&[format!("{CHART}/*")]).unwrap();
        let login = serde_json::json!({ "username": "node", "password": "p" });
        let node = keyring(&serde_json::json!({ "r.io": login, CHART: login }));
        let auth_cache = AuthCache::new(Duration::from_secs(3600));
        let remember = |place: &str| {
            let reference: Reference = format!("{place}:1").parse().unwrap();
            auth_cache.remember(&reference, &node.accesses(&reference)[0], Instant::now());
        };
        remember("r.io/red/tool");
        remember(&format!("{CHART}/red/pod"));

        let red = [origin("r.io", "red/tool", false, None)];
        let hub = [origin("docker.io", "library/x", true, None)];
        let pushed = [origin(CHART, "red/pod", false, Some("red"))];
        let elsewhere = [origin("r.io", "red/tool", false, Some("red"))];
        let mine = "r.io/blue/x:1";
        for (origins, namespace, named, allowed) in [
            (&red, "red", "r.io/red/other:1", true),
            (&red, "blue", mine, false),
            (&red, "default", mine, true),
            (&hub, "red", "r.io/red/other:1", true),
            (&hub, "blue", mine, false),
            (&red, "pinned", "r.io/red/tool:1", true),
            (&red, "pinned", "r.io/red/other:1", false),
            (&pushed, "red", "r.io/red/other:1", false),
            (&pushed, "default", mine, false),
            (&pushed, "red", &format!("{CHART}/red/pod:snap-1"), true),
            (&pushed, "blue", &format!("{CHART}/red/pod:snap-1"), false),
            (&elsewhere, "red", "r.io/red/other:1", true),
            (&elsewhere, "default", mine, false),
        ] {
            let named = [named.parse().unwrap()];
            let requester = Requester { namespace, keyring: &node };
            let authorization = Authorization {
                requester,
                policy: &policy,
                auth_cache: &auth_cache,
                named: &named,
            };
            assert_eq!(
                authorization.allow(origins, &[]),
                allowed,
                "{namespace}, {named:?}: {origins:?}"
            );
        }
    }

    #[test]
    fn a_private_layer_needs_a_credential_that_was_just_accepted() {
        let (policy, keyring) = (ImagePolicy::default(), Keyring::default());
        let auth_cache = AuthCache::new(Duration::ZERO);
        let named = ["r.io/a:1".parse().unwrap()];
        let requester = Requester { namespace: "n", keyring: &keyring };
        let authorization =
            Authorization { requester, policy: &policy, auth_cache: &auth_cache, named: &named };
        let (private, other) = ([origin("r.io", "a", false, None)], "r.io/b:1".parse().unwrap());
        let credential = Access::Credential([1; 32]);
        for (reference, access, allowed) in [
            (&named[0], &credential, true),
            (&named[0], &Access::Anonymous, false),
            (&other, &credential, false),
        ] {
            let given = [Given { reference, access }];
            assert_eq!(authorization.allow(&private, &given), allowed, "{reference} {access:?}");
        }
        assert!(!authorization.allow(&[], &[]));
    }
}
