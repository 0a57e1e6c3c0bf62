//! Tests of manifest parsing: one row per rule.

use serde_json::{Value, json};

use super::*;

fn descriptor(media_type: &str, of: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": Digest::of(of), "size": of.len() })
}

fn image() -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, b"config"),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", b"layer")],
    })
}

fn with(mut document: Value, key: &str, value: Value) -> Value {
    document[key] = value;
    document
}

fn without(mut document: Value, key: &str) -> Value {
    document.as_object_mut().unwrap().remove(key);
    document
}

fn read(document: &Value, content_type: &str) -> Result<Manifest, Problem> {
    parse(document.to_string().as_bytes(), content_type)
}

#[test]
fn an_ambiguous_or_unsupported_manifest_is_rejected() {
    let index = json!({ "schemaVersion": 2, "manifests": [] });
    for (document, content_type, words) in [
        (image(), OCI_MANIFEST, ""),
        (image(), "Application/vnd.oci.image.manifest.v1+json; charset=utf-8", ""),
        (without(image(), "mediaType"), OCI_MANIFEST, ""),
        (without(image(), "mediaType"), DOCKER_MANIFEST, ""),
        (index.clone(), OCI_INDEX, ""),
        (index.clone(), DOCKER_INDEX, ""),
        (image(), "application/json", "Content-Type is not that of an image"),
        (image(), "", "Content-Type is not that of an image"),
        (image(), DOCKER_MANIFEST, "mediaType differs from its Content-Type"),
        (image(), OCI_INDEX, "mediaType differs from its Content-Type"),
        (without(image(), "mediaType"), OCI_INDEX, "an index must have manifests"),
        (index.clone(), OCI_MANIFEST, "a manifest must have config and layers"),
        (with(image(), "manifests", json!([])), OCI_MANIFEST, "both layers and manifests"),
        (with(index.clone(), "layers", json!([])), OCI_INDEX, "both layers and manifests"),
        (
            with(index.clone(), "config", descriptor(OCI_CONFIG, b"")),
            OCI_INDEX,
            "neither config nor layers",
        ),
        (without(image(), "layers"), OCI_MANIFEST, ""),
        (with(image(), "layers", json!(null)), OCI_MANIFEST, ""),
        (with(image(), "layers", json!([])), OCI_MANIFEST, ""),
        (with(index.clone(), "manifests", json!([{ "size": -1 }, 7])), OCI_INDEX, ""),
        (without(image(), "config"), OCI_MANIFEST, "a manifest must have config and layers"),
        (with(image(), "schemaVersion", json!(3)), OCI_MANIFEST, "schemaVersion is not 2"),
        (with(image(), "schemaVersion", json!(1)), OCI_MANIFEST, "schema 1"),
        (with(image(), "fsLayers", json!([])), OCI_MANIFEST, "schema 1"),
        (image(), "application/vnd.docker.distribution.manifest.v1+prettyjws", "schema 1"),
        (with(image(), "layers", json!([{ "size": -1 }])), OCI_MANIFEST, "not valid at line 1"),
        (json!("<html>secret"), OCI_MANIFEST, "not valid at line 1"),
    ] {
        let shown = read(&document, content_type).err().map_or(String::new(), |e| e.to_string());
        assert_eq!(shown.is_empty(), words.is_empty(), "{content_type} {document}: {shown}");
        assert!(shown.contains(words), "{content_type} {document}: {shown}");
        assert!(!shown.contains("secret"), "{shown}");
    }
}

