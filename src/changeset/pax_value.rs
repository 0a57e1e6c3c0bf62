//! Values of pax records: texts and decimal numbers.

/// What is wrong with an extended header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PaxError {
    /// A record does not have the form `LENGTH KEY=VALUE\n`.
    #[error("is not made of whole pax records")]
    Record,
    /// The value of a key that is used is not valid for it.
    #[error("has a {0} that cannot be read")]
    Value(&'static str),
    /// The header is longer than real ones are.
    #[error("has {0} bytes; the limit is 1 MiB")]
    Long(u64),
    /// A default for all entries, by which some readers would find other entries.
    #[error("sets {0:?} for every entry that follows")]
    Global(String),
    /// The tar ends after it, without the entry that it belongs to.
    #[error("is the last header of the tar, and its entry is missing")]
    Alone,
}

pub(super) fn text(value: &[u8]) -> Option<Vec<u8>> {
    (!value.is_empty()).then(|| value.to_vec())
}

pub(super) fn number(value: &[u8], what: &'static str) -> Result<Option<u64>, PaxError> {
    if value.is_empty() {
        return Ok(None);
    }
    decimal(value).map(Some).ok_or(PaxError::Value(what))
}

pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Decimal numbers separated by commas; empty for an empty value.
pub(super) fn numbers(value: &[u8]) -> Result<Vec<u64>, PaxError> {
    if value.is_empty() {
        return Ok(Vec::new());
    }
    let numbers = value.split(|b| *b == b',').map(decimal).collect::<Option<_>>();
    numbers.ok_or(PaxError::Value("sparse map"))
}
