//! Parses image manifests and indexes, and rejects those that are ambiguous or unsupported.
//!
//! Pure functions: bytes and a content type in, typed values out. Deliberately absent: guesses. A document that could
//! be read as two kinds is rejected, not read as one of them (CVE-2021-41190).

use std::collections::HashMap;

use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::{
    LayerBlob,
    config::{self, CONFIG_MAX},
    error::Problem,
    platform::{HostPlatform, Platform},
};
use crate::{
    digest::{BlobDigest, DiffId, Digest, ManifestDigest},
    media_type::{
        self, Compression, DOCKER_CONFIG, DOCKER_INDEX, DOCKER_MANIFEST, Format, OCI_CONFIG,
        OCI_INDEX, OCI_MANIFEST,
    },
};

/// OCI distribution-spec, "Pushing Manifests": registries should accept manifests of at least 4 MiB. The registries in
/// use accept no larger ones.
pub(super) const MANIFEST_MAX: u64 = 4 << 20;

/// The annotation in which ORAS writes the diff ID of a directory that it packed. The config of such an image has no
/// diff IDs.
const ORAS_DIFF_ID: &str = "io.deis.oras.content.digest";

/// A reference from one document to another, or to a layer (image-spec, descriptor.md).
#[derive(Debug, Clone)]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// The diff ID of a layer, where an annotation of the descriptor claims one.
    pub(super) diff_id: Option<DiffId>,
}

/// A descriptor as it is written. Its digest is parsed only when it is used: entries of an index for other platforms
/// may use digest algorithms that we do not know.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entry {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Platform>,
    annotations: Option<HashMap<String, String>>,
}

impl Entry {
    /// Parses the descriptor.
    ///
    /// # Errors
    /// A digest of an algorithm that we do not know, or in upper case.
    pub(super) fn descriptor(&self) -> Result<Descriptor, Problem> {
        let digest = self.digest.parse();
        let digest = digest
            .map_err(|_| malformed("a digest in it is neither sha256 nor sha512, in lower case"))?;
        let diff_id = self.annotation(ORAS_DIFF_ID).and_then(config::diff_id);
        Ok(Descriptor { media_type: self.media_type.clone(), digest, size: self.size, diff_id })
    }

    pub(super) fn has_platform(&self) -> bool {
        self.platform.is_some()
    }

    pub(super) fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }
}

impl Descriptor {
    /// The digest, of a descriptor that stands where only layers and configs do.
    pub(super) fn blob(&self) -> BlobDigest {
        BlobDigest::new(self.digest)
    }

    /// The digest, of a descriptor in an index.
    pub(super) fn manifest(&self) -> ManifestDigest {
        ManifestDigest::new(self.digest)
    }

    pub(super) fn is_index(&self) -> bool {
        matches!(self.media_type.as_str(), OCI_INDEX | DOCKER_INDEX)
    }

    fn is_image(&self) -> bool {
        matches!(self.media_type.as_str(), OCI_MANIFEST | DOCKER_MANIFEST)
    }
}

/// A manifest of a certain kind.
#[derive(Debug)]
pub(super) enum Manifest {
    Image { config: Descriptor, layers: Vec<Descriptor> },
    Index(Vec<Entry>),
}

/// The fields whose presence decides the kind.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    schema_version: Option<u64>,
    media_type: Option<String>,
    config: Option<Entry>,
    layers: Option<Vec<Entry>>,
    #[serde(borrow)]
    manifests: Option<Vec<&'a RawValue>>,
    fs_layers: Option<IgnoredAny>,
}

fn malformed(why: impl Into<String>) -> Problem {
    Problem::Malformed { what: "manifest", why: why.into() }
}

