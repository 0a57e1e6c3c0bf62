//! Tests of images in local files: selection, checks, and that a pod cannot name them.

use std::{fs, path::Path};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::{
    digest::{DiffId, Digest},
    error::Class,
    image::{
        Reference,
        fake::{OCI_INDEX, OCI_MANIFEST, descriptor, gzipped},
        platform::HostPlatform,
    },
    media_type::Compression,
};

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

fn tars() -> [Vec<u8>; 2] {
    [b"bottom".repeat(1000), Vec::new()]
}

fn config() -> Vec<u8> {
    let ids: Vec<_> = tars().iter().map(|tar| DiffId::of(tar)).collect();
    json!({ "rootfs": { "diff_ids": ids } }).to_string().into_bytes()
}

fn put(directory: &Path, bytes: &[u8]) {
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(Digest::of(bytes).hex()), bytes).unwrap();
}

/// An OCI layout whose index has these entries, each made from the manifest's descriptor.
fn layout(entries: impl FnOnce(Value) -> Vec<Value>) -> TempDir {
    let dir = TempDir::new().unwrap();
    let [bottom, top] = tars();
    let (bottom, config) = (gzipped(&bottom), config());
    let gzip = "application/vnd.oci.image.layer.v1.tar+gzip";
    let layers = [descriptor(gzip, &bottom), descriptor(&gzip[..gzip.len() - 5], &top)];
    let manifest = json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": layers,
        "config": descriptor(CONFIG, &config) });
    let manifest = manifest.to_string().into_bytes();
    for blob in [&bottom, &top, &config, &manifest] {
        put(dir.path(), blob);
    }
    let index =
        json!({ "schemaVersion": 2, "manifests": entries(descriptor(OCI_MANIFEST, &manifest)) });
    fs::write(dir.path().join("index.json"), index.to_string()).unwrap();
    dir
}

fn named(mut entry: Value, name: &str) -> Value {
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
    entry
}

fn open(kind: &str, path: &Path, name: &str) -> Result<Local, LocalError> {
    Local::open(&format!("{kind}:{}{name}", path.display()))
}

/// Reads every layer.
fn read(local: &Local) -> Vec<Vec<u8>> {
    let read = |layer| {
        let mut bytes = Vec::new();
        local.blob(layer).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    };
    local.image().layers.iter().map(read).collect()
}

#[test]
fn an_image_of_a_layout_is_selected_by_tag_or_as_the_only_one() {
    let [bottom, top] = tars();
    let one = layout(|entry| vec![named(entry, "r.io/a:1")]);
    let local = open("oci", one.path(), "").unwrap();
    assert_eq!(read(&local), [gzipped(&bottom), top.clone()]);
    let image = local.image();
    assert_eq!(image.names, ["r.io/a:1".parse().unwrap()]);
    let kinds: Vec<_> = image.layers.iter().map(|l| (l.compression, l.diff_id)).collect();
    let ids = [DiffId::of(&bottom), DiffId::of(&top)];
    assert_eq!(kinds, [(Compression::Gzip, ids[0]), (Compression::None, ids[1])]);

    let two = layout(|entry| vec![named(entry.clone(), "1"), named(entry, "2")]);
    let local = open("oci", two.path(), ":2").unwrap();
    assert_eq!((local.image().names.len(), &local.image().layers), (0, &image.layers));
    for name in ["", ":3"] {
        let error = open("oci", two.path(), name).unwrap_err();
        assert_eq!(error.class(), Class::NotFound);
        assert!(
            error.to_string().contains("append a colon and one of these names: 1, 2"),
            "{error}"
        );
    }
}

#[test]
fn a_layout_for_several_platforms_yields_the_image_for_this_host() {
    let ours = HostPlatform::this().name();
    let architecture = ours.split('/').nth(1).unwrap().to_owned();
    let entries = move |entry: Value| {
        let mut other = entry.clone();
        other["platform"] = json!({ "os": "linux", "architecture": "made-up" });
        other["digest"] = json!(Digest::of(b"other"));
        let mut entry = entry;
        entry["platform"] = json!({ "os": "linux", "architecture": architecture });
        vec![other, entry]
    };
    let flat = layout(entries.clone());
    let expected = open("oci", flat.path(), "").unwrap().image().digest;

    let nested = layout(|entry| {
        assert_eq!(entry["digest"], json!(expected));
        vec![entry]
    });
    let index = fs::read(flat.path().join("index.json")).unwrap();
    put(nested.path(), &index);
    let outer = json!({ "schemaVersion": 2, "manifests": [descriptor(OCI_INDEX, &index)] });
    fs::write(nested.path().join("index.json"), outer.to_string()).unwrap();
    assert_eq!(open("oci", nested.path(), "").unwrap().image().digest, expected);
}

