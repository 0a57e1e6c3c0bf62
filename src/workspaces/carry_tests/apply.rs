//! Changes are carried into a directory, once, by halves, and against other writers.

use std::{
    cell::Cell,
    os::unix::fs::symlink,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use super::{
    super::apply::{
        Applied, ApplyError, ApplyInput, ApplyOptions, ConflictReason, OnConflict, Refusals,
        SpecialReason, Written, apply,
    },
    export::links,
    *,
};
use crate::{
    changeset::{EntryType, Property},
    sys::{
        clock::{self, Time},
        flock::{self, Kind, Lock},
        tree::{Dir, Rename},
    },
    workspaces::testing::PLAIN,
};

const DRY: ApplyOptions = ApplyOptions { dry_run: true, ..PLAIN };
const OURS: ApplyOptions = ApplyOptions { on_conflict: OnConflict::Ours, ..PLAIN };
const THEIRS: ApplyOptions = ApplyOptions { on_conflict: OnConflict::Theirs, ..PLAIN };

/// A moment after everything that was written so far, and before everything that comes.
fn now() -> Time {
    thread::sleep(Duration::from_millis(30));
    let now = clock::now().unwrap();
    thread::sleep(Duration::from_millis(30));
    now
}

fn run(copy: &Copy, since: Time, options: ApplyOptions) -> Result<Applied, ApplyError> {
    run_with(copy, since, options, &[], &|| false)
}

fn run_with(
    copy: &Copy,
    since: Time,
    options: ApplyOptions,
    own: &[Written],
    stop: &dyn Fn() -> bool,
) -> Result<Applied, ApplyError> {
    let (changes, after) = (copy.changes(), copy.after());
    let layers = if copy.is_plain() { Vec::new() } else { copy.layers() };
    let (changes, layers, dir) = (&changes[..], &layers[..], copy.dir.as_path());
    apply(
        ApplyInput { changes, after: &after, layers, dir, since, since_git: since, own },
        options,
        stop,
    )
}

fn refused(done: Result<Applied, ApplyError>) -> Refusals {
    match done {
        Err(ApplyError::Refused(refusals)) => refusals,
        other => panic!("{other:?}"),
    }
}

fn conflicts(done: Result<Applied, ApplyError>) -> Vec<(String, ConflictReason)> {
    let refusals = refused(done);
    assert_eq!(refusals.special, []);
    let shown = |path: &[u8]| path.escape_ascii().to_string();
    refusals.conflicts.into_iter().map(|one| (shown(&one.path), one.reason)).collect()
}

/// Asserts that the directory shows what the copy shows, and nothing of apply itself.
fn assert_carried(copy: &Copy) {
    let (found, expected) = (tree(&copy.dir), tree(&copy.merged));
    let paths: std::collections::BTreeSet<_> = found.keys().chain(expected.keys()).collect();
    let differ = paths.into_iter().filter(|path| found.get(*path) != expected.get(*path));
    let differ: Vec<_> = differ
        .map(|path| (path.escape_ascii().to_string(), found.get(path), expected.get(path)))
        .collect();
    assert!(differ.is_empty(), "{differ:#?}");
}

/// A directory of which [`every_kind`] changes something of every kind.
fn original(dir: &Path) {
    fill(dir);
    shell(
        dir,
        "mkdir -p gone/sub will-be-file/x empty; echo 1 > gone/sub/f; echo 2 > will-be-file/x/f; \
         echo 3 > will-be-dir; echo 4 > removed; ln -s a link; echo 5 > one; ln one two; \
         echo 6 > mode; echo 7 > kept",
    );
}

fn every_kind(merged: &Path) {
    shell(
        merged,
        "echo more >> a/file; mkdir -p new/deep; echo n > new/deep/f; chmod 750 new/deep; rm -r gone; \
         rm -r will-be-file; echo file > will-be-file; rm will-be-dir; mkdir will-be-dir; \
         echo in > will-be-dir/in; rm removed; ln -snf b link; mkfifo pipe; \
         echo first > tmp; mv tmp one; echo second > tmp; mv tmp two; \
         chmod 700 b; echo > b/new; chmod 600 mode; touch -d 2001-01-01 kept; rmdir empty; \
         truncate -s 1M sparse; echo end >> sparse; touch -d 2002-02-02 new/deep",
    );
}

#[test]
fn what_is_listed_is_carried_and_nothing_is_left() {
    let copy = Copy::plain(original);
    every_kind(&copy.merged);
    let since = now();
    let listed = copy.changes().len();
    let before = tree(&copy.dir);
    let planned = run(&copy, since, DRY).unwrap();
    assert_eq!(tree(&copy.dir), before, "a dry run writes nothing");
    let applied = run(&copy, since, PLAIN).unwrap();
    assert_eq!(applied.carried.len(), listed);
    assert_eq!(applied.carried, planned.carried);
    assert_eq!(applied.lost_links, [&b"one"[..], b"two"]);
    assert_eq!(copy.lines(), [""; 0]);
    assert_carried(&copy);
    let mtime = |path: &str| fs::metadata(copy.dir.join(path)).unwrap().mtime();
    assert_eq!(mtime("new/deep"), fs::metadata(copy.merged.join("new/deep")).unwrap().mtime());
    let sparse = fs::metadata(copy.dir.join("sparse")).unwrap();
    assert!(sparse.blocks() * 512 < 1 << 19, "{} blocks", sparse.blocks());
    // What apply wrote is no change by another process.
    shell(
        &copy.merged,
        "echo again >> a/file; rm -r new; chmod 755 b; echo x > one; rm will-be-dir/in",
    );
    let again = run_with(&copy, applied.started, PLAIN, &applied.written, &|| false).unwrap();
    assert_eq!(again.carried.len(), 5);
    assert_carried(&copy);
    run_with(&copy, applied.started, PLAIN, &[], &|| false).unwrap();
}

#[test]
fn all_conflicts_are_listed_and_nothing_is_written() {
    let edit = || {
        let copy = Copy::plain(original);
        let since = now();
        shell(
            &copy.merged,
            "echo copy > a/file; echo copy > both; rm -r gone; rm removed; chmod 700 b; echo copy > kept; \
             mkdir -p made; echo copy > made/f",
        );
        shell(
            &copy.dir,
            "echo dir > a/file; echo dir > both; echo dir > gone/sub/new; echo dir > removed; touch b/x; \
             chmod 755 b; echo dir > made",
        );
        (copy, since)
    };
    let (copy, since) = edit();
    let before = tree(&copy.dir);
    let all = conflicts(run(&copy, since, PLAIN));
    let changed = |path: &str| (path.to_owned(), ConflictReason::Changed);
    let expected = ["a/file", "b", "both", "gone/sub", "made", "removed"].map(changed);
    assert_eq!(all.iter().filter(|(path, _)| path != "b/x").cloned().collect::<Vec<_>>(), expected);
    assert_eq!(tree(&copy.dir), before);
    let text = refused(run(&copy, since, DRY));
    let shown = text.to_string();
    assert!(shown.starts_with(&format!("nothing was applied to {}\n", copy.dir.display())));
    assert!(shown.contains("\n  a/file: it was changed there\n"), "{shown}");
    assert!(shown.ends_with("--theirs"), "{shown}");

    let applied = run(&copy, since, THEIRS).unwrap();
    assert_eq!(lines(&applied.carried), ["C /kept"]);
    assert!(applied.kept.iter().any(|kept| kept.path == b"a/file"));
    let read = |copy: &Copy, path: &str| fs::read_to_string(copy.dir.join(path)).unwrap();
    assert_eq!((&*read(&copy, "kept"), &*read(&copy, "made")), ("copy\n", "dir\n"));
    assert_eq!(read(&copy, "gone/sub/new"), "dir\n");

    let (copy, since) = edit();
    run(&copy, since, OURS).unwrap();
    assert_eq!(copy.lines(), [""; 0]);
    assert_eq!(read(&copy, "made/f"), "copy\n");
    assert!(!copy.dir.join("gone").exists() && !copy.dir.join("removed").exists());
}

#[test]
fn a_file_whose_ctime_alone_is_newer_conflicts_and_the_reason_says_so() {
    let copy = Copy::plain(|dir| shell(dir, "for name in f g h; do echo 1 > $name; done; mkdir d"));
    let since = now();
    shell(&copy.merged, "echo copy > f; echo copy > g; echo copy > h; rmdir d");
    shell(&copy.dir, "ln f ../other; chmod 644 g; echo 2 > h; touch -d 2001-01-01 h; chmod 755 d");
    let found = conflicts(run(&copy, since, PLAIN));
    // A write that has put back the mtime looks as a link does.
    let ctime = |path: &str| (path.to_owned(), ConflictReason::Ctime);
    assert_eq!(found, ["d", "f", "g", "h"].map(ctime));
    let shown = refused(run(&copy, since, PLAIN)).to_string();
    assert!(shown.contains("\n  f: only its ctime is newer"), "{shown}");
    assert!(shown.contains("--ours"), "{shown}");
    run(&copy, since, OURS).unwrap();
    assert_carried(&copy);
}

#[test]
fn git_and_what_could_give_rights_are_carried_on_request() {
    let copy = Copy::plain(|dir| {
        shell(dir, "mkdir -p .git sub/.git tool; echo 1 > .git/HEAD; mkdir tool/.git")
    });
    shell(
        &copy.merged,
        "echo 2 > .git/HEAD; echo 3 > sub/.git/HEAD; echo 4 > sub/f; echo 5 > setuid; chmod 4755 setuid; \
         echo 6 > setgid; chmod 2755 setgid; ln -s ../out link; ln -s f sub/inside; mkdir shared; chmod 2775 shared",
    );
    let since = now();
    let refusals = refused(run(&copy, since, PLAIN));
    let found: Vec<_> = refusals.special.iter().map(|one| (&one.path[..], one.reason)).collect();
    let expected = [
        (&b"link"[..], SpecialReason::LeadsOut),
        (b"setgid", SpecialReason::Setgid),
        (b"setuid", SpecialReason::Setuid),
    ];
    assert_eq!(found, expected);
    assert!(refusals.to_string().contains("\n  setuid: a setuid file\n"), "{refusals}");
    assert!(!copy.dir.join("sub/f").exists());
    let applied = run(&copy, since, ApplyOptions { special: true, ..PLAIN }).unwrap();
    assert_eq!(applied.left_out, [&b".git/HEAD"[..], b"sub/.git/HEAD"]);
    assert_eq!(copy.lines(), ["C /.git/HEAD", "A /sub/.git/HEAD"]);
    let mode = |path: &str| fs::metadata(copy.dir.join(path)).unwrap().mode() & 0o7777;
    assert_eq!((mode("setuid"), mode("shared")), (0o4755, 0o2775));
    // The repository in a removed directory is not in the list by its name.
    shell(&copy.merged, "rm -r tool");
    let found = conflicts(run(&copy, since, PLAIN));
    assert_eq!(found, [("tool/.git".to_owned(), ConflictReason::Git)]);
    run_with(
        &copy,
        applied.started,
        ApplyOptions { git: true, ..PLAIN },
        &applied.written,
        &|| false,
    )
    .unwrap();
    assert_eq!(copy.lines(), [""; 0]);
}

#[test]
fn a_file_with_several_names_is_written_through_on_request() {
    let copy = Copy::plain(|dir| shell(dir, "echo 1 > f; ln f ../store; chmod 600 f"));
    shell(&copy.merged, "echo new > f; chmod 640 f");
    let applied = run(&copy, now(), ApplyOptions { in_place: true, ..PLAIN }).unwrap();
    assert_eq!(applied.lost_links, [b""; 0]);
    let store = copy.dir.parent().unwrap().join("store");
    assert_eq!(fs::read_to_string(&store).unwrap(), "new\n");
    assert_carried(&copy);
    shell(&copy.merged, "echo newer > f");
    let applied = run_with(&copy, applied.started, PLAIN, &applied.written, &|| false).unwrap();
    assert_eq!(applied.lost_links, [b"f"]);
    assert_eq!(fs::read_to_string(&store).unwrap(), "new\n");
    assert_carried(&copy);
}

#[test]
fn names_of_one_file_that_are_carried_together_stay_names_of_one_file() {
    let fill = |dir: &Path| shell(dir, "mkdir d; echo 1 > old; echo 2 > d/other");
    let work = |merged: &Path| {
        shell(
            merged,
            "echo new > a; ln a d/b; ln a z; ln -s nowhere l; ln l d/m; mkfifo p; ln p d/q; \
             rm old; ln d/other old; echo alone > x; cp -p x y",
        );
    };
    let copy = Copy::plain(fill);
    work(&copy.merged);
    let applied = run(&copy, now(), PLAIN).unwrap();
    assert_carried(&copy);
    // One name of `d/other` is not carried, because it did not change.
    let names = [&["a", "d/b", "z"][..], &["d/m", "l"], &["d/q", "p"]];
    let names: Vec<Vec<_>> = names
        .iter()
        .map(|names| names.iter().map(|name| name.as_bytes().to_vec()).collect())
        .collect();
    assert_eq!(links(&copy.dir), names);
    // The link is no change by another process.
    shell(&copy.merged, "echo newer > a");
    let again = run_with(&copy, applied.started, PLAIN, &applied.written, &|| false).unwrap();
    assert_eq!(lines(&again.carried), ["C /a", "C /d/b", "C /z"]);
    assert_eq!(links(&copy.dir), names);
    // Also after a kill at any step.
    for kill_at in 1.. {
        let copy = Copy::plain(fill);
        work(&copy.merged);
        let (since, steps) = (now(), Cell::new(0));
        let stop = || {
            steps.set(steps.get() + 1);
            if steps.get() == kill_at {
                resume_unwind(Box::new(()));
            }
            false
        };
        let killed = catch_unwind(AssertUnwindSafe(|| run_with(&copy, since, PLAIN, &[], &stop)));
        if killed.is_ok() {
            assert!(kill_at > 20, "{kill_at} steps");
            break;
        }
        run(&copy, since, PLAIN).unwrap_or_else(|error| panic!("step {kill_at}: {error}"));
        assert_carried(&copy);
        assert_eq!(links(&copy.dir), names, "step {kill_at}");
    }
}

#[test]
fn directories_whose_entries_change_get_the_present_time_and_others_keep_theirs() {
    let copy = Copy::plain(|dir| {
        shell(
            dir,
            "mkdir -p changed/sub same mode; echo 1 > changed/f; echo 1 > changed/sub/f; echo 1 > same/f; \
             touch -d 2001-01-01 changed changed/sub same mode .",
        );
    });
    shell(
        &copy.merged,
        "echo 2 > changed/f; mkdir changed/new; echo 3 > changed/new/f; chmod 700 mode; \
         touch -d 2002-02-02 changed/new changed/f; touch -d 2003-03-03 changed same mode .",
    );
    let mtime = |path: &str| fs::metadata(copy.dir.join(path)).unwrap().mtime();
    let old = mtime("same");
    let since = now();
    let applied = run(&copy, since, PLAIN).unwrap();
    assert!(mtime("changed") >= since.0, "{}", mtime("changed"));
    // Also the directory itself, although apply has a file of its own in it meanwhile.
    assert_eq!(["same", "changed/sub", "mode", "."].map(mtime), [old; 4]);
    let of_copy = |path: &str| fs::metadata(copy.merged.join(path)).unwrap().mtime();
    for path in ["changed/new", "changed/f"] {
        assert_eq!(mtime(path), of_copy(path), "{path}");
    }
    // That file is no change by another process.
    shell(&copy.merged, "chmod 750 .");
    let next = run_with(&copy, applied.started, PLAIN, &applied.written, &|| false).unwrap();
    assert_eq!(lines(&next.carried), ["C /"]);
    assert_eq!(mtime("."), old);
    shell(&copy.merged, "echo 4 > top");
    let (since, own) = (next.started, [applied.written, next.written].concat());
    run_with(&copy, since, PLAIN, &own, &|| false).unwrap();
    assert!(mtime(".") >= since.0);
}

#[test]
fn one_apply_writes_to_a_directory_at_a_time() {
    let copy = Copy::plain(original);
    let lock = Lock::try_take(flock::open_dir(&copy.dir).unwrap(), Kind::Exclusive).unwrap();
    assert!(matches!(run(&copy, now(), PLAIN), Err(ApplyError::Busy(_))));
    drop(lock);
    run(&copy, now(), PLAIN).unwrap();
    let (after, none) = (copy.after(), copy.dir.join("none"));
    let (changes, layers, own) = (&[][..], &[][..], &[][..]);
    let since = now();
    let input =
        ApplyInput { changes, after: &after, layers, dir: &none, since, since_git: since, own };
    let error = apply(input, PLAIN, &|| false).unwrap_err();
    assert_eq!(error.class(), crate::error::Class::NotFound);
    assert!(error.to_string().contains("the directory must exist"), "{error}");
}

/// A kill is a panic in the test: nothing is removed on the way out.
fn assert_repeatable(options: ApplyOptions, fill: fn(&Path), work: fn(&Path)) -> u32 {
    for kill_at in 1.. {
        let copy = Copy::plain(fill);
        work(&copy.merged);
        let (since, steps) = (now(), Cell::new(0));
        let stop = || {
            steps.set(steps.get() + 1);
            if steps.get() == kill_at {
                resume_unwind(Box::new(()));
            }
            false
        };
        let killed = catch_unwind(AssertUnwindSafe(|| run_with(&copy, since, options, &[], &stop)));
        if let Ok(done) = killed {
            done.unwrap();
            assert_carried(&copy);
            return kill_at;
        }
        // What each path shows is its old or its new state.
        run(&copy, since, options).unwrap_or_else(|error| panic!("step {kill_at}: {error}"));
        assert_eq!(copy.lines(), [""; 0], "step {kill_at}");
        assert_carried(&copy);
    }
    0
}

#[test]
fn an_apply_that_was_killed_at_any_step_is_finished_by_the_next() {
    let steps = assert_repeatable(PLAIN, original, every_kind);
    assert!(steps > 50, "{steps} steps");
    let in_place = ApplyOptions { in_place: true, ..PLAIN };
    let fill = |dir: &Path| shell(dir, "head -c 300000 /dev/zero > f; ln f ../store; echo 1 > g");
    let work = |dir: &Path| shell(dir, "head -c 200000 /dev/urandom > f; echo 2 > g");
    let steps = assert_repeatable(in_place, fill, work);
    assert!(steps > 5, "{steps} steps");
}

#[test]
fn an_apply_that_is_stopped_removes_its_temporary_entries() {
    let copy = Copy::plain(original);
    every_kind(&copy.merged);
    let (since, steps) = (now(), Cell::new(0));
    let stop = || {
        steps.set(steps.get() + 1);
        steps.get() > 12
    };
    let stopped = run_with(&copy, since, PLAIN, &[], &stop);
    assert!(matches!(stopped, Err(ApplyError::Stopped)), "{stopped:?}");
    let own = |path: &&Vec<u8>| path.starts_with(b".ovl-apply.");
    assert_eq!(tree(&copy.dir).keys().filter(own).count(), 0);
    // A later change of what the stopped apply wrote is a conflict, and one of what it did not reach is, too.
    shell(&copy.dir, "echo user > a/file; echo user > removed");
    let found = conflicts(run(&copy, since, PLAIN));
    let paths: Vec<_> = found.iter().map(|(path, _)| &path[..]).collect();
    assert_eq!(paths, ["a/file", "removed"]);
}

#[test]
fn a_directory_that_is_swapped_for_a_link_meanwhile_leads_nowhere() {
    let copy = Copy::plain(|dir| {
        shell(
            dir,
            "mkdir -p d/sub; for i in 0 1 2 3 4 5; do echo $i > d/sub/f$i; mkdir d/sub/r$i; echo > d/sub/r$i/x; done",
        )
    });
    let outside = copy.dir.parent().unwrap().join("outside");
    shell(copy.dir.parent().unwrap(), "cp -a dir/d outside");
    let expected = tree(&outside);
    symlink(&outside, copy.dir.join("evil")).unwrap();
    let mut changes = Vec::new();
    for i in 0..6 {
        let one = |name: &str, change, kind, properties: &[Property]| Difference {
            path: format!("d/sub/{name}{i}").into_bytes(),
            change,
            kind,
            size: None,
            properties: properties.to_vec(),
        };
        changes.push(one("f", Change::Changed, EntryType::File, &[Property::Mtime]));
        changes.push(one("n", Change::Added, EntryType::Dir, &[]));
        changes.push(one("r", Change::Removed, EntryType::Dir, &[]));
    }
    shell(
        &copy.merged,
        "for i in 0 1 2 3 4 5; do echo new > d/sub/f$i; mkdir d/sub/n$i; rm -r d/sub/r$i; done",
    );
    let (done, after) = (AtomicBool::new(false), copy.after());
    let since = (i64::MAX, 0);
    let carry = |options| {
        let (layers, dir, own) = (&[][..], copy.dir.as_path(), &[][..]);
        apply(
            ApplyInput {
                changes: &changes,
                after: &after,
                layers,
                dir,
                since,
                since_git: since,
                own,
            },
            options,
            &|| false,
        )
    };
    let (mut failed, root) = (0, Dir::open(&copy.dir).unwrap());
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                root.rename(b"d", b"evil", Rename::Exchange).unwrap();
            }
        });
        for _ in 0..60 {
            failed += u32::from(carry(OURS).is_err());
            assert_eq!(tree(&outside), expected);
        }
        done.store(true, Relaxed);
    });
    assert!(failed > 0, "the attacker was never in the way");
    if fs::symlink_metadata(copy.dir.join("d")).unwrap().is_symlink() {
        root.rename(b"d", b"evil", Rename::Exchange).unwrap();
    }
    carry(OURS).unwrap();
    fs::remove_file(copy.dir.join("evil")).unwrap();
    assert_carried(&copy);
    assert_eq!(tree(&outside), expected);
}

