//! Small images, built file by file and pushed in milliseconds. A case defines exactly what is in
//! its layers.
//!
//! Deliberately absent: a builder with steps. The engine builds images that need a shell.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::http;

/// The media type of a manifest (OCI image specification).
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// As [`MANIFEST`], of an index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// As [`MANIFEST`], of a config.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// As [`MANIFEST`], of a layer.
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Writes the policy with which podman and buildah accept unsigned images.
///
/// # Errors
/// It cannot be written.
pub fn any_signature(dir: &Path) -> Result<PathBuf> {
    let policy = dir.join("policy.json");
    std::fs::write(&policy, "{\"default\":[{\"type\":\"insecureAcceptAnything\"}]}")
        .with_context(|| format!("writing {}", policy.display()))?;
    Ok(policy)
}

/// A layer in progress. Entries are in the order in which they were added.
pub struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    /// A layer without entries.
    pub fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    /// Adds a file of root that every user may read.
    ///
    /// # Errors
    /// A tar cannot hold the path, as for all entries.
    pub fn file(self, path: &str, bytes: impl AsRef<[u8]>) -> Result<Self> {
        self.entry(path, tar::EntryType::Regular, 0o644, bytes.as_ref())
    }

    /// Adds a directory of root.
    ///
    /// # Errors
    /// As [`Layer::file`].
    pub fn dir(self, path: &str) -> Result<Self> {
        self.entry(path, tar::EntryType::Directory, 0o755, &[])
    }

    /// Adds a file of that many incompressible bytes. Another seed gives other bytes.
    ///
    /// # Errors
    /// As [`Layer::file`].
    pub fn noise(self, path: &str, length: usize, seed: &str) -> Result<Self> {
        self.file(path, noise(length, seed))
    }

    fn entry(mut self, path: &str, kind: tar::EntryType, mode: u32, bytes: &[u8]) -> Result<Self> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(bytes.len() as u64);
        header.set_mtime(1_700_000_000);
        let added = self.0.append_data(&mut header, path, bytes);
        added.with_context(|| format!("putting {path} into a layer"))?;
        Ok(self)
    }
}

fn noise(length: usize, seed: &str) -> Vec<u8> {
    let blocks = (0..length.div_ceil(32) as u64).map(|number| {
        let mut hash = Sha256::new_with_prefix(seed.as_bytes());
        hash.update(number.to_le_bytes());
        hash.finalize()
    });
    let mut bytes: Vec<u8> = blocks.flatten().collect();
    bytes.truncate(length);
    bytes
}

/// Pushes an image of these layers, bottom first, as `repository:tag`, and replaces an existing
/// one. Returns the digests of its blobs, in the order of the layers.
///
/// # Errors
/// The registry refused a part of it.
pub fn push(to: SocketAddr, name: &str, layers: Vec<Layer>) -> Result<Vec<String>> {
    let (repository, tag) = name.split_once(':').context("an image's name needs a tag")?;
    let (mut diff_ids, mut blobs) = (Vec::new(), Vec::new());
    for layer in layers {
        let tar = layer.0.into_inner().context("ending a layer")?;
        diff_ids.push(digest(&tar));
        blobs.push(blob(to, repository, LAYER, &compress(&tar, Compression::fast())?)?);
    }
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = blob(to, repository, CONFIG, config.to_string().as_bytes())?;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": blobs,
    });
    let path = format!("/v2/{repository}/manifests/{tag}");
    let put = http::send(
        to,
        "PUT",
        &path,
        &[("Content-Type", MANIFEST)],
        manifest.to_string().as_bytes(),
    )?;
    ensure!(put.status == 201, "the registry returns {} for the manifest of {name}", put.status);
    let digest = |blob: &Value| blob["digest"].as_str().map(str::to_owned);
    Ok(blobs.iter().filter_map(digest).collect())
}

