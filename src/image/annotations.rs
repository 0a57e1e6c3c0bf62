//! What a manifest says of itself beside its layers.

use std::collections::HashMap;

use serde::Deserialize;

use super::{
    Access, ImageError, Keyring, Reference, Registries,
    ask::{Ask, Place},
    error::Problem,
    manifest::{self, Manifest},
    resolve::{Fetch, MANIFEST, may_say, name_of, top},
    transport::Document,
};
use crate::digest::Digest;

/// The one field that is asked about (image-spec, manifest.md).
#[derive(Deserialize)]
struct Annotated {
    #[serde(default)]
    annotations: HashMap<String, String>,
}

impl Registries {
    /// The annotations of the manifest that `reference` names, and its digest. They are a stranger's text.
    ///
    /// # Errors
    /// [`ImageError`], as of [`Registries::resolve`]; also where the reference names an index.
    pub async fn annotations(
        &self,
        reference: &Reference,
        keyring: &Keyring,
    ) -> Result<(Digest, HashMap<String, String>), ImageError> {
        let digest = reference.digest().copied();
        let name = name_of(reference, digest);
        let mut fetch = Fetch { registries: self, reference, keyring, access: Access::Anonymous };
        let ask = Ask::get(reference, Place::Content("manifests", &name), MANIFEST);
        let ask = Ask { accept: manifest::ACCEPT, ..ask };
        let read = |document: &Document| annotations(document, digest);
        fetch.one(ask, may_say(digest), manifest::MANIFEST_MAX, read).await
    }
}

fn annotations(
    document: &Document,
    digest: Option<Digest>,
) -> Result<(Digest, HashMap<String, String>), Problem> {
    let (digest, Manifest::Image { .. }) = top(document, digest)? else {
        return Err(Problem::Unsupported("it is an index, and was to be an image"));
    };
    let read = serde_json::from_slice::<Annotated>(&document.bytes);
    let Annotated { annotations } = read.map_err(|error| manifest::unreadable(MANIFEST, &error))?;
    Ok((digest, annotations))
}
