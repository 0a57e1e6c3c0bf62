//! The changes of random work, beside those that `podman diff` lists of the same work.
//!
//! | change | `ovl changes` | `podman diff` |
//! |---|---|---|
//! | an entry is made or removed in a directory | nothing of the directory | the directory as changed, by its mtime |
//! | a file is opened for writing, or gets the mode that it has | nothing | the file as changed |
//! | a directory is removed and made again | what was in it as removed, and the directory if it differs | the directory as removed |
//! | a file gets a second name | the new name | the old name as changed, too |
//!
//! All else is the same. Both are native overlays of the kernel without `redirect_dir` and `metacopy`.

use std::{collections::BTreeSet, path::Path, process::Command};

use super::Place;

/// How often a workspace and a container get the same work.
const ROUNDS: u64 = 12;

/// The commands of one round.
const STEPS: usize = 25;

struct Podman<'p>(&'p Place);

impl Podman<'_> {
    fn podman(&self, words: &[&str]) -> String {
        let mut podman = Command::new("podman");
        let (root, run) = (self.0.path("podman"), self.0.path("podman-run"));
        podman.arg("--root").arg(root).arg("--runroot").arg(run);
        podman.args(["--storage-driver", "overlay", "--cgroup-manager", "cgroupfs"]);
        let done = podman.args(words).output().unwrap();
        assert!(done.status.success(), "{words:?}: {done:?}");
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }

    /// Each change as a letter and a path.
    fn diff(&self, container: &str) -> BTreeSet<(char, String)> {
        let text = self.podman(&["diff", "--format", "json", container]);
        let all: serde_json::Value = serde_json::from_str(&text).unwrap();
        let of = |letter, kind: &str| {
            let list = all[kind].as_array().cloned().unwrap_or_default();
            list.into_iter().map(move |path| (letter, path.as_str().unwrap().to_owned()))
        };
        of('A', "added").chain(of('C', "changed")).chain(of('D', "deleted")).collect()
    }
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        let _ = Command::new("podman")
            .arg("--root")
            .arg(self.0.path("podman"))
            .arg("--runroot")
            .arg(self.0.path("podman-run"))
            .args(["--storage-driver", "overlay", "unmount", "--all", "--force"])
            .output();
    }
}

/// A pseudo-random number below `count` (xorshift64), so that a failure can be repeated.
fn pick(seed: &mut u64, count: usize) -> usize {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    usize::try_from(*seed % count as u64).unwrap()
}

/// One random command. It may fail, and then does so in both trees.
fn step(seed: &mut u64) -> String {
    const PATHS: [&str; 10] =
        ["a", "a/f", "a/b", "a/b/f", "a/b/g", "c", "c/f", "new", "a/new", "c/d/e"];
    let (path, other) = (PATHS[pick(seed, 10)], PATHS[pick(seed, 10)]);
    match pick(seed, 14) {
        0 | 1 => format!("echo {} > {path}", pick(seed, 1000)),
        2 => format!("echo more >> {path}"),
        3 => format!("[ ! -f {path} ] || : >> {path}"),
        4 | 5 => format!("mkdir -p {path}"),
        6 => format!("rm -rf {path}"),
        7 => format!("rm -f {path}"),
        8 => format!("mv -T {path} {other}"),
        9 => format!("chmod {} {path}", ["600", "644", "755"][pick(seed, 3)]),
        10 => format!("[ -d {path} ] || touch -d @{} {path}", 1_000_000_000 + pick(seed, 3)),
        11 => format!("[ -L {path} ] || ln -sfn f {path}"),
        12 => format!("[ ! -f {path} ] || ln -f {path} {other}"),
        _ => format!("[ ! -f {path} ] || setfattr -n user.colour -v red {path}"),
    }
}

/// What `changes` compares of one path, without the content of directories.
fn shown(place: &Place, root: &Path, path: &str) -> String {
    let script = format!(
        "f=.{path}; stat -c '%F %a %u:%g' \"$f\"; [ -d \"$f\" ] || stat -c '%s %y' \"$f\"; \
         [ ! -f \"$f\" ] || [ -L \"$f\" ] || cat \"$f\"; getfattr -hd -m '^user\\.' \"$f\"; readlink \"$f\" || :"
    );
    let done = place.shell(root.to_str().unwrap(), &script);
    if done.status.success() { String::from_utf8(done.stdout).unwrap() } else { "none".to_owned() }
}

#[test]
#[ignore = "needs root and podman: mounts overlays"]
fn privileged_random_work_is_listed_as_by_podman_but_for_the_table() {
    let place = Place::new();
    let podman = Podman(&place);
    place.dir("original/a/b");
    place.sh(
        "original",
        "mkdir -p c/d; for f in a/f a/b/f a/b/g c/f c/d/e; do echo $f > $f; done; ln -s f a/link; \
         touch -hd '2020-01-01 01:02:03.5' a/f c/f a/link; tar --create --file ../rootfs.tar .",
    );
    let image = podman.podman(&["import", "--quiet", place.path("rootfs.tar").to_str().unwrap()]);
    let (mut seed, mut all) = (0x9e37_79b9_7f4a_7c15_u64, 0);
    for round in 0..ROUNDS {
        let steps: Vec<String> = (0..STEPS).map(|_| step(&mut seed)).collect();
        let work = format!("umask 022; set +e; {{ {}; }} 2> /dev/null; exit 0", steps.join("\n"));
        place.ovl(&["create", "one", "--over", "original"]);
        let merged = place.ovl(&["mount", "one"]);
        let merged = merged.trim_end();
        let container = podman.podman(&["create", &image, "true"]);
        let rootfs = podman.podman(&["mount", &container]);
        for root in [merged, &rootfs] {
            place.sh(root, &work);
        }
        let ours: BTreeSet<(char, String)> = place
            .ovl(&["changes", "one"])
            .lines()
            .map(|line| (line.chars().next().unwrap(), line[2..].to_owned()))
            .collect();
        let theirs = podman.diff(&container);
        let context = || format!("round {round}: {steps:#?}\novl: {ours:?}\npodman: {theirs:?}");
        // An opaque directory, for podman.
        let is_made_again = |path: &str| {
            theirs.contains(&('D', path.to_owned())) && Path::new(merged).join(&path[1..]).is_dir()
        };
        for (letter, path) in ours.difference(&theirs) {
            let mut above = Path::new(path).ancestors().skip(1).map(|path| path.to_str().unwrap());
            let is_known = match letter {
                'D' => above.any(is_made_again),
                'C' => is_made_again(path),
                _ => false,
            };
            assert!(is_known, "podman lacks {letter} {path}\n{}", context());
        }
        for (letter, path) in theirs.difference(&ours) {
            let state = |root: &str| shown(&place, Path::new(root), path);
            let (before, after) = (state(place.path("original").to_str().unwrap()), state(merged));
            let is_known = match letter {
                'C' => before == after,
                'D' => is_made_again(path),
                _ => false,
            };
            assert!(is_known, "ovl lacks {letter} {path}: {before} {after}\n{}", context());
        }
        all += ours.len();
        place.ovl(&["umount", "one"]);
        place.ovl(&["scrub", "one"]);
        podman.podman(&["unmount", &container]);
        podman.podman(&["rm", &container]);
    }
    assert!(all > 50, "only {all} changes");
}
