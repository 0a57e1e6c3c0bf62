//! Configs: which fields are kept of one, and what they say.
//!
//! Pure. What is kept is text as it came, field by field: a snapshot's image hands it on, and a number must not become another on
//! the way.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{error::Problem, manifest::unreadable, platform::Platform};
use crate::digest::Digest;

/// Our own bound: a config holds a line of history a layer, and labels; real ones stay under 100 KiB.
pub(super) const CONFIG_MAX: u64 = 1 << 20;
/// What is kept of one, beside its diff ids.
const KEPT_MAX: usize = 64 << 10;
/// The same for the diff ids: of more layers than an image may have.
const ROOTFS_MAX: usize = 128 << 10;

/// A config (image-spec, config.md), as far as anybody here needs it.
#[derive(Debug)]
pub(super) struct Config {
    /// Its fields that a snapshot's image goes on from: JSON.
    pub(super) kept: String,
    /// `rootfs.diff_ids`; `None` where it has none.
    pub(super) diff_ids: Option<Vec<Digest>>,
    /// What it is for, where it says so.
    pub(super) platform: Option<Platform>,
}

/// The fields that are kept. The rest is about how the image was built.
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

/// Reads a config, or what was kept of one.
///
/// # Errors
/// What is no JSON object; diff ids that are no digests.
pub(super) fn read(bytes: &[u8]) -> Result<Config, Problem> {
    let malformed = |why: &str| Problem::Malformed { what: "config", why: why.to_owned() };
    let text = str::from_utf8(bytes).map_err(|_| malformed("it is not UTF-8"))?;
    if !text.trim_start().starts_with('{') {
        return Err(malformed("it is no JSON object"));
    }
    let fields: Fields<'_> = serde_json::from_str(text).map_err(|e| unreadable("config", &e))?;
    if fields.rootfs.is_some_and(|rootfs| rootfs.get().len() > ROOTFS_MAX) {
        let limit = ROOTFS_MAX as u64;
        return Err(Problem::TooLarge { what: "config's rootfs", limit });
    }
    let diff_ids = diff_ids(fields.rootfs)?;
    let platform = serde_json::from_str(text).ok();
    Ok(Config { kept: fields.kept(), diff_ids, platform })
}

fn diff_ids(rootfs: Option<&RawValue>) -> Result<Option<Vec<Digest>>, Problem> {
    let malformed = |why: &str| Problem::Malformed { what: "config", why: why.to_owned() };
    let Some(rootfs) = rootfs else { return Ok(None) };
    let rootfs: RootFs = serde_json::from_str(rootfs.get())
        .map_err(|_| malformed("its rootfs.diff_ids is not a list of digests"))?;
    let Some(ids) = rootfs.diff_ids else { return Ok(None) };
    let ids: Option<_> = ids.iter().map(|id| diff_id(id)).collect();
    let unknown = "a digest in its rootfs.diff_ids is not sha256, in lower case";
    ids.map(Some).ok_or_else(|| malformed(unknown))
}

/// A layer's diff id: SHA-256 alone, because layers are kept and hashed by it, whatever their blobs are named by.
pub(super) fn diff_id(text: &str) -> Option<Digest> {
    text.parse().ok().filter(|digest: &Digest| digest.algorithm() == "sha256")
}

impl Fields<'_> {
    /// The fields as JSON. Of too much first the history goes, then the labels, then all that a container would be run with.
    fn kept(mut self) -> String {
        if self.length() > KEPT_MAX {
            self.history = None;
        }
        if self.length() <= KEPT_MAX {
            return self.json();
        }
        let labelless = self.config.and_then(without_labels);
        let smaller = Fields { config: labelless.as_deref().or(self.config), ..self };
        if smaller.length() <= KEPT_MAX {
            return smaller.json();
        }
        tracing::warn!(
            "a config has more than {KEPT_MAX} bytes without history and labels: a snapshot of it has none of it"
        );
        Fields { rootfs: self.rootfs, ..Fields::default() }.json()
    }

    /// Bytes of all but the diff ids.
    fn length(&self) -> usize {
        let Self { architecture, author, config, os, os_features, os_version, variant, .. } = self;
        let fields = [*architecture, *author, *config, *os, *os_features, *os_version, *variant];
        let all = fields.into_iter().chain([self.history]).flatten();
        all.map(|field| field.get().len()).sum()
    }

    fn json(&self) -> String {
        // Text that was JSON becomes JSON again.
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
        assert_eq!(read(kept.as_bytes()).unwrap().kept, kept, "what is kept is read as it is");
        serde_json::from_str(&kept).unwrap()
    }

    #[test]
    fn what_a_snapshot_goes_on_from_is_kept_as_it_came() {
        let text = r#"{"os":"linux","architecture":"arm64","variant":null,"created":"x",
            "config":{"Env":["A=1"],"Ports": 1e400},"container":{},"rootfs":{"diff_ids":[]}}"#;
        let config = read(text.as_bytes()).unwrap();
        let golden = r#"{"architecture":"arm64","config":{"Env":["A=1"],"Ports": 1e400},"os":"linux","rootfs":{"diff_ids":[]}}"#;
        assert_eq!(config.kept, golden);
        assert_eq!(config.diff_ids, Some(Vec::new()));
        assert_eq!(config.platform.unwrap().name().unwrap(), "linux/arm64");
    }

    /// A tenant's config may be a megabyte, and thousands of them may be here.
    #[test]
    fn at_most_64_kib_are_kept_and_the_least_needed_goes_first() {
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
    fn a_config_that_says_nothing_of_layers_is_one() {
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
    fn what_is_wrong_is_named() {
        let long = json!({ "rootfs": { "type": "x".repeat(ROOTFS_MAX) } }).to_string();
        for (text, words) in [
            ("[]", "it is no JSON object"),
            ("", "it is no JSON object"),
            ("{", "not valid at line 1"),
            (&long, "its config's rootfs is larger than the 131072 bytes"),
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
