//! The steps with `ovl` itself: copies of a directory, without a node.
//!
//! ```text
//! alone/original/    a directory with files, which is never written
//! alone/store/       the store of the copies
//! ```
//!
//! Deliberately absent: trees of images. The pods of the other steps have images.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::format::{bytes, time};
use super::layers;
use super::workspace::Workspace;
use crate::machine::mounts;
use crate::machine::process::Cmd;

/// The copy, how many files its directory has, and how many forks are made of it.
const COPY: &str = "box";
const FILES: usize = 1000;
const FORKS: usize = 10;

/// A file of the original, and its text.
const HELLO: (&str, &str) = ("hello", "from the original\n");

/// What a command changes, and how `ovl changes` lists it.
const EDIT: &str = "echo changed > hello && rm file-0000 && echo new > note";
const CHANGES: &str = "D /file-0000\nC /hello\nA /note";

/// Runs the steps, and removes what they made.
///
/// # Errors
/// A check failed.
pub fn run(program: &Path, place: &Workspace) -> Result<()> {
    println!("\n`ovl` itself, with copies of a directory and without a node:\n");
    let root = place.root.join("alone");
    let alone = Alone { program, original: root.join("original"), store: root.join("store") };
    alone.make_original()?;
    let before = content(&alone.original)?;
    alone.create()?;
    alone.change()?;
    alone.roll_back()?;
    alone.fork()?;
    alone.run_without_trace()?;
    ensure!(content(&alone.original)? == before, "the original has changed");
    println!("    The original is as it was: all its files have the content that they had.");
    alone.apply()?;
    alone.remove(&root)
}

struct Alone<'a> {
    program: &'a Path,
    original: PathBuf,
    store: PathBuf,
}

impl Alone<'_> {
    /// Runs a command of `ovl`. Returns its standard output.
    fn ovl(&self, arguments: &[&str]) -> Result<String> {
        Cmd::new(self.program).args(arguments).env("OVL_ROOT", &self.store).output()
    }

    /// Runs a line of shell in a copy.
    fn sh(&self, copy: &str, line: &str) -> Result<String> {
        self.ovl(&["run", copy, "--", "sh", "-c", line])
    }

    /// Checks what a line of shell prints in a copy.
    fn expect(&self, copy: &str, line: &str, wanted: &str) -> Result<()> {
        let printed = self.sh(copy, line)?;
        ensure!(printed == wanted, "`{line}` in {copy} prints `{printed}`, not `{wanted}`");
        Ok(())
    }

    fn make_original(&self) -> Result<()> {
        fs::create_dir_all(&self.original).context("making the original")?;
        for number in 0..FILES {
            let file = self.original.join(format!("file-{number:04}"));
            fs::write(file, format!("line {number}\n")).context("writing the original")?;
        }
        fs::write(self.original.join(HELLO.0), HELLO.1).context("writing the original")
    }

    fn create(&self) -> Result<()> {
        let original = self.original.display().to_string();
        let since = Instant::now();
        self.ovl(&["create", COPY, "--over", &original])?;
        println!(
            "  `ovl create {COPY} --over …` makes a copy of a directory with {} files, in {}.",
            FILES + 1,
            time(since.elapsed())
        );
        self.expect(
            COPY,
            "pwd; cat hello; ls | wc -l",
            &format!("{original}\n{}{}", HELLO.1, FILES + 1),
        )
    }

    /// Changes the copy, and compares the list of changes.
    fn change(&self) -> Result<()> {
        self.sh(COPY, EDIT)?;
        let hello = fs::read_to_string(self.original.join(HELLO.0)).context("reading a file")?;
        ensure!(hello == HELLO.1, "the original has `{hello}`");
        let changes = self.ovl(&["changes", COPY])?;
        ensure!(changes == CHANGES, "`ovl changes` prints:\n{changes}");
        println!(
            "    `ovl run` changed a file in it, removed one and wrote a new one; the original has none of that.\n    \
             `ovl changes` lists {}.",
            changes.replace('\n', ", ")
        );
        Ok(())
    }

    /// Carries the changes of the copy into the original.
    fn apply(&self) -> Result<()> {
        let since = Instant::now();
        let applied = self.ovl(&["apply", COPY])?;
        let took = since.elapsed();
        ensure!(applied == "/file-0000\n/hello\n/note", "`ovl apply` prints:\n{applied}");
        let hello = fs::read_to_string(self.original.join(HELLO.0)).context("reading a file")?;
        ensure!(hello == "changed\n", "the original has `{hello}`");
        let changes = self.ovl(&["changes", COPY])?;
        ensure!(changes.is_empty(), "after the apply there is:\n{changes}");
        println!(
            "  `ovl apply {COPY}` takes the changes over into the original, in {}.",
            time(took)
        );
        Ok(())
    }

    fn roll_back(&self) -> Result<()> {
        let since = Instant::now();
        self.ovl(&["rollback", COPY, "postinit", "--yes"])?;
        let took = since.elapsed();
        let changes = self.ovl(&["changes", COPY])?;
        ensure!(changes.is_empty(), "after the rollback there is:\n{changes}");
        self.expect(COPY, "cat hello; ls | wc -l", &format!("{}{}", HELLO.1, FILES + 1))?;
        println!("    `ovl rollback` goes back to the start, in {}.", time(took));
        Ok(())
    }

    /// Forks a changed copy. Each fork has the change, and writes a file that no other sees.
    fn fork(&self) -> Result<()> {
        self.sh(COPY, EDIT)?;
        let (disk, since) = (layers::on_disk(&self.store)?, Instant::now());
        let names = self.ovl(&["fork", COPY, &FORKS.to_string()])?;
        let took = since.elapsed();
        let disk = layers::on_disk(&self.store)?.saturating_sub(disk);
        let names: Vec<&str> = names.lines().collect();
        ensure!(names.len() == FORKS, "`ovl fork` prints {names:?}");
        for name in &names {
            self.expect(name, "cat note", "new")?;
            self.sh(name, &format!("echo of {name} > note"))?;
        }
        for name in &names {
            self.expect(name, "cat note", &format!("of {name}"))?;
        }
        self.expect(COPY, "cat note", "new")?;
        println!(
            "  `ovl fork {COPY} {FORKS}` makes ten more, in {} together; they use {} of the disk before they write.\n    \
             Each wrote its own `note`, and none sees another's.",
            time(took),
            bytes(disk)
        );
        Ok(())
    }

    fn run_without_trace(&self) -> Result<()> {
        let removed =
            self.ovl(&["run", COPY, "--transient", "--", "sh", "-c", "rm -r ./*; ls | wc -l"])?;
        ensure!(removed == "0", "{removed} files are left");
        self.expect(COPY, "cat hello; ls | wc -l", &format!("changed\n{}", FILES + 1))?;
        println!(
            "  `ovl run {COPY} --transient` removed all files. After it, all of them are there."
        );
        Ok(())
    }

    fn remove(&self, root: &Path) -> Result<()> {
        self.ovl(&["scrub", "--store", "--yes"])?;
        let table =
            fs::read_to_string("/proc/self/mountinfo").context("reading the mount table")?;
        let left = mounts::mounts_below(&table, &[root]);
        ensure!(left.is_empty(), "mounts are left: {left:?}");
        Ok(())
    }
}

/// The names of the files of a directory, with their content.
fn content(directory: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).context("reading the original")? {
        let path = entry.context("reading the original")?.path();
        let content = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        files.push((path, content));
    }
    files.sort();
    Ok(files)
}