/// Parses a manifest that the registry sent with `content_type`.
///
/// # Errors
/// A content type other than the four in [`MANIFESTS`](media_type::MANIFESTS); a document that contradicts its content type by its `mediaType` or
/// by its fields; schema 1.
pub(super) fn parse(bytes: &[u8], content_type: &str) -> Result<Manifest, Problem> {
    let kind = media_type::of_header(content_type);
    if kind.starts_with("application/vnd.docker.distribution.manifest.v1") {
        return Err(SCHEMA_1);
    }
    let is_index = match kind.as_str() {
        OCI_INDEX | DOCKER_INDEX => true,
        OCI_MANIFEST | DOCKER_MANIFEST => false,
        _ => return Err(malformed("its Content-Type is not that of an image manifest or index")),
    };
    let document: Document<'_> =
        serde_json::from_slice(bytes).map_err(|e| Problem::invalid_json("manifest", &e))?;
    if document.fs_layers.is_some() || document.schema_version == Some(1) {
        return Err(SCHEMA_1);
    }
    if document.schema_version != Some(2) {
        return Err(malformed("its schemaVersion is not 2"));
    }
    if document.media_type.is_some_and(|inner| inner != kind) {
        return Err(malformed("its mediaType differs from its Content-Type"));
    }
    match (is_index, document.config, document.layers, document.manifests) {
        (true, None, None, Some(entries)) => Ok(Manifest::Index(readable(&entries))),
        // Some tools write an image without layers like this.
        (false, Some(config), layers, None) => {
            let layers =
                layers.iter().flatten().map(Entry::descriptor).collect::<Result<_, _>>()?;
            Ok(Manifest::Image { config: config.descriptor()?, layers })
        }
        (_, _, Some(_), Some(_)) => Err(malformed("it has both layers and manifests")),
        (true, ..) => Err(malformed("an index must have manifests, and neither config nor layers")),
        (false, ..) => Err(malformed("a manifest must have config and layers, and no manifests")),
    }
}

const SCHEMA_1: Problem = Problem::Unsupported(
    "the image has manifest schema 1, which is not supported; push the image again with a current tool",
);

/// The entries of an index that can be parsed. One that cannot be is skipped: it does not invalidate the index.
fn readable(entries: &[&RawValue]) -> Vec<Entry> {
    entries.iter().filter_map(|entry| serde_json::from_str(entry.get()).ok()).collect()
}

/// An entry of an index that may be for this host.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) descriptor: Descriptor,
    /// The index names this host's platform. Otherwise the entry has no platform, and the image's config must name it.
    pub(super) has_platform: bool,
}

/// The entries of an index that may be for `host`, in the order in which to try them: only the best match, the first
/// among equals; without a match the entries that have no platform.
///
/// # Errors
/// [`Problem::NoPlatform`], or a best match that is neither an image manifest nor an index.
pub(super) fn candidates<'a>(
    entries: impl IntoIterator<Item = &'a Entry, IntoIter: DoubleEndedIterator + Clone>,
    host: HostPlatform,
) -> Result<Vec<Candidate>, Problem> {
    let fit = |entry: &Entry| entry.platform.as_ref().and_then(|p| host.fit(p));
    // max_by_key returns the last of equals.
    let entries = entries.into_iter();
    let best = entries.clone().rev().filter(|e| fit(e).is_some()).max_by_key(|e| fit(e));
    if let Some(best) = best {
        let descriptor = best.descriptor()?;
        return match descriptor.is_image() || descriptor.is_index() {
            true => Ok(vec![Candidate { descriptor, has_platform: true }]),
            false => Err(Problem::Unsupported(
                "the entry for this platform in the image's index is not an image manifest",
            )),
        };
    }
    let without_platform = entries.clone().filter(|entry| !entry.has_platform());
    let without_platform = without_platform.filter_map(|entry| entry.descriptor().ok());
    let found: Vec<_> = without_platform
        .filter(|descriptor| descriptor.is_image() || descriptor.is_index())
        .map(|descriptor| Candidate { descriptor, has_platform: false })
        .take(CANDIDATES_MAX)
        .collect();
    if found.is_empty() { Err(no_platform(entries, host)) } else { Ok(found) }
}

/// The largest number of entries without a platform that are tried per index.
const CANDIDATES_MAX: usize = 8;

