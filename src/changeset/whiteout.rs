//! Whiteouts of an OCI layer: the names that do not stand for themselves (OCI image-spec, layer.md, "Whiteouts").
//!
//! Deliberately absent: the content of the layers below. A whiteout means the same whatever they have.

use super::error::InvalidLayer;
use super::path::{EntryPath, OPAQUE, WHITEOUT};

/// The prefix of the names that AUFS uses internally.
const INTERNAL: &[u8] = b".wh..wh.";

/// What the name of an entry means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning<'p> {
    /// The name of the entry itself.
    Entry,
    /// This name in the directory is absent.
    Whiteout(&'p [u8]),
    /// Everything that lower layers have in the directory is absent.
    Opaque,
    /// A name that AUFS uses internally.
    Internal,
}

impl<'p> Meaning<'p> {
    /// What the name `path` means.
    pub(super) fn of(path: &'p EntryPath) -> Result<Self, InvalidLayer> {
        let Some((mut parents, last)) = path.split() else {
            return Ok(Self::Entry);
        };
        if parents.clone().any(|part| part.starts_with(INTERNAL)) {
            return Ok(Self::Internal);
        }
        if parents.any(|part| part.starts_with(WHITEOUT)) {
            return Err(InvalidLayer::Whiteout);
        }
        if last == OPAQUE {
            return Ok(Self::Opaque);
        }
        if last.starts_with(INTERNAL) {
            return Ok(Self::Internal);
        }
        match last.strip_prefix(WHITEOUT) {
            None => Ok(Self::Entry),
            Some(b"" | b"." | b"..") => Err(InvalidLayer::Whiteout),
            Some(name) => Ok(Self::Whiteout(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_meaning_of_the_image_spec() {
        for (name, meaning) in [
            ("a", Ok(Meaning::Entry)),
            ("/", Ok(Meaning::Entry)),
            ("a/.whatever", Ok(Meaning::Entry)),
            ("a/.wh.b", Ok(Meaning::Whiteout(b"b"))),
            (".wh..b", Ok(Meaning::Whiteout(b".b"))),
            (".wh.....", Ok(Meaning::Whiteout(b"...."))),
            (".wh..wh..opq", Ok(Meaning::Opaque)),
            ("a/.wh..wh..opq", Ok(Meaning::Opaque)),
            (".wh..wh.plnk", Ok(Meaning::Internal)),
            (".wh..wh.plnk/12.34", Ok(Meaning::Internal)),
            (".wh..wh.plnk/.wh.a", Ok(Meaning::Internal)),
            (".wh..wh..opq/a", Ok(Meaning::Internal)),
            (".wh.", Err(InvalidLayer::Whiteout)),
            ("a/.wh.", Err(InvalidLayer::Whiteout)),
            (".wh..", Err(InvalidLayer::Whiteout)),
            (".wh...", Err(InvalidLayer::Whiteout)),
            (".wh.a/b", Err(InvalidLayer::Whiteout)),
        ] {
            let path = EntryPath::new(name.as_bytes()).unwrap();
            assert_eq!(Meaning::of(&path), meaning, "{name}");
        }
    }
}
