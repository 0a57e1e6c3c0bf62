//! The changes that volumes make are packed and unpacked, one kind after another.

use std::{fs, slice::from_ref};

use super::volumes::{Layer, Volumes, assert_same, shell, tree};
use super::*;
use crate::changeset::{LayerFeatures, Limits, layer_to_erofs};
use crate::owner::Owner;

const FORMATS: [PackOptions; 2] = [PORTABLE, NATIVE];

pub(super) fn image(volumes: &Volumes) -> Layer {
    volumes.base(|root| {
        shell(
            root,
            "mkdir -p bin etc/conf/deep moved/sub/deep data/one data/two replaced/x kept emptied
            echo tool > bin/tool; echo su > bin/su; chmod 4755 bin/su
            echo a > etc/conf/a; echo b > etc/conf/b; echo c > etc/conf/deep/c
            for i in 1 2 3; do echo $i > moved/sub/file$i; done; echo deep > moved/sub/deep/file
            echo one > data/one/file; echo two > data/two/file; echo kept > kept/file
            echo x > replaced/x/file; echo plain > plain; echo old > old; echo e > emptied/e
            echo first > names; ln names names2; chown -R 7:8 data
            touch -d '2001-02-03 04:05:06.789' plain",
        );
        give(&root.join("etc/conf"), 0o750, (5, 6), &[("user.mood", b"calm")]);
    })
}

/// All changes that packing could lose (docs/hazards.md, 8), made in one volume.
pub(super) fn work(root: &Path) {
    shell(
        root,
        "rm etc/conf/b                        # deleted
        mv old new                            # a file renamed
        mv moved/sub renamed                  # a directory is renamed to elsewhere
        mv data/one data/eins                 # and within its directory
        echo more > renamed/file4; rm renamed/file1; chmod 600 renamed/file2
        chmod 640 plain                       # attributes alone
        mv bin/tool bin/tool2; chmod 700 bin/tool2
        chown 1000:1000 data/two/file
        rm -r replaced; echo file > replaced  # a directory is replaced by a file
        rm kept/file; mkdir kept/file; echo in > kept/file/in    # a file is replaced by a directory
        rm -r emptied; mkdir emptied; echo new > emptied/n       # recreated
        mkdir -p fresh/a/b; echo f > fresh/a/b/f
        echo linked > l1; ln l1 fresh/l2; ln l1 l3; ln names names3
        ln -s l1 sym; ln sym sym2; mkfifo pipe
        truncate -s 3M sparse; echo begin | dd of=sparse conv=notrunc status=none
        mkdir opened closed; rmdir closed",
    );
    let long = "l".repeat(200);
    shell(
        root,
        &format!("mkdir -p {long}/{long}; echo long > {long}/{long}/file; printf x > 'odd\nname'"),
    );
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    give(
        &root.join("new"),
        0o755,
        (-5, 9),
        &[("security.capability", &capability), ("user.a", b"")],
    );
    give(&root.join("fresh"), 0o1777, (9, 9), &[("user.on", b"directory"), ("trusted.x", b"\0")]);
}

