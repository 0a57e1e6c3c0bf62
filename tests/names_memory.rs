//! Measures the peak of resident memory to capture, pack, unpack and mount a tree of many files, with little memory for
//! names. The stages run in a process in a memory cgroup, whose limit kills it if it uses more.
//! `src/snapshots/names_tests.rs` does the same with whole nodes, and with as many files as a layer may have.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)] // a test fails by panicking

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::Instant,
};

use ovl::{
    changeset::{Limits, PackOptions, layer_to_erofs, pack},
    media_type::{Compression, Format},
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

/// The directory of a test, for the process that it starts.
const AT: &str = "OVL_TEST_NAMES_AT";

/// The most memory that the stages of a test may use, in bytes.
#[derive(Clone, Copy)]
struct MemoryLimits {
    /// See [`Limits`].
    memory: u64,
    /// Resident memory of the process.
    resident: u64,
    /// Memory of the cgroup, which also counts memory of the kernel, much of it reclaimable.
    group: u64,
}

/// Runs one stage, and checks the peak of its resident memory. The peak is reset before.
fn peak<T>(what: &str, bounds: MemoryLimits, stage: impl FnOnce() -> T) -> T {
    // proc(5): 5 resets the peak of resident memory.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let start = Instant::now();
    let done = stage();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: u64 = line.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    eprintln!("{what}: {} MiB at most, {:.1?}", kib >> 10, start.elapsed());
    assert!(
        kib << 10 <= bounds.resident,
        "{what}: {kib} KiB were resident, limit {}",
        bounds.resident
    );
    done
}

/// All stages, in the process that a test starts.
fn stages(at: &Path, bounds: MemoryLimits) {
    let [from, to, aside, spills] = ["from", "to", "aside", "spills"].map(|name| at.join(name));
    let limits =
        Limits { memory: bounds.memory, scratch: Scratch::new(&spills), ..Limits::default() };
    let mut clone = TreeClone::new(&from, &to, &aside, limits.bounds(), &limits.scratch).unwrap();
    clone.sync().unwrap();
    peak("capture, first round", bounds, || clone.catch_up(Round::PreCopy, &|| true).unwrap());
    let copied = fs::metadata(to.join(FLAT.0)).unwrap().ino();
    clone.sync().unwrap();
    peak("capture, second round", bounds, || clone.catch_up(Round::PreCopy, &|| true).unwrap());
    assert_eq!(fs::metadata(to.join(FLAT.0)).unwrap().ino(), copied);
    let entries = clone.contents().entries;
    drop(clone);

    let (blob, image) = (at.join("blob"), at.join("image"));
    let (format, compression) = (Format::Portable, Compression::Zstd);
    let packing = PackOptions { format, compression, clamp: None, owner: None, hides_below: false };
    let packed = peak("pack", bounds, || {
        let tree = LinuxMounts.open_dir(&to).unwrap();
        let mut out = File::create_new(&blob).unwrap();
        pack(&[&tree], &tree, &packing, &limits, &mut out).unwrap()
    });
    // The root is packed too.
    assert_eq!(packed.entries, entries + 1);
    let unpacked = peak("unpack", bounds, || {
        let (blob, out) = (File::open(&blob).unwrap(), File::create_new(&image).unwrap());
        layer_to_erofs(blob, [7; 16], &out, &limits).unwrap()
    });
    assert_eq!((unpacked.diff_id, unpacked.entries), (packed.diff_id, packed.entries));
    peak("mount", bounds, || {
        let mounted = mount_image(&LinuxMounts, &image).unwrap();
        let flat = mounted.path().join(FLAT.0);
        assert_eq!(fs::metadata(flat.join(name(9))).unwrap().nlink(), 2);
        let copy = fs::read_dir(to.join(FLAT.0)).unwrap().count();
        assert_eq!(fs::read_dir(&flat).unwrap().count(), copy);
    });
    assert_eq!(
        fs::read_dir(&spills).unwrap().count(),
        0,
        "files are left in the scratch directory"
    );
}

/// Runs all stages with a volume of `entries` names, in a process in a cgroup.
fn run_stages(test: &str, entries: u64, bounds: MemoryLimits) {
    if let Some(at) = std::env::var_os(AT) {
        return stages(Path::new(&at), bounds);
    }
    let dir = TempDir::new().unwrap();
    for name in ["from", "to", "aside", "spills"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    fill(&dir.path().join("from"), entries);
    let group = Group::new(bounds.group);
    let status = group.run_test(test).env(AT, dir.path()).status().unwrap();
    assert!(
        status.success(),
        "{status}: it used more than {} bytes, or see the error above",
        bounds.group
    );
}

#[test]
#[ignore = "needs root: mounts, and makes a memory cgroup"]
fn privileged_an_upper_of_many_files_needs_little_memory() {
    let test = "privileged_an_upper_of_many_files_needs_little_memory";
    run_stages(
        test,
        150_000,
        MemoryLimits { memory: 8 << 20, resident: 32 << 20, group: 128 << 20 },
    );
}
