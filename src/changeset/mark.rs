//! What a name of an OCI layer means beside being a name (OCI image-spec, layer.md, "Whiteouts").
//!
//! Deliberately absent: what stands in the layers below. A mark means the same whatever that is.

use super::error::Refusal;
use super::path::EntryPath;

const PREFIX: &[u8] = b".wh.";
const INTERNAL: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What an entry stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Mark<'p> {
    /// Itself.
    Entry,
    /// The absence of this name in its folder.
    Whiteout(&'p [u8]),
    /// The absence of everything that lower layers have in its folder.
    Opaque,
    /// Something that AUFS kept for itself.
    Internal,
}

impl<'p> Mark<'p> {
    /// What `path` stands for.
    pub(super) fn of(path: &'p EntryPath) -> Result<Self, Refusal> {
        let Some((mut above, last)) = path.split() else {
            return Ok(Self::Entry);
        };
        if above.clone().any(|part| part.starts_with(INTERNAL)) {
            return Ok(Self::Internal);
        }
        if above.any(|part| part.starts_with(PREFIX)) {
            return Err(Refusal::Whiteout);
        }
        if last == OPAQUE {
            return Ok(Self::Opaque);
        }
        if last.starts_with(INTERNAL) {
            return Ok(Self::Internal);
        }
        match last.strip_prefix(PREFIX) {
            None => Ok(Self::Entry),
            Some(b"" | b"." | b"..") => Err(Refusal::Whiteout),
            Some(name) => Ok(Self::Whiteout(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_what_they_stand_for() {
        for (name, mark) in [
            ("a", Ok(Mark::Entry)),
            ("/", Ok(Mark::Entry)),
            ("a/.whatever", Ok(Mark::Entry)),
            ("a/.wh.b", Ok(Mark::Whiteout(b"b"))),
            (".wh..b", Ok(Mark::Whiteout(b".b"))),
            (".wh.....", Ok(Mark::Whiteout(b"...."))),
            (".wh..wh..opq", Ok(Mark::Opaque)),
            ("a/.wh..wh..opq", Ok(Mark::Opaque)),
            (".wh..wh.plnk", Ok(Mark::Internal)),
            (".wh..wh.plnk/12.34", Ok(Mark::Internal)),
            (".wh..wh.plnk/.wh.a", Ok(Mark::Internal)),
            (".wh..wh..opq/a", Ok(Mark::Internal)),
            (".wh.", Err(Refusal::Whiteout)),
            ("a/.wh.", Err(Refusal::Whiteout)),
            (".wh..", Err(Refusal::Whiteout)),
            (".wh...", Err(Refusal::Whiteout)),
            (".wh.a/b", Err(Refusal::Whiteout)),
        ] {
            let path = EntryPath::new(name.as_bytes()).unwrap();
            assert_eq!(Mark::of(&path), mark, "{name}");
        }
    }
}