#[test]
#[ignore = "needs root"]
fn privileged_all_changes_of_a_volume_are_packed_and_unpacked() {
    let volumes = Volumes::new();
    let base = image(&volumes);
    let upper = volumes.write(from_ref(&base), work);
    let stack = [base, upper];
    let (expected, names) = tree(&volumes.view(&stack));
    for packing in FORMATS {
        let why = format!("{:?}", packing.format);
        let again = volumes.round_trip(&stack, 1, &packing);
        let (found, groups) = tree(&volumes.view(&again));
        assert_same(&found, &expected, &why);
        assert_eq!(groups, names, "{why}");
        assert!(groups.iter().any(|group| group == &["/fresh/l2", "/l1", "/l3"]), "{groups:?}");
        // The unpacked layer is a layer like any other, and can be packed again.
        let once_more = volumes.round_trip(&again, 1, &PORTABLE);
        assert_same(&volumes.tree(&once_more), &expected, &why);
        let bytes = |packing| volumes.pack(&stack, 1, packing);
        assert!(bytes(&packing) == bytes(&packing), "{why}");
    }
    let (_, blob) = volumes.pack(&stack, 1, &NATIVE);
    let features = LayerFeatures { metacopy: true, redirect: true };
    assert_eq!(volumes.unpack(&blob, &NATIVE).0.features, features);
    let (_, blob) = volumes.pack(&stack, 1, &PORTABLE);
    assert_eq!(volumes.unpack(&blob, &PORTABLE).0.features, LayerFeatures::default());
    assert!(!String::from_utf8_lossy(&blob).contains("overlay."));
    // A native layer that is read as a portable one cannot set overlay's xattrs.
    let (_, blob) = volumes.pack(&stack, 1, &NATIVE);
    let file = tempfile::tempfile().unwrap();
    let limits = Limits::default();
    let taken = layer_to_erofs(&*blob, [1; 16], &file, &limits).unwrap();
    assert_eq!(taken.features, LayerFeatures::default());
}

#[test]
#[ignore = "needs root"]
fn privileged_a_portable_layer_has_only_what_oci_defines() {
    let volumes = Volumes::new();
    let base = image(&volumes);
    let upper = volumes.write(from_ref(&base), work);
    let (_, blob) = volumes.pack(&[base, upper], 1, &PORTABLE);
    let tar = volumes.scratch.file("layer.tar", &blob);
    let listed = std::process::Command::new("tar").arg("-tf").arg(tar).output().unwrap();
    assert!(listed.status.success(), "{listed:?}");
    let listed = String::from_utf8(listed.stdout).unwrap();
    let has = |name: &str| listed.lines().any(|line| line == name);
    for name in [
        "./",
        "etc/conf/.wh.b",
        ".wh.old",
        "moved/.wh.sub",
        "data/.wh.one",
        "bin/.wh.tool",
        "renamed/.wh..wh..opq",
        "renamed/deep/file",
        "data/eins/.wh..wh..opq",
        "data/eins/file",
        "kept/file/.wh..wh..opq",
        "emptied/.wh..wh..opq",
        "replaced",
        "sparse",
    ] {
        assert!(has(name), "{name} is missing:\n{listed}");
    }
    for name in ["etc/conf/a", "etc/conf/deep/", "kept/.wh.file", ".wh.closed", "bin/su"] {
        assert!(!has(name), "{name} is too much:\n{listed}");
    }
    for (dir, after) in [("etc/conf/", "etc/conf/.wh.b"), (".wh.old", "bin/")] {
        let at = |name: &str| listed.lines().position(|line| line == name).unwrap();
        assert!(at(dir) < at(after), "{listed}");
    }
}

#[test]
#[ignore = "needs root"]
fn privileged_several_own_layers_are_packed_as_one() {
    let volumes = Volumes::new();
    let mut stack = vec![image(&volumes)];
    let steps = [
        "mv moved/sub renamed; rm etc/conf/b; mkdir new; echo n > new/n; echo o > new/o",
        "echo changed > renamed/file1; rm new/n; rm -r data; echo is > plain",
        "mkdir data; echo again > data/file; mv renamed moved/back; rm -r new; echo f > new",
        "rm new; mkdir new; mkdir -p etc/conf/b; echo b > etc/conf/b/file; chmod 711 moved/back",
        "rm plain; mv moved last; rm -r etc/conf/b; chmod 604 bin/tool",
    ];
    for lines in steps {
        let upper = volumes.write(&stack, |root| shell(root, lines));
        stack.push(upper);
    }
    let expected = volumes.tree(&stack);
    for own in 1..=steps.len() {
        let squashed = volumes.round_trip(&stack, own, &PORTABLE);
        assert_eq!(squashed.len(), stack.len() - own + 1);
        assert_same(&volumes.tree(&squashed), &expected, &format!("the topmost {own}"));
    }
    // One by one, natively and in portable format by turns, each on the unpacked one before.
    let mut rebuilt = vec![stack[0].clone()];
    for (i, layer) in stack[1..].iter().enumerate() {
        rebuilt.push(layer.clone());
        rebuilt = volumes.round_trip(&rebuilt, 1, &FORMATS[i % 2]);
    }
    assert_same(&volumes.tree(&rebuilt), &expected, "one by one");
}

