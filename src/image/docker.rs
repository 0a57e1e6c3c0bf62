//! Reads an archive of `docker save`: a tar with `manifest.json`, configs and layers.
//!
//! The only digest of a layer in it is the config's diff ID. Newer versions of docker compress layers inside the
//! archive; such a layer is hashed once when the archive is opened.

use std::{collections::HashMap, fs::File, io::Read, path::Path, sync::Arc};

use serde::Deserialize;

use super::{
    LayerBlob, Reference,
    config::{self, CONFIG_MAX},
    error::Problem,
    local_files::{Cause, Files, LocalImage, Section},
    manifest,
};
use crate::{
    changeset::{self, Member},
    digest::{BlobDigest, Digest, Digester},
    media_type::{Compression, Format},
};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

pub(super) fn open(path: &Path, name: Option<&str>) -> Result<(LocalImage, Files), Cause> {
    let disk = |error| Cause::Disk(path.display().to_string(), error);
    let file = Arc::new(File::open(path).map_err(disk)?);
    let members = changeset::members(&file).map_err(disk)?;
    let archive = Archive { file, members };

    let saved = archive.member("manifest.json")?.read_all("manifest", manifest::MANIFEST_MAX)?;
    let saved: Vec<Saved> = serde_json::from_slice(&saved)
        .map_err(|error| Problem::invalid_json("manifest.json", &error))?;
    let saved = chosen(saved, name)?;
    let config = archive.member(&saved.config)?.read_all("config", CONFIG_MAX)?;
    let files = saved.layers.unwrap_or_default();
    let config::Config { kept, diff_ids, .. } = config::read(&config)?;
    let diff_ids = diff_ids.unwrap_or_default();
    if diff_ids.len() != files.len() {
        let (ids, files) = (diff_ids.len(), files.len());
        let why = format!("it has {ids} diff IDs for the archive's {files} layers");
        return Err(Problem::Malformed { what: "config", why }.into());
    }
    let (mut layers, mut places) = (Vec::new(), HashMap::new());
    for (layer, diff_id) in files.iter().zip(diff_ids) {
        let member = archive.place(layer)?;
        let compression = archive.compression(member).map_err(disk)?;
        let digest = match compression {
            Compression::None => BlobDigest::new(*diff_id.digest()),
            _ => archive.hash(member).map_err(disk)?,
        };
        places.insert(digest, member);
        let media_type = String::new();
        layers.push(LayerBlob {
            digest,
            size: member.size,
            media_type,
            format: Format::Portable,
            compression,
            diff_id,
        });
    }
    let names = saved.repo_tags.into_iter().flatten().filter_map(|tag| tag.parse().ok()).collect();
    let image = LocalImage { names, digest: Digest::of(&config), config: kept, layers };
    Ok((image, Files::Archive(archive.file, places)))
}

/// The image with that name. The name may be full, shortened as users write it, or only a tag. Without a name: the only
/// image.
fn chosen(mut saved: Vec<Saved>, name: Option<&str>) -> Result<Saved, Cause> {
    let tags = |saved: &Saved| saved.repo_tags.clone().unwrap_or_default();
    let all: Vec<String> = saved.iter().flat_map(tags).collect();
    let is = |tag: &String, name: &str| {
        let wanted = name.parse::<Reference>().ok();
        tag.parse().is_ok_and(|tag: Reference| tag.tag() == Some(name) || Some(tag) == wanted)
    };
    saved.retain(|one| name.is_none_or(|name| tags(one).iter().any(|tag| is(tag, name))));
    match (saved.pop(), saved.is_empty()) {
        (Some(one), true) => Ok(one),
        _ => Err(Cause::NoSingleMatch(all)),
    }
}

struct Archive {
    file: Arc<File>,
    members: HashMap<String, Member>,
}

impl Archive {
    fn place(&self, name: &str) -> Result<Member, Cause> {
        let place = self.members.get(name.trim_start_matches("./")).copied();
        let why = "a file that its manifest.json names is missing".to_owned();
        place.ok_or(Cause::Content(Problem::Malformed { what: "archive", why }))
    }

    fn member(&self, name: &str) -> Result<Section, Cause> {
        Ok(self.section(self.place(name)?))
    }

    fn section(&self, member: Member) -> Section {
        Section::new(Arc::clone(&self.file), member)
    }

    /// Detects the compression from the first bytes: an archive has no media types.
    fn compression(&self, member: Member) -> std::io::Result<Compression> {
        let mut first = Vec::new();
        self.section(member).take(4).read_to_end(&mut first)?;
        Ok(Compression::detect(&first))
    }

    fn hash(&self, member: Member) -> std::io::Result<BlobDigest> {
        let mut digester = Digester::default();
        digester.update_from(self.section(member))?;
        Ok(BlobDigest::new(digester.finish()))
    }
}
