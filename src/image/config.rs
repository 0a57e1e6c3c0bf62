//! Parses image configs, and selects the fields that snapshots inherit.
//!
//! Pure functions. The fields are kept as the original JSON text: the image of a snapshot inherits them, and parsing
//! must not change a number.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{error::Problem, platform::Platform};
use crate::digest::{DiffId, Digest};

/// Largest config in bytes, our own limit. A config has one line of history per layer, and labels; real ones stay below
/// 100 KiB.
pub(super) const CONFIG_MAX: u64 = 1 << 20;
/// Largest size in bytes of the fields that are kept, without the diff IDs.
const KEPT_MAX: usize = 64 << 10;
/// Largest size in bytes of `rootfs`: enough for more layers than an image may have.
const ROOTFS_MAX: usize = 128 << 10;

/// The parts of a config (image-spec, config.md) that this module uses.
#[derive(Debug)]
pub(super) struct Config {
    /// The fields that the image of a snapshot inherits: JSON.
    pub(super) kept: String,
    /// `rootfs.diff_ids`; `None` where the config has none.
    pub(super) diff_ids: Option<Vec<DiffId>>,
    /// The platform of the image; `None` where the config has none.
    pub(super) platform: Option<Platform>,
}

/// The fields that are kept. The other fields describe how the image was built.
#[derive(Clone, Copy, Default, Deserialize, Serialize)]
#[serde(default)]
struct Fields<'a> {
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    architecture: Option<&'a RawValue>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    author: Option<&'a RawValue>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    config: Option<&'a RawValue>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    os: Option<&'a RawValue>,
    #[serde(borrow, rename = "os.features", skip_serializing_if = "Option::is_none")]
    os_features: Option<&'a RawValue>,
    #[serde(borrow, rename = "os.version", skip_serializing_if = "Option::is_none")]
    os_version: Option<&'a RawValue>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    variant: Option<&'a RawValue>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    history: Option<&'a RawValue>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    rootfs: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Option<Vec<String>>,
}

/// Parses a config, or the kept fields of one.
///
/// # Errors
/// Text that is not a JSON object; a `rootfs` larger than [`ROOTFS_MAX`]; diff IDs that are not SHA-256 digests.
pub(super) fn read(bytes: &[u8]) -> Result<Config, Problem> {
    let malformed = |why: &str| Problem::Malformed { what: "config", why: why.to_owned() };
    let text = str::from_utf8(bytes).map_err(|_| malformed("it is not UTF-8"))?;
    if !text.trim_start().starts_with('{') {
        return Err(malformed("it is not a JSON object"));
    }
    let fields: Fields<'_> =
        serde_json::from_str(text).map_err(|e| Problem::invalid_json("config", &e))?;
    if fields.rootfs.is_some_and(|rootfs| rootfs.get().len() > ROOTFS_MAX) {
        let limit = ROOTFS_MAX as u64;
        return Err(Problem::TooLarge { what: "config's rootfs", limit });
    }
    let diff_ids = diff_ids(fields.rootfs)?;
    let platform = serde_json::from_str(text).ok();
    Ok(Config { kept: fields.kept(), diff_ids, platform })
}

fn diff_ids(rootfs: Option<&RawValue>) -> Result<Option<Vec<DiffId>>, Problem> {
    let malformed = |why: &str| Problem::Malformed { what: "config", why: why.to_owned() };
    let Some(rootfs) = rootfs else { return Ok(None) };
    let rootfs: RootFs = serde_json::from_str(rootfs.get())
        .map_err(|_| malformed("its rootfs.diff_ids is not a list of digests"))?;
    let Some(ids) = rootfs.diff_ids else { return Ok(None) };
    let ids: Option<_> = ids.iter().map(|id| diff_id(id)).collect();
    let unknown = "a digest in its rootfs.diff_ids is not sha256 in lower case";
    ids.map(Some).ok_or_else(|| malformed(unknown))
}

/// Parses a diff ID. Only SHA-256 is accepted: layers are stored and verified by it, whatever algorithm names their
/// blobs.
pub(super) fn diff_id(text: &str) -> Option<DiffId> {
    let digest = text.parse().ok().filter(|digest: &Digest| digest.algorithm() == "sha256");
    digest.map(DiffId::new)
}

