//! What the config of a snapshot's image says, to the byte.

use super::*;

fn digest(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

fn made(images: &[Value], layers: &[&str], own: usize) -> (String, Value) {
    let images: Vec<_> = images.iter().map(Value::to_string).collect();
    let diff_ids: Vec<_> = layers.iter().map(|name| digest(name)).collect();
    let known = Known {
        images: &images,
        diff_ids: &diff_ids,
        own,
        captured_at: "2026-11-21T10:00:00Z".parse().unwrap(),
        source: "ci/build/ws",
    };
    let text = String::from_utf8(config(&known)).unwrap();
    let value = serde_json::from_str(&text).unwrap();
    (text, value)
}

/// Who made each layer, by the history; an entry without a layer in brackets.
fn told(config: &Value) -> Vec<String> {
    let entries = config["history"].as_array().unwrap().iter();
    let words = entries.map(|entry| {
        let by = entry["created_by"].as_str().or(entry["comment"].as_str()).unwrap().to_owned();
        if entry["empty_layer"] == true { format!("({by})") } else { by }
    });
    words.collect()
}

fn image(history: &[&str], layers: &[&str], config: Value) -> Value {
    let entry = |by: &&str| match by.strip_prefix('(') {
        Some(by) => json!({ "created_by": by.trim_end_matches(')'), "empty_layer": true }),
        None => json!({ "created_by": by }),
    };
    let diff_ids: Vec<_> = layers.iter().map(|name| digest(name)).collect();
    json!({
        "architecture": "arm64", "os": "linux", "variant": "v8", "author": "somebody",
        "config": config, "container": "of the builder", "created": "2020-01-01T00:00:00Z",
        "history": history.iter().map(entry).collect::<Vec<_>>(),
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
}

const OURS: &str = "ovl-csi snapshot ci/build/ws";
const OLDER: &str = "ovl-csi snapshot";
const UNKNOWN: &str = "the image does not say";

#[test]
fn a_snapshot_of_nothing_has_a_small_config() {
    let (text, _) = made(&[], &["cut"], 1);
    let (architecture, cut) = (architecture(), digest("cut"));
    let golden = format!(
        r#"{{"architecture":"{architecture}","config":{{}},"created":"2026-11-21T10:00:00Z","history":[{{"created":"2026-11-21T10:00:00Z","created_by":"ovl-csi snapshot ci/build/ws"}}],"os":"linux","rootfs":{{"diff_ids":["{cut}"],"type":"layers"}}}}"#
    );
    assert_eq!(text, golden);
}

#[test]
fn it_goes_on_from_the_topmost_image() {
    let base = image(&["from"], &["a"], json!({ "Env": ["A=1"] }));
    let run = json!({ "User": "1000", "Env": ["B=2"], "Entrypoint": ["/run"], "Labels": { "z": "1", "a": "2" } });
    let top = image(&["copy", "(env)"], &["b"], run.clone());
    let (text, config) = made(&[base, top], &["a", "b", "cut"], 1);
    assert_eq!(config["config"], run);
    assert_eq!((&config["architecture"], &config["variant"]), (&"arm64".into(), &"v8".into()));
    assert_eq!(config["author"], "somebody");
    assert_eq!(config["created"], "2026-11-21T10:00:00Z");
    assert_eq!(config["container"], Value::Null, "that is about another image");
    assert_eq!(told(&config), ["from", "copy", "(env)", OURS]);
    let diff_ids = ["a", "b", "cut"].map(|name| digest(name).to_string());
    assert_eq!(config["rootfs"]["diff_ids"], json!(diff_ids));
    let at = |key: &str| text.find(&format!("\"{key}\"")).unwrap();
    assert!(at("Entrypoint") < at("Env") && at("Env") < at("Labels") && at("Labels") < at("User"));
}

#[test]
fn every_layer_has_an_entry_whatever_images_say() {
    let silent = image(&[], &["a", "b"], json!({}));
    let short = image(&["one", "(env)"], &["c", "d"], json!({}));
    let wild = image(&["1", "2", "3"], &["e"], json!({}));
    for (image, layers, want) in [
        (silent, vec!["a", "b", "cut"], vec![UNKNOWN, UNKNOWN, OURS]),
        (short, vec!["c", "d", "cut"], vec!["one", "(env)", UNKNOWN, OURS]),
        (wild, vec!["e", "cut"], vec![UNKNOWN, OURS]),
        (json!({ "history": "text" }), vec!["cut"], vec![OURS]),
    ] {
        assert_eq!(told(&made(&[image], &layers, 1).1), want);
    }
}

#[test]
fn earlier_snapshots_have_entries_too() {
    let base = || image(&["from", "(env)"], &["a"], json!({}));
    // Two snapshots deep, on the node that cut both.
    let (_, config) = made(&[base()], &["a", "cut-1", "cut-2"], 2);
    assert_eq!(told(&config), ["from", "(env)", OLDER, OURS]);
    // The volume was made of the first one's image, as its registry has it.
    let parent = image(&["from", "(env)", "ovl-csi snapshot ci/other/ws"], &["a", "1"], json!({}));
    let (_, config) = made(std::slice::from_ref(&parent), &["a", "1", "cut-2"], 2);
    assert_eq!(told(&config), ["from", "(env)", "ovl-csi snapshot ci/other/ws", OURS]);
    // And both were squashed since.
    let (_, config) = made(&[parent], &["a", "squashed"], 1);
    assert_eq!(told(&config), ["from", "(env)", OURS]);
}
