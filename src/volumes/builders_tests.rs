//! Unusual images written by real builders, compared with what umoci and containerd unpack.
//!
//! umoci unpacks all layers of an image into one directory, one after another. containerd unpacks each layer into its
//! own directory and mounts an overlay of them. These known differences to a pod are not compared:
//! - the time of the root, and the number of names of a file;
//! - for umoci: directories below symbolic links of lower layers. umoci follows the link, overlay replaces it;
//! - for containerd: see [`Containerd::unpacked`].

mod engines;
mod erofs_utils;
mod peers;
mod published;
mod tree;

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};
use tempfile::TempDir;

use self::{
    peers::{Containerd, Daemon, TestDir, cached, program, umoci},
    tree::{Tree, assert_same, difference, read_tree},
};
use super::{privileged_tests::Node, tools_tests::sh, *};
use crate::{
    image::fake::{FakeRegistry, OCI_INDEX, OCI_MANIFEST, descriptor},
    reference::Reference,
};

/// The layers, bottom first: the name, and the shell lines that write the layer to the tar `$OUT`.
const LAYERS: &[(&str, &str)] = &[
    // GNU headers, and names that are too long for one header.
    (
        "gnu",
        "mkdir -p tmp home/u usr/lib usr/bin etc/conf dev var/old/deep srv; chmod 1777 tmp; chmod 700 home/u; chown 7:8 home/u
        ln -s usr/lib lib; echo x > lib/x.so; ln usr/lib/x.so usr/lib/same.so; ln -s /etc/conf etc/link
        echo tool > usr/bin/tool; chmod 4755 usr/bin/tool; echo 1 > etc/conf/a; echo 2 > etc/conf/b; echo 3 > var/old/deep/f
        mknod dev/null c 1 3; mknod -m 600 dev/sda b 8 0; mkfifo -m 622 dev/pipe
        echo old > srv/old; chown 3000000:4000000 srv/old; touch -d '1901-02-03 04:05:06' srv/old; : > srv/empty
        truncate -s 3M srv/sparse; printf x | dd of=srv/sparse bs=1 seek=1500000 conv=notrunc status=none
        long=$(printf 'l%.0s' $(seq 120)); mkdir -p srv/$long/$long; echo l > srv/$long/$long/$long; ln -s /$long/$long srv/long
        touch \"$(printf 'srv/odd\\nname ')\"
        tar --format=gnu -cf $OUT .",
    ),
    // pax by libarchive: extra keys of its own, times with fractions of a second, xattrs, and another form of holes.
    (
        "libarchive",
        "mkdir -p opt/a etc/conf; echo b > etc/conf/b; chmod 640 etc/conf/b; chown 5:6 etc/conf; touch -d @1234567890.123456789 etc/conf/b
        setfattr -n user.colour -v green opt/a
        echo c > opt/a/cap; setfattr -n security.capability -v 0x0100000200040000000000000000000000000000 opt/a/cap
        truncate -s 2M opt/a/sparse; printf y | dd of=opt/a/sparse bs=1 seek=1000000 conv=notrunc status=none
        bsdtar --format=pax --xattrs -cf $OUT opt etc",
    ),
    // Only files: the entries of their directories are in the layers below.
    (
        "bare",
        "mkdir -p tmp home/u opt/a; echo seed > tmp/seed; echo p > home/u/.profile; echo d > opt/a/d
        tar --format=posix -cf $OUT tmp/seed home/u/.profile opt/a/d",
    ),
    // A hard link to a file of a lower layer.
    (
        "linked",
        "mkdir -p usr/bin; echo tool > usr/bin/tool; chmod 4755 usr/bin/tool; ln usr/bin/tool usr/bin/zool
        tar -cf $OUT usr/bin/tool usr/bin/zool; tar --delete -f $OUT usr/bin/tool",
    ),
    // Names with `..` in them, and entries below a symbolic link of the same layer.
    (
        "dotted",
        "mkdir -p run/x real; ln -s real link; echo n > run/x/n; echo m > real/m
        tar -cf $OUT --no-recursion real link; tar -rPf $OUT --transform 's,^run/,run/y/../,' --no-recursion run run/x run/x/n
        tar -rf $OUT --transform 's,^real,link,' real/m",
    ),
    // Whiteouts written by hand, before and after their siblings.
    (
        "whiteouts",
        "mkdir -p var/old etc/conf; touch etc/conf/.wh.a; touch var/old/.wh..wh..opq; echo new > var/old/new; touch .wh.none
        tar -cf $OUT --sort=name etc var .wh.none",
    ),
];

