//! One 512-byte tar header: its checksum and its numbers.
//!
//! The layout is the `tar` crate's. The numbers are parsed here, because a field that readers could take for
//! different numbers has to be refused, not guessed.
//!
//! Deliberately absent: names. They can come from four places, and only the reader knows all of them.

use tar::Header;

use super::error::InvalidLayer;
use crate::erofs::Time;

/// Bytes of a header. The content of every entry is padded to a multiple of it.
pub(super) const BLOCK: usize = 512;

/// The header in `block`, if its checksum is right.
pub(super) fn parse(block: &[u8; BLOCK]) -> Result<&Header, InvalidLayer> {
    let header = Header::from_byte_slice(block);
    let stated = number(&header.as_old().cksum, "checksum").map_err(|_| InvalidLayer::Checksum)?;
    let field = 148..156;
    let sum: i64 = block
        .iter()
        .enumerate()
        .map(|(i, b)| if field.contains(&i) { 32 } else { i64::from(*b) })
        .sum();
    if sum != stated {
        return Err(InvalidLayer::Checksum);
    }
    Ok(header)
}

/// The type byte of the entry.
pub(super) fn kind(header: &Header) -> u8 {
    let [kind] = header.as_old().linkflag;
    kind
}

/// The content's length in bytes.
pub(super) fn size(header: &Header) -> Result<u64, InvalidLayer> {
    u64::try_from(number(&header.as_old().size, "size")?).map_err(|_| InvalidLayer::Number("size"))
}

/// Permission, setuid, setgid and sticky bits. Some writers also put the type bits into this field, which are dropped.
pub(super) fn mode(header: &Header) -> Result<u16, InvalidLayer> {
    Ok((number(&header.as_old().mode, "mode")? & 0o7777) as u16)
}

/// The owner's user id.
pub(super) fn uid(header: &Header) -> Result<u64, InvalidLayer> {
    u64::try_from(number(&header.as_old().uid, "owner")?).map_err(|_| InvalidLayer::Number("owner"))
}

/// The owning group's id.
pub(super) fn gid(header: &Header) -> Result<u64, InvalidLayer> {
    u64::try_from(number(&header.as_old().gid, "group")?).map_err(|_| InvalidLayer::Number("group"))
}

/// The modification time, in whole seconds.
pub(super) fn mtime(header: &Header) -> Result<Time, InvalidLayer> {
    Ok(Time { seconds: number(&header.as_old().mtime, "time")?, nanos: 0 })
}

/// The device's major and minor number; 0:0 in formats without such fields.
pub(super) fn device(header: &Header) -> Result<(u32, u32), InvalidLayer> {
    let (major, minor) = match (header.as_ustar(), header.as_gnu()) {
        (Some(ustar), _) => (&ustar.dev_major, &ustar.dev_minor),
        (_, Some(gnu)) => (&gnu.dev_major, &gnu.dev_minor),
        _ => return Ok((0, 0)),
    };
    let part = |field: &[u8], bits: u32| {
        let number = number(field, "device number")?;
        u32::try_from(number)
            .ok()
            .filter(|n| n >> bits == 0)
            .ok_or(InvalidLayer::Number("device number"))
    };
    // The number of bits that Linux keeps (`MKDEV`).
    Ok((part(major, 12)?, part(minor, 20)?))
}

/// Parses a field: octal digits between spaces or before a NUL, or, if the first bit is set, a signed big-endian
/// number (GNU's base-256). An empty field is 0.
pub(super) fn number(field: &[u8], what: &'static str) -> Result<i64, InvalidLayer> {
    let refused = || InvalidLayer::Number(what);
    if field[0] & 0x80 != 0 {
        let first = i128::from((field[0] << 1) as i8 >> 1);
        let number = field[1..].iter().fold(first, |sum, b| (sum << 8) | i128::from(*b));
        return i64::try_from(number).map_err(|_| refused());
    }
    let text = field.split(|b| *b == 0).find(|text| !text.is_empty()).unwrap_or_default();
    let digits = text.trim_ascii();
    if !digits.iter().all(|b| (b'0'..=b'7').contains(b)) {
        return Err(refused());
    }
    Ok(digits.iter().fold(0, |sum, digit| (sum << 3) | i64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_in_every_notation() {
        for (field, value) in [
            (b"0000644\0".as_slice(), 0o644),
            (b"   644 \0", 0o644),
            (b"644\0junk", 0o644),
            (b"\0\0\0\0\0\0\0\0", 0),
            (b"        ", 0),
            (b"77777777777\0", (8 << 30) - 1),
            (b"777777777777", (64 << 30) - 1),
            (b"\x80\0\0\0\0\0\0\x02\0\0\0\0", 8 << 30),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", -2),
        ] {
            assert_eq!(number(field, "size"), Ok(value), "{}", field.escape_ascii());
        }
        for field in
            [b"0000648\0".as_slice(), b"-1\0", b"1 2\0", b"0x1\0", b"\x80\xff\0\0\0\0\0\0\0\0\0\0"]
        {
            assert_eq!(
                number(field, "size"),
                Err(InvalidLayer::Number("size")),
                "{}",
                field.escape_ascii()
            );
        }
    }

    #[test]
    fn a_changed_byte_makes_the_checksum_wrong() {
        let mut header = Header::new_ustar();
        header.set_path("name").unwrap();
        header.set_size(10);
        header.set_cksum();
        let mut block = *header.as_bytes();
        assert_eq!(size(parse(&block).unwrap()), Ok(10));
        block[0] ^= 1;
        assert!(matches!(parse(&block), Err(InvalidLayer::Checksum)));
    }
}
