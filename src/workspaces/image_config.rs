//! What the config of an image says of its commands (image-spec, config.md).

use serde::Deserialize;

use super::lock::Workspace;
use crate::layers::WorkspaceRecord;

/// The settings of commands. Those that an image does not have are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    /// `NAME=VALUE`.
    #[serde(deserialize_with = "or_empty")]
    pub env: Vec<String>,
    /// `USER`, `USER:GROUP`, or empty for root.
    pub user: String,
    /// The working directory. Empty: the root.
    pub working_dir: String,
    /// The first words of the command.
    #[serde(deserialize_with = "or_empty")]
    pub entrypoint: Vec<String>,
    /// The other words of the command.
    #[serde(deserialize_with = "or_empty")]
    pub cmd: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Config {
    config: Option<ImageConfig>,
}

/// A list, which Docker writes as `null` if it is empty.
fn or_empty<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl Workspace<'_> {
    /// The config of the topmost image that has one.
    pub fn image_config(&self) -> ImageConfig {
        config_of(&self.record, &|manifest| self.all.store.images.config(manifest))
    }
}

fn config_of(
    record: &WorkspaceRecord,
    read: &dyn Fn(&crate::digest::ManifestDigest) -> Option<String>,
) -> ImageConfig {
    let Some(text) = record.manifests().last().and_then(read) else {
        return ImageConfig::default();
    };
    let config: Config = serde_json::from_str(&text).unwrap_or_default();
    config.config.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_without_fields_and_with_nulls_is_empty() {
        let parsed = |text: &str| serde_json::from_str::<Config>(text).unwrap_or_default().config;
        assert_eq!(parsed("{}"), None);
        assert_eq!(parsed(r#"{"config":{"Cmd":null,"Env":null}}"#), Some(ImageConfig::default()));
        let config = parsed(r#"{"config":{"Cmd":["sh"],"User":"1","Other":[1]}}"#).unwrap();
        assert_eq!((config.cmd, config.user), (vec!["sh".to_owned()], "1".to_owned()));
    }
}
