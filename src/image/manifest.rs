//! Manifests: what the bytes say, and everything that makes us refuse them.
//!
//! Pure: bytes and a content type in, typed values out. Deliberately absent: any guess. A document that could
//! be read as two kinds is refused, not read as one of them (CVE-2021-41190).

use std::collections::HashMap;

use serde::{Deserialize, de::IgnoredAny};

use super::{
    LayerBlob,
    error::Problem,
    platform::{Machine, Platform},
};
use crate::{
    changeset::{Compression, Format},
    digest::Digest,
};

/// OCI distribution-spec, "Pushing Manifests": registries should take manifests of at least 4 MiB, and those in
/// use stop there.
pub(super) const MANIFEST_MAX: u64 = 4 << 20;
/// Our own bound: a config holds a line of history a layer, and labels; real ones stay under 100 KiB.
pub(super) const CONFIG_MAX: u64 = 8 << 20;

pub(super) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// What we ask for.
pub(super) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json";

const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// A pointer from one document to another, or to a layer.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// A descriptor of an index. Its digest is text until it is chosen: entries for other machines may use
/// algorithms that we do not know.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entry {
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Platform>,
    #[serde(default)]
    annotations: HashMap<String, String>,
}

impl Entry {
    /// What it leads to.
    pub(super) fn descriptor(&self) -> Result<Descriptor, Problem> {
        let digest = self.digest.parse();
        let digest = digest.map_err(|_| malformed("its index has a digest that is not sha256"))?;
        Ok(Descriptor { media_type: self.media_type.clone(), digest, size: self.size })
    }

    /// Whether it says which machine it is for.
    pub(super) fn has_platform(&self) -> bool {
        self.platform.is_some()
    }

    pub(super) fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str)
    }
}

impl Descriptor {
    /// Whether it leads to an index.
    pub(super) fn is_index(&self) -> bool {
        matches!(self.media_type.as_str(), OCI_INDEX | DOCKER_LIST)
    }
}

/// A manifest whose kind is beyond doubt.
#[derive(Debug)]
pub(super) enum Manifest {
    Image { config: Descriptor, layers: Vec<Descriptor> },
    Index(Vec<Entry>),
}

/// Every field whose presence tells the kinds apart.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: Option<u64>,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Entry>>,
    fs_layers: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<Digest>,
}

fn malformed(why: impl Into<String>) -> Problem {
    Problem::Malformed { what: "manifest", why: why.into() }
}

/// Says where JSON is wrong, never with its text.
pub(super) fn unreadable(what: &'static str, error: &serde_json::Error) -> Problem {
    let why = format!("it is not valid at line {} column {}", error.line(), error.column());
    Problem::Malformed { what, why }
}

/// A content type without its parameters.
pub(super) fn media_type(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Reads a manifest that came with `content_type`.
///
/// # Errors
/// Another content type than the four we asked for, or one that the document contradicts by its `mediaType` or
/// by its fields; schema 1.
pub(super) fn parse(bytes: &[u8], content_type: &str) -> Result<Manifest, Problem> {
    let kind = media_type(content_type);
    if kind.starts_with("application/vnd.docker.distribution.manifest.v1") {
        return Err(SCHEMA_1);
    }
    let is_index = match kind.as_str() {
        OCI_INDEX | DOCKER_LIST => true,
        OCI_MANIFEST | DOCKER_MANIFEST => false,
        _ => return Err(malformed("its Content-Type is not that of an image manifest or index")),
    };
    let document: Document =
        serde_json::from_slice(bytes).map_err(|e| unreadable("manifest", &e))?;
    if document.fs_layers.is_some() || document.schema_version == Some(1) {
        return Err(SCHEMA_1);
    }
    if document.schema_version != Some(2) {
        return Err(malformed("its schemaVersion is not 2"));
    }
    if document.media_type.is_some_and(|inner| inner != kind) {
        return Err(malformed("its mediaType is not its Content-Type"));
    }
    match (is_index, document.config, document.layers, document.manifests) {
        (true, None, None, Some(entries)) => Ok(Manifest::Index(entries)),
        (false, Some(config), Some(layers), None) => Ok(Manifest::Image { config, layers }),
        (_, _, Some(_), Some(_)) => Err(malformed("it has both layers and manifests")),
        (true, ..) => Err(malformed("an index has manifests, and neither config nor layers")),
        (false, ..) => Err(malformed("a manifest has config and layers, and no manifests")),
    }
}

const SCHEMA_1: Problem = Problem::Unsupported(
    "it is an image of schema 1, which is not supported; push the image again with a current tool",
);

/// The entry of an index that is for `machine`: the best fit, and the first among equals.
///
/// # Errors
/// [`Problem::NoPlatform`], or an entry that is no manifest of an image.
pub(super) fn choose<'a>(
    entries: impl IntoIterator<Item = &'a Entry, IntoIter: DoubleEndedIterator + Clone>,
    machine: Machine,
) -> Result<Descriptor, Problem> {
    let fit = |entry: &Entry| entry.platform.as_ref().and_then(|p| machine.fit(p));
    // max_by_key gives the last of equals.
    let entries = entries.into_iter();
    let best = entries.clone().rev().filter(|e| fit(e).is_some()).max_by_key(|e| fit(e));
    let Some(best) = best else {
        let names = entries.filter_map(|e| e.platform.as_ref()?.name());
        let offered: Vec<_> = names.filter(|name| name != "unknown/unknown").take(12).collect();
        let offered = if offered.is_empty() { "none".to_owned() } else { offered.join(", ") };
        return Err(Problem::NoPlatform { wanted: machine.name(), offered });
    };
    if !matches!(best.media_type.as_str(), OCI_MANIFEST | DOCKER_MANIFEST) {
        return Err(Problem::Unsupported(
            "its index leads to something else than an image manifest",
        ));
    }
    best.descriptor()
}

