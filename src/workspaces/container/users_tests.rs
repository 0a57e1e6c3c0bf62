//! Tests with directories that look like trees.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
};

use super::*;
use crate::sys::{
    mounts::{LinuxMounts, Mounts as _},
    test_dir::TestDir,
};

const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\
    a line without the format\n\
    short:x:7\n\
    negative:x:-1:1::/:/bin/sh\n\
    ada:x:1000:1001:Ada,,,:/home/ada:/bin/zsh\n\
    2000:x:1500:1500::/home/number:\n\
    none:x:4294967295:1::/:/bin/sh\n\
    ada:x:9:9:the first one counts:/:/bin/sh\n";

const GROUP: &str = "root:x:0:\n\
    staff:x:50:ada,root\n\
    ada:x:1001:\n\
    docker:x:999:bob,ada\n\
    docker2:x:999:ada\n\
    adas:x:998:adam,xada\n\
    broken:x\n";

fn tree(dir: &TestDir) -> Root {
    dir.dir("tree/etc");
    dir.file("tree/etc/passwd", PASSWD);
    dir.file("tree/etc/group", GROUP);
    Root::Tree(LinuxMounts.open_dir(&dir.path().join("tree")).unwrap())
}

/// Uid, gid, groups, home.
fn found(root: &Root, text: &str) -> (u32, u32, Vec<u32>, String) {
    let user = account(root, text).unwrap().user;
    (user.uid, user.gid, user.groups, user.home.display().to_string())
}

#[test]
fn a_user_is_found_by_name_and_by_number() {
    let dir = TestDir::new();
    let tree = tree(&dir);
    let ada = || (1000, 1001, vec![50, 999], "/home/ada".to_owned());
    assert_eq!(found(&tree, "ada"), ada());
    assert_eq!(found(&tree, "1000"), ada());
    assert_eq!(found(&tree, "root"), (0, 0, vec![50], "/root".to_owned()));
    // A name may look like a number.
    assert_eq!(found(&tree, "2000"), (1500, 1500, vec![], "/home/number".to_owned()));
    assert_eq!(found(&tree, "77"), (77, 0, vec![], "/".to_owned()));
    let account = account(&tree, "ada").unwrap();
    assert_eq!((account.name.unwrap(), account.shell.unwrap()), ("ada".into(), "/bin/zsh".into()));
}

#[test]
fn with_a_group_the_user_has_only_that() {
    let dir = TestDir::new();
    let tree = tree(&dir);
    for (text, gid) in [("ada:docker", 999), ("1000:50", 50), ("ada:12345", 12345)] {
        assert_eq!(found(&tree, text), (1000, gid, vec![], "/home/ada".to_owned()), "{text}");
    }
}

#[test]
fn what_names_no_user_is_refused_with_the_reason() {
    let dir = TestDir::new();
    let tree = tree(&dir);
    for (text, why) in [
        ("", "is not a user"),
        (":50", "is not a user"),
        ("ada:", "is not a user"),
        ("ada:1:2", "is not a user"),
        ("bob", "no user \"bob\" in /etc/passwd of the workspace"),
        ("negative", "no user"),
        ("none", "no user"),
        ("+5", "no user"),
        ("4294967295", "no user"),
        ("ada:bob", "no group \"bob\" in /etc/group of the workspace"),
    ] {
        let error = account(&tree, text).unwrap_err().to_string();
        assert!(error.contains(why), "{text}: {error}");
    }
    let host = Root::Host(Vec::new());
    let error = account(&host, "no such user").unwrap_err().to_string();
    assert!(error.contains("of this machine"), "{error}");
    assert_eq!(account(&host, "root").unwrap().user.uid, 0);
}

#[test]
fn an_owner_without_an_entry_has_the_group_of_the_directory() {
    let dir = TestDir::new();
    let tree = tree(&dir);
    let user = |uid, gid| account_of_owner(&tree, uid, gid).unwrap().user;
    let unknown = User { uid: 4000, gid: 4001, groups: Vec::new(), home: "/".into() };
    assert_eq!(user(4000, 4001), unknown);
    assert_eq!(user(1000, 4001), account(&tree, "ada").unwrap().user);
}

#[test]
fn the_files_of_a_tree_lead_not_out_of_it() {
    let dir = TestDir::new();
    let tree = tree(&dir);
    let etc = dir.path().join("tree/etc");
    let replace = |to: &str| {
        let _ = fs::remove_file(etc.join("passwd"));
        symlink(to, etc.join("passwd")).unwrap();
    };
    // Of a link to a file of the tree, the content is read.
    dir.file("tree/users", "eve:x:5:5::/eve:/bin/sh\n");
    replace("/users");
    assert_eq!(found(&tree, "eve").0, 5);
    replace("../../../../users");
    assert_eq!(found(&tree, "eve").0, 5);
    // The host has this file, the tree has it not.
    let outside = dir.file("outside", "eve:x:6:6::/eve:/bin/sh\n");
    replace(outside.to_str().unwrap());
    assert!(matches!(account(&tree, "eve").unwrap_err(), UserError::NoUser { .. }));
    // It is a directory, and not a file.
    replace("/etc");
    let error = account(&tree, "eve").unwrap_err();
    assert!(error.to_string().contains("not a regular file"), "{error}");
}

#[test]
fn a_shell_is_used_if_the_tree_has_it() {
    let dir = TestDir::new();
    let tree = tree(&dir);
    dir.dir("tree/bin");
    let zsh = dir.file("tree/bin/zsh", "");
    let wanted = |path: &str| shell(&tree, Some(path.as_ref())).display().to_string();
    assert_eq!(wanted("/bin/zsh"), "/bin/sh", "it cannot be executed");
    fs::set_permissions(&zsh, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(wanted("/bin/zsh"), "/bin/zsh");
    assert_eq!(wanted("/bin"), "/bin/sh");
    assert_eq!(wanted("bin/zsh"), "/bin/sh");
    assert_eq!(wanted("/bin/bash"), "/bin/sh");
    assert_eq!(shell(&tree, None).display().to_string(), "/bin/sh");
}
