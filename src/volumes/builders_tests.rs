//! Awkward images as real builders write them, held against what umoci unpacks.
//!
//! umoci lays an image out in a directory, layer after layer, and is nobody's code but its own. Left out is what it and overlay mean
//! differently: the root's time, how many names a file of a lower layer has, and directories below links of lower layers, which umoci
//! follows and overlay replaces.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{lgetxattr, llistxattr};
use serde_json::Value;
use tempfile::TempDir;

use super::{privileged_tests::Node, tools_tests::sh, *};
use crate::image::fake::{FakeRegistry, OCI_MANIFEST};

/// The layers, bottom first, each by the program that writes it.
const LAYERS: &[(&str, &str)] = &[
    // GNU's own headers, and names too long for them.
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
    // pax by libarchive, with its own keys beside, times of parts of a second, attributes, and holes said otherwise.
    (
        "libarchive",
        "mkdir -p opt/a etc/conf; echo b > etc/conf/b; chmod 640 etc/conf/b; chown 5:6 etc/conf; touch -d @1234567890.123456789 etc/conf/b
        setfattr -n user.colour -v green opt/a
        echo c > opt/a/cap; setfattr -n security.capability -v 0x0100000200040000000000000000000000000000 opt/a/cap
        truncate -s 2M opt/a/sparse; printf y | dd of=opt/a/sparse bs=1 seek=1000000 conv=notrunc status=none
        bsdtar --format=pax --xattrs -cf $OUT opt etc",
    ),
    // Nothing but files: what they lie in, only the layers below know.
    (
        "bare",
        "mkdir -p tmp home/u opt/a; echo seed > tmp/seed; echo p > home/u/.profile; echo d > opt/a/d
        tar --format=posix -cf $OUT tmp/seed home/u/.profile opt/a/d",
    ),
    // A name for a file of a lower layer.
    (
        "linked",
        "mkdir -p usr/bin; echo tool > usr/bin/tool; chmod 4755 usr/bin/tool; ln usr/bin/tool usr/bin/zool
        tar -cf $OUT usr/bin/tool usr/bin/zool; tar --delete -f $OUT usr/bin/tool",
    ),
    // Names with dots in them, and entries that lie below a link of the same layer.
    (
        "dotted",
        "mkdir -p run/x real; ln -s real link; echo n > run/x/n; echo m > real/m
        tar -cf $OUT --no-recursion real link; tar -rPf $OUT --transform 's,^run/,run/y/../,' --no-recursion run run/x run/x/n
        tar -rf $OUT --transform 's,^real,link,' real/m",
    ),
    // Whiteouts by hand, before and after what they lie beside.
    (
        "whiteouts",
        "mkdir -p var/old etc/conf; touch etc/conf/.wh.a; touch var/old/.wh..wh..opq; echo new > var/old/new; touch .wh.none
        tar -cf $OUT --sort=name etc var .wh.none",
    ),
];

/// What umoci finds changed in the tree that it unpacked: directories become files and links, and files directories.
const CHANGES: &str = "rm -r opt/a; echo file > opt/a; rm -r home/u; ln -s /nowhere home/u; rm etc/conf/b; mkdir etc/conf/b; echo in > etc/conf/b/in
    mv usr/bin/zool usr/bin/moved; chmod 750 tmp; setfattr -n user.mood -v calm srv; rm -r dev; mkdir dev; mknod dev/zero c 1 5";

/// One name of a tree: mode, owner, device, time, content or target, attributes.
type Seen = (u32, (u32, u32), u64, (i64, i64), Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>);

fn seen(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut found = BTreeMap::new();
    let mut next = vec![PathBuf::new()];
    while let Some(path) = next.pop() {
        let at = root.join(&path);
        let meta = fs::symlink_metadata(&at).unwrap();
        let content = match meta.file_type() {
            kind if kind.is_file() => fs::read(&at).unwrap(),
            kind if kind.is_symlink() => {
                fs::read_link(&at).unwrap().as_os_str().as_bytes().to_vec()
            }
            _ => Vec::new(),
        };
        if meta.is_dir() {
            let names =
                fs::read_dir(&at).unwrap().map(|entry| path.join(entry.unwrap().file_name()));
            next.extend(names);
        }
        let time = if path == Path::new("") { (0, 0) } else { (meta.mtime(), meta.mtime_nsec()) };
        let owner = (meta.uid(), meta.gid());
        found.insert(path, (meta.mode(), owner, meta.rdev(), time, content, xattrs(&at)));
    }
    found
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 4096];
    let len = llistxattr(path, names.as_mut_slice()).unwrap();
    let names = names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 4096];
        let len = lgetxattr(path, std::ffi::OsStr::from_bytes(name), value.as_mut_slice()).unwrap();
        value.truncate(len);
        value
    };
    names.map(|name| (name.to_vec(), value(name))).collect()
}

