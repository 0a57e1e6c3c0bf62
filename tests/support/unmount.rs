//! The end of a place for tests that mount something.

use std::{fs, path::Path, process::Command};

/// Unmounts everything at `dir` or below it.
pub fn unmount_below(dir: &Path) {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let targets = table.lines().filter_map(|line| line.split(' ').nth(4));
    let ours: Vec<&str> = targets.filter(|target| Path::new(target).starts_with(dir)).collect();
    for target in ours.into_iter().rev() {
        // Lazily: a test that failed may have files open there.
        let _ = Command::new("umount").args(["--lazy", target]).status();
    }
}
