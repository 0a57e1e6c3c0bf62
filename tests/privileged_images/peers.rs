//! Images of `ovl` in podman, buildah and skopeo, and theirs in `ovl`.

use std::path::Path;

use super::place::Place;

/// The options that keep podman and buildah in the directory of the test.
const HERE: &str = "--root pod --runroot podrun --storage-driver overlay";

/// The tree of an image of podman.
fn podman_tree(place: &Place, image: &str) -> String {
    let at = place.sh(&format!("podman {HERE} image mount {image}"));
    let tree = place.tree(Path::new(&at));
    place.sh(&format!("podman {HERE} image unmount {image} > /dev/null"));
    tree
}

#[test]
#[ignore = "needs root, podman, buildah and skopeo: mounts overlays"]
fn privileged_other_tools_read_our_images_and_we_read_theirs() {
    let place = Place::new();
    let chain = place.image("a");
    place.ovl("a", &["image", "export", &chain, "oci:layout:1"]);
    place.ovl("b", &["image", "import", "oci:layout:1"]);
    let (tree, stack) = (place.tree_of("b", "oci:layout:1"), place.chain("b", "oci:layout:1"));

    place.ovl("a", &["image", "export", &chain, "oci-archive:zstd.tar:r.example/box:zstd"]);
    place.ovl(
        "a",
        &[
            "image",
            "export",
            &chain,
            "oci-archive:gzip.tar:r.example/box:gzip",
            "--compression",
            "gzip",
        ],
    );
    place.ovl("a", &["image", "export", &chain, "docker-archive:docker.tar:r.example/box:docker"]);
    for name in ["zstd", "gzip", "docker"] {
        let said = place.sh(&format!("podman {HERE} load --quiet --input {name}.tar"));
        assert!(said.contains(&format!("r.example/box:{name}")), "{said}");
        assert_eq!(podman_tree(&place, &format!("r.example/box:{name}")), tree, "{name}");
    }
    place.sh(&format!("buildah {HERE} pull --quiet oci:layout:1"));
    place.sh("skopeo copy --quiet oci:layout:1 dir:skopeo; skopeo copy --quiet oci-archive:gzip.tar oci:again:1");
    place.ovl("c", &["image", "import", "oci:again:1"]);
    assert_eq!(place.chain("c", "oci:again:1"), stack);

    // podman 4 saves no layers with zstd as a docker archive, and it remembers that it has got them so.
    let other = HERE.replace("pod", "other");
    place.sh(&format!("podman {other} load --quiet --input docker.tar"));
    for (format, kind) in [
        ("oci-archive", "oci-archive:saved"),
        ("docker-archive", "docker-archive:saved"),
        ("oci-dir", "oci:saved"),
    ] {
        place.sh(&format!(
            "rm -rf saved d; podman {other} save --quiet --format {format} --output saved r.example/box:docker"
        ));
        place.ovl("d", &["image", "import", kind]);
        assert_eq!(place.tree_of("d", kind), tree, "{format}");
        assert_eq!(place.chain("d", kind), stack, "{format}");
    }
}

#[test]
#[ignore = "needs root and podman: mounts overlays"]
fn privileged_the_settings_and_the_history_of_an_image_are_carried() {
    let place = Place::new();
    place.sh(&format!(
        "mkdir root; echo 1 > root/file; tar cf root.tar -C root .
        podman {HERE} import --quiet --change 'ENV A=1' --change 'CMD [\"/bin/sh\", \"-l\"]' --change 'USER 7:8' \
            --change 'WORKDIR /srv' --change 'ENTRYPOINT [\"/init\"]' --change 'LABEL colour=red' root.tar r.example/base:1
        podman {HERE} save --quiet --format oci-archive --output base.tar r.example/base:1"
    ));
    place.ovl("a", &["create", "box", "oci-archive:base.tar"]);
    let at = place.ovl("a", &["mount", "box"]);
    place.sh(&format!("echo 2 > {at}/two"));
    place.ovl("a", &["umount", "box"]);
    place.ovl("a", &["image", "export", "box", "oci-archive:box.tar:r.example/box:2"]);
    place.sh(&format!("podman {HERE} load --quiet --input box.tar"));
    let config = |image: &str| -> serde_json::Value {
        let text = place.sh(&format!("podman {HERE} inspect {image}"));
        serde_json::from_str::<serde_json::Value>(&text).unwrap()[0].clone()
    };
    let (before, after) = (config("r.example/base:1"), config("r.example/box:2"));
    assert_eq!(after["Config"], before["Config"]);
    assert_eq!(after["Config"]["Labels"]["colour"], "red");
    let history = after["History"].as_array().unwrap();
    let layers = after["RootFS"]["Layers"].as_array().unwrap();
    assert_eq!((history.len(), layers.len()), (before["History"].as_array().unwrap().len() + 1, 2));
    assert_eq!(history.last().unwrap()["created_by"], "ovl box");
    assert_eq!(after["Annotations"]["dev.csi.ovl.workspace"], "box");
}
