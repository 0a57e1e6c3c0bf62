//! Directories and stores that are refused, on the real file systems.

use std::{fs, path::Path};

use super::Place;

/// Nothing was made in the store, and nothing is mounted from it.
fn assert_untouched(store: &Path) {
    assert!(!store.join("workspaces/one").exists());
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(&format!("{}/", store.display())), "{table}");
}

#[test]
#[ignore = "needs root: mounts file systems"]
fn privileged_a_store_that_cannot_hold_uppers_is_refused_with_its_file_system() {
    let place = Place::new();
    for dir in ["original", "low", "up", "work", "low2", "up2", "work2"] {
        place.dir(dir);
    }
    // XFS without d_type is made by no kernel of today, and ext4 without it still is.
    place.disk("ext4", "mkfs.ext4 -qF -O ^filetype");
    for dir in ["overlay", "fuse", "ramfs", "tmpfs"] {
        place.dir(dir);
    }
    place.sh(
        "",
        "mount -t overlay -o lowerdir=low,upperdir=up,workdir=work overlay overlay; mount -t ramfs ramfs ramfs; \
         mount -t tmpfs tmpfs tmpfs; fuse-overlayfs -o lowerdir=low2,upperdir=up2,workdir=work2 fuse 2> /dev/null",
    );
    for (on, why) in [
        ("ext4", "its file system is ext4, and the check `d_type` failed"),
        ("overlay", "its file system is overlay, and an overlay's upper cannot be on an overlay"),
        ("fuse", "its file system is fuse, and the check `overlay` failed"),
        ("ramfs", "its file system is ramfs, and the check `whiteout` failed"),
    ] {
        let store = place.path(on).join("store");
        let root = store.to_str().unwrap();
        let text = place.refused(1, &["create", "one", "--root", root, "--over", "original"]);
        assert!(text.contains(&format!("{root} cannot hold a store\n  why: {why}")), "{text}");
        assert!(text.contains("choose another directory with --root"), "{text}");
        assert_untouched(&store);
    }
    let store = place.path("tmpfs/store");
    place.ovl(&["create", "one", "--root", store.to_str().unwrap(), "--over", "original"]);
    // As the directory of a copy, a FUSE file system is good.
    fs::write(place.path("fuse/f"), "fuse").unwrap();
    place.ovl(&["create", "two", "--over", "fuse"]);
    assert_eq!(place.run("two", "cat f; echo changed > f; cat f"), "fusechanged\n");
    assert_eq!(fs::read_to_string(place.path("fuse/f")).unwrap(), "fuse");
}

