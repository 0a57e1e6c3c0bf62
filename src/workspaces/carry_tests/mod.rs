//! Changes, patches, exports and what is carried back: of copies on real overlays and of plain directories.

mod apply;
mod changes;
mod export;
mod patch;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use proptest::prelude::*;

use super::changes::{Changes, ChangesOptions, changes};
use crate::{
    changeset::{Change, Comparison, Difference, Limits, xattrs},
    digest::Digest,
    sys::{
        attributes,
        mounts::{Attrs, Detached, LinuxMounts, Mounts as _, Param, Request},
        test_dir::TestDir,
        tree_reader::Entry,
    },
};

/// A copy: a directory with an upper over it. On a real overlay `merged` is its mount. Without one, a test makes both
/// `merged` and `upper` by hand.
struct Copy {
    _scratch: TestDir,
    dir: PathBuf,
    upper: PathBuf,
    merged: PathBuf,
}

impl Copy {
    /// Two plain directories of the same content.
    fn plain(fill: impl Fn(&Path)) -> Self {
        let scratch = TestDir::new();
        let [dir, upper, merged] = ["dir", "upper", "merged"].map(|name| scratch.dir(name));
        fill(&dir);
        let done = Command::new("cp").arg("-aT").args([&dir, &merged]).status().unwrap();
        assert!(done.success());
        Self { _scratch: scratch, dir, upper, merged }
    }

    /// A mounted copy, as it is mounted over a directory that goes on living.
    fn mounted(fill: impl Fn(&Path)) -> Self {
        let scratch = TestDir::new();
        let [dir, upper, merged] = ["dir", "upper", "merged"].map(|name| scratch.dir(name));
        scratch.dir("work");
        fill(&dir);
        attributes::copy(&LinuxMounts.open_dir(&dir).unwrap(), &upper).unwrap();
        let copy = Self { _scratch: scratch, dir, upper, merged };
        copy.mount();
        copy
    }

    fn mount(&self) {
        let open = |path: &Path| Arc::new(LinuxMounts.open_dir(path).unwrap());
        let mut params = vec![
            Param::Tree("lowerdir+", open(&self.dir)),
            Param::Tree("upperdir", open(&self.upper)),
            Param::Tree("workdir", open(&self.upper.with_file_name("work"))),
        ];
        for key in ["redirect_dir", "metacopy", "index", "nfs_export"] {
            params.push(Param::Text(key, "off".to_owned()));
        }
        let source = "test".to_owned();
        let request = Request { fs_type: "overlay", source, params, attrs: Attrs::default() };
        LinuxMounts.attach(LinuxMounts.create(&request).unwrap(), &self.merged).unwrap();
    }

    /// Shows what has changed in the original meanwhile.
    fn remount(&self) {
        LinuxMounts.unmount(&self.merged).unwrap();
        self.mount();
    }

    fn before(&self) -> Detached {
        LinuxMounts.open_dir(&self.dir).unwrap()
    }

    fn after(&self) -> Detached {
        LinuxMounts.open_dir(&self.merged).unwrap()
    }

    fn layers(&self) -> Vec<Entry> {
        vec![Entry::root(&LinuxMounts.open_dir(&self.upper).unwrap()).unwrap()]
    }

    fn list(&self, options: ChangesOptions) -> Changes {
        let (first, second) = (&self.before(), &self.after());
        let (layers, hides_all) = (self.layers(), self.is_plain());
        let comparison = Comparison { first, second, layers, hides_all, times: false };
        changes(comparison, options, &Limits::default(), &|| false).unwrap()
    }

    /// Without an overlay the upper has no names.
    fn is_plain(&self) -> bool {
        fs::read_dir(&self.upper).unwrap().next().is_none()
    }

    fn changes(&self) -> Vec<Difference> {
        self.list(ChangesOptions::default()).list
    }

    fn lines(&self) -> Vec<String> {
        lines(&self.changes())
    }
}

