//! An image index as an OCI archive: a tar of an image layout (image-layout.md of the OCI image specification).
//!
//! ```text
//! oci-layout
//! index.json ─► blobs/sha256/<the index> ─► <manifest of amd64> ─► <config>, <layer>
//!                                        └► <manifest of arm64> ─► <config>, <layer>
//! ```
//!
//! Deliberately absent: several layers. The driver's image has one.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::files::Files;
use super::image::{CONFIG, INDEX, LAYER, MANIFEST, digest, gunzip, gzip};

/// The annotation of `index.json` with the tag.
const TAG: &str = "org.opencontainers.image.ref.name";

/// What the images of all platforms have in common.
pub struct Common {
    /// The tag under which the archive names its index.
    pub tag: String,
    /// When the sources were committed, in seconds since 1970: the time of the files.
    pub time: u64,
    /// The same in the form of RFC 3339.
    pub created: String,
    /// What made the layer, for the history.
    pub created_by: String,
    /// The part `config` of an image's config: entry point, environment, labels.
    pub config: Value,
    /// Annotations of the index and of each manifest.
    pub annotations: BTreeMap<String, String>,
}

/// An index as an archive.
pub struct Archive {
    /// The bytes of the archive.
    pub tar: Vec<u8>,
    /// The digest of the index, by which a registry has it.
    pub digest: String,
}

/// Packs an index of images for Linux. Each image is given by its architecture, as OCI names it, and its files.
///
/// # Errors
/// A tar cannot hold a path.
pub fn archive(common: &Common, images: &[(&str, Files)]) -> Result<Archive> {
    let mut blobs = Files::default();
    let mut add = |kind: &str, bytes: Vec<u8>| {
        let (digest, size) = (digest(&bytes), bytes.len());
        let path = format!("blobs/{}", digest.replace(':', "/"));
        blobs = std::mem::take(&mut blobs).with(&path, bytes);
        json!({ "mediaType": kind, "digest": digest, "size": size })
    };
    let mut manifests = Vec::new();
    for (architecture, files) in images {
        let tar = files.tar(common.time)?;
        let diff_id = digest(&tar);
        let layer = add(LAYER, gzip(&tar)?);
        let config = add(CONFIG, config(common, architecture, &diff_id).to_string().into());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer],
            "annotations": common.annotations,
        });
        let mut entry = add(MANIFEST, manifest.to_string().into());
        entry["platform"] = json!({ "os": "linux", "architecture": architecture });
        manifests.push(entry);
    }
    let index = json!({
        "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests,
        "annotations": common.annotations,
    });
    let mut entry = add(INDEX, index.to_string().into());
    let digest = entry["digest"].as_str().context("a descriptor without a digest")?.to_owned();
    entry["annotations"] = json!({ TAG: common.tag });
    let top = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] });
    let files = blobs
        .with("oci-layout", json!({ "imageLayoutVersion": "1.0.0" }).to_string())
        .with("index.json", top.to_string());
    Ok(Archive { tar: files.tar(common.time)?, digest })
}

fn config(common: &Common, architecture: &str, diff_id: &str) -> Value {
    json!({
        "created": common.created,
        "architecture": architecture,
        "os": "linux",
        "config": common.config,
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        "history": [{ "created": common.created, "created_by": common.created_by }],
    })
}

/// Checks each blob of an archive against its digest. Returns the files of each image by its architecture.
///
/// # Errors
/// It is no archive of an index, or a blob is missing or damaged.
pub fn read(tar: &[u8]) -> Result<BTreeMap<String, Files>> {
    let files = Files::from_tar(tar)?;
    let layout = files.get("oci-layout")?;
    ensure!(parse(&layout.bytes)?["imageLayoutVersion"] == "1.0.0", "no image layout 1.0.0");
    let blob = |descriptor: &Value| -> Result<Vec<u8>> {
        let name = descriptor["digest"].as_str().context("a descriptor without a digest")?;
        let bytes = &files.get(&format!("blobs/{}", name.replace(':', "/")))?.bytes;
        ensure!(digest(bytes) == name, "the blob {name} is damaged");
        ensure!(descriptor["size"] == bytes.len(), "the blob {name} has another size");
        Ok(bytes.clone())
    };
    let top = parse(&files.get("index.json")?.bytes)?;
    let index = parse(&blob(&top["manifests"][0])?)?;
    let entries = index["manifests"].as_array().context("an index without manifests")?;
    let mut images = BTreeMap::new();
    for entry in entries {
        let architecture = entry["platform"]["architecture"].as_str().context("no platform")?;
        let manifest = parse(&blob(entry)?)?;
        let config = parse(&blob(&manifest["config"])?)?;
        ensure!(config["architecture"] == architecture, "the config of {architecture} has another");
        let layer = gunzip(&blob(&manifest["layers"][0])?)?;
        let diff_id = &config["rootfs"]["diff_ids"][0];
        ensure!(*diff_id == digest(&layer), "the layer of {architecture} is not {diff_id}");
        images.insert(architecture.to_owned(), Files::from_tar(&layer)?);
    }
    Ok(images)
}

fn parse(bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes).context("parsing JSON of an image")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn common() -> Common {
        Common {
            tag: "0.1.0".to_owned(),
            time: 7,
            created: "1970-01-01T00:00:07Z".to_owned(),
            created_by: "a test".to_owned(),
            config: json!({ "Entrypoint": ["/usr/bin/ovl"] }),
            annotations: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        }
    }

    fn images() -> [(&'static str, Files); 2] {
        ["amd64", "arm64"].map(|name| (name, Files::default().with_program("usr/bin/ovl", name)))
    }

    #[test]
    fn an_archive_has_both_platforms_and_the_same_bytes_each_time() -> Result<()> {
        let one = archive(&common(), &images())?;
        assert_eq!(archive(&common(), &images())?.tar, one.tar);
        let read = read(&one.tar)?;
        assert_eq!(read.keys().collect::<Vec<_>>(), ["amd64", "arm64"]);
        assert_eq!(read["arm64"].get("usr/bin/ovl")?.bytes, b"arm64");
        assert_eq!(read["arm64"].get("usr/bin/ovl")?.mode, 0o755);
        Ok(())
    }

    #[test]
    fn the_top_names_the_tag_and_the_digest_of_the_index() -> Result<()> {
        let one = archive(&common(), &images())?;
        let files = Files::from_tar(&one.tar)?;
        let top = parse(&files.get("index.json")?.bytes)?;
        assert_eq!(top["manifests"][0]["annotations"][TAG], "0.1.0");
        assert_eq!(top["manifests"][0]["digest"], one.digest.as_str());
        let index = files.get(&format!("blobs/{}", one.digest.replace(':', "/")))?;
        assert_eq!(parse(&index.bytes)?["annotations"]["a"], "b");
        Ok(())
    }

    #[test]
    fn a_damaged_blob_is_found() -> Result<()> {
        let one = archive(&common(), &images())?;
        let files = Files::from_tar(&one.tar)?;
        for (path, file) in files.iter().filter(|(path, _)| path.starts_with("blobs/")) {
            let mut bytes = file.bytes.clone();
            bytes[0] ^= 1;
            let damaged = files.clone().with(path, bytes).tar(7)?;
            assert!(read(&damaged).is_err(), "{path}");
        }
        Ok(())
    }
}