/// An image of `layout` in a registry, as it is.
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

/// What a pod sees of an image.
async fn published(node: &Node, image: Reference) -> BTreeMap<PathBuf, Seen> {
    let spec = VolumeSpec { images: vec![image], ..VolumeSpec::default() };
    node.volumes.publish(node.request("built", spec)).await.unwrap();
    let seen = seen(&node.target("built"));
    node.unpublish("built").await;
    seen
}

fn unpacked(folder: &Path, tag: &str) -> BTreeMap<PathBuf, Seen> {
    let nowhere = Path::new("/dev/null");
    sh(&format!("umoci unpack --image layout:{tag} unpacked-{tag}"), folder, nowhere);
    seen(&folder.join(format!("unpacked-{tag}/rootfs")))
}

fn assert_same(pod: &BTreeMap<PathBuf, Seen>, peer: &BTreeMap<PathBuf, Seen>, what: &str) {
    let short = |(mode, owner, device, time, content, xattrs): &Seen| {
        let content = content.escape_ascii().to_string();
        format!("{mode:o} {owner:?} {device} {time:?} {:.60} {xattrs:?}", content)
    };
    let mut other = Vec::new();
    for path in pod.keys().chain(peer.keys()).collect::<std::collections::BTreeSet<_>>() {
        let (pod, peer) = (pod.get(path), peer.get(path));
        if pod != peer {
            let (pod, peer) = (pod.map(short), peer.map(short));
            other.push(format!("{path:?}\n  pod  {pod:?}\n  peer {peer:?}"));
        }
    }
    assert!(other.is_empty(), "{what}: {}", other.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, umoci, skopeo, buildah, bsdtar and setfattr"]
async fn privileged_images_of_real_builders_are_the_trees_that_umoci_unpacks() {
    let folder = TempDir::new().unwrap();
    let at = folder.path();
    let nowhere = Path::new("/dev/null");
    sh("umoci init --layout layout; umoci new --image layout:it", at, nowhere);
    for (name, lines) in LAYERS {
        let tree = at.join(name);
        fs::create_dir(&tree).unwrap();
        let tar = at.join(format!("{name}.tar"));
        sh(lines, &tree, &tar);
        sh(&format!("umoci raw add-layer --image layout:it {name}.tar"), at, nowhere);
    }
    let registry = FakeRegistry::start().await;
    let node = Node::new(&registry);
    let peer = unpacked(at, "it");
    assert!(peer.len() > 40, "{:?}", peer.keys());
    let pod = published(&node, push(&registry, &at.join("layout"), "it")).await;
    assert_same(&pod, &peer, "tars by hand");

    // umoci's own layer.
    sh("cp -a unpacked-it again", at, nowhere);
    sh(CHANGES, &at.join("again/rootfs"), nowhere);
    sh("umoci repack --image layout:repacked again", at, nowhere);
    let peer = unpacked(at, "repacked");
    let pod = published(&node, push(&registry, &at.join("layout"), "repacked")).await;
    assert_same(&pod, &peer, "repacked");

    // buildah's, twice: it cannot take the layers above.
    let buildah = "b() { buildah --storage-driver vfs --root $PWD/storage --runroot $PWD/run \"$@\"; }
        mkdir more; echo n > more/n; c=$(b from scratch); b copy -q --chown 5:6 --chmod 2750 $c more /new/dir/
        m=$(b mount $c); mkdir -p $m/tmp $m/etc/conf $m/lib; chmod 1777 $m/tmp; echo 1 > $m/etc/conf/a; echo x > $m/lib/x; ln $m/lib/x $m/lib/y
        b umount $c; b commit -q $c oci:layout:first; c=$(b from -q oci:layout:first); b copy -q $c more/n /tmp/seed
        m=$(b mount $c); rm -r $m/etc/conf; echo file > $m/etc/conf; mkdir $m/var; rm $m/lib/x; chmod 700 $m/new/dir
        b umount $c; b commit -q $c oci:layout:built; b rm -a; b rmi -a";
    sh(buildah, at, nowhere);
    let built = unpacked(at, "built");
    assert!(built.contains_key(Path::new("new/dir/n")));
    let pod = published(&node, push(&registry, &at.join("layout"), "built")).await;
    assert_same(&pod, &built, "buildah");

    // The same packed otherwise, with a table of contents in frames that are to be skipped.
    let copy = "skopeo --insecure-policy copy -q --dest-compress-format zstd:chunked oci:layout:repacked oci:chunked:chunked";
    sh(copy, at, nowhere);
    let pod = published(&node, push(&registry, &at.join("chunked"), "chunked")).await;
    assert_same(&pod, &peer, "zstd:chunked");
}
