//! Files with several names in a layer, of which an upper with an index has only some (kernel doc overlayfs.rst, "Index").
//!
//! Such a file is copied up into the index, and gets its names in the upper one by one, as they are changed. The others lead to it by
//! the index alone: whoever takes the upper without it has the layer's bytes under them.

use std::{fs, io, os::unix::fs::FileTypeExt as _};

use super::Upper;
use crate::sys::attributes;

/// How many names the file has in all, as a difference from the links of its inode, one of which is the index's.
const NLINK: &str = "trusted.overlay.nlink";

/// How many files of an upper have names that are not in it.
///
/// # Errors
/// The index cannot be read.
pub fn half_named(upper: &Upper) -> io::Result<u64> {
    let entries = match fs::read_dir(upper.work().join("index")) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut found = 0;
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        // Directories have one name; a device is the whiteout of a file that is gone.
        if kind.is_dir() || kind.is_char_device() {
            continue;
        }
        // Without the mark it never had another name, or went meanwhile.
        let told = attributes::of(&entry.path(), NLINK)?;
        found += u64::from(told.is_some_and(|told| !is_whole(&told)));
    }
    Ok(found)
}

/// `U` is for the upper's inode, whose links are one more than its names in the upper. `L` is for the layer's, as between two steps.
fn is_whole(told: &[u8]) -> bool {
    let number = told.strip_prefix(b"U").and_then(|rest| std::str::from_utf8(rest).ok());
    number.and_then(|number| number.parse::<i64>().ok()).is_some_and(|more| more < 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_whole_once_each_of_its_names_is_in_the_upper() {
        for (told, whole) in [
            ("U-1", true),
            ("U+0", false),
            ("U+1", false),
            ("U+65000", false),
            ("L+0", false),
            ("", false),
        ] {
            assert_eq!(is_whole(told.as_bytes()), whole, "{told}");
        }
    }
}
