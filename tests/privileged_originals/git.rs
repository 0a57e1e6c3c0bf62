//! What the page of `ovl` says of git, in a copy of a checkout whose original goes on.

use super::Place;

/// A checkout `project` with three files in two commits, and a copy `box` of it.
fn checkout() -> Place {
    let place = Place::new();
    place.dir("project");
    std::fs::write(place.path(".gitconfig"), "[user]\nname = Me\nemail = me@example.com\n")
        .unwrap();
    place.sh(
        "project",
        "git init -q -b main; for f in a b c; do echo 1 > $f; done; git add .; git commit -qm one; \
         echo 2 > c; git commit -qam two",
    );
    place.ovl(&["create", "box", "--over", "project"]);
    place
}

const LOG: &str = "git log --format=%s";

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_commits_of_the_copy_stay_whatever_git_does_in_the_original() {
    let place = checkout();
    place.run("box", "git switch -qc mine; echo copy > a; git commit -qam mine; echo next > b");
    let expected = "mine\ntwo\none\n";
    for work in [
        "echo 3 > c; git commit -qam three",
        "git switch -qc other; echo 4 > new; git add new; git commit -qm four; git switch -q main",
        "echo 5 > c; git stash -q; git stash pop -q; git checkout -q c",
        "git gc -q --prune=now; git repack -qad; git pack-refs --all",
    ] {
        place.sh("project", work);
        assert_eq!(place.run("box", LOG), expected, "{work}");
        assert_eq!(
            place.run("box", "git rev-parse --abbrev-ref HEAD; cat a b"),
            "mine\ncopy\nnext\n"
        );
        place.run("box", "git fsck --no-dangling");
    }
    place.run("box", "git gc -q --prune=now");
    assert_eq!(place.run("box", LOG), expected);
    // The original has nothing of it.
    assert_eq!(place.sh("project", "git branch --format='%(refname:short)'"), "main\nother\n");
    assert_eq!(place.sh("project", "git fsck; git status --short"), "");
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_branches_and_stashes_of_the_original_are_seen_in_the_copy() {
    let place = checkout();
    place.run("box", "git switch -qc mine");
    place.sh(
        "project",
        "git switch -qc theirs; echo 3 > c; git commit -qam three; echo 4 > c; git stash -q",
    );
    let seen = place.run(
        "box",
        "git branch --format='%(refname:short)'; git log --format=%s theirs -1; git stash list",
    );
    assert!(seen.starts_with("main\nmine\ntheirs\nthree\nstash@{0}: "), "{seen}");
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_without_a_branch_of_its_own_the_copy_follows_the_branch_of_the_original() {
    let place = checkout();
    place.run("box", "git status --short");
    place.sh("project", "git switch -qc theirs HEAD~1");
    assert_eq!(place.run("box", "git rev-parse --abbrev-ref HEAD"), "theirs\n");
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_files_that_the_original_switches_are_changed_in_the_copy_until_git_restores_them() {
    let place = checkout();
    place.run("box", "git switch -qc mine; echo copy > a; git commit -qam mine");
    place.sh("project", "git switch -qc theirs; git rm -q b; echo 3 > c; echo 4 > new; git add .; git commit -qm three");
    assert_eq!(place.run("box", "cat a c"), "copy\n3\n");
    assert_eq!(place.run("box", "git status --short"), " D b\n M c\n?? new\n");
    place.run("box", "git restore .");
    assert_eq!(place.run("box", "cat a b c; git status --short"), "copy\n1\n2\n?? new\n");
    assert_eq!(place.sh("project", "cat c; git status --short"), "3\n");
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_commits_that_the_original_has_lost_are_lost_in_the_copy() {
    let place = checkout();
    place.run("box", "git switch -qc mine; echo copy > a; git commit -qam mine");
    place.sh(
        "project",
        "git reset -q --hard HEAD~1; git reflog expire --expire=now --all; git gc -q --prune=now",
    );
    let done = place.command(&["run", "box", "--", "git", "log", "--format=%s"]).output().unwrap();
    let text = String::from_utf8(done.stderr).unwrap();
    assert!(!done.status.success() && text.contains("Could not read"), "{text}");
}
