//! What it takes to capture, pack, unpack and mount a tree of many files, with little memory for names: the peak of resident memory
//! of each, in a process that a memory cgroup would kill if it took more. `src/snapshots/names_tests.rs` has the same with whole
//! nodes, and as many files as there may be.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)] // a test fails by panicking

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::Instant,
};

use ovl::{
    changeset::{Compression, Format, Limits, Packing, layer_to_erofs, pack},
    spill::Scratch,
    sys::{
        clone::{Round, TreeClone},
        mounts::{LinuxMounts, Mounts as _, mount_image},
    },
};
use tempfile::TempDir;

use self::many_names::{FLAT, Group, fill, name};

#[path = "support/many_names.rs"]
mod many_names;

/// Names the directory of a test, in the process that it starts.
const AT: &str = "OVL_TEST_NAMES_AT";

/// What the stages of a test may take.
#[derive(Clone, Copy)]
struct Most {
    /// See [`Limits`].
    memory: u64,
    /// Bytes of the process that are resident at once.
    resident: u64,
    /// Bytes of the cgroup, which counts what the kernel keeps for the process as well, and gets much of it back.
    group: u64,
}

/// Runs one stage, in which no more than so many bytes may be resident at once: the kernel counts them anew.
fn peak<T>(what: &str, most: Most, stage: impl FnOnce() -> T) -> T {
    // proc(5): 5 resets the peak of resident memory.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let begun = Instant::now();
    let done = stage();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: u64 = line.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    eprintln!("{what}: {} MiB at most, {:.1?}", kib >> 10, begun.elapsed());
    assert!(kib << 10 <= most.resident, "{what}: {kib} KiB were resident, of {}", most.resident);
    done
}

/// What the process does that a test starts.
fn stages(at: &Path, most: Most) {
    let [from, to, aside, spills] = ["from", "to", "aside", "spills"].map(|name| at.join(name));
    let limits =
        Limits { memory: most.memory, scratch: Scratch::new(&spills), ..Limits::default() };
    let mut clone = TreeClone::new(&from, &to, &aside, limits.bounds(), &limits.scratch).unwrap();
    clone.sync().unwrap();
    peak("capture, first round", most, || clone.catch_up(Round::Early, &|| true).unwrap());
    let copied = fs::metadata(to.join(FLAT.0)).unwrap().ino();
    clone.sync().unwrap();
    peak("capture, second round", most, || clone.catch_up(Round::Early, &|| true).unwrap());
    assert_eq!(fs::metadata(to.join(FLAT.0)).unwrap().ino(), copied);
    let entries = clone.contents().entries;
    drop(clone);

    let (blob, image) = (at.join("blob"), at.join("image"));
    let (format, compression) = (Format::Portable, Compression::Zstd);
    let packing = Packing { format, compression, clamp: None, owner: None };
    let packed = peak("pack", most, || {
        let tree = LinuxMounts.open_dir(&to).unwrap();
        let mut out = File::create_new(&blob).unwrap();
        pack(&[&tree], &tree, &packing, &limits, &mut out).unwrap()
    });
    // And the root.
    assert_eq!(packed.entries, entries + 1);
    let unpacked = peak("unpack", most, || {
        let (blob, out) = (File::open(&blob).unwrap(), File::create_new(&image).unwrap());
        layer_to_erofs(blob, [7; 16], &out, &limits).unwrap()
    });
    assert_eq!((unpacked.diff_id, unpacked.entries), (packed.diff_id, packed.entries));
    peak("mount", most, || {
        let mounted = mount_image(&LinuxMounts, &image).unwrap();
        let flat = mounted.path().join(FLAT.0);
        assert_eq!(fs::metadata(flat.join(name(9))).unwrap().nlink(), 2);
        let copy = fs::read_dir(to.join(FLAT.0)).unwrap().count();
        assert_eq!(fs::read_dir(&flat).unwrap().count(), copy);
    });
    assert_eq!(fs::read_dir(&spills).unwrap().count(), 0, "something was left behind");
}

/// Has a process do all stages with a volume of so many names, in a cgroup.
fn within(test: &str, entries: u64, most: Most) {
    if let Some(at) = std::env::var_os(AT) {
        return stages(Path::new(&at), most);
    }
    let dir = TempDir::new().unwrap();
    for name in ["from", "to", "aside", "spills"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    fill(&dir.path().join("from"), entries);
    let group = Group::new(most.group);
    let status = group.again(test).env(AT, dir.path()).status().unwrap();
    assert!(status.success(), "{status}: it took more than {} bytes, or see above", most.group);
}

#[test]
#[ignore = "needs root: mounts, and makes a memory cgroup"]
fn privileged_an_upper_of_many_files_needs_little_memory() {
    let test = "privileged_an_upper_of_many_files_needs_little_memory";
    within(test, 150_000, Most { memory: 8 << 20, resident: 32 << 20, group: 128 << 20 });
}
