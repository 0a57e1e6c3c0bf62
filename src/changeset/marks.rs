//! Overlay's own marks in extended attributes, as a native layer has them (kernel doc, overlayfs.rst).
//!
//! Who may write one into a layer says what a path of the layers below shows, so they count in layers of our own media type
//! alone, and each is checked. In all others they are dropped; so is everywhere what overlay keeps for itself (origin, impure,
//! nlink, uuid, protattr) and what is not one stack's business (names escaped for an overlay within the overlay).
//!
//! Deliberately absent: whiteouts, which are inodes; and where a redirect leads, which only the layers below know.

use super::error::{EntryName, Refusal};
use super::features::Features;
use crate::erofs::Xattrs;

/// A folder that hides what lies below it: `y`.
pub(super) const OPAQUE: &str = "trusted.overlay.opaque";
/// The path in the layers below that has the content: absolute, or a name in the same folder.
pub(super) const REDIRECT: &str = "trusted.overlay.redirect";
/// A file whose content is in the layers below.
pub(super) const METACOPY: &str = "trusted.overlay.metacopy";
/// From what something was copied up.
pub(super) const ORIGIN: &str = "trusted.overlay.origin";
/// An empty file that stands for the absence of its name.
pub(super) const WHITEOUT: &str = "trusted.overlay.whiteout";

/// The most bytes of a redirect (the kernel's OVL_REDIRECT_MAX).
const REDIRECT_MOST: usize = 256;

/// Whether overlay takes this attribute for its own, here or in a user namespace.
pub(super) fn is_overlays(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

/// The marks of one entry, as found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Marks {
    pub opaque: bool,
    pub redirect: Option<Vec<u8>>,
    pub metacopy: bool,
}

impl Marks {
    /// Those among an entry's attributes.
    pub(super) fn of(xattrs: &[(Vec<u8>, Vec<u8>)]) -> Self {
        let mut marks = Self::default();
        for (name, value) in xattrs {
            match std::str::from_utf8(name) {
                Ok(OPAQUE) => marks.opaque = value == b"y",
                Ok(REDIRECT) => marks.redirect = Some(value.clone()),
                Ok(METACOPY) => marks.metacopy = true,
                _ => {}
            }
        }
        marks
    }

    /// Puts those that the kernel would follow on a folder among its attributes.
    pub(super) fn on_folder(
        &self,
        xattrs: &mut Xattrs,
        features: &mut Features,
    ) -> Result<(), Refusal> {
        if self.metacopy {
            return Err(Refusal::Metacopy);
        }
        if let Some(redirect) = &self.redirect {
            set(xattrs, REDIRECT, checked(redirect)?)?;
            features.redirect = true;
        }
        Ok(())
    }

    /// The same for a file. Without metacopy a redirect on it means nothing.
    pub(super) fn on_file(
        &self,
        xattrs: &mut Xattrs,
        features: &mut Features,
    ) -> Result<(), Refusal> {
        if !self.metacopy {
            return Ok(());
        }
        // Without a value: what could stand in it are digests that nobody checked.
        set(xattrs, METACOPY, b"")?;
        features.metacopy = true;
        if let Some(redirect) = &self.redirect {
            set(xattrs, REDIRECT, checked(redirect)?)?;
            features.redirect = true;
        }
        Ok(())
    }

    /// What is neither folder nor file has none that count.
    pub(super) fn on_other(&self) -> Result<(), Refusal> {
        if self.metacopy { Err(Refusal::Metacopy) } else { Ok(()) }
    }
}

fn set(xattrs: &mut Xattrs, name: &str, value: &[u8]) -> Result<(), Refusal> {
    let name = name.as_bytes();
    xattrs.set(name, value).map_err(|why| Refusal::Xattr { name: EntryName::new(name), why })
}

/// The redirect, if it is an absolute path or one name, and leads nowhere but down.
fn checked(redirect: &[u8]) -> Result<&[u8], Refusal> {
    let path = redirect.strip_prefix(b"/");
    let is_part = |part: &[u8]| !matches!(part, b"" | b"." | b"..");
    let leads_down = path.unwrap_or(redirect).split(|b| *b == b'/').all(is_part);
    let is_name = path.is_some() || !redirect.contains(&b'/');
    if leads_down && is_name && redirect.len() <= REDIRECT_MOST && !redirect.contains(&0) {
        Ok(redirect)
    } else {
        Err(Refusal::Redirect(EntryName::new(redirect)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_leads_down_or_to_a_neighbour() {
        let (longest, longer) = (format!("/{}", "a".repeat(255)), format!("/{}", "a".repeat(256)));
        for good in ["/a", "/a/b", "a", "a b", "...", &longest] {
            assert_eq!(checked(good.as_bytes()), Ok(good.as_bytes()), "{good}");
        }
        for bad in [
            "", "/", "//a", "/a/", "/a//b", "a/b", "..", ".", "/..", "/a/../b", "/a/.", "a\0",
            &longer,
        ] {
            let refused = Refusal::Redirect(EntryName::new(bad.as_bytes()));
            assert_eq!(checked(bad.as_bytes()), Err(refused), "{bad}");
        }
    }

    #[test]
    fn marks_count_where_the_kernel_looks_for_them() {
        let named = |marks: &[(&str, &str)]| {
            let owned = marks.iter().map(|(name, value)| {
                (format!("trusted.overlay.{name}").into_bytes(), value.as_bytes().to_vec())
            });
            Marks::of(&owned.collect::<Vec<_>>())
        };
        let (mut xattrs, mut features) = (Xattrs::default(), Features::default());
        let moved = named(&[("redirect", "/a"), ("origin", "x"), ("opaque", "x"), ("uuid", "u")]);
        assert_eq!(moved, Marks { redirect: Some(b"/a".to_vec()), ..Marks::default() });
        moved.on_file(&mut xattrs, &mut features).unwrap();
        assert_eq!((xattrs.encoded_len(), features), (0, Features::default()));
        moved.on_folder(&mut xattrs, &mut features).unwrap();
        let set: Vec<_> = xattrs.named().collect();
        assert_eq!(set, [(REDIRECT.as_bytes().to_vec(), b"/a".to_vec())]);
        assert_eq!(features, Features { redirect: true, metacopy: false });
        let bare = named(&[("metacopy", "\0\u{4}")]);
        let mut xattrs = Xattrs::default();
        bare.on_file(&mut xattrs, &mut features).unwrap();
        assert_eq!(xattrs.named().collect::<Vec<_>>(), [(METACOPY.into(), Vec::new())]);
        assert_eq!(bare.on_other(), Err(Refusal::Metacopy));
        assert_eq!(bare.on_folder(&mut xattrs, &mut features), Err(Refusal::Metacopy));
    }
}
