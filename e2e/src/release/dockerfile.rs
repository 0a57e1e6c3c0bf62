//! Labels, environment and entry point of the driver's image, read from the Dockerfile: the image of a release is the one
//! that `docker build` makes.
//!
//! Deliberately absent: other instructions. The stage that is read has none, and a test checks that.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

/// The stage with the settings.
const STAGE: &str = "FROM scratch AS prebuilt";

/// The settings of an image.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `LABEL`
    pub labels: BTreeMap<String, String>,
    /// `ENV`, as `NAME=VALUE`
    pub env: Vec<String>,
    /// `ENTRYPOINT`
    pub entrypoint: Vec<String>,
}

impl Settings {
    /// Reads the settings of the stage [`STAGE`].
    ///
    /// # Errors
    /// The Dockerfile has no such stage, or the stage has an instruction that is not known here.
    pub fn parse(dockerfile: &str) -> Result<Self> {
        let lines = dockerfile.lines().filter(|line| !line.trim_start().starts_with('#'));
        let text = lines.collect::<Vec<_>>().join("\n").replace("\\\n", " ");
        let mut lines = text.lines().skip_while(|line| line.trim() != STAGE);
        lines.next().with_context(|| format!("the Dockerfile has no `{STAGE}`"))?;
        let mut settings = Self::default();
        for line in lines.take_while(|line| !line.starts_with("FROM ")) {
            let (instruction, rest) = line.split_once(' ').unwrap_or((line, ""));
            match instruction {
                "" | "COPY" => {}
                "LABEL" => settings.labels.extend(pairs(rest)?),
                "ENV" => {
                    let pairs = pairs(rest)?;
                    settings
                        .env
                        .extend(pairs.iter().map(|(name, value)| format!("{name}={value}")));
                }
                "ENTRYPOINT" => {
                    settings.entrypoint = serde_json::from_str(rest).context("an ENTRYPOINT")?;
                }
                other => bail!("the Dockerfile has {other}, which a release does not know"),
            }
        }
        ensure!(!settings.entrypoint.is_empty(), "the Dockerfile has no ENTRYPOINT");
        Ok(settings)
    }
}

/// `a=b c="d e"`
fn pairs(text: &str) -> Result<Vec<(String, String)>> {
    let mut quoted = false;
    let words = text.split(|c: char| {
        quoted ^= c == '"';
        c.is_whitespace() && !quoted
    });
    let pair = |word: &str| {
        let pair = word.split_once('=').with_context(|| format!("{word}: no name=value"))?;
        Ok((pair.0.to_owned(), pair.1.trim_matches('"').to_owned()))
    };
    words.filter(|word| !word.is_empty()).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = include_str!("../../../Dockerfile");

    #[test]
    fn our_dockerfile_is_read() -> Result<()> {
        let settings = Settings::parse(OURS)?;
        assert_eq!(settings.entrypoint, ["/usr/bin/ovl"]);
        assert!(settings.env.contains(&"PATH=/usr/bin".to_owned()), "{:?}", settings.env);
        assert!(settings.env.iter().any(|value| value.starts_with("OVL_ROOT=/")));
        let title = settings.labels.get("org.opencontainers.image.description");
        assert!(title.is_some_and(|title| title.contains(' ')), "{:?}", settings.labels);
        Ok(())
    }

    /// The layer of a release has these files: `super::image`.
    #[test]
    fn our_dockerfile_has_no_other_files() {
        let copies: Vec<_> = OURS.lines().filter(|line| line.starts_with("COPY ")).collect();
        let want = [
            "COPY LICENSE dist* /",
            "COPY . .",
            "COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/",
            "COPY --from=build /ovl /usr/bin/",
        ];
        assert_eq!(copies, want);
    }

    #[test]
    fn an_unknown_instruction_is_an_error() {
        let error = Settings::parse(&OURS.replace("ENV PATH", "USER root\nENV PATH"));
        assert!(error.is_err_and(|error| error.to_string().contains("has USER")));
        assert!(Settings::parse("FROM debian\n").is_err());
    }
}
