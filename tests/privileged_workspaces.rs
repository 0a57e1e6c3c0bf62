//! The commands of workspaces as processes: killed at random moments, and several at a time on one store.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

use std::{
    fs,
    path::Path,
    process::Stdio,
    thread::sleep,
    time::{Duration, Instant},
};

#[path = "support/place.rs"]
mod place;

use place::Place;

const NAMES: [&str; 3] = ["a", "b", "c"];

impl Place {
    /// A random command on random workspaces. Most of them can fail, because there is no such workspace or snapshot.
    fn random(&self, seed: &mut u64) -> Vec<String> {
        let mut pick = |count: usize| {
            // xorshift64, so that a failure can be repeated with its seed.
            *seed ^= *seed << 13;
            *seed ^= *seed >> 7;
            *seed ^= *seed << 17;
            usize::try_from(*seed % count as u64).unwrap()
        };
        let (one, other) = (NAMES[pick(3)], NAMES[pick(3)]);
        let state = ["s", "t"][pick(2)];
        let text = format!("echo {} > file-{}; mkdir -p d; rm -f sub/file", pick(100), pick(3));
        let words: Vec<&str> = match pick(15) {
            0 => vec!["create", one, "--over", "original"],
            1 => vec!["create", one, "--from", other],
            2 => vec!["fork", one, other],
            3 | 4 => vec!["snapshot", one, state],
            5 => vec!["rollback", one, state, "--yes"],
            6 => vec!["clean", one],
            7 => vec!["remove", one, state],
            8 => vec!["scrub", one],
            9 => vec!["mount", one],
            10 => vec!["umount", one],
            11 => vec!["gc"],
            12 => vec!["fsck"],
            13 => vec!["fsck", "--record", "--repair"],
            _ => vec!["run", one, "--", "sh", "-c", &text],
        };
        words.into_iter().map(str::to_owned).collect()
    }

    /// Nothing is mounted in any namespace, nothing is staged, and every layer is there and whole.
    fn check(&self) {
        self.run(&["umount", "--all"]);
        let store = self.0.path().join("store");
        let start = Instant::now();
        loop {
            let left = mounts_of(&store);
            if left.is_empty() {
                break;
            }
            // The processes of a killed command may still be ending.
            assert!(start.elapsed() < Duration::from_secs(10), "{left:?}");
            sleep(Duration::from_millis(10));
        }
        let listed = self.run(&["list", "-o", "json"]);
        assert!(listed.status.success(), "{listed:?}");
        let all: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
        for one in all.as_array().unwrap() {
            let name = one["name"].as_str().unwrap();
            let changes = self.run(&["changes", name]);
            assert!(changes.status.success(), "{changes:?}");
        }
        // Without a lock, and then as a command that removes what killed ones have left.
        for words in [&["fsck"][..], &["fsck", "--record", "--repair"]] {
            let checked = self.run(words);
            assert!(checked.status.success(), "{checked:?}");
        }
        assert!(!store.join("quarantine").exists());
        for part in ["staging", "reservations"] {
            assert_eq!(fs::read_dir(store.join(part)).unwrap().count(), 0, "{part}");
        }
    }
}

/// The lines of all mount tables that name the store.
fn mounts_of(store: &Path) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let tables = processes.filter_map(|one| fs::read_to_string(one.path().join("mountinfo")).ok());
    let store = store.to_str().unwrap();
    let lines = tables.flat_map(|table| table.lines().map(str::to_owned).collect::<Vec<_>>());
    lines.filter(|line| line.contains(store)).collect()
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_commands_that_are_killed_leave_a_whole_store_and_no_mount() {
    let (place, mut seed) = (Place::new(), 0x9e37_79b9_7f4a_7c15_u64);
    assert!(place.run(&["create", "a", "--over", "original"]).status.success());
    // How long a command takes on this machine, at its present load.
    let usual = || {
        let since = Instant::now();
        assert!(place.run(&["list"]).status.success());
        since.elapsed()
    };
    let (mut longest, mut ended) = (usual(), 0);
    for round in 0..200_u64 {
        let words = place.random(&mut seed);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut command = place.ovl(&words);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        sleep(longest.mul_f64(2.0 * (seed % 1000) as f64 / 1000.0));
        ended += u32::from(child.try_wait().unwrap().is_some());
        let _ = child.kill();
        child.wait().unwrap();
        if round % 20 == 19 {
            place.check();
            longest = usual();
        }
    }
    // Otherwise the moments of the kills say nothing.
    assert!((20..180).contains(&ended), "{ended} of 200 commands ended before the kill");
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_several_commands_at_a_time_leave_a_whole_store() {
    let place = Place::new();
    assert!(place.run(&["create", "a", "--over", "original"]).status.success());
    std::thread::scope(|scope| {
        for thread in 1..=3_u64 {
            let place = &place;
            scope.spawn(move || {
                let mut seed = 0x2545_f491_4f6c_dd1d_u64 * thread;
                for _ in 0..60 {
                    let words = place.random(&mut seed);
                    let words: Vec<&str> = words.iter().map(String::as_str).collect();
                    let done = place.run(&words);
                    let text = String::from_utf8_lossy(&done.stderr);
                    // A refusal has a sentence. Nothing else goes wrong because of the others.
                    let code = done.status.code();
                    assert!(matches!(code, Some(0..=3)), "{words:?}: {done:?}");
                    assert!(!text.contains("panicked"), "{words:?}: {text}");
                    let is_refusal = text.contains("workspace") || text.contains("snapshot");
                    assert!(code == Some(0) || is_refusal, "{words:?}: {text}");
                }
            });
        }
    });
    place.check();
}
