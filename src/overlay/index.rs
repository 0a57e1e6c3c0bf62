//! Counts hard-linked files of an upper that have names which only overlay's index resolves (kernel doc overlayfs.rst,
//! "Index").
//!
//! With `index=on`, a layer's file with several names is copied up into the index. Its names appear in the upper one by
//! one, as they are changed. The other names lead to the changed file by the index alone. A copy of the upper without
//! the index would have the layer's bytes under these names.

use std::{fs, io, os::unix::fs::FileTypeExt as _};

use super::UpperAndWork;
use crate::{overlay_xattr::NLINK, sys::attributes};

/// Returns how many files of an upper have names that are not in it.
///
/// # Errors
/// The index cannot be read.
pub fn partly_named_files(upper: &UpperAndWork) -> io::Result<u64> {
    let entries = match fs::read_dir(upper.work().join("index")) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut found = 0;
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        // Directories have one name. A character device is the whiteout of a removed file.
        if kind.is_dir() || kind.is_char_device() {
            continue;
        }
        // Without the attribute the file never had another name, or was removed meanwhile.
        let nlink = attributes::get_xattr(&entry.path(), NLINK)?;
        found += u64::from(nlink.is_some_and(|nlink| !is_whole(&nlink)));
    }
    Ok(found)
}

/// Whether all names of a file are in the upper, by the value of [`NLINK`]. `U` counts from the links of the upper's
/// inode, which has one more than the file has names in the upper. `L` counts from the links of the layer's inode,
/// which overlay writes between two steps.
fn is_whole(nlink: &[u8]) -> bool {
    let number = nlink.strip_prefix(b"U").and_then(|rest| std::str::from_utf8(rest).ok());
    number.and_then(|number| number.parse::<i64>().ok()).is_some_and(|more| more < 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_whole_once_each_of_its_names_is_in_the_upper() {
        for (nlink, whole) in [
            ("U-1", true),
            ("U+0", false),
            ("U+1", false),
            ("U+65000", false),
            ("L+0", false),
            ("", false),
        ] {
            assert_eq!(is_whole(nlink.as_bytes()), whole, "{nlink}");
        }
    }
}
