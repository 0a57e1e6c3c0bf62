//! Whether a program for Windows is the same each time that it is linked.
//!
//! Deliberately absent: the libraries that it loads. wine runs it.

use anyhow::{Context, Result, ensure};
use object::LittleEndian;
use object::pe::{IMAGE_DEBUG_TYPE_REPRO, IMAGE_DIRECTORY_ENTRY_DEBUG, ImageDebugDirectory};
use object::pod::slice_from_all_bytes;
use object::read::pe::PeFile64;

/// Checks that the program says so (`IMAGE_DEBUG_TYPE_REPRO`): its header has a hash in the place of the time at which it
/// was linked.
///
/// # Errors
/// It does not.
pub fn check(program: &[u8]) -> Result<()> {
    let file = PeFile64::parse(program).context("parsing its headers")?;
    let directory = file.data_directory(IMAGE_DIRECTORY_ENTRY_DEBUG);
    let directory = directory.map(|directory| directory.data(program, &file.section_table()));
    let entries = directory.transpose().context("its debug directory")?.unwrap_or_default();
    let entries = slice_from_all_bytes::<ImageDebugDirectory>(entries);
    let entries = entries.ok().context("its debug directory is cut off")?;
    let same = entries.iter().any(|entry| entry.typ.get(LittleEndian) == IMAGE_DEBUG_TYPE_REPRO);
    ensure!(same, "its header has the time at which it was linked");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program with one entry in its debug directory.
    fn program(kind: u32) -> Vec<u8> {
        let mut program = vec![0; 324];
        let mut put =
            |at: usize, bytes: &[u8]| program[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"MZ");
        put(0x3c, &[64]);
        put(64, b"PE\0\0\x64\x86\x01\0");
        // The optional header has seven directories. The last one is that of the debug entries.
        put(84, &[112 + 7 * 8]);
        put(88, &[0x0b, 0x02]);
        put(196, &[7]);
        for (at, number) in [
            (248, 0x1000),
            (252, 28),
            // The section with the entry: size and address in memory, size and offset in the file.
            (264, 28),
            (268, 0x1000),
            (272, 28),
            (276, 296),
            (296 + 12, kind),
        ] {
            put(at, &u32::to_le_bytes(number));
        }
        program
    }

    #[test]
    fn a_program_with_the_time_of_its_linking_is_found() {
        assert!(check(&program(IMAGE_DEBUG_TYPE_REPRO)).is_ok());
        let error = check(&program(2)).err().map(|error| error.to_string());
        assert_eq!(error.as_deref(), Some("its header has the time at which it was linked"));
        assert!(check(b"MZ").is_err());
    }
}