/// Whether `config` describes a container image that is worth fetching.
///
/// # Errors
/// An artifact of another kind; a config beyond [`CONFIG_MAX`]; a layer that we cannot take, before anything is
/// downloaded.
pub(super) fn check(config: &Descriptor, layers: &[Descriptor]) -> Result<(), Problem> {
    if !matches!(config.media_type.as_str(), OCI_CONFIG | DOCKER_CONFIG) {
        return Err(Problem::Unsupported("it is an artifact, not a container image"));
    }
    if config.size > CONFIG_MAX {
        return Err(Problem::TooLarge { what: "config", limit: CONFIG_MAX });
    }
    layers.iter().try_for_each(|layer| kind(&layer.media_type).map(drop))
}

/// Joins the manifest's layers with the config's diff ids, bottom first.
///
/// # Errors
/// A config that does not name one diff id a layer, or names another one for a layer that is not compressed.
pub(super) fn layers(layers: &[Descriptor], config: &[u8]) -> Result<Vec<LayerBlob>, Problem> {
    let diff_ids = diff_ids(config, layers.len())?;
    let join = |(layer, diff_id): (&Descriptor, Digest)| {
        let (format, compression) = kind(&layer.media_type)?;
        if compression == Compression::None && layer.digest != diff_id {
            let why = "a plain layer has another diff id than its digest".to_owned();
            return Err(Problem::Malformed { what: "config", why });
        }
        let media_type = layer.media_type.clone();
        Ok(LayerBlob {
            digest: layer.digest,
            size: layer.size,
            media_type,
            format,
            compression,
            diff_id,
        })
    };
    layers.iter().zip(diff_ids).map(join).collect()
}

/// The diff ids in a config, which must be as many as there are blobs.
///
/// # Errors
/// A config that is not readable, or names more or less.
pub(super) fn diff_ids(config: &[u8], blobs: usize) -> Result<Vec<Digest>, Problem> {
    let config: Config = serde_json::from_slice(config).map_err(|e| unreadable("config", &e))?;
    let ids = config.rootfs.diff_ids;
    if ids.len() != blobs {
        let why = format!("it names {} diff ids for the manifest's {blobs} layers", ids.len());
        return Err(Problem::Malformed { what: "config", why });
    }
    Ok(ids)
}

/// Layers that "may not be distributed" are taken like others where the registry has them; where they are only
/// elsewhere, the registry says so by 404, and the URLs in the manifest are not followed.
fn kind(media_type: &str) -> Result<(Format, Compression), Problem> {
    let compression = match media_type {
        "application/vnd.ovl-csi.layer.v1.native.tar" => {
            return Ok((Format::Native, Compression::None));
        }
        "application/vnd.ovl-csi.layer.v1.native.tar+gzip" => {
            return Ok((Format::Native, Compression::Gzip));
        }
        "application/vnd.ovl-csi.layer.v1.native.tar+zstd" => {
            return Ok((Format::Native, Compression::Zstd));
        }
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar"
        | "application/vnd.docker.image.rootfs.diff.tar"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar" => Compression::None,
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => Compression::Gzip,
        "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar.zstd" => Compression::Zstd,
        _ => return Err(Problem::Unsupported("it has a layer that is not a tar of a file system")),
    };
    Ok((Format::Portable, compression))
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
