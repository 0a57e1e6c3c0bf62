//! IDs: texts from outside that become file names, checked before.

/// Whether a text is safe as a path component and as a CSI id (CSI spec, "Size Limits").
///
/// It must have 1 to 128 bytes of ASCII letters, digits, `.`, `_` and `-`, and begin with a letter or digit.
pub fn is_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    text.len() <= 128
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && text.bytes().all(allowed)
}

/// A text that is not a valid ID; the first 140 characters of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a valid {what}: expected 1 to 128 letters, digits, '.', '_' or '-', beginning with a letter or \
     digit"
)]
pub struct IdError {
    what: &'static str,
    text: String,
}

impl IdError {
    pub(crate) fn new(what: &'static str, text: &str) -> Self {
        Self { what, text: text.chars().take(140).collect() }
    }
}

/// Defines the type of one kind of IDs: texts from outside that [`is_name`] accepts.
macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(into = "String", try_from = "String")]
        pub struct $name(String);

        impl $name {
            /// The ID as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = $crate::sys::id_chars::IdError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::sys::id_chars::IdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match $crate::sys::id_chars::is_name(text) {
                    true => Ok(Self(text.to_owned())),
                    false => Err($crate::sys::id_chars::IdError::new($what, text)),
                }
            }
        }
    };
}

pub(crate) use id_type;

#[cfg(test)]
mod tests {
    id_type! {
        /// An ID.
        TestId, "test ID"
    }

    #[test]
    fn an_id_is_one_safe_part_of_a_path() {
        for good in ["csi-0123abcdef", "snap-0b6f", "a", "0.x_y-z", &"a".repeat(128)] {
            assert_eq!(good.parse::<TestId>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "a/b", "-a", ".hidden", "a b", "a\n", "ä", &"a".repeat(129)] {
            let error = bad.parse::<TestId>().unwrap_err().to_string();
            assert!(error.contains("is not a valid test ID"), "{error}");
            assert!(serde_json::from_value::<TestId>(bad.into()).is_err(), "{bad:?}");
        }
    }
}
