//! The checksums of all files, in the format of `sha256sum`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::machine::process::Cmd;

/// The name of the file with the checksums.
pub const NAME: &str = "SHA256SUMS";

/// The SHA-256 of bytes, in hex.
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// The names of the files in a directory, sorted.
///
/// # Errors
/// It cannot be read.
pub fn files(place: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(place).with_context(|| format!("listing {}", place.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.context("listing a release")?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Writes the checksums of all other files in a directory.
///
/// # Errors
/// A file cannot be read or written.
pub fn write(place: &Path) -> Result<()> {
    let mut text = String::new();
    for name in files(place)?.iter().filter(|name| *name != NAME) {
        let bytes = fs::read(place.join(name)).with_context(|| format!("reading {name}"))?;
        text.push_str(&format!("{}  {name}\n", sha256(&bytes)));
    }
    fs::write(place.join(NAME), text).with_context(|| format!("writing {NAME}"))
}

/// Checks them as users do.
///
/// # Errors
/// `sha256sum` found another file than the one whose checksum was written, or a file has no checksum.
pub fn check(place: &Path) -> Result<()> {
    let check = Cmd::new("sha256sum").dir(place).args(["--check", "--strict", NAME]).output()?;
    let checked: Vec<_> = check.lines().filter_map(|line| line.strip_suffix(": OK")).collect();
    let all = files(place)?;
    let missing = all.iter().filter(|name| *name != NAME && !checked.contains(&name.as_str()));
    let missing: Vec<_> = missing.map(String::as_str).collect();
    anyhow::ensure!(missing.is_empty(), "no checksum of {}", missing.join(", "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_or_an_additional_file_is_found() -> Result<()> {
        let place = std::env::temp_dir().join(format!("ovl-sums-{}", std::process::id()));
        fs::create_dir_all(&place)?;
        fs::write(place.join("b"), "2")?;
        fs::write(place.join("a"), "1")?;
        write(&place)?;
        let text = fs::read_to_string(place.join(NAME))?;
        assert_eq!(
            text.lines().filter_map(|line| line.split("  ").nth(1)).collect::<String>(),
            "ab"
        );
        check(&place)?;
        fs::write(place.join("c"), "3")?;
        assert!(check(&place).is_err());
        write(&place)?;
        check(&place)?;
        fs::write(place.join("a"), "other")?;
        assert!(check(&place).is_err());
        fs::remove_dir_all(place)?;
        Ok(())
    }
}
