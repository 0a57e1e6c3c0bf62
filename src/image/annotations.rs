//! Reads the annotations of a manifest.

use std::collections::HashMap;

use serde::Deserialize;

use super::{
    Access, ImageError, Keyring, Reference, Registries,
    error::Problem,
    manifest::{self, Manifest},
    request::{Place, RegistryRequest},
    resolve::{Fetch, MANIFEST, can_resolve, name_of, top},
    transport::Document,
};
use crate::{digest::ManifestDigest, media_type};

/// The annotations of a manifest (image-spec, manifest.md).
#[derive(Deserialize)]
struct Annotated {
    #[serde(default)]
    annotations: HashMap<String, String>,
}

impl Registries {
    /// Returns the digest and the annotations of the manifest that `reference` names. The annotations are untrusted
    /// input.
    ///
    /// # Errors
    /// [`ImageError`] as of [`Registries::resolve`], and also where the reference names an index.
    pub async fn annotations(
        &self,
        reference: &Reference,
        keyring: &Keyring,
    ) -> Result<(ManifestDigest, HashMap<String, String>), ImageError> {
        let digest = reference.digest().copied();
        let name = name_of(reference, digest);
        let mut fetch = Fetch { registries: self, reference, keyring, access: Access::Anonymous };
        let request = RegistryRequest::get(reference, Place::Content("manifests", &name), MANIFEST);
        let request = RegistryRequest { accept: media_type::MANIFESTS, ..request };
        let read = |document: &Document| annotations(document, digest);
        fetch.one(request, can_resolve(digest), manifest::MANIFEST_MAX, read).await
    }
}

fn annotations(
    document: &Document,
    digest: Option<ManifestDigest>,
) -> Result<(ManifestDigest, HashMap<String, String>), Problem> {
    let (digest, Manifest::Image { .. }) = top(document, digest)? else {
        return Err(Problem::Unsupported(
            "the reference names an index, not an image; use the digest of one of its manifests",
        ));
    };
    let read = serde_json::from_slice::<Annotated>(&document.bytes);
    let Annotated { annotations } =
        read.map_err(|error| Problem::invalid_json(MANIFEST, &error))?;
    Ok((digest, annotations))
}