#[test]
fn the_contents_of_a_layout_are_verified() {
    let dir = layout(|entry| vec![entry]);
    let local = open("oci", dir.path(), "").unwrap();
    let layer = &local.image().layers[0];
    let path = dir.path().join("blobs/sha256").join(layer.digest.digest().hex());
    let right = fs::read(&path).unwrap();
    let mut flipped = right.clone();
    flipped[20] ^= 1;
    let longer = [&right[..], b"x"].concat();
    for (bytes, words) in [
        (&flipped[..], "does not match its digest"),
        (&right[..9], "has 9 bytes instead of"),
        (&longer, "bytes instead of"),
    ] {
        fs::write(&path, bytes).unwrap();
        let error = local.blob(layer).unwrap().read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().contains(words), "{error}");
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(local.blob(layer).unwrap_err().class(), Class::NotFound);

    let manifest = dir.path().join("blobs/sha256").join(local.image().digest.hex());
    fs::write(manifest, "{}").unwrap();
    let error = open("oci", dir.path(), "").unwrap_err();
    assert_eq!(error.class(), Class::Corrupt, "{error}");
    let error = open("oci", &dir.path().join("absent"), "").unwrap_err();
    assert_eq!(error.class(), Class::NotFound, "{error}");
}

/// An archive of `docker save` with these files.
fn archive(files: &[(&str, &[u8])]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), crate::changeset::archive_of(files)).unwrap();
    file
}

#[test]
fn an_image_of_a_docker_archive_is_selected_by_any_of_its_names() {
    let [bottom, top] = tars();
    let (gzip, config) = (gzipped(&bottom), config());
    let manifest = json!([
        { "Config": "c.json", "RepoTags": ["a:1", "r.io/b:2"], "Layers": ["x/layer.tar", "y/layer.tar"] },
        { "Config": "absent", "RepoTags": null, "Layers": [] },
    ]);
    let manifest = manifest.to_string();
    for layer in [&bottom, &gzip] {
        let file = archive(&[
            ("x/layer.tar", layer),
            ("y/layer.tar", &top),
            ("c.json", &config),
            ("manifest.json", manifest.as_bytes()),
        ]);
        for name in [":a:1", ":1", ":docker.io/library/a:1", ":r.io/b:2"] {
            let local = open("docker-archive", file.path(), name).unwrap();
            assert_eq!(read(&local), [layer.clone(), top.clone()], "{name}");
            let image = local.image();
            assert_eq!(image.digest, Digest::of(&config));
            assert_eq!(image.names, ["a:1".parse().unwrap(), "r.io/b:2".parse().unwrap()]);
            assert_eq!(image.layers[0].diff_id, DiffId::of(&bottom));
        }
        for name in ["", ":3"] {
            let error = open("docker-archive", file.path(), name).unwrap_err();
            assert!(error.to_string().contains("one of these names: a:1, r.io/b:2"), "{error}");
        }
    }
}

#[test]
fn a_wrong_or_missing_layer_of_a_docker_archive_is_an_error() {
    let config = config();
    let manifest = json!([{ "Config": "c", "Layers": ["x", "y"] }]).to_string();
    let rest: [(&str, &[u8]); 3] =
        [("c", &config), ("manifest.json", manifest.as_bytes()), ("x", b"other")];
    let local = archive(&[&rest[..], &[("y", b"")]].concat());
    let local = open("docker-archive", local.path(), "").unwrap();
    let layer = &local.image().layers[0];
    let error = local.blob(layer).unwrap().read_to_end(&mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("does not match its digest"), "{error}");

    let without = archive(&rest);
    let error = open("docker-archive", without.path(), "").unwrap_err();
    assert!(
        error.to_string().contains("a file that its manifest.json names is missing"),
        "{error}"
    );
    let none = archive(&[]);
    assert_eq!(open("docker-archive", none.path(), "").unwrap_err().class(), Class::Corrupt);
}

#[test]
fn other_formats_are_rejected_and_a_pod_cannot_name_a_file() {
    for text in ["", "oci", "oci:", "oci::1", "oci:/x:", "dir:/x", "alpine:3"] {
        assert_eq!(Local::open(text).unwrap_err().class(), Class::Invalid, "{text}");
    }
    for text in [
        "oci:/x",
        "oci:/x:1",
        "oci://x",
        "docker-archive:/x",
        "docker-archive:/x:a:1",
        "oci:/x@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    ] {
        if let Ok(reference) = text.parse::<Reference>() {
            panic!("{text} became {reference}");
        }
    }
    let hub: Reference = "oci:x".parse().unwrap();
    assert_eq!(
        hub.to_string(),
        "docker.io/library/oci:x",
        "an image with the name oci and the tag x"
    );
}
