//! Overlay's own xattrs in a native layer (kernel doc, overlayfs.rst).
//!
//! These xattrs decide what a path of the layers below shows. So they count only in layers of our own media type, and
//! each is checked. In all other layers they are dropped. Xattrs that overlay uses internally (origin, impure, nlink,
//! uuid, protattr) and escaped names for an overlay within the overlay are always dropped.
//!
//! Deliberately absent: whiteouts, which are inodes. And whether the target of a redirect exists, which only the layers
//! below can show.

use super::error::{EntryName, InvalidLayer};
use super::features::LayerFeatures;
use crate::{
    erofs::Xattrs,
    overlay_xattr::{METACOPY, OPAQUE, REDIRECT},
};

/// The most bytes of a redirect (the kernel's OVL_REDIRECT_MAX).
const REDIRECT_MOST: usize = 256;

/// The overlay xattrs of one entry, not checked yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct OverlayXattrs {
    pub opaque: bool,
    pub redirect: Option<Vec<u8>>,
    pub metacopy: bool,
}

impl OverlayXattrs {
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

    /// Adds those that the kernel follows on a directory to its attributes.
    pub(super) fn on_dir(
        &self,
        xattrs: &mut Xattrs,
        features: &mut LayerFeatures,
    ) -> Result<(), InvalidLayer> {
        if self.metacopy {
            return Err(InvalidLayer::Metacopy);
        }
        if let Some(redirect) = &self.redirect {
            set(xattrs, REDIRECT, checked(redirect)?)?;
            features.redirect = true;
        }
        Ok(())
    }

    /// Adds those that the kernel follows on a file. Without metacopy, a redirect on a file means nothing.
    pub(super) fn on_file(
        &self,
        xattrs: &mut Xattrs,
        features: &mut LayerFeatures,
    ) -> Result<(), InvalidLayer> {
        if !self.metacopy {
            return Ok(());
        }
        // Without a value, because the value would be digests that were never checked.
        set(xattrs, METACOPY, b"")?;
        features.metacopy = true;
        if let Some(redirect) = &self.redirect {
            set(xattrs, REDIRECT, checked(redirect)?)?;
            features.redirect = true;
        }
        Ok(())
    }

    /// Checks an entry that is neither directory nor file. None of the xattrs counts there.
    pub(super) fn on_other(&self) -> Result<(), InvalidLayer> {
        if self.metacopy { Err(InvalidLayer::Metacopy) } else { Ok(()) }
    }
}

fn set(xattrs: &mut Xattrs, name: &str, value: &[u8]) -> Result<(), InvalidLayer> {
    let name = name.as_bytes();
    xattrs.set(name, value).map_err(|why| InvalidLayer::Xattr { name: EntryName::new(name), why })
}

/// Whether a redirect is an absolute path or a single name, and leads only downwards.
pub fn is_redirect(redirect: &[u8]) -> bool {
    let path = redirect.strip_prefix(b"/");
    let is_part = |part: &[u8]| !matches!(part, b"" | b"." | b"..");
    let leads_down = path.unwrap_or(redirect).split(|b| *b == b'/').all(is_part);
    let is_name = path.is_some() || !redirect.contains(&b'/');
    leads_down && is_name && redirect.len() <= REDIRECT_MOST && !redirect.contains(&0)
}

/// The redirect, if it is one.
fn checked(redirect: &[u8]) -> Result<&[u8], InvalidLayer> {
    match is_redirect(redirect) {
        true => Ok(redirect),
        false => Err(InvalidLayer::Redirect(EntryName::new(redirect))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_is_an_absolute_path_or_a_single_name() {
        let (longest, longer) = (format!("/{}", "a".repeat(255)), format!("/{}", "a".repeat(256)));
        for good in ["/a", "/a/b", "a", "a b", "...", &longest] {
            assert_eq!(checked(good.as_bytes()), Ok(good.as_bytes()), "{good}");
        }
        for bad in [
            "", "/", "//a", "/a/", "/a//b", "a/b", "..", ".", "/..", "/a/../b", "/a/.", "a\0",
            &longer,
        ] {
            let refused = InvalidLayer::Redirect(EntryName::new(bad.as_bytes()));
            assert_eq!(checked(bad.as_bytes()), Err(refused), "{bad}");
        }
    }

    #[test]
    fn overlay_xattrs_count_where_the_kernel_looks_for_them() {
        let named = |marks: &[(&str, &str)]| {
            let owned = marks.iter().map(|(name, value)| {
                (format!("trusted.overlay.{name}").into_bytes(), value.as_bytes().to_vec())
            });
            OverlayXattrs::of(&owned.collect::<Vec<_>>())
        };
        let (mut xattrs, mut features) = (Xattrs::default(), LayerFeatures::default());
        let moved = named(&[("redirect", "/a"), ("origin", "x"), ("opaque", "x"), ("uuid", "u")]);
        assert_eq!(
            moved,
            OverlayXattrs { redirect: Some(b"/a".to_vec()), ..OverlayXattrs::default() }
        );
        moved.on_file(&mut xattrs, &mut features).unwrap();
        assert_eq!((xattrs.encoded_len(), features), (0, LayerFeatures::default()));
        moved.on_dir(&mut xattrs, &mut features).unwrap();
        let set: Vec<_> = xattrs.named().collect();
        assert_eq!(set, [(REDIRECT.as_bytes().to_vec(), b"/a".to_vec())]);
        assert_eq!(features, LayerFeatures { redirect: true, metacopy: false });
        let bare = named(&[("metacopy", "\0\u{4}")]);
        let mut xattrs = Xattrs::default();
        bare.on_file(&mut xattrs, &mut features).unwrap();
        assert_eq!(xattrs.named().collect::<Vec<_>>(), [(METACOPY.into(), Vec::new())]);
        assert_eq!(bare.on_other(), Err(InvalidLayer::Metacopy));
        assert_eq!(bare.on_dir(&mut xattrs, &mut features), Err(InvalidLayer::Metacopy));
    }
}
