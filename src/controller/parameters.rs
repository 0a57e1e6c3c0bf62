//! The parameters of a VolumeSnapshotClass, parsed and checked before a snapshot is started.

use std::{collections::BTreeMap, time::Duration};

use super::repository::{RepositoryError, Template};
use crate::{
    cluster::overlay_snapshot::{Consistency, LayerCompression, LayerFormat},
    dns_name::is_subdomain,
    format,
};

/// The prefix of keys for the sidecar. This driver ignores them.
const SIDECAR_PREFIX: &str = "csi.storage.k8s.io/";
/// The default of `freezeTimeout`: how long a pod may be frozen.
const FREEZE: Duration = Duration::from_secs(5);
/// The largest `freezeTimeout`: the probes and peers of a pod give up on it after about a minute.
pub(super) const FREEZE_MAX: Duration = Duration::from_secs(60);
/// The default of `squashAbove`: how many layers above the layers of the images are kept separate.
const SQUASH: u32 = 32;
/// The largest `squashAbove`. An overlay takes 500 layers, and the layers of the images need the rest.
pub(super) const SQUASH_MAX: u32 = 250;

/// The parsed parameters of a class.
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

/// An error in the parameters of a class.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    /// An unknown key.
    #[error(
        "unknown parameter {0:?}: known parameters are repository, format, compression, consistency, freezeTimeout, \
         onFreezeTimeout, pushSecretName and squashAbove"
    )]
    Unknown(String),
    /// A value that the key does not accept.
    #[error("{key} is {value:?}: expected {expected}")]
    Value {
        /// The key of the parameter.
        key: &'static str,
        /// The given value, shortened.
        value: String,
        /// The accepted values, in words.
        expected: &'static str,
    },
    /// An invalid value of `repository`.
    #[error("repository: {0}")]
    Repository(#[from] RepositoryError),
    /// A parameter that has no effect together with another one.
    #[error("{0} has no effect {1}: remove it")]
    Meaningless(&'static str, &'static str),
}

impl Parameters {
    pub(super) fn parse(given: &BTreeMap<String, String>) -> Result<Self, ParameterError> {
        let mut parameters = Self::default();
        for (key, value) in given.iter().filter(|(key, _)| !key.starts_with(SIDECAR_PREFIX)) {
            parameters.set(key, value)?;
        }
        let given = |key: &str| given.contains_key(key);
        let without_push = "without repository, because nothing is pushed";
        let live = "with consistency live, because nothing is frozen";
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
                let values = [("portable", LayerFormat::Portable), ("native", LayerFormat::Native)];
                self.format = one_of("format", value, values, "portable or native")?;
            }
            "compression" => {
                let values = [
                    ("zstd", LayerCompression::Zstd),
                    ("gzip", LayerCompression::Gzip),
                    ("none", LayerCompression::None),
                ];
                self.compression = one_of("compression", value, values, "zstd, gzip or none")?;
            }
            "consistency" => {
                let values = [("frozen", Consistency::Frozen), ("live", Consistency::Live)];
                self.consistency = one_of("consistency", value, values, "frozen or live")?;
            }
            "freezeTimeout" => self.freeze_timeout = duration(value)?,
            "onFreezeTimeout" => {
                let values = [("fail", false), ("live", true)];
                self.or_live = one_of("onFreezeTimeout", value, values, "fail or live")?;
            }
            "pushSecretName" => self.push_secret_name = Some(secret(value)?),
            "squashAbove" => self.squash_above = squash(value)?,
            unknown => return Err(ParameterError::Unknown(shown(unknown))),
        }
        Ok(())
    }
}

fn one_of<T: Copy, const N: usize>(
    key: &'static str,
    value: &str,
    values: [(&str, T); N],
    expected: &'static str,
) -> Result<T, ParameterError> {
    let found = values.iter().find(|(known, _)| *known == value).map(|(_, meaning)| *meaning);
    found.ok_or_else(|| refused(key, value, expected))
}

fn duration(value: &str) -> Result<Duration, ParameterError> {
    format::duration(value)
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

/// A text shortened to 100 characters, for an error message.
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
    fn parameters_that_are_not_set_have_their_documented_defaults() {
        let parameters = parse(&[("csi.storage.k8s.io/snapshotter-secret-name", "s")]).unwrap();
        assert_eq!(parameters, Parameters::default());
        assert_eq!(parameters.freeze_timeout, Duration::from_secs(5));
        assert_eq!((parameters.squash_above, parameters.or_live), (32, false));
    }

    #[test]
    fn parameters_that_are_set_are_parsed() {
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
    fn an_error_names_the_parameter_and_the_accepted_values() {
        for (given, message) in [
            (
                &[("Repository", "r.io/a")][..],
                "unknown parameter \"Repository\": known parameters are repository",
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
                "pushSecretName has no effect without repository, because nothing is pushed",
            ),
            (
                &[("consistency", "live"), ("freezeTimeout", "5s")],
                "freezeTimeout has no effect with consistency live",
            ),
            (
                &[("consistency", "live"), ("onFreezeTimeout", "live")],
                "onFreezeTimeout has no effect with consistency live",
            ),
            (&[("repository", "a")], "repository: "),
        ] {
            let error = parse(given).unwrap_err();
            assert!(error.contains(message), "{message:?} is not in {error:?}");
        }
    }
}