#[test]
#[ignore = "needs root"]
fn privileged_a_directory_that_is_not_opaque_hides_what_another_own_layer_hid() {
    let volumes = Volumes::new();
    // As in layers of other tools. Overlay itself would have made these directories opaque.
    let layers = [
        "mkdir p q; echo > p/hidden; echo > q/hidden",
        "echo file > p; mknod q c 0 0",
        "mkdir p q; echo > p/new",
    ];
    let stack = layers.map(|lines| volumes.base(|root| shell(root, lines)));
    let expected = volumes.tree(&stack);
    assert!(!expected.keys().any(|path| path.ends_with("hidden")), "{expected:?}");
    let squashed = volumes.round_trip(&stack, 2, &PORTABLE);
    assert_same(&volumes.tree(&squashed), &expected, "squashed");
}

#[test]
#[ignore = "needs root"]
fn privileged_owners_are_exchanged_back() {
    let volumes = Volumes::new();
    let base = volumes.base(|_| {});
    let upper = volumes.write(from_ref(&base), |root| {
        shell(
            root,
            "echo > a; chown 1000:100 a; echo > b; echo > c; chown 5:6 c; chown 3000000:9 .",
        );
    });
    for packing in FORMATS {
        let packing = PackOptions { owner: Some(Owner { uid: 1000, gid: 100 }), ..packing };
        let again = volumes.round_trip(&[base.clone(), upper.clone()], 1, &packing);
        let tree = volumes.tree(&again);
        for (path, owner) in
            [("/a", " 0:0 "), ("/b", " 1000:100 "), ("/c", " 5:6 "), ("", " 3000000:9 ")]
        {
            assert!(tree[path].contains(owner), "{path}: {}", tree[path]);
        }
    }
}

#[test]
#[ignore = "needs root"]
fn privileged_pipes_devices_and_whiteout_files_are_packed() {
    let volumes = Volumes::new();
    let base =
        volumes.base(|root| shell(root, "echo > taken; mkdir d; echo > d/taken; echo > gone"));
    let upper = volumes.write(from_ref(&base), |root| {
        shell(root, "rm taken d/taken");
        for name in ["taken", "d/taken", "new"] {
            drop(std::os::unix::net::UnixListener::bind(root.join(name)).unwrap());
        }
    });
    // A layer of an overlay that could not make devices: an empty file with an xattr, in a directory with an xattr that
    // announces such files.
    let marked = volumes.base(|root| {
        shell(root, "echo -n > gone");
        give(&root.join("gone"), 0, (0, 0), &[("trusted.overlay.whiteout", b"")]);
        give(root, 0o755, (0, 0), &[("trusted.overlay.opaque", b"x")]);
    });
    let stack = [base.clone(), upper.clone(), marked.clone()];
    for (stack, own) in [(&stack[..2], 1), (&[base.clone(), marked][..], 1), (&stack, 2)] {
        for packing in &FORMATS[..if own == 1 { 2 } else { 1 }] {
            let again = volumes.tree(&volumes.round_trip(stack, own, packing));
            let shown = |name| again.contains_key(name);
            let has_sockets = own == 2 || std::ptr::eq(stack.last().unwrap().as_ref(), &*upper);
            assert_eq!(
                [shown("/taken"), shown("/d/taken"), shown("/new")],
                [!has_sockets, !has_sockets, false]
            );
            assert_eq!(shown("/gone"), own == 1 && has_sockets);
        }
    }
}

