//! The options of `cargo xtask release`.

use anyhow::{Context, Result, bail};

/// What is made, and of what.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// Changes that are not committed are released too.
    pub allow_dirty: bool,
    /// The notes are those of what is not released yet.
    pub unreleased: bool,
    /// The repository of the image, if it is not that of the project.
    pub image: Option<String>,
    /// The profile of cargo.
    pub profile: String,
}

impl Options {
    /// Parses arguments.
    ///
    /// # Errors
    /// An argument is unknown or has no value.
    pub fn parse(arguments: &[&str]) -> Result<Self> {
        let mut options = Self {
            allow_dirty: false,
            unreleased: false,
            image: None,
            profile: "release".to_owned(),
        };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || {
                let value = arguments.next().with_context(|| format!("{argument} has no value"))?;
                Ok::<_, anyhow::Error>(String::from(*value))
            };
            match *argument {
                "--allow-dirty" => options.allow_dirty = true,
                "--unreleased" => options.unreleased = true,
                "--image" => options.image = Some(value()?),
                "--profile" => options.profile = value()?,
                other => bail!("release: {other} is unknown; see `cargo xtask`"),
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_parsed_and_unknown_ones_refused() -> Result<()> {
        let trial = Options::parse(&["--allow-dirty", "--unreleased", "--profile", "quick"])?;
        assert!(trial.allow_dirty && trial.unreleased && trial.profile == "quick");
        let plain = Options::parse(&[])?;
        assert!(!plain.allow_dirty && !plain.unreleased && plain.profile == "release");
        assert_eq!(
            Options::parse(&["--image", "r.example/a"])?.image.as_deref(),
            Some("r.example/a")
        );
        assert!(Options::parse(&["--image"]).is_err() && Options::parse(&["now"]).is_err());
        Ok(())
    }
}