/// Pushes an index, `repository:tag`, of the image with the tag `of`.
///
/// # Errors
/// There is no such image, or the registry refused the index.
pub fn index(to: SocketAddr, name: &str, of: &str) -> Result<()> {
    let (repository, tag) = name.split_once(':').context("an index's name needs a tag")?;
    let manifest = manifest(to, repository, of)?;
    let entry = json!({
        "mediaType": MANIFEST, "digest": digest(&manifest), "size": manifest.len(),
        "platform": { "os": "linux", "architecture": architecture() },
    });
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] }).to_string();
    let path = format!("/v2/{repository}/manifests/{tag}");
    let put = http::send(to, "PUT", &path, &[("Content-Type", INDEX)], index.as_bytes())?;
    ensure!(put.status == 201, "the registry returns {} for the index {name}", put.status);
    Ok(())
}

/// The digest of the image with this tag.
///
/// # Errors
/// There is no such image.
pub fn digest_of(to: SocketAddr, repository: &str, tag: &str) -> Result<String> {
    Ok(digest(&manifest(to, repository, tag)?))
}

fn manifest(to: SocketAddr, repository: &str, tag: &str) -> Result<Vec<u8>> {
    let path = format!("/v2/{repository}/manifests/{tag}");
    let manifest = http::send(to, "GET", &path, &[("Accept", MANIFEST)], &[])?;
    ensure!(manifest.status == 200, "the registry returns {} for {path}", manifest.status);
    manifest.bytes()
}

/// Pushes one blob. Returns its descriptor.
fn blob(to: SocketAddr, repository: &str, kind: &str, bytes: &[u8]) -> Result<Value> {
    let begun = http::send(to, "POST", &format!("/v2/{repository}/blobs/uploads/"), &[], &[])?;
    let place = begun.head.field("location").context("an upload without a location")?;
    // The registry uses the host name of the request.
    let path = place.split_once(&format!("//{to}")).map_or(place, |(_, path)| path);
    let digest = digest(bytes);
    let join = if path.contains('?') { '&' } else { '?' };
    let path = format!("{path}{join}digest={digest}");
    let kind_of_body = [("Content-Type", "application/octet-stream")];
    let put = http::send(to, "PUT", &path, &kind_of_body, bytes)?;
    ensure!(put.status == 201, "the registry returns {} for a blob of {repository}", put.status);
    Ok(json!({ "mediaType": kind, "digest": digest, "size": bytes.len() }))
}

/// Compresses a layer well. The same bytes give the same result: the header has neither a name nor a time.
///
/// # Errors
/// None that memory does not cause.
pub fn gzip(tar: &[u8]) -> Result<Vec<u8>> {
    compress(tar, Compression::best())
}

/// Decompresses a layer, or another file that [`gzip`] made.
///
/// # Errors
/// It is not compressed like this, or damaged.
pub fn gunzip(zipped: &[u8]) -> Result<Vec<u8>> {
    let mut tar = Vec::new();
    GzDecoder::new(zipped).read_to_end(&mut tar).context("decompressing a layer")?;
    Ok(tar)
}

fn compress(tar: &[u8], level: Compression) -> Result<Vec<u8>> {
    let mut zipped = GzEncoder::new(Vec::new(), level);
    let zipped = zipped.write_all(tar).and_then(|()| zipped.finish());
    zipped.context("compressing a layer")
}

/// The digest of bytes, as OCI writes it.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// The architecture of this machine, as images name it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_has_its_length_and_follows_its_seed() {
        assert_eq!(noise(100, "a").len(), 100);
        assert_ne!(noise(64, "a"), noise(64, "b"));
        assert_eq!(noise(64, "a")[..40], noise(40, "a")[..]);
    }

    #[test]
    fn a_layer_is_a_tar_of_its_entries() -> Result<()> {
        let layer = Layer::new().dir("d")?.file("d/.wh.gone", "")?.file("d/f", "text")?;
        let tar = layer.0.into_inner()?;
        let mut archive = tar::Archive::new(tar.as_slice());
        let paths: Vec<_> = archive
            .entries()?
            .map(|entry| Ok(entry?.path()?.display().to_string()))
            .collect::<Result<_>>()?;
        assert_eq!(paths, ["d", "d/.wh.gone", "d/f"]);
        Ok(())
    }
}