#[test]
#[ignore = "needs root"]
fn privileged_the_original_is_known_by_its_inodes() {
    let made = || {
        let copy = Copy::mounted(|dir| {
            shell(dir, "mkdir d e; echo 1 > d/f; echo 2 > e/f; echo 3 > f; echo 4 > g; echo 5 > h");
        });
        let since = now();
        (copy, since)
    };
    // The copy's own renames and links are no conflict.
    let (copy, since) = made();
    shell(&copy.merged, "mv f new; ln g link; mv d/f h; rm e/f");
    assert_eq!(copy.lines(), ["D /d/f", "D /e/f", "D /f", "C /h", "A /link", "A /new"]);
    let expected = tree(&copy.merged);
    run(&copy, since, PLAIN).unwrap();
    assert_eq!(tree(&copy.dir), expected);
    // Another directory has the name of a parent now. Its file is old.
    let (copy, since) = made();
    shell(&copy.merged, "echo copy >> d/f");
    shell(&copy.dir, "mv d d2; mv e d");
    copy.remount();
    let parent = |path: &str| (path.to_owned(), ConflictReason::Parent(b"d".to_vec()));
    assert_eq!(conflicts(run(&copy, since, PLAIN)), [parent("d/f")]);
    // What the copy has changed is gone.
    let (copy, since) = made();
    shell(&copy.merged, "echo copy >> f; echo copy >> g; echo copy >> d/f");
    shell(&copy.dir, "rm f; mv g other; rm -r d");
    copy.remount();
    let gone = |path: &str| (path.to_owned(), ConflictReason::Gone);
    let found = conflicts(run(&copy, since, PLAIN));
    assert_eq!(found, [gone("d"), parent("d/f"), gone("f"), gone("g")]);
    let applied = run(&copy, since, OURS).unwrap();
    assert_eq!(applied.carried.len(), 4);
    assert_eq!(fs::read_to_string(copy.dir.join("d/f")).unwrap(), "1\ncopy\n");
}

