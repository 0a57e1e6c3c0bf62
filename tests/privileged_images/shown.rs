//! `ovl status` and `ovl metadata`: labels, values, and a store that another process has.

use std::{fs, path::Path};

use serde_json::Value;

use super::place::Place;

#[test]
#[ignore = "needs root and podman: mounts overlays"]
fn privileged_the_status_has_the_labels_and_values_of_podman() {
    let place = Place::new();
    let chain = place.image("a");
    place.ovl("a", &["create", "box", &chain]);
    let theirs = place.sh(
        "podman --root pod --runroot podrun --storage-driver overlay info --format '{{json .Store.GraphStatus}}'",
    );
    let theirs: Value = serde_json::from_str(&theirs).unwrap();
    let ours = place.json("a", &["status"]);
    for (label, value) in theirs.as_object().unwrap() {
        // podman does not use metacopy unless it is configured.
        if label != "Using metacopy" {
            assert_eq!(&ours[label], value, "{label}");
        }
    }
    assert!(theirs.as_object().unwrap().len() >= 4, "{theirs}");
    assert_eq!(
        (&ours["images"], &ours["layers"], &ours["workspaces"]),
        (&2.into(), &2.into(), &1.into())
    );
    assert!(ours["layerBytes"].as_u64().unwrap() > 0 && ours["bytesFree"].as_u64().unwrap() > 0);
    let table = place.ovl("a", &["status"]);
    assert!(table.contains("Native Overlay Diff   true\n"), "{table}");
    let missing = place.command("none", &["status"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(1));
    assert!(!place.path("none").exists(), "a status makes no store");
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_the_status_says_which_checks_are_overridden_and_what_is_not_known() {
    let place = Place::new();
    place.image("a");
    let path = place.path("a/features.json");
    let known: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let mut lacking = known.clone();
    lacking["features"]["missing"]["Whiteouts"] = "no".into();
    fs::write(&path, lacking.to_string()).unwrap();
    let status = place.json("a", &["status"]);
    assert_eq!(status["overriddenChecks"], serde_json::json!(["whiteout"]));
    assert!(status["missingFeatures"].as_array().unwrap().contains(&"whiteout".into()));
    // After a restart of the machine nothing is known until the store is used.
    let mut old = known;
    old["boot"] = "another".into();
    fs::write(&path, old.to_string()).unwrap();
    let status = place.json("a", &["status"]);
    assert_eq!((&status["features"], &status["Using metacopy"]), (&Value::Null, &"unknown".into()));
    assert!(place.ovl("a", &["status"]).contains("not known since the machine was started"));
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_the_metadata_has_the_directories_of_the_overlay() {
    let place = Place::new();
    let chain = place.image("a");
    place.ovl("a", &["create", "box", &chain]);
    let of = |name: &str| place.json("a", &["metadata", name]);
    let paths = |metadata: &Value| -> Vec<String> {
        let lowers = metadata["LowerDir"].as_array().unwrap();
        lowers.iter().map(|lower| lower["path"].as_str().unwrap().to_owned()).collect()
    };
    let image = of(&chain);
    let lowers = paths(&image);
    assert_eq!(lowers.len(), 2);
    for lower in &lowers {
        assert!(Path::new(lower).exists(), "{lower}");
    }
    assert_eq!(of("box"), image, "no upper before the first mount");
    let merged = place.ovl("a", &["mount", "box"]);
    place.sh(&format!("echo 1 > {merged}/etc/one"));
    let mounted = of("box");
    assert_eq!(mounted["MergedDir"], merged.as_str());
    let upper = mounted["UpperDir"].as_str().unwrap();
    assert_eq!(fs::read_to_string(Path::new(upper).join("etc/one")).unwrap(), "1\n");
    assert!(Path::new(mounted["WorkDir"].as_str().unwrap()).join("work").is_dir());
    place.ovl("a", &["umount", "box"]);
    assert_eq!(of("box").get("MergedDir"), None);
    place.ovl("a", &["snapshot", "box", "one"]);
    let state = of("box@one");
    // The uppermost is first: the upper that became a layer.
    assert_eq!(paths(&state)[1..], lowers[..]);
    assert!(Path::new(&paths(&state)[0]).join("etc/one").exists());
    assert_eq!(state.get("UpperDir"), None);
    assert_eq!(paths(&of("box@postinit")), lowers);
    // A copy stands on its directory.
    place.sh("mkdir original");
    place.ovl("a", &["create", "copy", "--over", "original"]);
    let original = place.path("original");
    assert_eq!(paths(&of("copy")), [original.to_str().unwrap()]);
    let unknown = place.command("a", &["metadata", "no-such"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(1));
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_a_store_is_shown_while_another_process_has_it_alone() {
    let place = Place::new();
    let chain = place.image("a");
    // As `ovl node` does: an exclusive lock of the store.
    let lock = fs::File::options().read(true).write(true).open(place.path("a/lock")).unwrap();
    lock.lock().unwrap();
    let refused = place.command("a", &["list"]).output().unwrap();
    assert!(!refused.status.success(), "the lock does not exclude commands");
    let before = place.sh("find a -printf '%p %T@ %s\\n' | sort");
    for words in [&["status"][..], &["image", "ls"], &["layer", "ls"], &["metadata", &chain]] {
        place.ovl("a", words);
    }
    assert_eq!(place.sh("find a -printf '%p %T@ %s\\n' | sort"), before, "something was written");
}
