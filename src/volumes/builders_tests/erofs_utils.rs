//! The same trees as erofs-utils packs them: another writer of the format, read by the same kernel.

use super::*;

/// Layers that need none below.
const WHOLE: &[&str] = &["gnu", "libarchive"];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, umoci, bsdtar, setfattr and mkfs.erofs"]
async fn privileged_layers_are_the_trees_that_mkfs_erofs_packs() {
    let dir = Place::new();
    let at = dir.path();
    let registry = pinged().await;
    let node = Node::new(&registry);
    for name in WHOLE {
        let left_out: Vec<_> =
            LAYERS.iter().map(|(other, _)| *other).filter(|other| other != name).collect();
        layered(at, name, &left_out);
        let lines = format!(
            "mkdir {name}.tree {name}.mounted; tar --xattrs --xattrs-include='*' --numeric-owner -xpf {name}.tar -C {name}.tree
            mkfs.erofs {name}.erofs {name}.tree; mount -o loop,ro {name}.erofs {name}.mounted"
        );
        sh(&lines, at, Path::new("/dev/null"));
        let packed = seen(&at.join(format!("{name}.mounted")));
        let pod = published(&node, &push(&registry, &at.join("layout"), name)).await.unwrap();
        assert_same(&pod, &packed, name);
    }
}