#[test]
#[ignore = "needs root"]
fn privileged_new_files_get_the_owner_of_the_directory_and_others_keep_that_of_the_copy() {
    let copy = Copy::mounted(|dir| shell(dir, "mkdir d; echo 1 > d/old; chown -R 1000:1001 ."));
    shell(&copy.merged, "mkdir new; echo > new/f; chown 7:7 d/old; setcap cap_net_raw+ep new/f");
    let since = now();
    let refusals = refused(run(&copy, since, PLAIN));
    let found: Vec<_> = refusals.special.iter().map(|one| one.reason).collect();
    assert_eq!(found, [SpecialReason::Capabilities]);
    let special = ApplyOptions { special: true, ..PLAIN };
    let applied = run(&copy, since, special).unwrap();
    assert_eq!(applied.other_owner, [&b"new"[..], b"new/f"]);
    let owner = |path: &str| {
        let metadata = fs::metadata(copy.dir.join(path)).unwrap();
        (metadata.uid(), metadata.gid())
    };
    assert_eq!(
        [owner("new"), owner("new/f"), owner("d/old")],
        [(1000, 1001), (1000, 1001), (7, 7)]
    );
    let caps = Command::new("getcap").arg(copy.dir.join("new/f")).output().unwrap();
    assert!(String::from_utf8_lossy(&caps.stdout).contains("cap_net_raw"), "{caps:?}");
    // Until the workspace has given them this owner, the new files differ by it. It is not carried again.
    let again = run_with(&copy, applied.started, special, &applied.written, &|| false).unwrap();
    assert_eq!(lines(&again.carried), [""; 0]);
    assert_eq!(again.other_owner, applied.other_owner);
    assert_eq!(owner("new/f"), (1000, 1001));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    #[ignore = "needs root"]
    fn privileged_random_changes_are_carried(
        base in prop::collection::vec(work(), 0..15),
        works in prop::collection::vec(work(), 0..25),
    ) {
        // The owner of what is new is not carried.
        let keep = |works: Vec<Work>| -> Vec<_> {
            let is_kept = |work: &Work| !matches!(work, Work::Owner(..));
            works.into_iter().filter(is_kept).collect()
        };
        let (base, works) = (keep(base), keep(works));
        let copy = Copy::mounted(|dir| {
            fill(dir);
            do_all(dir, &base);
        });
        let since = now();
        do_all(&copy.merged, &works);
        let expected = tree(&copy.merged);
        run(&copy, since, ApplyOptions { special: true, ..PLAIN }).unwrap();
        prop_assert_eq!(tree(&copy.dir), expected);
    }
}
