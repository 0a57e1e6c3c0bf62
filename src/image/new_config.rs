//! Makes the config of an image that is pushed or written: that of the topmost image on which it is based, with the layers
//! and the history of all of them.
//!
//! Pure. The same facts give the same bytes, so a repeated push finds its config in the registry.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::architecture;
use crate::digest::DiffId;

/// The facts from which a config is made.
#[derive(Debug, Clone, Copy)]
pub struct NewConfig<'a> {
    /// The configs of the images on which it is based, in the order of the stack.
    pub images: &'a [String],
    /// The diff IDs of all layers, bottom first.
    pub diff_ids: &'a [DiffId],
    /// How many layers, counted from the top, are above those of the images. 0: it is one of the images.
    pub own_layers: usize,
    /// When its own layers were made. `None`: as the images say.
    pub created: Option<Timestamp>,
    /// What has made its own layers, for the history.
    pub maker: &'a str,
    /// What they were made of, for the history.
    pub source: &'a str,
}

/// The fields of the topmost image's config that are kept (image-spec, config.md). The others are about the build of
/// that image.
const KEPT: [&str; 7] =
    ["architecture", "author", "config", "os", "os.features", "os.version", "variant"];

impl NewConfig<'_> {
    /// The bytes of the config.
    pub fn bytes(&self) -> Vec<u8> {
        // Each of these was parsed as a config when its image was pulled.
        let parsed = |text: &String| serde_json::from_str::<Map<String, Value>>(text).ok();
        let images: Vec<_> = self.images.iter().filter_map(parsed).collect();
        let mut config = Map::new();
        config.insert("architecture".to_owned(), architecture().into());
        config.insert("os".to_owned(), "linux".into());
        config.insert("config".to_owned(), json!({}));
        if let Some(top) = images.last() {
            let kept =
                KEPT.into_iter().filter_map(|key| Some((key.to_owned(), top.get(key)?.clone())));
            config.extend(kept.filter(|(_, value)| !value.is_null()));
        }
        let history = self.history(&images);
        let created = match self.created {
            Some(created) => Some(created.to_string().into()),
            None => history.iter().rev().find_map(|entry| entry.get("created").cloned()),
        };
        config.extend(created.map(|created| ("created".to_owned(), created)));
        config.insert("history".to_owned(), history.into());
        config.insert("rootfs".to_owned(), json!({ "type": "layers", "diff_ids": self.diff_ids }));
        sorted(config.into()).to_string().into_bytes()
    }

    /// One entry for each layer, and the entries of the images that made no layer.
    fn history(&self, images: &[Map<String, Value>]) -> Vec<Value> {
        let mut joined: Vec<_> = images.iter().flat_map(of_image).collect();
        let layers = self.diff_ids.len();
        let below = layers.saturating_sub(self.own_layers.min(1));
        // An image that is itself a snapshot has entries for its own layers too. They no longer fit if these layers were
        // squashed.
        let entries = joined.iter().filter(|entry| makes_layer(entry)).count();
        if entries > below {
            keep(&mut joined, layers.saturating_sub(self.own_layers));
        }
        let entries = joined.iter().filter(|entry| makes_layer(entry)).count();
        let older = json!({ "created_by": self.maker });
        joined.extend(std::iter::repeat_n(older, below.saturating_sub(entries)));
        if self.own_layers > 0 {
            let mut own = json!({ "created_by": format!("{} {}", self.maker, self.source) });
            if let Some(created) = self.created {
                own["created"] = created.to_string().into();
            }
            joined.push(own);
        }
        joined
    }
}

/// The history of one image, with exactly one layer-making entry per layer.
fn of_image(config: &Map<String, Value>) -> Vec<Value> {
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let layers = list(config.get("rootfs").and_then(|rootfs| rootfs.get("diff_ids"))).len();
    let mut history = list(config.get("history"));
    history.retain(Value::is_object);
    let entries = history.iter().filter(|entry| makes_layer(entry)).count();
    if entries > layers {
        // The entries cannot be assigned to layers.
        history.clear();
    }
    let entries = history.iter().filter(|entry| makes_layer(entry)).count();
    let unknown = json!({ "comment": "the image does not say" });
    history.extend(std::iter::repeat_n(unknown, layers - entries));
    history
}

fn makes_layer(entry: &Value) -> bool {
    entry.get("empty_layer").and_then(Value::as_bool) != Some(true)
}

/// Keeps the entries of the first `layers` layers, and the entries without a layer that directly follow them.
fn keep(history: &mut Vec<Value>, layers: usize) {
    let mut count = 0;
    history.retain(|entry| {
        count += usize::from(makes_layer(entry));
        count <= layers
    });
}

/// The same value with the keys of each object sorted.
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
#[path = "new_config_tests.rs"]
mod tests;
