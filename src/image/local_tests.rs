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

/// Packs a layout into a tar, with names as `tar -C DIR .` or as skopeo writes them, without the files in `without`.
fn packed(dir: &Path, prefix: &str, without: &[String]) -> tempfile::NamedTempFile {
    let mut names = vec!["index.json".to_owned()];
    for blob in fs::read_dir(dir.join("blobs/sha256")).unwrap() {
        names.push(format!("blobs/sha256/{}", blob.unwrap().file_name().to_str().unwrap()));
    }
    names.retain(|name| !without.contains(name));
    let files: Vec<_> = names
        .iter()
        .map(|name| (format!("{prefix}{name}"), fs::read(dir.join(name)).unwrap()))
        .collect();
    let files: Vec<_> = files.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
    archive(&files)
}

#[test]
fn an_archive_of_a_layout_has_the_images_of_the_layout() {
    let two = layout(|entry| vec![named(entry.clone(), "1"), named(entry, "r.io/a:2")]);
    for prefix in ["", "./"] {
        let tar = packed(two.path(), prefix, &[]);
        for tag in [":1", ":r.io/a:2"] {
            let directory = open("oci", two.path(), tag).unwrap();
            let archive = open("oci-archive", tar.path(), tag).unwrap();
            assert_eq!(archive.image(), directory.image());
            assert_eq!(read(&archive), read(&directory));
        }
        for tag in ["", ":3"] {
            let error = open("oci-archive", tar.path(), tag).unwrap_err();
            assert_eq!(error.class(), Class::NotFound);
            let text = error.to_string();
            assert!(text.contains("append a colon and one of these names: 1, r.io/a:2"), "{text}");
        }
    }
    let one = layout(|entry| vec![entry]);
    let tar = packed(one.path(), "", &[]);
    let expected = open("oci", one.path(), "").unwrap();
    assert_eq!(open("oci-archive", tar.path(), "").unwrap().image(), expected.image());
}

#[test]
fn the_contents_of_an_archive_of_a_layout_are_verified() {
    let dir = layout(|entry| vec![entry]);
    let whole = packed(dir.path(), "", &[]);
    let local = open("oci-archive", whole.path(), "").unwrap();
    let bottom = local.image().layers[0].clone();
    let name = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
    let last_read = |local: &Local| {
        local.blob(&bottom).unwrap().read_to_end(&mut Vec::new()).unwrap_err().to_string()
    };
    // A blob, the manifest and the index are missing.
    let without = packed(dir.path(), "", &[name(bottom.digest.digest())]);
    let without = open("oci-archive", without.path(), "").unwrap();
    let error = without.blob(&bottom).unwrap_err();
    assert_eq!(error.class(), Class::Corrupt);
    assert!(error.to_string().contains("it has no file blobs/sha256/"), "{error}");
    for missing in [name(&local.image().digest), "index.json".to_owned()] {
        let tar = packed(dir.path(), "", std::slice::from_ref(&missing));
        let error = open("oci-archive", tar.path(), "").unwrap_err();
        assert!(error.to_string().contains(&format!("it has no file {missing}")), "{error}");
    }
    // The file ends in the middle of the layer. The blobs have no order, so it comes last here.
    let rest = packed(dir.path(), "", &[name(bottom.digest.digest())]);
    let mut bytes = fs::read(rest.path()).unwrap();
    bytes.truncate(bytes.len() - 1024);
    let blob = fs::read(dir.path().join(name(bottom.digest.digest()))).unwrap();
    let layer = crate::changeset::archive_of(&[(&name(bottom.digest.digest()), &blob)]);
    bytes.extend_from_slice(&layer[..512 + blob.len() / 2]);
    fs::write(rest.path(), &bytes).unwrap();
    let error = match open("oci-archive", rest.path(), "") {
        Ok(local) => last_read(&local),
        Err(error) => error.to_string(),
    };
    assert!(error.contains("bytes instead of") || error.contains("cannot read"), "{error}");
    // A wrong layer, and a wrong manifest.
    let path = dir.path().join(name(bottom.digest.digest()));
    let mut flipped = fs::read(&path).unwrap();
    flipped[20] ^= 1;
    fs::write(&path, flipped).unwrap();
    let wrong = packed(dir.path(), "", &[]);
    let error = last_read(&open("oci-archive", wrong.path(), "").unwrap());
    assert!(error.contains("does not match its digest"), "{error}");
    fs::write(dir.path().join(name(&local.image().digest)), "{}").unwrap();
    let wrong = packed(dir.path(), "", &[]);
    assert_eq!(open("oci-archive", wrong.path(), "").unwrap_err().class(), Class::Corrupt);
    // No tar at all, and no file.
    fs::write(wrong.path(), "no tar".repeat(1000)).unwrap();
    open("oci-archive", wrong.path(), "").unwrap_err();
    let error = open("oci-archive", &dir.path().join("absent"), "").unwrap_err();
    assert_eq!(error.class(), Class::NotFound, "{error}");
}

#[test]
#[ignore = "needs skopeo"]
fn privileged_an_archive_that_skopeo_writes_is_read() {
    let dir = layout(|entry| vec![named(entry, "1")]);
    fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let tar = dir.path().join("image.tar");
    for name in ["2", "r.io/a:2"] {
        let to = format!("oci-archive:{}:{name}", tar.display());
        let copied = std::process::Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--quiet"])
            .args([format!("oci:{}:1", dir.path().display()), to])
            .output()
            .unwrap();
        assert!(copied.status.success(), "{copied:?}");
        let local = open("oci-archive", &tar, &format!(":{name}")).unwrap();
        let ids: Vec<_> = local.image().layers.iter().map(|layer| layer.diff_id).collect();
        assert_eq!(ids, tars().map(|tar| DiffId::of(&tar)));
        // Sizes and digests are checked.
        assert_eq!(read(&local).len(), 2);
        fs::remove_file(&tar).unwrap();
    }
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
    let tar = packed(flat.path(), "", &[]);
    assert_eq!(open("oci-archive", tar.path(), "").unwrap().image().digest, expected);

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
    for text in ["", "oci", "oci:", "oci::1", "oci:/x:", "oci-archive:", "dir:/x", "alpine:3"] {
        assert_eq!(Local::open(text).unwrap_err().class(), Class::Invalid, "{text}");
    }
    for text in [
        "oci:/x",
        "oci:/x:1",
        "oci://x",
        "docker-archive:/x",
        "docker-archive:/x:a:1",
        "oci-archive:/x",
        "oci-archive:/x:1",
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
