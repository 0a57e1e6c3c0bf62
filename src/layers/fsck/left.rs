//! What processes have left that ended: directories in staging, and reservations. No fault: the next process removes them.
//!
//! Deliberately absent: the files of leases that have ended. Every command leaves some, until the next round.

use std::{fs, io, path::Path};

use crate::sys::{durable::at, flock};

/// Notes on what is left in the store at `root`.
pub(super) fn notes(root: &Path) -> io::Result<Vec<String>> {
    let is_used = !flock::holders(&root.join("lock")).is_empty();
    let mut notes = Vec::new();
    for (part, what) in [
        ("staging", "left in staging by processes that ended; the next command removes it"),
        (
            "reservations",
            "left in reservations by processes that ended; the next command removes it",
        ),
    ] {
        let mut left = 0;
        for path in entries(&root.join(part))? {
            let is_of_process = path
                .file_name()
                .is_some_and(|name| name.to_str().is_some_and(|name| name.starts_with("process-")));
            // A process that has the store alone locks only the store.
            let is_locked = if is_of_process { !flock::holders(&path).is_empty() } else { is_used };
            left += u64::from(!is_locked);
        }
        if left > 0 {
            notes.push(format!("{left} {what}"));
        }
    }
    let volumes = entries(&root.join("volumes"))?.len();
    if volumes > 0 {
        notes.push(format!("the layers that {volumes} volumes of a node need were not looked for"));
    }
    let path = root.join("quarantine");
    match entries(&path)?.len() {
        0 => {}
        1 => notes.push(format!("1 entry is in the quarantine {}", path.display())),
        count => notes.push(format!("{count} entries are in the quarantine {}", path.display())),
    }
    Ok(notes)
}

fn entries(dir: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(at("list", dir)(e)),
        Ok(entries) => {
            entries.map(|entry| entry.map(|entry| entry.path()).map_err(at("list", dir))).collect()
        }
    }
}
