//! The same layers as images of mkfs.erofs, another writer of EROFS, read by the same kernel.

use super::*;

/// Layers that do not depend on a layer below.
const STANDALONE: &[&str] = &["gnu", "libarchive"];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, umoci, bsdtar, setfattr and mkfs.erofs"]
async fn privileged_layers_match_images_of_mkfs_erofs() {
    let dir = TestDir::new();
    let at = dir.path();
    let registry = registry_with_ping().await;
    let node = Node::new(&registry);
    for name in STANDALONE {
        let left_out: Vec<_> =
            LAYERS.iter().map(|(other, _)| *other).filter(|other| other != name).collect();
        layered(at, name, &left_out);
        let lines = format!(
            "mkdir {name}.tree {name}.mounted; tar --xattrs --xattrs-include='*' --numeric-owner -xpf {name}.tar -C {name}.tree
            mkfs.erofs {name}.erofs {name}.tree; mount -o loop,ro {name}.erofs {name}.mounted"
        );
        sh(&lines, at, Path::new("/dev/null"));
        let packed = read_tree(&at.join(format!("{name}.mounted")));
        let pod = published(&node, &push(&registry, &at.join("layout"), name)).await.unwrap();
        assert_same(&pod, &packed, name);
    }
}
