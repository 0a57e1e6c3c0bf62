//! Makes a tree of many files, and the memory cgroup of a process that reads it. For `tests/names_memory.rs` and
//! `src/snapshots/names_tests.rs`.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{self, Command},
};

/// The number of names in each directory.
const NAMES_PER_DIR: u64 = 1_282;
/// The directory with a fifth of all names, deep in the tree, where little memory is left for them; and the number of
/// directories on its path.
pub const FLAT: (&str, u64) = ("1/2/3/4/5/6/7/flat", 8);

/// A memory cgroup of this machine, cgroup v1 or v2. It is removed when dropped.
pub struct Group(PathBuf);

impl Group {
    pub fn new(bytes: u64) -> Self {
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let top = if v1.is_dir() { v1 } else { Path::new("/sys/fs/cgroup") };
        let group = Self(top.join(format!("ovl-test-names-{}", process::id())));
        fs::create_dir(&group.0).unwrap();
        let limit = group.either("memory.limit_in_bytes", "memory.max");
        fs::write(limit, bytes.to_string()).unwrap();
        group
    }

    /// The path of the file with one of these names, by the cgroup version.
    pub fn either(&self, v1: &str, v2: &str) -> PathBuf {
        let v1 = self.0.join(v1);
        if v1.exists() { v1 } else { self.0.join(v2) }
    }

    /// A command that runs this test program in the group, with the test `test` alone.
    pub fn run_test(&self, test: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]);
        command.arg(self.0.join("cgroup.procs")).arg(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--ignored", "--nocapture"]);
        command
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        fs::remove_dir(&self.0).unwrap();
    }
}

/// Makes `entries` names: directories of empty files, and one directory with a fifth of all. Every tenth file is a hard
/// link of another.
pub fn fill(root: &Path, entries: u64) {
    let flat = root.join(FLAT.0);
    fs::create_dir_all(&flat).unwrap();
    let (mut made, mut dir, mut before) = (FLAT.1, flat, None::<PathBuf>);
    while made < entries {
        if made >= entries / 5 && made % NAMES_PER_DIR == 0 {
            dir = root.join(format!("dir-{made:07}"));
            fs::create_dir(&dir).unwrap();
            made += 1;
            continue;
        }
        let path = dir.join(name(made));
        match before.take_if(|_| made % 10 == 0) {
            Some(before) => fs::hard_link(before, &path).unwrap(),
            None => drop(File::create_new(&path).unwrap()),
        }
        before = Some(path);
        made += 1;
    }
}

/// The name of a file. Files with consecutive numbers are far from each other in the order of names.
pub fn name(number: u64) -> String {
    format!("{:08x}-a-file.json", (number as u32).reverse_bits())
}
