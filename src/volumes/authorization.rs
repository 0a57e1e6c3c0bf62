//! Whether a layer that is here may be given without its bytes being brought. Who asks decides, and never what the layer holds: a
//! registry may claim any diff id.
//!
//! A layer is given by one of its origins, the places that delivered its bytes. An origin counts only where the asker could name
//! an image of it: the policy of images lets its namespace, or the volume names an image of that very place, which the policy has
//! let. One that a snapshot was pushed to counts for the namespace of that snapshot alone.

use std::time::Instant;

use super::{ImagePolicy, Keyring, Reference, auth_cache::AuthCache};
use crate::{
    image::{Access, Image, Repository},
    layers::Origin,
};

/// Who asks for images.
#[derive(Debug, Clone, Copy)]
pub(super) struct Requester<'a> {
    /// The pod's.
    pub(super) namespace: &'a str,
    /// The pod's credentials, and the node's.
    pub(super) keyring: &'a Keyring,
}

/// What decides for one asker.
pub(super) struct Authorization<'a> {
    pub(super) asker: Requester<'a>,
    pub(super) policy: &'a ImagePolicy,
    pub(super) grants: &'a AuthCache,
    /// The images that the volume names.
    pub(super) named: &'a [Reference],
}

/// That a registry has just given an image's documents to the asker.
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
    /// Whether a layer with these origins may be given: one that counts gave it to anybody, or accepted the asker's credentials
    /// now or not long ago.
    pub(super) fn allow(&self, origins: &[Origin], given: &[Given<'_>]) -> bool {
        origins.iter().any(|origin| {
            // What is no reference came from a file of the node's owner.
            let Ok(place) = place(origin) else { return origin.public };
            self.counts(origin, &place) && (origin.public || self.accepted(origin, &place, given))
        })
    }

    fn counts(&self, origin: &Origin, place: &Repository) -> bool {
        let namespace = self.asker.namespace;
        if origin.namespace.as_deref().is_some_and(|pushed| pushed != namespace) {
            return false;
        }
        self.named.iter().any(|image| Repository::of(image) == *place)
            || self.policy.allows(namespace, &place.at(&origin.blob))
    }

    fn accepted(&self, origin: &Origin, place: &Repository, given: &[Given<'_>]) -> bool {
        // A manifest that anybody can read says nothing of the layer: its bytes have to come as to anybody.
        let now = |given: &Given<'_>| {
            Repository::of(given.reference) == *place && *given.access != Access::Anonymous
        };
        let accesses = self.asker.keyring.accesses(&place.at(&origin.blob));
        let place = (origin.registry.as_str(), origin.repository.as_str());
        given.iter().any(now) || self.grants.accepted(place, &accesses, Instant::now())
    }
}

fn place(origin: &Origin) -> Result<Repository, crate::image::ReferenceError> {
    format!("{}/{}", origin.registry, origin.repository).parse()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::*;
    use crate::{digest::Digest, image::fake::keyring};

    const CHART: &str = "ovl-registry.kube-system.svc:5000";

    fn origin(registry: &str, repository: &str, public: bool, namespace: Option<&str>) -> Origin {
        let (registry, repository) = (registry.to_owned(), repository.to_owned());
        let (blob, namespace) = (Digest::of(b"blob"), namespace.map(str::to_owned));
        Origin { registry, repository, blob, public, packed: None, namespace }
    }

    /// Two teams, the node's credentials for everything, and a registry of snapshots that is for no pod.
    #[test]
    fn an_origin_counts_for_whoever_may_name_it() {
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
        let grants = AuthCache::new(Duration::from_secs(3600));
        let remember = |place: &str| {
            let reference: Reference = format!("{place}:1").parse().unwrap();
            grants.remember(&reference, &node.accesses(&reference)[0], Instant::now());
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
            let asker = Requester { namespace, keyring: &node };
            let rights = Authorization { asker, policy: &policy, grants: &grants, named: &named };
            assert_eq!(rights.allow(origins, &[]), allowed, "{namespace}, {named:?}: {origins:?}");
        }
    }

    #[test]
    fn only_a_credential_that_was_just_accepted_gives_what_is_private() {
        let (policy, keyring) = (ImagePolicy::default(), Keyring::default());
        let grants = AuthCache::new(Duration::ZERO);
        let named = ["r.io/a:1".parse().unwrap()];
        let asker = Requester { namespace: "n", keyring: &keyring };
        let rights = Authorization { asker, policy: &policy, grants: &grants, named: &named };
        let (private, other) = ([origin("r.io", "a", false, None)], "r.io/b:1".parse().unwrap());
        let credential = Access::Credential([1; 32]);
        for (reference, access, allowed) in [
            (&named[0], &credential, true),
            (&named[0], &Access::Anonymous, false),
            (&other, &credential, false),
        ] {
            let given = [Given { reference, access }];
            assert_eq!(rights.allow(&private, &given), allowed, "{reference} {access:?}");
        }
        assert!(!rights.allow(&[], &[]));
    }
}
