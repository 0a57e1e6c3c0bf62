//! Values of arguments, and their parsers.

use std::{
    path::{Component, Path, PathBuf},
    time::Duration,
};

use clap::ValueEnum;

use crate::{format, media_type, overlay::Feature};

/// The store of commands without `--root`.
pub(super) const DEFAULT_ROOT: &str = "/var/lib/ovl";

/// The compression of layers that are written or sent.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Compression {
    Zstd,
    Gzip,
    None,
}

impl From<Compression> for media_type::Compression {
    fn from(compression: Compression) -> Self {
        match compression {
            Compression::Zstd => Self::Zstd,
            Compression::Gzip => Self::Gzip,
            Compression::None => Self::None,
        }
    }
}

/// Parses an absolute path. It has no `..`, because other paths are compared with it.
pub(super) fn dir(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    let plain = path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute() || !plain {
        return Err("expected an absolute path without '..'".to_owned());
    }
    Ok(path.components().collect())
}

/// Parses a duration such as `1h`, `90m` or `0s`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    format::duration(text).ok_or_else(|| "expected a duration such as 1h or 90m, or 0s".to_owned())
}

/// Parses the name of a required check that can be ignored: the others do not make the store's directory unusable.
/// `root-user` is required too, and cannot be ignored: without root nothing can be mounted.
pub(super) fn required_check(name: &str) -> Result<String, String> {
    let features = Feature::ALL.into_iter().filter(|f| f.required()).map(Feature::name);
    let names: Vec<_> = ["filesystem"].into_iter().chain(features).collect();
    if names.contains(&name) {
        return Ok(name.to_owned());
    }
    Err(format!("expected one of the required checks that can be ignored: {}", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_chart_accepts_the_same_checks_to_ignore() {
        let schema = include_str!("../../charts/ovl-csi/values.schema.json");
        let schema: Value = serde_json::from_str(schema).unwrap();
        let names = schema["properties"]["ignoredChecks"]["items"]["enum"].as_array().unwrap();
        let listed = names.iter().map(|name| name.as_str().unwrap()).collect::<Vec<_>>().join(", ");
        let refusal = required_check("colour").unwrap_err();
        assert!(refusal.ends_with(&format!(": {listed}")), "{refusal}, and the chart has {listed}");
        assert_eq!(required_check("d_type").as_deref(), Ok("d_type"));
    }
}
