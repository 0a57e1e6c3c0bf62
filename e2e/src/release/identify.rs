//! What a program file is: format, architecture, and whether it needs libraries that the system does not have.
//!
//! Deliberately absent: other machines' loaders. A static program needs none.

use anyhow::{Context, Result, ensure};
use object::elf::{FileHeader64, PT_INTERP};
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use object::{Architecture, BinaryFormat, Endianness, Object as _};

use super::platform::Platform;
use super::{macho, pe};

/// Checks that a program is one for this platform: static for Linux, one that macOS can load, and one that
/// was linked without the time of the day for Windows.
///
/// # Errors
/// It is not. The error says what it is.
pub fn check(program: &[u8], platform: Platform) -> Result<()> {
    let file = object::File::parse(program).context("parsing a program")?;
    let format = match platform.os {
        "linux" => BinaryFormat::Elf,
        "darwin" => BinaryFormat::MachO,
        "windows" => BinaryFormat::Pe,
        other => anyhow::bail!("{other}: no such system"),
    };
    let architecture = match platform.arch {
        "amd64" => Architecture::X86_64,
        "arm64" => Architecture::Aarch64,
        other => anyhow::bail!("{other}: no such architecture"),
    };
    let (of, on) = (file.format(), file.architecture());
    ensure!(of == format && on == architecture, "for {platform} it is {of:?} for {on:?}");
    match format {
        BinaryFormat::Elf => is_static(program),
        BinaryFormat::MachO => macho::check(program, architecture == Architecture::Aarch64),
        _ => pe::check(program),
    }
}

/// Checks that no loader is named (`PT_INTERP`, elf(5)). A static-pie has a dynamic section and no loader.
fn is_static(program: &[u8]) -> Result<()> {
    let header = FileHeader64::<Endianness>::parse(program).context("parsing an ELF header")?;
    let endian = header.endian().context("parsing an ELF header")?;
    let segments = header.program_headers(endian, program).context("parsing an ELF header")?;
    let interpreter = segments.iter().any(|segment| segment.p_type(endian) == PT_INTERP);
    ensure!(!interpreter, "it is not static: it names a loader");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::image::architecture;
    use crate::release::platform::NODES;

    #[test]
    fn a_program_of_this_machine_is_identified_and_is_not_static() -> Result<()> {
        let own = std::fs::read(std::env::current_exe()?)?;
        let this = architecture();
        let (same, other): (Vec<_>, Vec<_>) =
            NODES.into_iter().partition(|platform| platform.arch == this);
        let error = |platform| check(&own, platform).err().map(|error| error.to_string());
        assert_eq!(error(same[0]).unwrap_or_default(), "it is not static: it names a loader");
        let error = error(other[0]).unwrap_or_default();
        assert!(error.starts_with("for linux_") && error.contains("Elf"), "{error}");
        assert!(check(b"#!/bin/sh\n", NODES[0]).is_err());
        Ok(())
    }
}