/// Changes in the tree that umoci unpacked, for `umoci repack`: directories become files and links, and a file
/// becomes a directory.
const CHANGES: &str = "rm -r opt/a; echo file > opt/a; rm -r home/u; ln -s /nowhere home/u; rm etc/conf/b; mkdir etc/conf/b; echo in > etc/conf/b/in
    mv usr/bin/tool usr/bin/moved; chmod 750 tmp; setfattr -n user.mood -v calm srv; rm -r dev; mkdir dev; mknod dev/zero c 1 5";

/// Pushes the image `tag` of an OCI layout to the registry, unchanged.
fn push(registry: &FakeRegistry, layout: &Path, tag: &str) -> Reference {
    let blob =
        |digest: &str| fs::read(layout.join("blobs").join(digest.replace(':', "/"))).unwrap();
    let index: Value =
        serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let named = |manifest: &&Value| {
        manifest["annotations"]["org.opencontainers.image.ref.name"].as_str() == Some(tag)
    };
    let manifest = index["manifests"].as_array().unwrap().iter().find(named).unwrap();
    let text = String::from_utf8(blob(manifest["digest"].as_str().unwrap())).unwrap();
    let manifest: Value = serde_json::from_str(&text).unwrap();
    for part in manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]) {
        registry.put_blob(blob(part["digest"].as_str().unwrap()));
    }
    registry.put_manifest("built", tag, &text, OCI_MANIFEST);
    registry.reference("built", tag)
}

/// A registry that also responds to `GET /v2/`, which docker, skopeo and crane send first.
async fn registry_with_ping() -> FakeRegistry {
    let registry = FakeRegistry::start().await;
    registry.put_as("", b"{}".to_vec(), "application/json");
    registry
}

/// Starts containerd, a registry, and a node that pulls from it.
async fn start_peers() -> (Containerd, FakeRegistry, Node) {
    let (containerd, registry) = (Containerd::start(), registry_with_ping().await);
    let node = Node::new(&registry);
    (containerd, registry, node)
}

/// The tree that a pod sees of an image, or the message of the publish error.
async fn published(node: &Node, image: &Reference) -> Result<Tree, String> {
    let spec = VolumeSpec { images: vec![image.clone()], ..VolumeSpec::default() };
    let result = node.volumes.publish(node.request("built", spec)).await;
    result.map_err(|error| error.to_string())?;
    let tree = read_tree(&node.target("built"));
    node.unpublish("built").await;
    Ok(tree)
}

/// Asserts that the pod, umoci and containerd have the same tree of an image, and returns it.
async fn assert_peers_agree(
    node: &Node,
    containerd: &Containerd,
    image: &Reference,
    what: &str,
) -> Tree {
    let pod = published(node, image).await.unwrap();
    assert_same(&pod, &umoci(image).unwrap(), &format!("{what}, umoci"));
    assert_same(&pod, &containerd.unpacked(image, &pod).unwrap(), &format!("{what}, containerd"));
    pod
}

