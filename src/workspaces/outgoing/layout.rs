//! The files of an OCI layout (image-spec, image-layout.md).
//!
//! Pure. Deliberately absent: where they are written.

use serde_json::{Map, Value, json};

use crate::{
    digest::Digest,
    image::architecture,
    media_type::{OCI_INDEX, OCI_MANIFEST},
};

/// The file that makes a directory a layout.
pub(super) const MARKER: &str = "oci-layout";
/// Its content.
pub(super) const MARKER_CONTENT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
/// The index.
pub(super) const INDEX: &str = "index.json";
/// The directory of the blobs.
pub(super) const BLOBS: &str = "blobs/sha256";

/// The annotation with the name of an image.
const NAME: &str = "org.opencontainers.image.ref.name";

/// The name of a blob in the layout.
pub(super) fn blob(digest: &Digest) -> String {
    format!("{BLOBS}/{}", digest.hex())
}

/// Checks the content of [`MARKER`].
pub(super) fn check_marker(content: &[u8]) -> Result<(), String> {
    let version = serde_json::from_slice::<Value>(content).ok();
    let version = version.as_ref().and_then(|it| it.get("imageLayoutVersion")?.as_str());
    match version {
        Some(version) if version.starts_with("1.") => Ok(()),
        Some(version) => Err(format!("its version is {version:?}, and only 1.x is known")),
        None => Err(format!("its file {MARKER} has no version")),
    }
}

/// The index with this manifest, in place of the image that has the same name, or no name as this one. `before` is the
/// present index, if there is one.
pub(super) fn index(
    before: Option<&[u8]>,
    manifest: &[u8],
    name: Option<&str>,
) -> Result<Vec<u8>, String> {
    let mut index = match before {
        None => Map::new(),
        Some(text) => serde_json::from_slice(text).map_err(|e| format!("its {INDEX}: {e}"))?,
    };
    index.entry("schemaVersion").or_insert_with(|| 2.into());
    index.entry("mediaType").or_insert_with(|| OCI_INDEX.into());
    let mut entry = json!({
        "mediaType": OCI_MANIFEST,
        "digest": Digest::of(manifest),
        "size": manifest.len(),
        "platform": { "architecture": architecture(), "os": "linux" },
    });
    if let Some(name) = name {
        entry["annotations"] = json!({ NAME: name });
    }
    let list = index.entry("manifests").or_insert_with(|| json!([]));
    let list =
        list.as_array_mut().ok_or_else(|| format!("its {INDEX} has no list of manifests"))?;
    list.retain(|other| name_in(other) != name);
    list.push(entry);
    serde_json::to_vec(&index).map_err(|e| e.to_string())
}

fn name_in(entry: &Value) -> Option<&str> {
    entry.get("annotations")?.get(NAME)?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(index: &[u8]) -> Vec<Option<String>> {
        let index: Value = serde_json::from_slice(index).unwrap();
        let list = index["manifests"].as_array().unwrap().clone();
        list.iter().map(|entry| name_in(entry).map(str::to_owned)).collect()
    }

    #[test]
    fn an_image_replaces_the_one_with_its_name_and_no_other() {
        let first = index(None, b"a", Some("1")).unwrap();
        let second = index(Some(&first), b"b", Some("2")).unwrap();
        let third = index(Some(&second), b"c", Some("1")).unwrap();
        assert_eq!(names(&third), [Some("2".to_owned()), Some("1".to_owned())]);
        let nameless = index(Some(&third), b"d", None).unwrap();
        assert_eq!(names(&index(Some(&nameless), b"e", None).unwrap()).len(), 3);
        let foreign = br#"{"schemaVersion":2,"manifests":[{"digest":"x"}],"other":[1]}"#;
        let kept: Value =
            serde_json::from_slice(&index(Some(foreign), b"a", Some("1")).unwrap()).unwrap();
        assert_eq!((&kept["other"], &kept["manifests"][0]["digest"]), (&json!([1]), &json!("x")));
    }

    #[test]
    fn what_is_no_layout_is_refused_with_the_reason() {
        check_marker(MARKER_CONTENT).unwrap();
        for (content, words) in [
            ("{}", "no version"),
            ("text", "no version"),
            (r#"{"imageLayoutVersion":"2.0.0"}"#, "2.0.0"),
        ] {
            assert!(check_marker(content.as_bytes()).unwrap_err().contains(words), "{content}");
        }
        assert!(index(Some(br#"{"manifests":7}"#), b"a", None).unwrap_err().contains("no list"));
        assert!(index(Some(b"["), b"a", None).unwrap_err().contains("index.json"));
    }
}
