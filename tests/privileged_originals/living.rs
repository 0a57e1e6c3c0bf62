//! The original changes, is replaced, and is written to by `apply`, while there is a copy of it.

use std::{fs, os::unix::fs::MetadataExt as _};

use super::Place;

/// The lines of a mount table that show an overlay of the test's store.
fn overlays(place: &Place, table: &str) -> Vec<String> {
    let upper = format!("upperdir={}/", place.path("store").display());
    table.lines().filter(|line| line.contains(&upper)).map(str::to_owned).collect()
}

/// With one of these, the copy would show other files than those that its upper was written for.
#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_a_copy_has_no_feature_that_keeps_paths_or_inodes_of_the_original() {
    let place = Place::new();
    place.dir("original");
    place.ovl(&["create", "one", "--over", "original"]);
    place.ovl(&["mount", "one"]);
    let here = overlays(&place, &fs::read_to_string("/proc/self/mountinfo").unwrap());
    place.ovl(&["umount", "one"]);
    let inside = overlays(&place, &place.run("one", "cat /proc/self/mountinfo"));
    for line in here.iter().chain(&inside) {
        // An option that is as the kernel's default is not shown.
        let parameter = |name| fs::read_to_string(format!("/sys/module/overlay/parameters/{name}"));
        for option in ["metacopy", "redirect_dir", "index", "nfs_export"] {
            let is_off = line.contains(&format!("{option}=off"))
                || line.contains(&format!("{option}=nofollow"))
                || (!line.contains(option) && parameter(option).unwrap().trim() == "N");
            assert!(is_off, "{option}: {line}");
        }
        assert!(!line.contains("volatile"), "{line}");
    }
    assert_eq!((here.len(), inside.len()), (1, 1));
    // What is dropped at the end is never synced.
    let dropped = place.ovl(&["run", "one", "--transient", "--", "cat", "/proc/self/mountinfo"]);
    let dropped = overlays(&place, &dropped);
    assert!(dropped.len() == 1 && dropped[0].contains("volatile"), "{dropped:?}");
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_what_the_copy_has_changed_stays_whatever_becomes_of_the_original() {
    let place = Place::new();
    place.dir("original");
    place.sh(
        "original",
        "mkdir d; echo a > d/a; head -c 100000 /dev/zero > big; echo one > h1; ln h1 h2; ln h1 ../h3",
    );
    place.ovl(&["create", "one", "--over", "original"]);
    place.run("one", "chmod 600 big; mv d e; echo two > h1");
    // Names of one file are several files in the copy, and the original's stay one.
    assert_eq!(place.run("one", "cat h1 h2"), "two\none\n");
    assert_eq!(place.sh("", "cat original/h1 original/h2 h3"), "one\none\none\n");
    let shown = || place.run("one", "wc -c < big; stat -c %s big; cat e/a d2/a h1 h2");
    let expected = "100000\n100000\na\na\ntwo\none\n";
    place.sh("original", "echo short > big; mv d d2");
    assert_eq!(shown(), expected);
    place.sh("", "cp -a original new; rm -r original; mv new original");
    assert_eq!(shown(), expected);
    assert_eq!(place.ovl(&["changes", "one"]), "C /big\nA /e\nA /e/a\nC /h1\n");
    // A mount writes on where it was, and a file of another kind is in the way of nothing.
    place.sh("original", "rm big; mkdir big; rm -r d2; echo file > d2");
    assert_eq!(place.run("one", "wc -c < big; cat e/a d2"), "100000\na\nfile\n");
}

/// Linux keeps names that it has looked up, so a mounted copy shows a former file until a command makes it forget them.
#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_each_command_shows_the_present_original_in_a_mounted_copy() {
    let place = Place::new();
    place.dir("original");
    fs::write(place.path("original/f"), "0").unwrap();
    place.ovl(&["create", "one", "--over", "original"]);
    let merged = place.ovl(&["mount", "one"]);
    let shown = || fs::read_to_string(format!("{}/f", merged.trim_end())).unwrap();
    let mut all: Vec<&[&str]> = vec![
        &["run", "one", "--", "cat", "f"],
        &["changes", "one"],
        &["diff", "one"],
        &["mount", "one"],
        &["snapshot", "one", "s"],
        &["fork", "one", "two"],
        &["create", "three", "--from", "one"],
        &["export", "one", "--to", "exported"],
        &["apply", "one"],
    ];
    all.push(&["run", "one", "--transient", "--", "cat", "f"]);
    for (number, words) in all.into_iter().enumerate() {
        let before = shown();
        let new = (number + 1).to_string();
        fs::write(place.path("new"), &new).unwrap();
        fs::rename(place.path("new"), place.path("original/f")).unwrap();
        assert_eq!(
            shown(),
            before,
            "the kernel shows the new file by itself, so the test says nothing"
        );
        let printed = place.ovl(words);
        assert!(words[0] != "run" || printed == new, "{words:?}: {printed}");
        assert_eq!(shown(), new, "{words:?}");
    }
    assert_eq!(fs::read_to_string(place.path("exported/f")).unwrap(), "8");
}