fn no_platform<'a>(entries: impl Iterator<Item = &'a Entry>, host: HostPlatform) -> Problem {
    let names = entries.filter_map(|e| e.platform.as_ref()?.name());
    let offered: Vec<_> = names.filter(|name| name != "unknown/unknown").take(12).collect();
    let offered = if offered.is_empty() { "none".to_owned() } else { offered.join(", ") };
    Problem::NoPlatform { wanted: host.name(), offered }
}

/// Checks an image before anything of it is downloaded. An image that only carries files may have an empty config, with
/// one of the generic media types.
///
/// # Errors
/// An artifact of another kind; a config larger than [`CONFIG_MAX`]; too many layers; a layer of an unsupported type.
pub(super) fn check(config: &Descriptor, layers: &[Descriptor]) -> Result<(), Problem> {
    if !matches!(
        config.media_type.as_str(),
        OCI_CONFIG
            | DOCKER_CONFIG
            | "application/vnd.oci.empty.v1+json"
            | "application/octet-stream"
            | "application/json"
            | ""
    ) {
        return Err(Problem::Unsupported("the reference names an artifact, not a container image"));
    }
    if config.size > CONFIG_MAX {
        return Err(Problem::TooLarge { what: "config", limit: CONFIG_MAX });
    }
    if layers.len() > LAYERS_MAX {
        let limit = LAYERS_MAX as u64;
        return Err(Problem::TooMany { what: "layers", limit });
    }
    layers.iter().try_for_each(|layer| kind(&layer.media_type).map(drop))
}

/// The largest number of layers in an image, where the same layer may be repeated. No kernel mounts half as many.
const LAYERS_MAX: usize = 1_024;

/// Joins the manifest's layers with the config's diff IDs, bottom first. The compression comes from the media type and
/// is only a claim: the first bytes of the layer decide.
///
/// # Errors
/// A config whose number of diff IDs differs from the number of layers. A config without diff IDs, if a layer is
/// compressed and its descriptor has no diff ID either.
pub(super) fn layers(
    layers: &[Descriptor],
    diff_ids: Option<Vec<DiffId>>,
) -> Result<Vec<LayerBlob>, Problem> {
    let diff_ids = self::diff_ids(layers, diff_ids)?;
    let join = |(layer, diff_id): (&Descriptor, DiffId)| {
        let (format, compression) = kind(&layer.media_type)?;
        let media_type = layer.media_type.clone();
        Ok(LayerBlob {
            digest: layer.blob(),
            size: layer.size,
            media_type,
            format,
            compression,
            diff_id,
        })
    };
    layers.iter().zip(diff_ids).map(join).collect()
}

fn diff_ids(layers: &[Descriptor], named: Option<Vec<DiffId>>) -> Result<Vec<DiffId>, Problem> {
    let refused = |why: String| Problem::Malformed { what: "config", why };
    let named = named.filter(|ids| !ids.is_empty() || layers.is_empty());
    let Some(ids) = named else {
        let own = |layer: &Descriptor| {
            match kind(&layer.media_type)?.1 {
            Compression::None if layer.digest.algorithm() == "sha256" => Ok(DiffId::new(layer.digest)),
            _ => layer.diff_id.ok_or_else(|| {
                refused(
                    "its rootfs.diff_ids is empty, and the manifest does not have the diff ID of every layer"
                        .into(),
                )
            }),
        }
        };
        return layers.iter().map(own).collect();
    };
    if ids.len() != layers.len() {
        let count = layers.len();
        let why = format!("it has {} diff IDs for the manifest's {count} layers", ids.len());
        return Err(refused(why));
    }
    Ok(ids)
}

/// Format and compression of a layer by its media type. Nondistributable layers are pulled like others if the registry
/// has them. If it does not, it responds with 404; the URLs in the manifest are not followed.
fn kind(media_type: &str) -> Result<(Format, Compression), Problem> {
    media_type::parse_layer(media_type)
        .ok_or(Problem::Unsupported("the image has a layer that is not a tar of a file system"))
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
