//! The content of the config of a new image, byte by byte.

use super::*;

fn digest(name: &str) -> DiffId {
    DiffId::of(name.as_bytes())
}

fn config_of(images: &[Value], layers: &[&str], own: usize) -> (String, Value) {
    let images: Vec<_> = images.iter().map(Value::to_string).collect();
    let diff_ids: Vec<_> = layers.iter().map(|name| digest(name)).collect();
    let input = NewConfig {
        images: &images,
        diff_ids: &diff_ids,
        own_layers: own,
        created: (own > 0).then(|| "2026-11-21T10:00:00Z".parse().unwrap()),
        maker: "ovl-csi snapshot",
        source: "ci/build/ws",
    };
    let text = String::from_utf8(input.bytes()).unwrap();
    let value = serde_json::from_str(&text).unwrap();
    (text, value)
}

/// The creator of each history entry. An entry without a layer is in brackets.
fn creators(config: &Value) -> Vec<String> {
    let entries = config["history"].as_array().unwrap().iter();
    let creators = entries.map(|entry| {
        let by = entry["created_by"].as_str().or(entry["comment"].as_str()).unwrap().to_owned();
        if entry["empty_layer"] == true { format!("({by})") } else { by }
    });
    creators.collect()
}

fn image(history: &[&str], layers: &[&str], config: Value) -> Value {
    let entry = |by: &&str| match by.strip_prefix('(') {
        Some(by) => json!({ "created_by": by.trim_end_matches(')'), "empty_layer": true }),
        None => json!({ "created_by": by }),
    };
    let diff_ids: Vec<_> = layers.iter().map(|name| digest(name)).collect();
    json!({
        "architecture": "arm64", "os": "linux", "variant": "v8", "author": "the author",
        "config": config, "container": "of the builder", "created": "2020-01-01T00:00:00Z",
        "history": history.iter().map(entry).collect::<Vec<_>>(),
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
}

const OURS: &str = "ovl-csi snapshot ci/build/ws";
const OLDER: &str = "ovl-csi snapshot";
const UNKNOWN: &str = "the image does not say";

#[test]
fn a_snapshot_without_an_image_has_a_small_config() {
    let (text, _) = config_of(&[], &["captured"], 1);
    let (architecture, captured) = (architecture(), digest("captured"));
    let golden = format!(
        r#"{{"architecture":"{architecture}","config":{{}},"created":"2026-11-21T10:00:00Z","history":[{{"created":"2026-11-21T10:00:00Z","created_by":"ovl-csi snapshot ci/build/ws"}}],"os":"linux","rootfs":{{"diff_ids":["{captured}"],"type":"layers"}}}}"#
    );
    assert_eq!(text, golden);
}

#[test]
fn the_config_continues_that_of_the_topmost_image() {
    let base = image(&["from"], &["a"], json!({ "Env": ["A=1"] }));
    let run = json!({ "User": "1000", "Env": ["B=2"], "Entrypoint": ["/run"], "Labels": { "z": "1", "a": "2" } });
    let top = image(&["copy", "(env)"], &["b"], run.clone());
    let (text, config) = config_of(&[base, top], &["a", "b", "captured"], 1);
    assert_eq!(config["config"], run);
    assert_eq!((&config["architecture"], &config["variant"]), (&"arm64".into(), &"v8".into()));
    assert_eq!(config["author"], "the author");
    assert_eq!(config["created"], "2026-11-21T10:00:00Z");
    assert_eq!(config["container"], Value::Null, "it describes another image");
    assert_eq!(creators(&config), ["from", "copy", "(env)", OURS]);
    let diff_ids = ["a", "b", "captured"].map(|name| digest(name).to_string());
    assert_eq!(config["rootfs"]["diff_ids"], json!(diff_ids));
    let at = |key: &str| text.find(&format!("\"{key}\"")).unwrap();
    assert!(at("Entrypoint") < at("Env") && at("Env") < at("Labels") && at("Labels") < at("User"));
}

#[test]
fn every_layer_has_a_history_entry_for_any_history_of_the_images() {
    let silent = image(&[], &["a", "b"], json!({}));
    let short = image(&["one", "(env)"], &["c", "d"], json!({}));
    let excess = image(&["1", "2", "3"], &["e"], json!({}));
    for (image, layers, want) in [
        (silent, vec!["a", "b", "captured"], vec![UNKNOWN, UNKNOWN, OURS]),
        (short, vec!["c", "d", "captured"], vec!["one", "(env)", UNKNOWN, OURS]),
        (excess, vec!["e", "captured"], vec![UNKNOWN, OURS]),
        (json!({ "history": "text" }), vec!["captured"], vec![OURS]),
    ] {
        assert_eq!(creators(&config_of(&[image], &layers, 1).1), want);
    }
}

#[test]
fn earlier_snapshots_have_history_entries_too() {
    let base = || image(&["from", "(env)"], &["a"], json!({}));
    // Two snapshots deep, on the node that captured both.
    let (_, config) = config_of(&[base()], &["a", "captured-1", "captured-2"], 2);
    assert_eq!(creators(&config), ["from", "(env)", OLDER, OURS]);
    // The volume was made of the image of the first snapshot, from its registry.
    let parent = image(&["from", "(env)", "ovl-csi snapshot ci/other/ws"], &["a", "1"], json!({}));
    let (_, config) = config_of(std::slice::from_ref(&parent), &["a", "1", "captured-2"], 2);
    assert_eq!(creators(&config), ["from", "(env)", "ovl-csi snapshot ci/other/ws", OURS]);
    // Both were squashed later.
    let (_, config) = config_of(&[parent], &["a", "squashed"], 1);
    assert_eq!(creators(&config), ["from", "(env)", OURS]);
}

#[test]
fn an_image_without_own_layers_has_its_history_and_its_time() {
    let mut base = image(&["from", "(env)"], &["a"], json!({ "Env": ["A=1"] }));
    base["history"][0]["created"] = "2020-01-01T00:00:00Z".into();
    let (_, config) = config_of(&[base], &["a in another tar"], 0);
    assert_eq!(creators(&config), ["from", "(env)"]);
    assert_eq!(
        (&config["created"], &config["config"]["Env"][0]),
        (&"2020-01-01T00:00:00Z".into(), &"A=1".into())
    );
    // Layers of which no image is known.
    let (_, config) = config_of(&[], &["a", "b"], 0);
    assert_eq!(creators(&config), [OLDER, OLDER]);
    assert_eq!(config["created"], Value::Null);
}
