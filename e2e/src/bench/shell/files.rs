//! Directories with many files, and changes of them.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// Files of a large tree, and of a small one.
pub const LARGE: usize = 60_000;
pub const SMALL: usize = 600;

/// Files of one directory.
const OF_ONE: usize = 100;

/// The path of a file with this number, relative to the root.
pub fn path(number: usize) -> PathBuf {
    format!("dir-{}/file-{number}", number / OF_ONE).into()
}

/// Makes this many files of this many bytes.
///
/// # Errors
/// The disk is full.
pub fn make(root: &Path, count: usize, bytes: usize) -> Result<()> {
    let mut content = vec![b'x'; bytes];
    for number in 0..count {
        let file = root.join(path(number));
        if number % OF_ONE == 0 {
            let dir = file.parent().context("a file without a directory")?;
            fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        }
        let name = number.to_string();
        content[..name.len()].copy_from_slice(name.as_bytes());
        fs::write(&file, &content).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}

/// Makes 100 changes: half of them writes, a quarter new files, a quarter removals.
///
/// # Errors
/// A file cannot be changed.
pub fn change(root: &Path, count: usize) -> Result<()> {
    for number in 0..100 {
        let file = root.join(path(number * (count / 100)));
        let done = match number % 4 {
            0 => fs::write(file.with_extension("new"), "new"),
            1 => fs::remove_file(&file),
            _ => fs::write(&file, "changed"),
        };
        done.with_context(|| format!("changing {}", file.display()))?;
    }
    Ok(())
}

/// Hashes each file below a directory, as the key of a step needs it.
///
/// # Errors
/// A file cannot be read.
pub fn hash(root: &Path) -> Result<()> {
    let (mut dirs, mut all) = (vec![root.to_owned()], Sha256::new());
    let mut buffer = vec![0; 64 * 1024];
    while let Some(dir) = dirs.pop() {
        let entries = fs::read_dir(&dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut entries = entries.with_context(|| format!("listing {}", dir.display()))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let about = entry.metadata().context("looking at an input")?;
            if about.is_dir() {
                dirs.push(path);
                continue;
            }
            let (mut file, mut one) =
                (File::open(&path).context("opening an input")?, Sha256::new());
            loop {
                match file.read(&mut buffer).context("reading an input")? {
                    0 => break,
                    read => one.update(&buffer[..read]),
                }
            }
            all.update(one.finalize());
        }
    }
    anyhow::ensure!(!all.finalize().is_empty(), "no hash");
    Ok(())
}
