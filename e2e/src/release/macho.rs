//! What a program for macOS needs to start: libraries of the system only, the right oldest version, and on arm64 a code
//! signature that fits.
//!
//! ```text
//! LC_CODE_SIGNATURE ─► superblob ─► code directory: the end of the code, the size of a page, the SHA-256 of each page
//! ```
//!
//! The numbers in a signature are big-endian (XNU, `osfmk/kern/cs_blobs.h`).
//!
//! Deliberately absent: certificates. zig signs ad hoc, with checksums alone.

use anyhow::{Context, Result, ensure};
use object::Endianness;
use object::macho::{LC_CODE_SIGNATURE, MachHeader64};
use object::read::macho::{LoadCommandVariant, MachHeader as _};
use sha2::{Digest, Sha256};

use crate::toolchain::versions;

/// Where macOS has its own libraries.
const SYSTEM: [&str; 2] = ["/usr/lib/", "/System/Library/Frameworks/"];

/// `CSMAGIC_EMBEDDED_SIGNATURE`
const SUPERBLOB: u32 = 0xfade_0cc0;

/// `CSMAGIC_CODEDIRECTORY`
const CODE_DIRECTORY: u32 = 0xfade_0c02;

/// `CSSLOT_CODEDIRECTORY`
const CODE_DIRECTORY_SLOT: u32 = 0;

/// `CS_HASHTYPE_SHA256`
const SHA256: u8 = 2;

/// Bytes of such a hash.
const HASH: usize = 32;

/// Checks a program. It must be signed if `signed` is set: macOS on arm64 ends any other at its start.
///
/// # Errors
/// It needs a library that macOS does not have or another version of macOS, or its signature is missing or does not fit.
pub fn check(program: &[u8], signed: bool) -> Result<()> {
    let header = MachHeader64::<Endianness>::parse(program, 0).context("parsing its header")?;
    let endian = header.endian().context("parsing its header")?;
    let (mut oldest, mut signature) = (None, None);
    for command in header.load_commands(endian, program, 0).context("parsing its header")? {
        let command = command.context("parsing a load command")?;
        match command.variant().context("parsing a load command")? {
            LoadCommandVariant::Dylib(library) => {
                let name = command.string(endian, library.dylib.name).context("a library")?;
                let name = String::from_utf8_lossy(name);
                let known = SYSTEM.iter().any(|place| name.starts_with(place));
                ensure!(known, "it needs {name}, which macOS does not have");
            }
            LoadCommandVariant::BuildVersion(version) => oldest = Some(version.minos.get(endian)),
            LoadCommandVariant::LinkeditData(data) if command.cmd() == LC_CODE_SIGNATURE => {
                signature = Some((data.dataoff.get(endian), data.datasize.get(endian)));
            }
            _ => {}
        }
    }
    let oldest = oldest.context("it does not say which macOS it needs")?;
    let oldest = format!("{}.{}", oldest >> 16, oldest >> 8 & 0xff);
    ensure!(oldest == versions::MACOS, "it needs macOS {oldest}, not {}", versions::MACOS);
    match signature {
        Some((start, length)) => check_signature(program, start.try_into()?, length.try_into()?),
        None if signed => Err(anyhow::anyhow!("it has no code signature")),
        None => Ok(()),
    }
}

