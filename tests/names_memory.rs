//! What it takes to capture, pack, unpack and mount a tree of many files, with little memory for names: the peak of resident memory
//! of each, in a process that a memory cgroup would kill if it took more. `src/snapshots/names_tests.rs` has the same with whole
//! nodes, and as many files as there may be.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)] // a test fails by panicking

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{self, Command},
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

/// Names the directory of a test, in the process that it starts.
const AT: &str = "OVL_TEST_NAMES_AT";
/// Names in a directory.
const IN_EACH: u64 = 1_282;
/// The directory with a fifth of all, deep down, where little memory is left for its names; and how many directories that makes.
const FLAT: (&str, u64) = ("1/2/3/4/5/6/7/flat", 8);

/// A memory cgroup of this machine, in whichever version it has. It is removed when dropped.
struct Group(PathBuf);

impl Group {
    fn new(bytes: u64) -> Self {
        let (v1, name) =
            (Path::new("/sys/fs/cgroup/memory"), format!("ovl-test-{}", process::id()));
        let is_v1 = v1.is_dir();
        let at = if is_v1 { v1 } else { Path::new("/sys/fs/cgroup") }.join(name);
        fs::create_dir(&at).unwrap();
        let group = Self(at);
        let limit = if is_v1 { "memory.limit_in_bytes" } else { "memory.max" };
        fs::write(group.0.join(limit), bytes.to_string()).unwrap();
        group
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        fs::remove_dir(&self.0).unwrap();
    }
}

/// So many names: directories of empty files, and one directory with a fifth of all. Every tenth file is a second name of another.
fn fill(root: &Path, entries: u64) {
    let flat = root.join(FLAT.0);
    fs::create_dir_all(&flat).unwrap();
    let (mut made, mut directory, mut before) = (FLAT.1, flat, None::<PathBuf>);
    while made < entries {
        if made >= entries / 5 && made % IN_EACH == 0 {
            directory = root.join(format!("directory-{made:07}"));
            fs::create_dir(&directory).unwrap();
            made += 1;
            continue;
        }
        let path = directory.join(format!("{:08x}-a-file.json", (made as u32).reverse_bits()));
        match before.take_if(|_| made % 10 == 0) {
            Some(before) => fs::hard_link(before, &path).unwrap(),
            None => drop(File::create_new(&path).unwrap()),
        }
        before = Some(path);
        made += 1;
    }
}

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
        let name = format!("{:08x}-a-file.json", 9_u32.reverse_bits());
        assert_eq!(fs::metadata(flat.join(name)).unwrap().nlink(), 2);
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
    let folder = TempDir::new().unwrap();
    for name in ["from", "to", "aside", "spills"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    fill(&folder.path().join("from"), entries);
    let group = Group::new(most.group);
    let script = "echo $$ > \"$0\" && exec \"$@\"";
    let status = Command::new("sh")
        .args(["-c", script])
        .arg(group.0.join("cgroup.procs"))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(AT, folder.path())
        .status()
        .unwrap();
    assert!(status.success(), "{status}: it took more than {} bytes, or see above", most.group);
}

#[test]
#[ignore = "needs root: mounts, and makes a memory cgroup"]
fn privileged_an_upper_of_many_files_needs_little_memory() {
    let test = "privileged_an_upper_of_many_files_needs_little_memory";
    within(test, 150_000, Most { memory: 8 << 20, resident: 32 << 20, group: 128 << 20 });
}
