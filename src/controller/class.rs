//! What a VolumeSnapshotClass says, checked before anything is begun.

use std::{collections::BTreeMap, time::Duration};

use super::{
    names::is_subdomain,
    repository::{RepositoryError, Template},
};
use crate::{
    cluster::overlay_snapshot::{Consistency, LayerCompression, LayerFormat},
    units,
};

/// Keys that the side-car and its like read; what they say is none of ours.
const THEIRS: &str = "csi.storage.k8s.io/";
/// For how long a pod may stand still where nobody says otherwise.
const FREEZE: Duration = Duration::from_secs(5);
/// The longest freeze that is taken: probes and peers of a pod give it up after about a minute.
const FREEZE_MAX: Duration = Duration::from_secs(60);
/// How many layers above the images' are kept apart where nobody says otherwise.
const SQUASH: u32 = 32;
/// More would leave no room for images' layers: an overlay takes 500.
const SQUASH_MAX: u32 = 250;

/// The parameters of a class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parameters {
    pub(super) repository: Option<Template>,
    pub(super) format: LayerFormat,
    pub(super) compression: LayerCompression,
    pub(super) consistency: Consistency,
    pub(super) freeze_timeout: Duration,
    pub(super) or_live: bool,
    pub(super) push_secret_name: Option<String>,
    pub(super) squash_above: u32,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            repository: None,
            format: LayerFormat::default(),
            compression: LayerCompression::default(),
            consistency: Consistency::default(),
            freeze_timeout: FREEZE,
            or_live: false,
            push_secret_name: None,
            squash_above: SQUASH,
        }
    }
}

/// What is wrong with the parameters of a class.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    /// A key that means nothing here.
    #[error(
        "unknown parameter {0:?}: known are repository, format, compression, consistency, freezeTimeout, \
         onFreezeTimeout, pushSecretName and squashAbove"
    )]
    Unknown(String),
    /// A value that the key does not take.
    #[error("{key} is {value:?}: expected {expected}")]
    Value {
        /// Of which parameter.
        key: &'static str,
        /// What it is.
        value: String,
        /// What it can be.
        expected: &'static str,
    },
    /// Something that no repository can be called.
    #[error("repository: {0}")]
    Repository(#[from] RepositoryError),
    /// Two that cannot be meant together.
    #[error("{0} is set, and has no meaning {1}")]
    Meaningless(&'static str, &'static str),
}

impl Parameters {
    pub(super) fn parse(given: &BTreeMap<String, String>) -> Result<Self, ParameterError> {
        let mut parameters = Self::default();
        for (key, value) in given.iter().filter(|(key, _)| !key.starts_with(THEIRS)) {
            parameters.set(key, value)?;
        }
        let given = |key: &str| given.contains_key(key);
        let without_push = "without repository: nothing is pushed";
        let live = "with consistency live: nothing is frozen";
        for (key, meaningless, why) in [
            ("pushSecretName", parameters.repository.is_none(), without_push),
            ("freezeTimeout", parameters.consistency == Consistency::Live, live),
            ("onFreezeTimeout", parameters.consistency == Consistency::Live, live),
        ] {
            if given(key) && meaningless {
                return Err(ParameterError::Meaningless(key, why));
            }
        }
        Ok(parameters)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), ParameterError> {
        match key {
            "repository" => self.repository = Some(value.parse()?),
            "format" => {
                let words = [("portable", LayerFormat::Portable), ("native", LayerFormat::Native)];
                self.format = word("format", value, words, "portable or native")?;
            }
            "compression" => {
                let words = [
                    ("zstd", LayerCompression::Zstd),
                    ("gzip", LayerCompression::Gzip),
                    ("none", LayerCompression::None),
                ];
                self.compression = word("compression", value, words, "zstd, gzip or none")?;
            }
            "consistency" => {
                let words = [("frozen", Consistency::Frozen), ("live", Consistency::Live)];
                self.consistency = word("consistency", value, words, "frozen or live")?;
            }
            "freezeTimeout" => self.freeze_timeout = duration(value)?,
            "onFreezeTimeout" => {
                let words = [("fail", false), ("live", true)];
                self.or_live = word("onFreezeTimeout", value, words, "fail or live")?;
            }
            "pushSecretName" => self.push_secret_name = Some(secret(value)?),
            "squashAbove" => self.squash_above = squash(value)?,
            unknown => return Err(ParameterError::Unknown(shown(unknown))),
        }
        Ok(())
    }
}