/// Compares each page of a program with its hash in the signature, which is at this offset.
fn check_signature(program: &[u8], start: usize, length: usize) -> Result<()> {
    let (code, rest) = program.split_at_checked(start).context("its signature is cut off")?;
    let blob = rest.get(..length).context("its signature is cut off")?;
    ensure!(number(blob, 0)? == SUPERBLOB, "its signature is no superblob");
    let directory = (0..number(blob, 8)?)
        .map(|index| 12 + 8 * index as usize)
        .find(|entry| number(blob, *entry).is_ok_and(|slot| slot == CODE_DIRECTORY_SLOT));
    let directory = directory.context("its signature has no code directory")?;
    let directory = number(blob, directory + 4)? as usize;
    let directory = blob.get(directory..).context("its signature is cut off")?;
    ensure!(number(directory, 0)? == CODE_DIRECTORY, "its signature has no code directory");
    let (hashes, pages, end) =
        (number(directory, 16)?, number(directory, 28)?, number(directory, 32)?);
    ensure!(end as usize == start, "its signature is for {end} bytes of {start}");
    let kinds = directory.get(36..40).context("its signature is cut off")?;
    let [size, kind, _, page] = kinds else { anyhow::bail!("its signature is cut off") };
    ensure!((usize::from(*size), *kind) == (HASH, SHA256), "its signature has no SHA-256");
    let page = 1_usize.checked_shl((*page).into()).context("the size of a page")?;
    ensure!(pages as usize == code.len().div_ceil(page), "its signature has {pages} pages");
    let hashes = directory.get(hashes as usize..).context("its signature is cut off")?;
    for (index, (page, hash)) in code.chunks(page).zip(hashes.chunks(HASH)).enumerate() {
        ensure!(Sha256::digest(page)[..] == *hash, "page {index} does not fit its signature");
    }
    Ok(())
}

fn number(bytes: &[u8], at: usize) -> Result<u32> {
    let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk());
    Ok(u32::from_be_bytes(*bytes.context("its signature is cut off")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "/usr/lib/libSystem.B.dylib";

    /// Bytes of the code in [`program`]: a page and a part of one.
    const CODE: usize = 4096 + 100;

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// A program that needs a library and macOS 11.0, with a signature, or with an unknown load command in its place.
    fn program(library: &str, command: u32) -> Vec<u8> {
        let mut name = library.as_bytes().to_vec();
        name.resize(name.len().next_multiple_of(8) + 8, 0);
        let size = 24 + u32::try_from(name.len()).unwrap_or_default();
        let code = u32::try_from(CODE).unwrap_or_default();
        let mut program = words(&[
            0xfeed_facf,
            0x0100_000c,
            0,
            2,
            3,
            size + 24 + 16,
            0,
            0,
            0xc,
            size,
            24,
            0,
            0,
            0,
        ]);
        program.extend(name);
        program.extend(words(&[0x32, 24, 1, 0x000b_0000, 0, 0, command, 16, code, 20 + 44 + 64]));
        program.resize(CODE, 7);
        let mut directory: Vec<u8> = [CODE_DIRECTORY, 44 + 64, 0x2_0400, 2, 44, 44, 0, 2, code]
            .map(u32::to_be_bytes)
            .concat();
        directory.extend([32, SHA256, 0, 12, 0, 0, 0, 0]);
        for page in program.chunks(4096) {
            directory.extend(Sha256::digest(page));
        }
        let blob = [SUPERBLOB, 20 + 44 + 64, 1, CODE_DIRECTORY_SLOT, 20];
        program.extend(blob.map(u32::to_be_bytes).concat());
        program.extend(directory);
        program
    }

    fn error(program: &[u8]) -> String {
        check(program, true).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_signed_program_for_the_system_is_accepted() {
        assert_eq!(error(&program(OURS, LC_CODE_SIGNATURE)), "");
    }

    #[test]
    fn a_missing_signature_is_an_error_only_where_macos_needs_it() {
        let plain = program(OURS, 0x77);
        assert_eq!(error(&plain), "it has no code signature");
        assert!(check(&plain, false).is_ok());
    }

    #[test]
    fn a_changed_page_and_a_truncated_signature_are_found() {
        let whole = program(OURS, LC_CODE_SIGNATURE);
        let mut changed = whole.clone();
        changed[CODE - 1] ^= 1;
        assert_eq!(error(&changed), "page 1 does not fit its signature");
        assert_eq!(error(&whole[..whole.len() - 1]), "its signature is cut off");
        assert!(check(&changed, false).is_err());
    }

    #[test]
    fn a_library_of_the_machine_that_compiled_it_is_an_error() {
        let error = error(&program("/opt/lib/libssl.dylib", LC_CODE_SIGNATURE));
        assert_eq!(error, "it needs /opt/lib/libssl.dylib, which macOS does not have");
    }
}