/// Each change as a letter and a path.
fn lines(list: &[Difference]) -> Vec<String> {
    list.iter().map(line).collect()
}

fn line(difference: &Difference) -> String {
    let letter = match difference.change {
        Change::Added => 'A',
        Change::Changed => 'C',
        Change::Removed => 'D',
    };
    format!("{letter} /{}", difference.path.escape_ascii())
}

/// All that a tree shows, by path: `d` or another letter for the type, and the rest of what counts.
fn tree(path: &Path) -> BTreeMap<Vec<u8>, String> {
    let root = Entry::root(&LinuxMounts.open_dir(path).unwrap()).unwrap();
    let mut all = BTreeMap::new();
    walk(path, &root, &mut Vec::new(), &mut all);
    all
}

fn walk(path: &Path, entry: &Entry, name: &mut Vec<u8>, all: &mut BTreeMap<Vec<u8>, String>) {
    let metadata = fs::symlink_metadata(path).unwrap();
    let kind = metadata.file_type();
    let (mode, uid, gid) = (metadata.mode(), metadata.uid(), metadata.gid());
    let time = format!("{}.{:09}", metadata.mtime(), metadata.mtime_nsec());
    let content = if kind.is_dir() {
        "d".to_owned()
    } else if kind.is_file() {
        format!("f {time} {} {}", metadata.len(), Digest::of(&fs::read(path).unwrap()))
    } else if kind.is_symlink() {
        format!("l {time} {:?}", fs::read_link(path).unwrap())
    } else {
        format!("s {time} {}", metadata.rdev())
    };
    let xattrs = xattrs(entry).unwrap();
    all.insert(name.clone(), format!("{content} {mode:o} {uid}:{gid} {xattrs:?}"));
    if kind.is_dir() {
        for child in fs::read_dir(path).unwrap() {
            let child = child.unwrap().file_name();
            let inside = entry.entry(child.as_bytes()).unwrap().unwrap();
            let length = name.len();
            name.extend_from_slice(if length == 0 { b"" } else { b"/" });
            name.extend_from_slice(child.as_bytes());
            walk(&path.join(&child), &inside, name, all);
            name.truncate(length);
        }
    }
}

/// Runs lines of shell in a directory.
fn shell(dir: &Path, lines: &str) {
    let done = Command::new("bash").args(["-euc", lines]).current_dir(dir).output().unwrap();
    assert!(done.status.success(), "{done:?}");
}

/// One operation on a path. An operation that fails changes nothing.
#[derive(Debug, Clone)]
enum Work {
    Write(String, usize),
    Append(String),
    Dir(String),
    Remove(String),
    Rename(String, String),
    Mode(String, u32),
    Owner(String, u32),
    Xattr(String),
    Link(String, String),
    Symlink(String),
    Fifo(String),
    Touch(String),
    /// Copies it up and leaves it as it is.
    Open(String),
    /// Other bytes of the same length, with the former mtime.
    Alter(String),
}

/// Some names sort before a slash and some after it.
fn path() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec!["a", "a-b", "b", "c"]);
    prop::collection::vec(part, 1..4).prop_map(|parts| parts.join("/"))
}

fn work() -> impl Strategy<Value = Work> {
    prop_oneof![
        3 => (path(), 0..9000_usize).prop_map(|(path, len)| Work::Write(path, len)),
        1 => path().prop_map(Work::Append),
        4 => path().prop_map(Work::Dir),
        3 => path().prop_map(Work::Remove),
        4 => (path(), path()).prop_map(|(from, to)| Work::Rename(from, to)),
        2 => (path(), 0..0o1000_u32).prop_map(|(path, mode)| Work::Mode(path, mode)),
        1 => (path(), 1..4_u32).prop_map(|(path, owner)| Work::Owner(path, owner)),
        1 => path().prop_map(Work::Xattr),
        1 => (path(), path()).prop_map(|(from, to)| Work::Link(from, to)),
        1 => path().prop_map(Work::Symlink),
        1 => path().prop_map(Work::Fifo),
        1 => path().prop_map(Work::Touch),
        2 => path().prop_map(Work::Open),
        2 => path().prop_map(Work::Alter),
    ]
}