impl Fields<'_> {
    /// The fields as JSON. If they are larger than [`KEPT_MAX`], the history is dropped first, then the labels, then
    /// every field except `rootfs`.
    fn kept(mut self) -> String {
        if self.length() > KEPT_MAX {
            self.history = None;
        }
        if self.length() <= KEPT_MAX {
            return self.json();
        }
        let without_labels = self.config.and_then(without_labels);
        let smaller = Fields { config: without_labels.as_deref().or(self.config), ..self };
        if smaller.length() <= KEPT_MAX {
            return smaller.json();
        }
        tracing::warn!(
            "an image config is larger than {KEPT_MAX} bytes without history and labels; a snapshot does not inherit it"
        );
        Fields { rootfs: self.rootfs, ..Fields::default() }.json()
    }

    /// Size in bytes of all fields except `rootfs`.
    fn length(&self) -> usize {
        let Self { architecture, author, config, os, os_features, os_version, variant, .. } = self;
        let fields = [*architecture, *author, *config, *os, *os_features, *os_version, *variant];
        let all = fields.into_iter().chain([self.history]).flatten();
        all.map(|field| field.get().len()).sum()
    }

    fn json(&self) -> String {
        // Cannot fail: every field is valid JSON.
        serde_json::to_string(self).unwrap_or_else(|_| "{}".to_owned())
    }
}

fn without_labels(config: &RawValue) -> Option<Box<RawValue>> {
    let mut fields: BTreeMap<&str, &RawValue> = serde_json::from_str(config.get()).ok()?;
    fields.remove("Labels");
    serde_json::value::to_raw_value(&fields).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn kept(config: &Value) -> Value {
        let text = config.to_string();
        let kept = read(text.as_bytes()).unwrap().kept;
        assert_eq!(
            read(kept.as_bytes()).unwrap().kept,
            kept,
            "reading kept fields changes nothing"
        );
        serde_json::from_str(&kept).unwrap()
    }

    #[test]
    fn the_fields_that_a_snapshot_inherits_are_kept_unchanged() {
        let text = r#"{"os":"linux","architecture":"arm64","variant":null,"created":"x",
            "config":{"Env":["A=1"],"Ports": 1e400},"container":{},"rootfs":{"diff_ids":[]}}"#;
        let config = read(text.as_bytes()).unwrap();
        let golden = r#"{"architecture":"arm64","config":{"Env":["A=1"],"Ports": 1e400},"os":"linux","rootfs":{"diff_ids":[]}}"#;
        assert_eq!(config.kept, golden);
        assert_eq!(config.diff_ids, Some(Vec::new()));
        assert_eq!(config.platform.unwrap().name().unwrap(), "linux/arm64");
    }

    /// A tenant's config may have a megabyte, and a node may have thousands of configs.
    #[test]
    fn at_most_64_kib_are_kept_and_the_least_needed_fields_are_dropped_first() {
        let long = |length: usize| "x".repeat(length);
        let config = |history, label, env| {
            json!({ "os": "linux", "config": { "Env": [long(env)], "Labels": { "a": long(label) } },
                    "history": [{ "created_by": long(history) }], "rootfs": { "diff_ids": [] } })
        };
        let small = config(1, 1, 1);
        assert_eq!(kept(&small), small);
        let no_history = kept(&config(KEPT_MAX, 1, 1));
        assert!(no_history.get("history").is_none());
        assert_eq!(no_history["config"], small["config"]);
        let no_labels = kept(&config(1, KEPT_MAX, 1));
        assert_eq!(no_labels["config"], json!({ "Env": ["x"] }));
        let nothing = kept(&config(1, 1, KEPT_MAX));
        assert_eq!(nothing, json!({ "rootfs": { "diff_ids": [] } }));
    }

    #[test]
    fn a_config_without_diff_ids_is_valid() {
        for (text, diff_ids) in [
            ("{}", None),
            (r#"{"rootfs":null}"#, None),
            (r#"{"rootfs":{"type":"layers"}}"#, None),
            (r#"{"rootfs":{"type":"layers","diff_ids":null}}"#, None),
            (r#"{"rootfs":{"type":"layers","diff_ids":[]}}"#, Some(Vec::new())),
        ] {
            assert_eq!(read(text.as_bytes()).unwrap().diff_ids, diff_ids, "{text}");
        }
    }

    #[test]
    fn an_invalid_config_is_rejected_with_the_reason() {
        let long = json!({ "rootfs": { "type": "x".repeat(ROOTFS_MAX) } }).to_string();
        for (text, words) in [
            ("[]", "it is not a JSON object"),
            ("", "it is not a JSON object"),
            ("{", "not valid at line 1"),
            (&long, "the config's rootfs is larger than the limit of 128.0 KiB"),
            (r#"{"rootfs":7}"#, "rootfs.diff_ids is not a list"),
            (r#"{"rootfs":{"diff_ids":["../x"]}}"#, "rootfs.diff_ids is not sha256"),
            (
                &format!(r#"{{"rootfs":{{"diff_ids":["sha512:{}"]}}}}"#, "0".repeat(128)),
                "rootfs.diff_ids is not sha256",
            ),
            (r#"{"rootfs":{"diff_ids":["sha384:00"]}}"#, "rootfs.diff_ids is not sha256"),
        ] {
            let shown = read(text.as_bytes()).unwrap_err().to_string();
            assert!(shown.contains(words), "{text}: {shown}");
        }
    }
}
