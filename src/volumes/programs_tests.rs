//! Tests of what programs copy up and see in a volume: the tables of `docs/volumes.md` and `docs/programs.md`.
//!
//! Sizes are those of the files in the upper: whole files for data, a few bytes for overlay's marks.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use super::{
    privileged_tests::Node,
    tools_tests::{packed, sh},
    *,
};
use crate::{
    image::{PullPolicy, fake::FakeRegistry},
    overlay::{Options, Xino},
    reference::Reference,
};

/// The size in bytes of the files on which the commands run: far more than overlay's marks and xattrs need.
const LARGE: u64 = 1 << 20;

/// A node and an image of one directory tree.
pub(super) struct Tree {
    pub(super) node: Node,
    image: Reference,
}

impl Tree {
    /// Pushes an image of this directory and pulls it on a node whose directory all users can enter.
    pub(super) async fn of(dir: &Path) -> Self {
        let registry = FakeRegistry::start().await;
        registry.push_image("tree", "1", &[packed(dir)], false);
        let node = Node::new(&registry);
        fs::set_permissions(node.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let image = registry.reference("tree", "1");
        let spec = VolumeSpec { images: vec![image.clone()], ..VolumeSpec::default() };
        let id =
            format!("tree-{}", registry.reference("tree", "1").registry().replace([':', '.'], "-"));
        node.volumes.publish(node.request(&id, spec)).await.unwrap();
        node.unpublish(&id).await;
        // The layers are on the node now, so later volumes need no registry.
        Self { node, image }
    }

    /// Publishes a volume with the default options of pods. Returns its target.
    pub(super) async fn publish(&self, id: &str) -> PathBuf {
        self.publish_with(id, Options::default()).await
    }

    async fn publish_with(&self, id: &str, options: Options) -> PathBuf {
        let spec = VolumeSpec {
            options,
            images: vec![self.image.clone()],
            pull_policy: Some(PullPolicy::Never),
            ..VolumeSpec::default()
        };
        self.node.volumes.publish(self.node.request(id, spec)).await.unwrap();
        self.node.target(id)
    }

    /// The upper of a volume.
    pub(super) fn upper(&self, id: &str) -> PathBuf {
        self.node.dir.path().join("store/volumes").join(id).join("upper")
    }

    /// The bytes of data in a volume's upper. One block of each file is not counted, because it may hold its xattrs.
    pub(super) fn copied(&self, id: &str) -> u64 {
        data_below(&self.upper(id))
    }
}

fn data_below(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let bytes = |path: PathBuf| {
        let found = fs::symlink_metadata(&path).unwrap();
        match found.is_dir() {
            true => data_below(&path),
            false => (found.blocks() * 512).saturating_sub(4096),
        }
    };
    entries.map(bytes).sum()
}

/// Writes a file of bytes that differ from file to file and do not compress.
pub(super) fn noise(file: &Path, bytes: u64) {
    let mut from = fs::File::open("/dev/urandom").unwrap();
    let mut to = fs::File::create(file).unwrap();
    std::io::copy(&mut std::io::Read::take(&mut from, bytes), &mut to).unwrap();
}

/// The commands in the table of `docs/volumes.md`, each with what it copies up: nothing, metadata or data.
fn table() -> Vec<(String, String)> {
    let text = include_str!("../../docs/volumes.md");
    let (_, rows) = text.split_once("| command | copied up |\n|---|---|\n").unwrap();
    let rows = rows.lines().take_while(|line| line.starts_with("| "));
    let cells = rows.map(|row| row.trim_matches(['|', ' ']).rsplit_once(" | ").unwrap());
    cells
        .flat_map(|(commands, word)| {
            let quoted = commands.split('`').skip(1).step_by(2);
            quoted.map(|command| (command.to_owned(), word.to_owned())).collect::<Vec<_>>()
        })
        .collect()
}

#[tokio::test]
#[ignore = "needs root and the programs of the table"]
async fn privileged_each_command_copies_what_the_table_says() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("DIR/below")).unwrap();
    for name in ["FILE", "DIR/one", "DIR/below/two"] {
        noise(&dir.path().join(name), LARGE);
    }
    let fill = "create table t(a, b); insert into t select value, hex(randomblob(500)) from generate_series(1, 1500)";
    sh(&format!("sqlite3 DB \"{fill}\""), dir.path(), dir.path());
    let tree = Tree::of(dir.path()).await;
    let (table, mut wrong) = (table(), Vec::new());
    assert!(table.len() > 25, "{table:?}");
    for (number, (command, word)) in table.iter().enumerate() {
        let id = format!("command-{number}");
        let at = tree.publish(&id).await;
        sh(&format!("{{ {command}; }} > /dev/null"), &at, dir.path());
        let loops = "losetup --associated FILE --noheadings --output NAME 2>/dev/null | xargs -r losetup --detach";
        sh(loops, &at, dir.path());
        let touched = fs::read_dir(tree.upper(&id)).unwrap().count() > 0;
        let actual = match tree.copied(&id) {
            0 if !touched => "nothing",
            0..65_536 => "metadata",
            _ => "data",
        };
        if actual != word {
            wrong.push(format!("{command}: {actual}, not {word} ({} bytes)", tree.copied(&id)));
        }
        tree.node.unpublish(&id).await;
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// `setfacl -m` reports the error of the kernel. `setfacl -b` gets no error, although it removes nothing.
#[tokio::test]
#[ignore = "needs root and acl"]
async fn privileged_setfacl_works_after_a_chmod() {
    let dir = tempfile::tempdir().unwrap();
    sh("touch plain listed && setfacl -m u:5:r listed", dir.path(), dir.path());
    let tree = Tree::of(dir.path()).await;
    let at = tree.publish("acl").await;
    let run = |line: &str| sh(line, &at, dir.path());
    let output = run("setfacl -m u:7:r plain 2>&1 || true");
    assert!(output.contains("Operation not supported"), "{output}");
    run("setfacl -b listed");
    assert!(
        run("getfacl -cn listed").contains("user:5:r"),
        "the ACL is gone: the documentation is wrong"
    );
    run("chmod --reference=plain plain && setfacl -m u:7:r plain");
    run("chmod --reference=listed listed && setfacl -b listed");
    assert!(run("getfacl -cn plain").contains("user:7:r"));
    assert!(!run("getfacl -cn listed").contains("user:5:r"));
    tree.node.unpublish("acl").await;
}

#[tokio::test]
#[ignore = "needs root, bsdtar, rsync and borg"]
async fn privileged_archivers_limited_to_one_file_system_see_every_file() {
    let dir = tempfile::tempdir().unwrap();
    sh(
        "mkdir -p a/b && for n in 1 2 3 4 5 6 7 8 9; do echo $n > a/$n; echo $n > a/b/$n; done && ln a/1 a/link",
        dir.path(),
        dir.path(),
    );
    let tree = Tree::of(dir.path()).await;
    let at = tree.publish("archived").await;
    let out = tempfile::tempdir().unwrap();
    let run = |line: &str| sh(line, &at, out.path());
    run("echo own > own && mkdir mine && echo own > mine/own && echo more >> a/2");
    let count = |line: &str| run(line).trim().parse::<usize>().unwrap();
    let all = count("find . -type f | wc -l");
    assert_eq!(all, 21);
    for line in [
        "find . -xdev -type f | wc -l",
        "tar --one-file-system -cf - . | tar -tf - | grep -vc /$",
        "bsdtar --one-file-system -cf - . | tar -tf - | grep -vc /$",
        "rsync -aHx . $OUT/rsync/ && find $OUT/rsync -type f | wc -l",
        "cp -ax . $OUT/cp && find $OUT/cp -type f | wc -l",
    ] {
        assert_eq!(count(line), all, "{line}");
    }
    let borg = "export BORG_BASE_DIR=$OUT/base BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes
        borg init -e none $OUT/borg; borg create -x $OUT/borg::a .; borg list --format '{type}{NL}' $OUT/borg::a | grep -c '[-h]'";
    assert_eq!(count(borg), all, "borg");
    tree.node.unpublish("archived").await;
}

/// These tools silently skip the files of a directory that are on another device than the directory.
#[tokio::test]
#[ignore = "needs root, restic, mksquashfs and ncdu"]
async fn privileged_backups_limited_to_one_file_system_are_complete_only_with_xino() {
    let dir = tempfile::tempdir().unwrap();
    sh(
        "mkdir -p a/b && for n in 1 2 3 4 5 6 7 8 9; do echo $n > a/$n; echo $n > a/b/$n; done",
        dir.path(),
        dir.path(),
    );
    let tree = Tree::of(dir.path()).await;
    for (xino, files) in [(Xino::Auto, 20), (Xino::Off, 0)] {
        let at = tree.publish_with("backed", Options { xino, ..Options::default() }).await;
        let out = tempfile::tempdir().unwrap();
        let run = |line: &str| sh(line, &at, out.path());
        run("echo own > own && mkdir mine && echo own > mine/own");
        for line in [
            "export RESTIC_PASSWORD=x RESTIC_CACHE_DIR=$OUT/cache; restic -q -r $OUT/restic init
            restic -r $OUT/restic backup -x . | sed -n 's/^processed \\([0-9]*\\) files.*/\\1/p'",
            "mksquashfs . $OUT/image -one-file-system -quiet -no-progress > /dev/null 2>&1
            unsquashfs -lls $OUT/image | grep -c ^- || true",
            "ncdu -0 -x -o $OUT/ncdu . && grep '^{\"name\"' $OUT/ncdu | grep -vc excluded || true",
        ] {
            let count = run(line);
            assert_eq!(count.trim(), files.to_string(), "{xino:?}: {line}");
        }
        let (one, all) = (run("du -sx --inodes . | cut -f1"), run("du -s --inodes . | cut -f1"));
        assert_eq!(one == all, xino == Xino::Auto, "du -x: {one} of {all}");
        tree.node.unpublish("backed").await;
    }
}

/// A running `sqlite3` process.
struct Sqlite {
    process: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Sqlite {
    fn open(arguments: &[&str], database: &Path) -> Self {
        let mut command = Command::new("sqlite3");
        command.args(arguments).arg(database).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let (stdin, stdout) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        Self { process, stdin, stdout: BufReader::new(stdout) }
    }

    fn query(&mut self, sql: &str) -> String {
        writeln!(self.stdin, "{sql}").unwrap();
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn end(self) {
        let Self { mut process, stdin, stdout } = self;
        drop((stdin, stdout));
        assert!(process.wait().unwrap().success());
    }
}

#[tokio::test]
#[ignore = "needs root and sqlite3"]
async fn privileged_sqlite_reads_stale_pages_only_through_a_mapping_opened_read_only() {
    let dir = tempfile::tempdir().unwrap();
    let make = "create table t(n); insert into t values (1)";
    sh(&format!("sqlite3 db '{make}'"), dir.path(), dir.path());
    sh(&format!("sqlite3 wal 'pragma journal_mode=wal; {make}'"), dir.path(), dir.path());
    let tree = Tree::of(dir.path()).await;
    for (name, mapped, flags, expected) in [
        ("db", 0, &["-readonly"][..], "2"),
        ("db", 1 << 20, &["-readonly"], "1"),
        ("db", 1 << 20, &[], "2"),
        ("wal", 1 << 20, &["-readonly"], "2"),
    ] {
        let what = format!("{name}, {mapped}, {flags:?}");
        let at = tree.publish("sqlite").await;
        let mut reader = Sqlite::open(flags, &at.join(name));
        assert_eq!(reader.query(&format!("pragma mmap_size={mapped};")), mapped.to_string());
        assert_eq!(reader.query("select n from t;"), "1", "{what}");
        sh(&format!("sqlite3 {name} 'update t set n = 2'"), &at, dir.path());
        assert_eq!(reader.query("select n from t;"), expected, "{what}");
        reader.end();
        tree.node.unpublish("sqlite").await;
    }
}

#[tokio::test]
#[ignore = "needs root and git"]
async fn privileged_git_copies_its_index_and_what_it_writes() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("repo")).unwrap();
    for n in 0..64 {
        noise(&dir.path().join(format!("repo/{n}")), 64 << 10);
    }
    let commit = "git -c user.name=n -c user.email=e commit -q";
    sh(
        &format!("cd repo && git init -q && git add . && {commit} -m a && git gc -q"),
        dir.path(),
        dir.path(),
    );
    let tree = Tree::of(dir.path()).await;
    for (line, at_most, more_than) in [
        ("git log -p > /dev/null && git fsck && git grep -q -e nowhere || true", 0, None),
        ("git status", 64 << 10, None),
        ("echo x >> 1 && git commit -qam b", 512 << 10, Some(64 << 10)),
        ("git switch -qc other", 64 << 10, None),
        // Repacking writes a new pack of everything.
        ("git repack -adq", 8 << 20, Some(3 << 20)),
    ] {
        let at = tree.publish("git").await;
        let line = line.replace("git commit", commit);
        sh(&format!("cd repo && {line}"), &at, dir.path());
        let copied = tree.copied("git");
        assert!(copied <= at_most, "{line}: {copied}");
        assert!(more_than.is_none_or(|bytes| copied > bytes), "{line}: {copied}");
        tree.node.unpublish("git").await;
    }
}

/// `'overlay' is not supported over overlayfs`: the upper of an overlay cannot be on an overlay.
#[tokio::test]
#[ignore = "needs root"]
async fn privileged_an_upper_of_an_overlay_cannot_be_in_a_volume() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "x").unwrap();
    let tree = Tree::of(dir.path()).await;
    let at = tree.publish("store").await;
    let mount = "mkdir lower upper work merged
        mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay merged 2>/dev/null && umount merged || echo refused";
    assert_eq!(sh(mount, &at, dir.path()), "refused\n");
    tree.node.unpublish("store").await;
}
