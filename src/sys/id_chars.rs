//! Texts from outside that become names of files.

/// Whether a text is safe as one part of a path, and as an id of CSI (CSI spec, "Size Limits"): 1 to 128 bytes of letters, digits,
/// `.`, `_` and `-`, beginning with a letter or digit.
pub fn is_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    text.len() <= 128
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && text.bytes().all(inner)
}
