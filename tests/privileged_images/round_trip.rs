//! An image that is written and read again is the same.

use super::place::Place;

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_an_exported_image_is_imported_as_the_same_tree_and_stack() {
    let place = Place::new();
    let chain = place.image("a");
    place.ovl("a", &["create", "box", &chain]);
    let at = place.ovl("a", &["mount", "box"]);
    place.sh(&format!("cd {at}; echo more >> etc/new; rm etc/holes; mv gone moved; chmod 700 srv; mkdir gone; ln etc/new etc/three"));
    place.ovl("a", &["umount", "box"]);
    place.ovl("a", &["snapshot", "box", "good"]);
    for (number, (source, tree)) in [
        (chain.as_str(), place.tree_of("a", &chain)),
        ("box@good", place.tree_of_workspace("a", "box")),
        // The same state: its upper has no write.
        ("box", place.tree_of_workspace("a", "box")),
    ]
    .iter()
    .enumerate()
    {
        for (kind, compression) in [
            ("oci:layout", "zstd"),
            ("oci:layout", "gzip"),
            ("oci-archive:o.tar", "none"),
            ("docker-archive:d.tar", "zstd"),
        ] {
            place.sh("rm -rf layout* o.tar* d.tar* b c");
            place.ovl("a", &["image", "export", source, kind, "--compression", compression]);
            place.ovl("b", &["image", "import", kind]);
            assert_eq!(place.tree_of("b", kind), *tree, "{source} {kind} {compression}");
            let stack = place.chain("b", kind);
            // The layers are tars of ours now, so they are the same at each further step.
            let kind2 = kind.replace("layout", "layout2").replace(".tar", ".tar2");
            let (_, said) = place.ovl_said("b", &["image", "export", &stack, &kind2]);
            assert_eq!(said, "", "no layer has a new diff ID");
            place.ovl("c", &["image", "import", &kind2]);
            assert_eq!(place.chain("c", &kind2), stack, "{number} {kind}");
        }
    }
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_a_layer_that_hides_all_below_does_so_after_an_export() {
    let place = Place::new();
    place.sh(
        "mkdir below above; echo b > below/below; echo a > above/above; touch above/.wh..wh..opq
        tar cf below.tar -C below .; tar cf above.tar -C above .",
    );
    let below = place.ovl("a", &["layer", "apply", "none", "below.tar"]);
    let both = place.ovl("a", &["layer", "apply", &below, "above.tar"]);
    place.ovl("a", &["image", "export", &both, "oci:layout"]);
    place.ovl("b", &["image", "import", "oci:layout"]);
    let tree = place.tree_of("b", "oci:layout");
    assert!(tree.contains("./above") && !tree.contains("./below"), "{tree}");
    place.sh("rm above.tar below/below");
    std::fs::write(
        place.path("above.tar"),
        place.command("a", &["layer", "diff", &both]).output().unwrap().stdout,
    )
    .unwrap();
    assert!(place.sh("tar tf above.tar").contains(".wh..wh..opq"));
}