/// New files get the owner of the directory. The copy has them with this owner then, so that nothing differs.
#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_after_an_apply_as_root_nothing_differs_from_the_directory_of_another_owner() {
    let place = Place::new();
    place.dir("original");
    place.sh("original", "echo old > old; chown -R 1000:1001 .");
    place.ovl(&["create", "one", "--over", "original"]);
    let merged = place.ovl(&["mount", "one"]);
    let merged = merged.trim_end();
    let work = "mkdir new; echo 1 > new/f; echo 2 > set; chmod 6755 set; echo 3 > cap; setcap cap_net_raw+ep cap; \
                ln -s old link; mkfifo pipe; chmod 1777 new; touch -d 2001-01-01 new/f";
    let in_merged = |lines: &str| place.sh(merged, lines);
    in_merged(work);
    // Some are in the upper, and others in a layer.
    place.ovl(&["umount", "one"]);
    place.ovl(&["snapshot", "one", "s"]);
    place.ovl(&["mount", "one"]);
    in_merged("echo 4 > more");
    let carried = place.ovl(&["apply", "one", "--special"]);
    assert_eq!(carried, "/cap\n/link\n/more\n/new\n/new/f\n/pipe\n/set\n");
    assert_eq!(place.ovl(&["changes", "one"]), "");
    let list = "stat -c '%n %A %u:%g %Y' cap link more new new/f pipe set; getcap cap";
    assert_eq!(in_merged(list), place.sh("original", list));
    assert!(in_merged(list).contains("set -rwsr-sr-x 1000:1001"), "{}", in_merged(list));
    place.ovl(&["umount", "one"]);
    assert_eq!(place.ovl(&["changes", "one"]), "");
    assert_eq!(place.ovl(&["apply", "one"]), "");
    // In a directory that the workspace was not made over, it changes nothing of the workspace.
    fs::create_dir(place.path("elsewhere")).unwrap();
    place.ovl(&["apply", "one", "--to", "elsewhere"]);
    assert_eq!(place.ovl(&["changes", "one"]), "");
    assert_eq!(fs::metadata(place.path("original/new/f")).unwrap().uid(), 1000);
}

/// A file whose name matches is copied up at each mount, also at one for a command. No match is no error.
#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_files_of_a_pattern_are_copied_up_at_every_mount() {
    let place = Place::new();
    place.dir("original/db");
    place.sh("original", "echo 1 > db/one.sqlite; echo 2 > db/one.txt");
    let globs = ["--pre-copy-up", "db/*.sqlite", "--pre-copy-up", "none/*"];
    place.ovl(&[&["create", "one", "--over", "original"], &globs[..]].concat());
    let in_upper = || place.sh("store/workspaces/one", "find upper -type f -printf '%f\n' | sort");
    place.run("one", "true");
    assert_eq!(in_upper(), "one.sqlite\n");
    assert_eq!(place.ovl(&["changes", "one"]), "");
    place.sh("original", "echo 3 > db/two.sqlite");
    place.ovl(&["mount", "one"]);
    assert_eq!(in_upper(), "one.sqlite\ntwo.sqlite\n");
    place.ovl(&["umount", "one"]);
    // A fork has the patterns too.
    place.ovl(&["fork", "one", "two"]);
    place.sh("original", "echo 4 > db/three.sqlite");
    place.run("two", "true");
    assert!(place.path("store/workspaces/two/upper/db/three.sqlite").exists());
    assert!(!place.path("store/workspaces/two/upper/db/one.txt").exists());
}

/// A process that is killed leaves no mount, and the next one can use the workspace.
#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_a_transient_run_that_is_killed_leaves_nothing() {
    let place = Place::new();
    place.dir("original");
    place.ovl(&["create", "one", "--over", "original"]);
    let words =
        ["run", "one", "--transient", "--", "sh", "-c", "echo > new; touch ../started; sleep 60"];
    let mut child = place.command(&words).spawn().unwrap();
    while !place.path("started").exists() {
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(place.run("one", "ls"), "");
    assert_eq!(place.ovl(&["changes", "one"]), "");
    assert_eq!(fs::read_dir(place.path("store/staging")).unwrap().count(), 0);
}
