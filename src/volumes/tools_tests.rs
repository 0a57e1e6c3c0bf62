//! Tests of ordinary programs in a volume whose layers are on file systems of their own.
//!
//! Observed on Linux 6.18:
//! - With `xino: off`, `st_dev` differs from layer to layer, and each inode number is that of the layer. So files of
//!   two layers may share a number.
//! - With `xino: on`, and with `auto` on ext4, xfs and btrfs, there is one `st_dev`. The highest bits of the inode
//!   number, beyond 2^53, hold the layer.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    privileged_tests::{Node, read},
    *,
};
use crate::{
    image::fake::FakeRegistry,
    overlay::{Options, Xino},
};

/// The limit below which JavaScript's numbers hold integers exactly.
const JAVASCRIPT: u64 = 1 << 53;

/// Runs a shell line in `dir` and returns what it prints. `$OUT` is `out`. The line must succeed.
pub(super) fn sh(line: &str, dir: &Path, out: &Path) -> String {
    let mut command = Command::new("sh");
    command.args(["-euc", line]).current_dir(dir).env("OUT", out).env("LC_ALL", "C");
    // The layer decides who owns the directory, and git refuses directories of other users.
    let git = [("COUNT", "1"), ("KEY_0", "safe.directory"), ("VALUE_0", "*")];
    command.envs(git.map(|(key, value)| (format!("GIT_CONFIG_{key}"), value)));
    command.env("GIT_CONFIG_GLOBAL", "/dev/null");
    let done = command.output().unwrap();
    let stdout = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success(), "{line}: {stdout}{}", String::from_utf8_lossy(&done.stderr));
    stdout
}

/// A tar of a directory, with its ACLs.
pub(super) fn packed(dir: &Path) -> Vec<u8> {
    let mut tar = Command::new("tar");
    tar.args(["--xattrs", "--xattrs-include=system.*", "-C"]).arg(dir);
    let done = tar.args(["-c", "."]).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    done.stdout
}

/// Two layers, each with a file that has two names. The upper one also has a clean Git checkout.
fn layers() -> [Vec<u8>; 2] {
    let (lower, upper) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let no_out = Path::new("/dev/null");
    let names = |n: u8| format!("mkdir -p d && echo {n} > d/one{n} && ln d/one{n} d/two{n}");
    sh(&names(1), lower.path(), no_out);
    sh(&names(2), upper.path(), no_out);
    let commit =
        "git init -q repo; cd repo; mkdir a; for n in 1 2 3 4 5 6 7 8 9; do echo $n > a/$n; done
        git add .; git -c user.name=n -c user.email=e commit -qm first";
    sh(commit, upper.path(), no_out);
    [packed(lower.path()), packed(upper.path())]
}

fn inode(path: &Path) -> (u64, u64) {
    let found = fs::symlink_metadata(path).unwrap();
    (found.dev(), found.ino())
}

/// docs/hazards.md, 42.
#[tokio::test]
#[ignore = "needs root"]
async fn privileged_archivers_copies_and_git_work_with_and_without_xino() {
    let registry = FakeRegistry::start().await;
    registry.push_image("tools", "1", &layers(), true);
    let node = Node::new(&registry);
    for xino in [Xino::Off, Xino::On, Xino::Auto] {
        let id = format!("xino-{xino:?}").to_lowercase();
        let options = Options { xino, ..Options::default() };
        let images = vec![registry.reference("tools", "1")];
        let spec = VolumeSpec { images, options, ..VolumeSpec::default() };
        node.volumes.publish(node.request(&id, spec)).await.unwrap();
        let (at, out) = (node.target(&id), tempfile::tempdir().unwrap());
        let run = |line: &str| sh(line, &at, out.path());

        let of =
            |n: u8| [inode(&at.join(format!("d/one{n}"))), inode(&at.join(format!("d/two{n}")))];
        let (one, two) = (of(1), of(2));
        assert_eq!((one[0], two[0]), (one[1], two[1]), "{id}: two names are one file");
        assert_ne!(one[0], two[0], "{id}: two layers' files are two");
        match xino {
            Xino::On | Xino::Auto => {
                assert_eq!(one[0].0, two[0].0, "{id}: one device");
                assert!(one[0].1 > JAVASCRIPT && two[0].1 > JAVASCRIPT, "{id}: {one:?} {two:?}");
            }
            Xino::Off => {
                assert_ne!(one[0].0, two[0].0, "{id}: a device each");
                assert!(one[0].1 < JAVASCRIPT && two[0].1 < JAVASCRIPT, "{id}: {one:?} {two:?}");
            }
        }
        for n in ["1", "2"] {
            let same: BTreeSet<_> =
                run(&format!("find . -samefile d/one{n}")).lines().map(str::to_owned).collect();
            assert_eq!(same, [format!("./d/one{n}"), format!("./d/two{n}")].into(), "{id}");
        }

        // A program that stays on one file system (`du -x`, `restic -x`, `mksquashfs -one-file-system`) compares the
        // devices of files.
        let own = inode(&at).0;
        let elsewhere = [at.join("d/one1"), at.join("repo/a/1"), at.join("repo/a")]
            .into_iter()
            .filter(|path| inode(path).0 != own)
            .count();
        let one_file_system = run("du -x --apparent-size -B1 repo/a | cut -f1");
        let all = run("du --apparent-size -B1 repo/a | cut -f1");
        match xino {
            Xino::Off => assert_eq!(elsewhere, 2, "{id}"),
            Xino::On | Xino::Auto => assert_eq!((elsewhere, one_file_system), (0, all), "{id}"),
        }

        run("tar -cf $OUT/all.tar . && mkdir $OUT/tar && tar -xf $OUT/all.tar -C $OUT/tar");
        let listed = run("tar -tvf $OUT/all.tar");
        assert_eq!(listed.matches(" link to ./d/").count(), 2, "{id}: {listed}");
        run("cp -a . $OUT/cp");
        for copy in ["tar", "cp"].map(|copy| out.path().join(copy)) {
            run(&format!("diff -r . {}", copy.display()));
            for n in [1, 2] {
                let [a, b] = ["one", "two"].map(|name| copy.join(format!("d/{name}{n}")));
                assert_eq!(inode(&a), inode(&b), "{id}: {}", a.display());
                assert_eq!(read(a), format!("{n}\n"), "{id}");
            }
        }

        run("cd repo && git fsck --strict --full");
        // The second run uses what the first one stored about each file.
        for _ in 0..2 {
            assert_eq!(run("cd repo && git status --porcelain"), "", "{id}");
        }
        run("cd repo && git diff-files --quiet");
        run("cd repo && echo more >> a/1 && git rm -q a/2 && git mv a/3 b");
        assert_eq!(
            run("cd repo && git status --porcelain"),
            " M a/1\nD  a/2\nR  a/3 -> b\n",
            "{id}"
        );
        run(
            "cd repo && git -c user.name=n -c user.email=e commit -qam second && git gc -q && git fsck --strict",
        );
        assert_eq!(run("cd repo && git status --porcelain"), "", "{id}");
        node.unpublish(&id).await;
    }
}