#[test]
fn a_manifest_with_a_duplicate_key_is_rejected() {
    let text = image().to_string().replacen('{', r#"{"layers": [], "#, 1);
    assert!(matches!(parse(text.as_bytes(), OCI_MANIFEST), Err(Problem::Malformed { .. })));
}

#[test]
fn unsupported_layers_are_rejected_before_anything_is_fetched() {
    let oci = "application/vnd.oci.image.layer";
    let docker = "application/vnd.docker.image.rootfs";
    for (media_type, words) in [
        (format!("{oci}.v1.tar"), ""),
        (format!("{oci}.v1.tar+gzip"), ""),
        (format!("{docker}.diff.tar.gzip"), ""),
        (format!("{oci}.v1.tar+zstd"), ""),
        (format!("{docker}.diff.tar"), ""),
        (format!("{docker}.diff.tar.zstd"), ""),
        (format!("{oci}.nondistributable.v1.tar"), ""),
        (format!("{oci}.nondistributable.v1.tar+gzip"), ""),
        (format!("{oci}.nondistributable.v1.tar+zstd"), ""),
        (format!("{docker}.foreign.diff.tar.gzip"), ""),
        ("application/vnd.ovl-csi.layer.v1.native.tar".to_owned(), ""),
        (
            "application/vnd.ovl-csi.layer.v1.native.tar+lzma".to_owned(),
            "not a tar of a file system",
        ),
        (format!("{oci}.v1.tar+lzma"), "not a tar of a file system"),
        (
            "application/vnd.cncf.helm.chart.content.v1.tar+gzip".to_owned(),
            "not a tar of a file system",
        ),
    ] {
        let document = with(image(), "layers", json!([descriptor(&media_type, b"x")]));
        let Ok(Manifest::Image { config, layers }) = read(&document, OCI_MANIFEST) else {
            panic!("{media_type}")
        };
        let shown = check(&config, &layers).err().map_or(String::new(), |e| e.to_string());
        assert!(shown.contains(words), "{media_type}: {shown}");
        assert_eq!(shown.is_empty(), words.is_empty(), "{media_type}: {shown}");
    }
}

#[test]
fn an_artifact_and_a_huge_config_are_rejected_before_anything_is_fetched() {
    let config = |media_type: &str, size| Descriptor {
        media_type: media_type.to_owned(),
        digest: Digest::of(b""),
        size,
        diff_id: None,
    };
    assert_eq!(check(&config(DOCKER_CONFIG, CONFIG_MAX), &[]), Ok(()));
    assert!(matches!(
        check(&config(DOCKER_CONFIG, CONFIG_MAX + 1), &[]),
        Err(Problem::TooLarge { .. })
    ));
    // Media types that tools use for images that only carry files.
    for media_type in ["application/vnd.oci.empty.v1+json", "application/octet-stream", ""] {
        assert_eq!(check(&config(media_type, 2), &[]), Ok(()), "{media_type}");
    }
    let artifact = check(&config("application/vnd.cncf.helm.config.v1+json", 2), &[]);
    assert!(matches!(artifact, Err(Problem::Unsupported(_))));
}

#[test]
fn every_layer_gets_its_diff_id() {
    let layer = |media_type: &str, of: &[u8]| Descriptor {
        media_type: media_type.to_owned(),
        digest: Digest::of(of),
        size: 5,
        diff_id: None,
    };
    let gzip = layer("application/vnd.oci.image.layer.v1.tar+gzip", b"gz");
    let plain = layer("application/vnd.oci.image.layer.v1.tar", b"tar");
    let ids = |ids: &[&[u8]]| Some(ids.iter().map(|id| DiffId::of(id)).collect::<Vec<_>>());
    let both = [gzip.clone(), plain.clone()];
    let kinds = |layers: Vec<LayerBlob>| -> Vec<_> {
        layers.iter().map(|l| (l.compression, l.diff_id)).collect()
    };
    let joined = layers(&both, ids(&[b"inner", b"tar"])).unwrap();
    let expected =
        [(Compression::Gzip, DiffId::of(b"inner")), (Compression::None, DiffId::of(b"tar"))];
    assert_eq!(kinds(joined), expected, "bottom first, as in the manifest");
    let named = Descriptor { diff_id: Some(DiffId::of(b"inner")), ..gzip };
    let none: [Descriptor; 0] = [];
    for silent in [None, Some(Vec::new())] {
        let joined = layers(&[named.clone(), plain.clone()], silent.clone()).unwrap();
        assert_eq!(
            kinds(joined),
            expected,
            "the digest of a plain tar is its diff ID; ORAS annotates the others"
        );
        assert_eq!(layers(&none, silent), Ok(Vec::new()), "an image without layers");
    }

    for (config, words) in [
        (ids(&[b"inner"]), "1 diff IDs for the manifest's 2 layers"),
        (ids(&[b"a", b"tar", b"c"]), "3 diff IDs for the manifest's 2 layers"),
        (None, "rootfs.diff_ids is empty"),
        (ids(&[]), "rootfs.diff_ids is empty"),
    ] {
        let error = layers(&both, config).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    assert!(layers(&none, ids(&[b"a"])).unwrap_err().to_string().contains("1 diff IDs"));
}

#[test]
fn a_media_type_determines_format_and_compression() {
    let native = "application/vnd.ovl-csi.layer.v1.native.tar";
    let oci = "application/vnd.oci.image.layer.v1.tar";
    for (base, format) in [(native, Format::Native), (oci, Format::Portable)] {
        for (suffix, compression) in
            [("", Compression::None), ("+gzip", Compression::Gzip), ("+zstd", Compression::Zstd)]
        {
            let (digest, media_type) = (Digest::of(b"x"), format!("{base}{suffix}"));
            let layer =
                Descriptor { media_type: media_type.clone(), digest, size: 1, diff_id: None };
            let found = &layers(&[layer], Some(vec![DiffId::of(b"x")])).unwrap()[0];
            let kind = (found.format, found.compression, &found.media_type);
            assert_eq!(kind, (format, compression, &media_type));
        }
    }
}

#[test]
fn the_entry_for_this_host_is_chosen() {
    let entry = |os: &str, digest: &str| {
        let architecture = HostPlatform::this().name().split('/').nth(1).unwrap().to_owned();
        json!({ "mediaType": OCI_MANIFEST, "digest": digest, "size": 7,
                "platform": { "os": os, "architecture": architecture } })
    };
    let entries = |list: Value| serde_json::from_value::<Vec<Entry>>(list).unwrap();
    let (first, second) = (Digest::of(b"1").to_string(), Digest::of(b"2").to_string());

    let choose = |list: &[Entry]| {
        let mut found = candidates(list, HostPlatform::this())?;
        Ok::<_, Problem>((found.len(), found.swap_remove(0).descriptor.digest))
    };

    let list = entries(json!([
        entry("windows", "sha384:00"),
        entry("linux", &first),
        entry("linux", &second),
    ]));
    assert_eq!(choose(&list).unwrap(), (1, Digest::of(b"1")));

    let list =
        entries(json!([entry("windows", &first), { "mediaType": "x", "digest": "y", "size": 1 }]));
    let error = choose(&list).unwrap_err().to_string();
    let words = "the image does not exist for linux/";
    assert!(error.contains(words) && error.contains("windows/"), "{error}");

    let list = entries(json!([entry("linux", "sha384:00")]));
    let error = choose(&list).unwrap_err().to_string();
    assert!(error.contains("a digest in it is neither sha256 nor sha512"), "{error}");

    let nested = with(entry("linux", &first), "mediaType", json!(OCI_INDEX));
    assert_eq!(choose(&entries(json!([nested]))).unwrap().1, Digest::of(b"1"));

    // Buildpacks and jib write entries without a platform; the image's config names it.
    let without_platform =
        |digest: &str| json!({ "mediaType": OCI_MANIFEST, "digest": digest, "size": 7 });
    let list = entries(json!([
        entry("windows", &second),
        without_platform(&first),
        without_platform(&second),
    ]));
    assert_eq!(choose(&list).unwrap(), (2, Digest::of(b"1")));
    let list = entries(json!([without_platform(&second), entry("linux", &first)]));
    assert_eq!(choose(&list).unwrap(), (1, Digest::of(b"1")), "an entry with the platform wins");
}

/// Entries as tools write them, some outside of the specification.
#[test]
fn an_invalid_entry_does_not_invalidate_its_index() {
    let ours = HostPlatform::this().name().split('/').nth(1).unwrap().to_owned();
    let spelled = if ours == "amd64" { "x86_64" } else { &ours };
    let good = json!({ "mediaType": OCI_MANIFEST, "digest": Digest::of(b"1"), "size": 7,
        "annotations": null,
        "platform": { "os": "Linux", "architecture": spelled, "variant": null, "os.features": null } });
    for odd in [
        json!(7),
        json!({ "mediaType": 1, "digest": "x", "size": 1 }),
        json!({ "mediaType": "x", "digest": "x", "size": -1 }),
        json!({ "mediaType": "x", "digest": "x", "size": 1, "platform": { "os": 3 } }),
        json!({ "mediaType": "x", "digest": "x", "size": 1, "annotations": { "a": 1 } }),
    ] {
        let index = json!({ "schemaVersion": 2, "manifests": [odd, good] });
        let Ok(Manifest::Index(entries)) = read(&index, OCI_INDEX) else { panic!("{index}") };
        let found = candidates(&entries, HostPlatform::this()).unwrap();
        assert_eq!(found[0].descriptor.digest, Digest::of(b"1"), "{index}");
    }
}