#[test]
#[ignore = "needs root and mkfs.btrfs: mounts file systems"]
fn privileged_subvolumes_that_would_be_mixed_up_are_refused_and_the_printed_store_works() {
    let place = Place::new();
    place.disk("disk", "mkfs.btrfs -q");
    place.sh(
        "disk",
        "for s in one two one/in; do btrfs subvolume create $s; done > /dev/null; mkdir -p one/project one/in/project; \
         echo text > one/project/f",
    );
    let create = |store: &str, over: &str| {
        let root = place.path(store);
        place.refused(1, &["create", "one", "--root", root.to_str().unwrap(), "--over", over])
    };
    for store in ["disk/store", "disk/two/store", "disk/one/in/store"] {
        let text = create(store, "disk/one/project");
        assert!(text.contains("is in another subvolume of the same btrfs"), "{text}");
        let printed = text.split("--root ").nth(1).and_then(|rest| rest.split_whitespace().next());
        let printed = printed.unwrap();
        assert_eq!(Path::new(printed), place.path("disk/one/.ovl"));
        assert_untouched(&place.path(store));
        place.ovl(&["create", "one", "--root", printed, "--over", "disk/one/project"]);
        assert_eq!(place.ovl(&["run", "--root", printed, "one", "--", "cat", "f"]), "text\n");
        place.ovl(&["scrub", "--root", printed, "one"]);
    }
    // Nothing beside the root of a subvolume is in it.
    let text = create("disk/store", "disk/two");
    let disk = place.path("disk");
    assert!(!text.contains(&format!("--root {}", disk.display())), "{text}");
    assert!(text.contains("--root"), "{text}");
    // Files of a subvolume in the directory would have the numbers of others, wherever the store is.
    let text = place.refused(1, &["create", "one", "--over", "disk/one"]);
    let inside = place.path("disk/one/in");
    assert!(text.contains(&format!("the btrfs subvolume {} is in it", inside.display())), "{text}");
    assert_untouched(&place.path("store"));
    place.ovl(&["create", "one", "--over", "disk/two"]);
    place.run("one", "true");
    place.sh("disk", "btrfs subvolume create two/late");
    let text = place.refused(1, &["run", "one", "--", "ls"]);
    assert!(text.contains("two/late is in it"), "{text}");
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_a_stack_that_is_too_deep_is_refused_with_the_reason() {
    let place = Place::new();
    for dir in ["low/d", "up", "work", "one", "up2", "work2", "two"] {
        place.dir(dir);
    }
    place.sh(
        "",
        "mount -t overlay -o lowerdir=low,upperdir=up,workdir=work overlay one; echo text > one/d/f; \
         mount -t overlay -o lowerdir=one,upperdir=up2,workdir=work2 overlay two",
    );
    let text = place.refused(1, &["create", "deep", "--over", "two/d"]);
    assert!(
        text.contains("it is on an overlay over another overlay, and Linux allows only two"),
        "{text}"
    );
    assert_untouched(&place.path("store"));
    place.ovl(&["create", "one", "--over", "one/d"]);
    assert_eq!(place.run("one", "echo more >> f; cat f"), "text\nmore\n");
    // One more in the run is one too many.
    let over = place.path("one/d");
    let text = place.refused(1, &["run", "one", "--overlay", over.to_str().unwrap(), "--", "ls"]);
    assert!(text.contains("use --transient, which drops all changes"), "{text}");
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_mounts_below_the_directory_are_named_and_the_copy_shows_what_is_under_them() {
    let place = Place::new();
    for dir in ["original/mounted", "original/bound", "other"] {
        place.dir(dir);
    }
    place.sh(
        "",
        "echo under > original/mounted/f; mount -t tmpfs tmpfs original/mounted; echo over > original/mounted/f; \
         mount --bind other original/bound",
    );
    let done = place.command(&["create", "one", "--over", "original"]).output().unwrap();
    let text = String::from_utf8(done.stderr).unwrap();
    for path in ["original/mounted", "original/bound"] {
        assert!(text.contains(place.path(path).to_str().unwrap()), "{text}");
    }
    assert_eq!(place.run("one", "cat mounted/f; echo copy > mounted/f"), "under\n");
    assert_eq!(fs::read_to_string(place.path("original/mounted/f")).unwrap(), "over\n");
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_a_store_in_the_directory_and_a_linked_worktree_are_refused() {
    let place = Place::new();
    place.dir("original/sub");
    place.sh(
        "",
        "git init -q main; cd main; git -c user.name=me -c user.email=me commit -q --allow-empty -m 1; \
         git worktree add -q ../linked",
    );
    let text = place.refused(1, &["create", "one", "--over", "linked"]);
    assert!(text.contains("it is a linked git worktree"), "{text}");
    assert!(text.contains("make the copy over the main checkout"), "{text}");
    place.ovl(&["create", "main", "--over", "main"]);
    let store = place.path("original/store");
    let root = store.to_str().unwrap();
    let text = place.refused(1, &["create", "one", "--root", root, "--over", "original"]);
    assert!(text.contains("so the copy would contain itself"), "{text}");
    let inside = store.join("layers");
    let words = ["create", "one", "--root", root, "--over", inside.to_str().unwrap()];
    let text = place.refused(1, &words);
    assert!(text.contains("it is a part of the store"), "{text}");
    assert_untouched(&store);
    place.ovl(&["create", "one", "--root", root, "--over", "original/sub"]);
}