/// A layer with whiteouts in a directory that no lower layer has: a squashed layer, or a snapshot over another image.
#[test]
#[ignore = "needs root"]
fn privileged_a_whiteout_of_nothing_is_not_shown() {
    let volumes = Volumes::new();
    let base = volumes.base(|root| shell(root, "mkdir -p d/sub; echo > d/gone; echo > d/sub/gone"));
    let upper =
        volumes.write(from_ref(&base), |root| shell(root, "rm d/gone d/sub/gone; echo > d/new"));
    let other = volumes.base(|root| shell(root, "echo > file"));
    for packing in FORMATS {
        let (_, blob) = volumes.pack(&[base.clone(), upper.clone()], 1, &packing);
        let (_, layer) = volumes.unpack(&blob, &packing);
        let view = volumes.view(&[other.clone(), layer]);
        let out = volumes.dir("out");
        let hidden = format!(
            "set -e; test \"$(find . | sort | tr '\\n' ' ')\" = '. ./d ./d/new ./d/sub ./file '
            ls -lR . > /dev/null; cp -a . {0}/copy; tar -cf {0}/tar .
            test ! -e d/gone; test ! -e d/sub/gone",
            out.display()
        );
        shell(&view.path(), &hidden);
        // A volume on top can see and make such a name like any other.
        let volume = volumes.write(&[other.clone(), volumes.unpack(&blob, &packing).1], |root| {
            shell(
                root,
                "rmdir d/sub; echo again > d/gone; test \"$(ls d | tr '\\n' ' ')\" = 'gone new '",
            );
        });
        drop(volume);
    }
}

#[test]
#[ignore = "needs root"]
fn privileged_devices_of_a_layer_and_of_a_volume_are_packed_and_unpacked() {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    let volumes = Volumes::new();
    let base =
        volumes.base(|root| shell(root, "mkdir dev; mknod dev/null c 1 3; mknod dev/old c 5 0"));
    let upper = volumes.write(from_ref(&base), |root| {
        shell(
            root,
            "mknod dev/disk b 4095 1048575; mknod dev/zero c 1 5; chmod 640 dev/null dev/zero
            chown 3:4 dev/disk; ln dev/disk second; rm dev/old",
        );
    });
    let stack = [base, upper];
    let (expected, _) = tree(&volumes.view(&stack));
    for packing in FORMATS {
        let again = volumes.round_trip(&stack, 1, &packing);
        let view = volumes.view(&again);
        let why = format!("{:?}", packing.format);
        assert_same(&tree(&view).0, &expected, &why);
        let at = |name: &str| fs::symlink_metadata(view.path().join(name)).unwrap();
        let device =
            |name: &str| (rustix::fs::major(at(name).rdev()), rustix::fs::minor(at(name).rdev()));
        assert!(
            at("dev/disk").file_type().is_block_device() && at("dev/null").mode() & 0o777 == 0o640
        );
        assert_eq!(device("dev/disk"), (4095, 1_048_575), "{why}");
        assert_eq!((device("dev/null"), device("dev/zero")), ((1, 3), (1, 5)), "{why}");
        assert_eq!(at("dev/disk").ino(), at("second").ino(), "{why}");
    }
}

#[test]
#[ignore = "needs root"]
fn privileged_only_changed_files_are_packed() {
    let volumes = Volumes::new();
    let base = volumes.base(|root| {
        shell(root, "for i in $(seq 100); do mkdir d$i; (cd d$i; touch $(seq 100)); done");
    });
    let upper = volumes.write(from_ref(&base), |root| shell(root, "echo > d7/7; rm d8/8"));
    let stack = [base.clone(), upper];
    assert_eq!(volumes.pack(&stack, 1, &PORTABLE).0.entries, 5);
    let upper = volumes.write(from_ref(&base), |root| {
        shell(
            root,
            "for i in $(seq 100); do chmod 700 d$i; (cd d$i; chmod 600 *; rm 50; mv 51 52); done",
        );
    });
    let stack = [base, upper];
    for packing in FORMATS {
        let again = volumes.round_trip(&stack, 1, &packing);
        assert_same(&volumes.tree(&again), &volumes.tree(&stack), &format!("{:?}", packing.format));
    }
    assert!(fs::metadata(stack[1].path()).unwrap().is_dir());
}
