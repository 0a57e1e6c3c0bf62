//! Tests of native layers. They keep overlay's own marks, so they differ from the portable layers of the same tars.

use std::time::Duration;

use serde_json::json;

use super::{tests::Node, *};
use crate::{
    digest::{BlobDigest, DiffId},
    image::{
        Keyring, LayerBlob,
        fake::{FakeRegistry, OCI_MANIFEST, descriptor},
    },
    layers::{ChainId, LayerKey, Place, testing::new_layer},
    media_type::{Compression, Format},
};

const PORTABLE: &str = "application/vnd.oci.image.layer.v1.tar";
const NATIVE: &str = "application/vnd.ovl-csi.layer.v1.native.tar";

/// A tar of a renamed directory (redirect) and of a file whose content is in a lower layer (metacopy). With
/// `links_out` it also has a hard link to a file of a lower layer.
fn marked(links_out: bool) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_entry_type(tar::EntryType::Directory);
    let redirect = [("SCHILY.xattr.trusted.overlay.redirect", b"/old".as_slice())];
    tar.append_pax_extensions(redirect).unwrap();
    tar.append_data(&mut header, "new", &[][..]).unwrap();
    header.set_entry_type(tar::EntryType::Regular);
    let metacopy = [("SCHILY.xattr.trusted.overlay.metacopy", b"".as_slice())];
    tar.append_pax_extensions(metacopy).unwrap();
    tar.append_data(&mut header, "file", &[][..]).unwrap();
    if links_out {
        header.set_entry_type(tar::EntryType::Link);
        tar.append_link(&mut header, "name", "below").unwrap();
    }
    tar.into_inner().unwrap()
}

/// Pushes an image of these tars, each with its media type.
fn push(registry: &FakeRegistry, repository: &str, layers: &[(&str, Vec<u8>)]) -> Reference {
    let diff_ids: Vec<_> = layers.iter().map(|(_, tar)| DiffId::of(tar)).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = config.to_string().into_bytes();
    let blobs: Vec<_> = layers.iter().map(|(kind, tar)| descriptor(kind, tar)).collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": blobs,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
    });
    registry.put_blob(config);
    for (_, tar) in layers {
        registry.put_blob(tar.clone());
    }
    registry.put_manifest(repository, "1", &manifest.to_string(), OCI_MANIFEST);
    registry.reference(repository, "1")
}

fn node(registry: &FakeRegistry) -> Node {
    Node::new(registry.registries(), Duration::from_secs(3600))
}

/// docs/hazards.md, 13: the marks count only in layers of the driver's own media type, and neither form replaces the
/// other.
#[tokio::test(flavor = "multi_thread")]
async fn one_tar_is_a_native_and_a_portable_layer() {
    let registry = FakeRegistry::start().await;
    let (tar, base) = (marked(false), super::tests::layer("base"));
    let native = push(&registry, "native", &[(PORTABLE, base.clone()), (NATIVE, tar.clone())]);
    let portable =
        push(&registry, "portable", &[(PORTABLE, base.clone()), (PORTABLE, tar.clone())]);
    let key = |tar: &[u8], format| new_layer(tar, format).key_alone();
    let (base, native_key) = (key(&base, Format::Portable), key(&tar, Format::Native));
    for order in [[&native, &portable], [&portable, &native]] {
        let node = node(&registry);
        for image in order {
            let key = if image == &native { native_key } else { key(&tar, Format::Portable) };
            for policy in [PullPolicy::Always, PullPolicy::Never] {
                let pulled = node.pull(image, policy, &Keyring::default()).await.unwrap();
                assert_eq!(pulled.stack, [base, key], "{image}");
            }
            let lower = node.store().layers.lower(&key).unwrap();
            let (metacopy, redirect) = (lower.features.metacopy, lower.features.redirect);
            assert_eq!((metacopy, redirect), (image == &native, image == &native), "{image}");
            assert!(!lower.is_snapshot && node.store().layers.fits(&key, Place::Any), "{image}");
        }
        let packed = node.store().origins.of(&native_key)[0].packed.clone().unwrap();
        assert_eq!((packed.media_type.as_str(), packed.size), (NATIVE, tar.len() as u64));
        assert_eq!(packed.diff_id, DiffId::of(&tar));
    }
}

/// The key of a layer that depends on lower layers is derived from the keys of these, not from the digests of their
/// tars.
#[test]
fn a_layer_on_a_native_layer_has_another_key_than_on_its_portable_form() {
    let (below, above) = (DiffId::of(b"below"), DiffId::of(b"above"));
    let blob = |diff_id: DiffId, format| LayerBlob {
        digest: BlobDigest::new(*diff_id.digest()),
        size: 1,
        media_type: PORTABLE.to_owned(),
        compression: Compression::None,
        format,
        diff_id,
    };
    let chain =
        |format| chains(&[blob(below, format), blob(above, Format::Portable)]).collect::<Vec<_>>();
    let above = LayerKey::alone(&above, Format::Portable);
    for format in [Format::Portable, Format::Native] {
        let below = LayerKey::alone(&below, format);
        let both = ChainId::new(Some(&ChainId::new(None, &below)), &above);
        assert_eq!(chain(format), [below, LayerKey::of_chain(&both)]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_native_layer_with_a_link_to_a_lower_layer_is_refused() {
    let registry = FakeRegistry::start().await;
    let below = super::tests::layer("below");
    let image = push(&registry, "native", &[(PORTABLE, below), (NATIVE, marked(true))]);
    let error = node(&registry).pull(&image, PullPolicy::Always, &Keyring::default()).await;
    let error = error.unwrap_err();
    assert!(matches!(error, PullError::Add { .. }), "{error}");
    assert!(error.to_string().contains("name"), "{error}");
}
