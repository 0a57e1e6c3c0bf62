//! Manifests: one row a rule.

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
fn a_manifest_is_one_kind_beyond_doubt() {
    let index = json!({ "schemaVersion": 2, "manifests": [] });
    for (document, content_type, words) in [
        (image(), OCI_MANIFEST, ""),
        (image(), "Application/vnd.oci.image.manifest.v1+json; charset=utf-8", ""),
        (without(image(), "mediaType"), OCI_MANIFEST, ""),
        (without(image(), "mediaType"), DOCKER_MANIFEST, ""),
        (index.clone(), OCI_INDEX, ""),
        (index.clone(), DOCKER_LIST, ""),
        (image(), "application/json", "Content-Type is not that of an image"),
        (image(), "", "Content-Type is not that of an image"),
        (image(), DOCKER_MANIFEST, "mediaType is not its Content-Type"),
        (image(), OCI_INDEX, "mediaType is not its Content-Type"),
        (without(image(), "mediaType"), OCI_INDEX, "an index has manifests"),
        (index.clone(), OCI_MANIFEST, "a manifest has config and layers"),
        (with(image(), "manifests", json!([])), OCI_MANIFEST, "both layers and manifests"),
        (with(index.clone(), "layers", json!([])), OCI_INDEX, "both layers and manifests"),
        (
            with(index, "config", descriptor(OCI_CONFIG, b"")),
            OCI_INDEX,
            "neither config nor layers",
        ),
        (without(image(), "config"), OCI_MANIFEST, "a manifest has config and layers"),
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
fn a_key_said_twice_is_refused() {
    let text = image().to_string().replacen('{', r#"{"layers": [], "#, 1);
    assert!(matches!(parse(text.as_bytes(), OCI_MANIFEST), Err(Problem::Malformed { .. })));
}

#[test]
fn layers_that_cannot_be_taken_are_refused_before_anything_is_fetched() {
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
fn an_artifact_and_a_huge_config_are_refused_before_anything_is_fetched() {
    let config = |media_type: &str, size| Descriptor {
        media_type: media_type.to_owned(),
        digest: Digest::of(b""),
        size,
    };
    assert_eq!(check(&config(DOCKER_CONFIG, CONFIG_MAX), &[]), Ok(()));
    assert!(matches!(
        check(&config(DOCKER_CONFIG, CONFIG_MAX + 1), &[]),
        Err(Problem::TooLarge { .. })
    ));
    let artifact = check(&config("application/vnd.oci.empty.v1+json", 2), &[]);
    assert!(matches!(artifact, Err(Problem::Unsupported(_))));
}

#[test]
fn every_layer_has_its_diff_id() {
    let layer = |media_type: &str, of: &[u8]| Descriptor {
        media_type: media_type.to_owned(),
        digest: Digest::of(of),
        size: 5,
    };
    let gzip = layer("application/vnd.oci.image.layer.v1.tar+gzip", b"gz");
    let plain = layer("application/vnd.oci.image.layer.v1.tar", b"tar");
    let config = |ids: &[&[u8]]| {
        let ids: Vec<_> = ids.iter().map(|id| Digest::of(id)).collect();
        json!({ "rootfs": { "type": "layers", "diff_ids": ids } }).to_string().into_bytes()
    };
    let both = [gzip, plain];
    let joined = layers(&both, &config(&[b"inner", b"tar"])).unwrap();
    let kinds: Vec<_> = joined.iter().map(|l| (l.compression, l.diff_id)).collect();
    let expected =
        [(Compression::Gzip, Digest::of(b"inner")), (Compression::None, Digest::of(b"tar"))];
    assert_eq!(kinds, expected, "bottom first, as in the manifest");

    for (config, words) in [
        (config(&[b"inner"]), "1 diff ids for the manifest's 2 layers"),
        (config(&[b"a", b"tar", b"c"]), "3 diff ids for the manifest's 2 layers"),
        (config(&[b"inner", b"other"]), "another diff id than its digest"),
        (b"{}".to_vec(), "not valid at line 1"),
        (br#"{"rootfs":{"diff_ids":["../x"]}}"#.to_vec(), "not valid at line 1"),
    ] {
        let error = layers(&both, &config).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn a_media_type_says_what_a_layer_looks_like_and_what_is_around_it() {
    let native = "application/vnd.ovl-csi.layer.v1.native.tar";
    let oci = "application/vnd.oci.image.layer.v1.tar";
    for (base, format) in [(native, Format::Native), (oci, Format::Portable)] {
        for (suffix, compression) in
            [("", Compression::None), ("+gzip", Compression::Gzip), ("+zstd", Compression::Zstd)]
        {
            let (digest, media_type) = (Digest::of(b"x"), format!("{base}{suffix}"));
            let layer = Descriptor { media_type: media_type.clone(), digest, size: 1 };
            let config = json!({ "rootfs": { "diff_ids": [digest] } }).to_string().into_bytes();
            let found = &layers(&[layer], &config).unwrap()[0];
            let said = (found.format, found.compression, &found.media_type);
            assert_eq!(said, (format, compression, &media_type));
        }
    }
}

#[test]
fn the_entry_for_this_machine_is_chosen() {
    let entry = |os: &str, digest: &str| {
        let architecture = Machine::this().name().split('/').nth(1).unwrap().to_owned();
        json!({ "mediaType": OCI_MANIFEST, "digest": digest, "size": 7,
                "platform": { "os": os, "architecture": architecture } })
    };
    let entries = |list: Value| serde_json::from_value::<Vec<Entry>>(list).unwrap();
    let (first, second) = (Digest::of(b"1").to_string(), Digest::of(b"2").to_string());

    let list = entries(json!([
        entry("windows", "sha512:00"),
        entry("linux", &first),
        entry("linux", &second),
    ]));
    assert_eq!(choose(&list, Machine::this()).unwrap().digest, Digest::of(b"1"));

    let list =
        entries(json!([entry("windows", &first), { "mediaType": "x", "digest": "y", "size": 1 }]));
    let error = choose(&list, Machine::this()).unwrap_err().to_string();
    assert!(error.contains("it has no image for linux/") && error.contains("windows/"), "{error}");

    let list = entries(json!([entry("linux", "sha512:00")]));
    assert!(matches!(choose(&list, Machine::this()), Err(Problem::Malformed { .. })));

    let nested = with(entry("linux", &first), "mediaType", json!(OCI_INDEX));
    let nested = choose(&entries(json!([nested])), Machine::this());
    assert!(matches!(nested, Err(Problem::Unsupported(_))), "{nested:?}");
}