/// A directory keeps its inode number when the kernel evicts its inode.
///
/// GNU tar sets modes and times at the end. It skips a directory that has another number by then (exit 2, mode 0700).
#[tokio::test]
#[ignore = "needs root: makes a memory cgroup"]
async fn privileged_tar_unpacks_a_tree_that_does_not_fit_in_its_memory() {
    const DIRECTORIES: usize = 3_000;
    let registry = FakeRegistry::start().await;
    registry.push_image("tools", "1", &layers(), true);
    let node = Node::new(&registry);
    node.publish("little", &[registry.reference("tools", "1")], false, false).await;
    let at = node.target("little");

    let mut tar = tar::Builder::new(Vec::new());
    let mut append = |path: String, kind, link: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        match link {
            "" => tar.append_data(&mut header, path, content).unwrap(),
            link => tar.append_link(&mut header, path, link).unwrap(),
        }
    };
    for n in 0..DIRECTORIES {
        append(format!("tree/{n}/"), tar::EntryType::Directory, "", b"");
        append(format!("tree/{n}/file"), tar::EntryType::Regular, "", &[1; 8_192]);
        // tar makes this link last, because it leads out of its directory. So tar looks at the directory again.
        append(format!("tree/{n}/link"), tar::EntryType::Symlink, "../0/file", b"");
    }
    let archive = node.dir.path().join("archive.tar");
    fs::write(&archive, tar.into_inner().unwrap()).unwrap();

    let group = MemoryGroup::of(16 << 20);
    let line = format!(
        "echo $$ > {}/cgroup.procs; exec tar -xf {} -C {}",
        group.0.display(),
        archive.display(),
        at.display()
    );
    let done = Command::new("sh").args(["-euc", &line]).env("LC_ALL", "C").output().unwrap();
    let stderr = String::from_utf8_lossy(&done.stderr);
    let last = stderr.lines().last();
    assert!(done.status.success(), "{} lines, the last: {last:?}", stderr.lines().count());
    let modes: BTreeSet<_> = fs::read_dir(at.join("tree"))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().mode() & 0o7777)
        .collect();
    assert_eq!(modes, BTreeSet::from([0o755]));
    node.unpublish("little").await;
}

/// A cgroup that limits the memory of its processes to this many bytes. Dropped, it is removed.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    fn of(bytes: u64) -> Self {
        let name = format!("ovl-test-{}", std::process::id());
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let (root, limit) = match v1.is_dir() {
            true => (v1, "memory.limit_in_bytes"),
            false => (Path::new("/sys/fs/cgroup"), "memory.max"),
        };
        let _ = fs::write(root.join("cgroup.subtree_control"), "+memory");
        let group = Self(root.join(name));
        fs::create_dir(&group.0).unwrap();
        fs::write(group.0.join(limit), bytes.to_string()).unwrap();
        group
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // Its last process has ended, but the kernel may need a moment to release the cgroup.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}
