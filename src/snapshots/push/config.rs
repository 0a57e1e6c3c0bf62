//! The config of a snapshot's image: the topmost image's, with the layers and the history of all.
//!
//! Pure. The same record and images give the same bytes, so a push that is done again finds its config there.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::{digest::Digest, image::architecture};

/// What a snapshot's image is known by.
pub(super) struct Known<'a> {
    /// The configs of the images that its volume was made of, in the order of the stack.
    pub(super) images: &'a [String],
    /// The diff ids of its layers, bottom first.
    pub(super) diff_ids: &'a [Digest],
    /// How many of these, at the top, are above the images'.
    pub(super) own: usize,
    /// When it was cut.
    pub(super) captured_at: Timestamp,
    /// Of what: `namespace/pod/volume`.
    pub(super) source: &'a str,
}

/// What is kept of the topmost image's config (image-spec, config.md). The rest is about how that image was built.
const KEPT: [&str; 7] =
    ["architecture", "author", "config", "os", "os.features", "os.version", "variant"];

/// The config, as it is pushed.
pub(super) fn config(known: &Known<'_>) -> Vec<u8> {
    // What is here was read as a config when it was pulled.
    let parsed = |text: &String| serde_json::from_str::<Map<String, Value>>(text).ok();
    let images: Vec<_> = known.images.iter().filter_map(parsed).collect();
    let mut config = Map::new();
    config.insert("architecture".to_owned(), architecture().into());
    config.insert("os".to_owned(), "linux".into());
    config.insert("config".to_owned(), json!({}));
    if let Some(top) = images.last() {
        let kept = KEPT.into_iter().filter_map(|key| Some((key.to_owned(), top.get(key)?.clone())));
        config.extend(kept.filter(|(_, value)| !value.is_null()));
    }
    config.insert("created".to_owned(), known.captured_at.to_string().into());
    config.insert("history".to_owned(), history(&images, known).into());
    config.insert("rootfs".to_owned(), json!({ "type": "layers", "diff_ids": known.diff_ids }));
    sorted(config.into()).to_string().into_bytes()
}

/// One entry for each layer, and those of the images that made none.
fn history(images: &[Map<String, Value>], known: &Known<'_>) -> Vec<Value> {
    let mut joined: Vec<_> = images.iter().flat_map(of_image).collect();
    let layers = known.diff_ids.len();
    let below = layers.saturating_sub(1);
    // An image that is itself a snapshot has entries for its own layers too, but not where these were squashed since.
    let there = joined.iter().filter(|entry| makes_layer(entry)).count();
    if there > below {
        keep(&mut joined, layers.saturating_sub(known.own));
    }
    let there = joined.iter().filter(|entry| makes_layer(entry)).count();
    let older = json!({ "created_by": "ovl-csi snapshot" });
    joined.extend(std::iter::repeat_n(older, below.saturating_sub(there)));
    joined.push(json!({
        "created": known.captured_at.to_string(),
        "created_by": format!("ovl-csi snapshot {}", known.source),
    }));
    joined
}

/// The history of one image, with as many entries that made a layer as it has layers.
fn of_image(config: &Map<String, Value>) -> Vec<Value> {
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let layers = list(config.get("rootfs").and_then(|rootfs| rootfs.get("diff_ids"))).len();
    let mut history = list(config.get("history"));
    history.retain(Value::is_object);
    let there = history.iter().filter(|entry| makes_layer(entry)).count();
    if there > layers {
        // It says nothing that could be told apart.
        history.clear();
    }
    let there = history.iter().filter(|entry| makes_layer(entry)).count();
    let unknown = json!({ "comment": "the image does not say" });
    history.extend(std::iter::repeat_n(unknown, layers - there));
    history
}

fn makes_layer(entry: &Value) -> bool {
    entry.get("empty_layer").and_then(Value::as_bool) != Some(true)
}

/// Keeps the entries up to those of the layer above the first so many.
fn keep(history: &mut Vec<Value>, layers: usize) {
    let mut seen = 0;
    history.retain(|entry| {
        seen += usize::from(makes_layer(entry));
        seen <= layers
    });
}

/// The same with the keys of every object in their order, whatever order they came in.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.into_iter().map(|(k, v)| (k, sorted(v))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(entries.into_iter().collect())
        }
        Value::Array(values) => Value::Array(values.into_iter().map(sorted).collect()),
        other => other,
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
