//! The archives with programs: `.tar.gz`, and `.zip` for Windows. They have the same bytes each time.
//!
//! Deliberately absent: a directory at the top. krew and `tar -C /usr/local/bin` expect the program there.

use std::io::{Cursor, Read, Write};

use anyhow::{Context, Result, bail};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::platform::Platform;
use crate::oci::files::Files;
use crate::oci::image::{gunzip, gzip};

/// The path of the licence in each archive.
pub const LICENSE: &str = "LICENSE";

/// The name of a program's archive: `kubectl-ovl_1.2.3_linux_amd64.tar.gz`.
pub fn name(program: &str, version: &str, platform: Platform) -> String {
    let end = if platform.os == "windows" { "zip" } else { "tar.gz" };
    format!("{program}_{version}_{platform}.{end}")
}

/// Packs a program with other files: the licence, and manual pages. `file` is the name of the program's file.
///
/// # Errors
/// The archive cannot hold the path.
pub fn pack(
    archive: &str,
    file: &str,
    program: Vec<u8>,
    others: Files,
    time: u64,
) -> Result<Vec<u8>> {
    let files = others.with_program(file, program);
    if archive.ends_with(".zip") { zip(&files) } else { gzip(&files.tar(time)?) }
}

/// The files of an archive.
///
/// # Errors
/// It is damaged, or its name has another end than [`pack`] knows.
pub fn open(archive: &str, bytes: &[u8]) -> Result<Files> {
    if archive.ends_with(".zip") {
        return unzip(bytes);
    }
    if !archive.ends_with("gz") {
        bail!("{archive}: no archive");
    }
    gunzip(bytes).and_then(|tar| Files::from_tar(&tar)).with_context(|| archive.to_owned())
}

/// All files have the first time that a zip can have, 1980. It knows no time zones, so another one would depend on the
/// machine that reads it.
fn zip(files: &Files) -> Result<Vec<u8>> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (path, file) in files.iter() {
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
        let options = options.last_modified_time(zip::DateTime::default());
        writer.start_file(path, options.unix_permissions(file.mode)).context("writing a zip")?;
        writer.write_all(&file.bytes).with_context(|| format!("putting {path} into a zip"))?;
    }
    Ok(writer.finish().context("ending a zip")?.into_inner())
}

fn unzip(bytes: &[u8]) -> Result<Files> {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).context("reading a zip")?;
    let mut files = Files::default();
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).context("reading a zip")?;
        let path = entry.name().context("a path in a zip")?.into_owned();
        let mode = entry.unix_mode().with_context(|| format!("{path} in a zip has no mode"))?;
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).with_context(|| format!("reading {path} in a zip"))?;
        files = files.with_mode(&path, mode & 0o777, bytes);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::platform::{NODES, USERS};

    #[test]
    fn names_are_those_of_go_and_windows_gets_a_zip() {
        assert_eq!(name("ovl", "1.2.3", NODES[1]), "ovl_1.2.3_linux_arm64.tar.gz");
        assert_eq!(name("kubectl-ovl", "1.2.3", USERS[2]), "kubectl-ovl_1.2.3_windows_amd64.zip");
    }

    #[test]
    fn both_kinds_of_archives_are_reproducible_and_are_read_as_they_were_written() -> Result<()> {
        for (archive, file) in [("a.tar.gz", "kubectl-ovl"), ("a.zip", "kubectl-ovl.exe")] {
            let others = || Files::default().with(LICENSE, "licence");
            let pack = |time| pack(archive, file, b"program".to_vec(), others(), time);
            let bytes = pack(7)?;
            assert_eq!(pack(7)?, bytes, "{archive}");
            let files = open(archive, &bytes)?;
            assert_eq!(files.iter().map(|(path, _)| path).collect::<Vec<_>>(), [LICENSE, file]);
            assert_eq!((files.get(file)?.mode, files.get(LICENSE)?.mode), (0o755, 0o644));
            assert_eq!(files.get(file)?.bytes, b"program");
            assert!(open(archive, &bytes[..bytes.len() / 2]).is_err(), "{archive}");
        }
        assert!(open("SHA256SUMS", b"").is_err());
        Ok(())
    }
}