/// Nested directories with files, so that most operations find something.
fn fill(root: &Path) {
    for (i, path) in ["a", "a/a", "a/b", "a-b", "b", "b/a", "b/a/b"].into_iter().enumerate() {
        fs::create_dir(root.join(path)).unwrap();
        fs::write(root.join(path).join("file"), vec![2; i + 1]).unwrap();
        fs::write(root.join(path).join("c"), "c").unwrap();
    }
}

/// A copy in which `works` was done, of an original in which `base` was done before. Hard links of the original's files
/// break where one of them is written to. That is how overlay works, so the original gets none.
fn worked_in(base: Vec<Work>, works: &[Work]) -> Copy {
    let base: Vec<_> = base.into_iter().filter(|work| !matches!(work, Work::Link(..))).collect();
    let copy = Copy::mounted(|dir| {
        fill(dir);
        do_all(dir, &base);
    });
    do_all(&copy.merged, works);
    copy
}

fn do_all(root: &Path, all: &[Work]) {
    use std::os::unix::fs::{PermissionsExt as _, lchown, symlink};
    for work in all {
        let at = |path: &String| root.join(path);
        // A named pipe without a reader would block.
        let is_pipe = |path: &String| at(path).exists() && !at(path).is_file();
        let _ = match work {
            Work::Write(path, _) | Work::Append(path) if is_pipe(path) => Ok(()),
            Work::Write(path, len) => fs::write(at(path), vec![1; *len]),
            Work::Append(path) => fs::File::options()
                .append(true)
                .open(at(path))
                .and_then(|mut file| std::io::Write::write_all(&mut file, b"more")),
            Work::Dir(path) => fs::create_dir(at(path)),
            Work::Remove(path) => {
                fs::remove_file(at(path)).or_else(|_| fs::remove_dir_all(at(path)))
            }
            // A directory of a lower cannot be renamed here (EXDEV), so it is moved as mv(1) does.
            Work::Rename(from, to) => fs::rename(at(from), at(to)).or_else(|error| {
                let is_dir = error.kind() == std::io::ErrorKind::CrossesDevices;
                let mv = || Command::new("mv").arg("-T").args([at(from), at(to)]).output();
                if is_dir { mv().map(drop) } else { Err(error) }
            }),
            Work::Mode(path, mode) => {
                fs::set_permissions(at(path), fs::Permissions::from_mode(*mode))
            }
            Work::Owner(path, owner) => lchown(at(path), Some(*owner), Some(*owner)),
            Work::Xattr(path) => Command::new("setfattr")
                .args(["-h", "-n", "trusted.colour", "-v", "red"])
                .arg(at(path))
                .output()
                .map(drop),
            Work::Link(from, to) => fs::hard_link(at(from), at(to)),
            Work::Symlink(path) => symlink("a/b", at(path)),
            Work::Fifo(path) => Command::new("mkfifo").arg(at(path)).output().map(drop),
            Work::Touch(path) => Command::new("touch").arg("-ch").arg(at(path)).output().map(drop),
            Work::Open(path) if at(path).is_file() => {
                fs::File::options().append(true).open(at(path)).map(drop)
            }
            Work::Alter(path) if at(path).is_file() => alter(&at(path)),
            Work::Open(_) | Work::Alter(_) => Ok(()),
        };
    }
}

/// Writes other bytes of the same length and puts the mtime back.
fn alter(path: &Path) -> std::io::Result<()> {
    let modified = fs::metadata(path)?.modified()?;
    let bytes: Vec<u8> = fs::read(path)?.iter().map(|byte| byte.wrapping_add(1)).collect();
    fs::write(path, bytes)?;
    fs::File::options().write(true).open(path)?.set_modified(modified)
}