/// Adds an image `tag` of [`LAYERS`], without those in `left_out`, to the OCI layout in `dir`.
fn layered(dir: &Path, tag: &str, left_out: &[&str]) {
    let no_out = Path::new("/dev/null");
    sh(
        &format!("[ -e layout ] || umoci init --layout layout; umoci new --image layout:{tag}"),
        dir,
        no_out,
    );
    for (name, lines) in LAYERS.iter().filter(|(name, _)| !left_out.contains(name)) {
        let (tree, tar) = (dir.join(name), dir.join(format!("{name}.tar")));
        if !tree.exists() {
            fs::create_dir(&tree).unwrap();
            sh(lines, &tree, &tar);
        }
        sh(&format!("umoci raw add-layer --image layout:{tag} {name}.tar"), dir, no_out);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, umoci, skopeo, buildah, bsdtar, setfattr and containerd as the harness builds it"]
async fn privileged_images_of_real_builders_match_umoci_and_containerd() {
    let dir = TempDir::new().unwrap();
    let at = dir.path();
    let no_out = Path::new("/dev/null");
    let (containerd, registry, node) = start_peers().await;
    layered(at, "it", &[]);
    let image = push(&registry, &at.join("layout"), "it");
    let pod = published(&node, &image).await.unwrap();
    assert!(pod.len() > 40, "{:?}", pod.keys());
    assert_same(&pod, &umoci(&image).unwrap(), "tars by hand");
    // containerd unpacks a layer into its own directory, so a hard link cannot reach a file of a lower layer.
    let refused = containerd.unpacked(&image, &pod).unwrap_err();
    assert!(refused.contains("usr/bin/zool: no such file or directory"), "{refused}");
    layered(at, "unlinked", &["linked"]);
    let image = push(&registry, &at.join("layout"), "unlinked");
    assert_peers_agree(&node, &containerd, &image, "tars by hand").await;

    // A layer that umoci writes.
    sh("umoci unpack --image layout:unlinked again", at, no_out);
    sh(CHANGES, &at.join("again/rootfs"), no_out);
    sh("umoci repack --image layout:repacked again", at, no_out);
    let image = push(&registry, &at.join("layout"), "repacked");
    let repacked = published(&node, &image).await.unwrap();
    assert_same(&repacked, &umoci(&image).unwrap(), "repacked");
    // Where a directory became a file, umoci also writes whiteouts for the files of the directory.
    let refused = containerd.unpacked(&image, &repacked).unwrap_err();
    assert!(refused.contains("/opt/a: not a directory"), "{refused}");

    // Two images by buildah, which cannot build on the layers above.
    let buildah = "b() { buildah --storage-driver vfs --root $PWD/storage --runroot $PWD/run \"$@\"; }
        mkdir more; echo n > more/n; c=$(b from scratch); b copy -q --chown 5:6 --chmod 2750 $c more /new/dir/
        m=$(b mount $c); mkdir -p $m/tmp $m/etc/conf $m/lib; chmod 1777 $m/tmp; echo 1 > $m/etc/conf/a; echo x > $m/lib/x; ln $m/lib/x $m/lib/y
        b umount $c; b commit -q $c oci:layout:first; c=$(b from -q oci:layout:first); b copy -q $c more/n /tmp/seed
        m=$(b mount $c); rm -r $m/etc/conf; echo file > $m/etc/conf; mkdir $m/var; rm $m/lib/x; chmod 700 $m/new/dir
        b umount $c; b commit -q $c oci:layout:built; b rm -a; b rmi -a";
    sh(buildah, at, no_out);
    let image = push(&registry, &at.join("layout"), "built");
    let built = assert_peers_agree(&node, &containerd, &image, "buildah").await;
    assert!(built.contains_key(Path::new("new/dir/n")));

    // The same image as zstd:chunked: its table of contents is in frames that readers must skip.
    let copy = "skopeo --insecure-policy copy -q --dest-compress-format zstd:chunked oci:layout:repacked oci:chunked:chunked";
    sh(copy, at, no_out);
    let image = push(&registry, &at.join("chunked"), "chunked");
    assert_same(&published(&node, &image).await.unwrap(), &repacked, "zstd:chunked");
}