fn word<T: Copy, const N: usize>(
    key: &'static str,
    value: &str,
    words: [(&str, T); N],
    expected: &'static str,
) -> Result<T, ParameterError> {
    let found = words.iter().find(|(word, _)| *word == value).map(|(_, meaning)| *meaning);
    found.ok_or_else(|| refused(key, value, expected))
}

fn duration(value: &str) -> Result<Duration, ParameterError> {
    units::duration(value)
        .filter(|d| (Duration::from_millis(1)..=FREEZE_MAX).contains(d))
        .ok_or_else(|| {
            refused("freezeTimeout", value, "a duration such as 5s or 500ms, at most 1m")
        })
}

fn secret(value: &str) -> Result<String, ParameterError> {
    if is_subdomain(value) {
        return Ok(value.to_owned());
    }
    Err(refused("pushSecretName", value, "the name of a Secret in the driver's own namespace"))
}

fn squash(value: &str) -> Result<u32, ParameterError> {
    let digits = value.bytes().all(|b| b.is_ascii_digit());
    let number = value.parse().ok().filter(|n| digits && (1..=SQUASH_MAX).contains(n));
    number.ok_or_else(|| refused("squashAbove", value, "a number of layers from 1 to 250"))
}

fn refused(key: &'static str, value: &str, expected: &'static str) -> ParameterError {
    ParameterError::Value { key, value: shown(value), expected }
}

/// So much of a text as a sentence bears.
fn shown(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(given: &[(&str, &str)]) -> Result<Parameters, String> {
        let given = given.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Parameters::parse(&given.collect()).map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_not_said_is_what_the_documentation_says() {
        let parameters = parse(&[("csi.storage.k8s.io/snapshotter-secret-name", "s")]).unwrap();
        assert_eq!(parameters, Parameters::default());
        assert_eq!(parameters.freeze_timeout, Duration::from_secs(5));
        assert_eq!((parameters.squash_above, parameters.or_live), (32, false));
    }

    #[test]
    fn what_is_said_arrives() {
        let parameters = parse(&[
            ("repository", "r.io/{namespace}/{pod}"),
            ("format", "native"),
            ("compression", "gzip"),
            ("consistency", "frozen"),
            ("freezeTimeout", "1500ms"),
            ("onFreezeTimeout", "live"),
            ("pushSecretName", "push.secret"),
            ("squashAbove", "8"),
        ]);
        let expected = Parameters {
            repository: Some("r.io/{namespace}/{pod}".parse().unwrap()),
            format: LayerFormat::Native,
            compression: LayerCompression::Gzip,
            consistency: Consistency::Frozen,
            freeze_timeout: Duration::from_millis(1500),
            or_live: true,
            push_secret_name: Some("push.secret".into()),
            squash_above: 8,
        };
        assert_eq!(parameters, Ok(expected));
    }

    #[test]
    fn what_is_wrong_is_named_with_what_is_accepted() {
        for (given, sentence) in [
            (
                &[("Repository", "r.io/a")][..],
                "unknown parameter \"Repository\": known are repository",
            ),
            (&[("format", "Native")], "format is \"Native\": expected portable or native"),
            (&[("compression", "xz")], "expected zstd, gzip or none"),
            (&[("consistency", "")], "consistency is \"\": expected frozen or live"),
            (&[("freezeTimeout", "5")], "expected a duration such as 5s"),
            (&[("freezeTimeout", "-5s")], "expected a duration such as 5s"),
            (&[("freezeTimeout", "0s")], "expected a duration such as 5s"),
            (&[("freezeTimeout", "61s")], "at most 1m"),
            (&[("onFreezeTimeout", "true")], "expected fail or live"),
            (&[("squashAbove", "0")], "from 1 to 250"),
            (&[("squashAbove", "+8")], "from 1 to 250"),
            (&[("squashAbove", "251")], "from 1 to 250"),
            (&[("repository", "r.io/a"), ("pushSecretName", "../x")], "the name of a Secret"),
            (
                &[("pushSecretName", "s")],
                "pushSecretName is set, and has no meaning without repository",
            ),
            (
                &[("consistency", "live"), ("freezeTimeout", "5s")],
                "freezeTimeout is set, and has no meaning with",
            ),
            (
                &[("consistency", "live"), ("onFreezeTimeout", "live")],
                "onFreezeTimeout is set, and has no meaning",
            ),
            (&[("repository", "a")], "repository: "),
        ] {
            let error = parse(given).unwrap_err();
            assert!(error.contains(sentence), "{sentence:?} is not in {error:?}");
        }
    }
}
