//! Checks texts from outside before they become file names.

/// Whether a text is safe as a path component and as a CSI id (CSI spec, "Size Limits").
///
/// It must have 1 to 128 bytes of ASCII letters, digits, `.`, `_` and `-`, and begin with a letter or digit.
pub fn is_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    text.len() <= 128
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && text.bytes().all(allowed)
}
