//! What is released: the version, the commit and its time, and the addresses at which the release will be.
//!
//! Deliberately absent: a new version number. `Cargo.toml` and `Chart.yaml` have it before a release.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::machine::process::Cmd;

/// The sources of a release.
#[derive(Clone, Debug)]
pub struct Source {
    /// The version in `Cargo.toml`.
    pub version: String,
    /// The commit.
    pub commit: String,
    /// When it was committed, in seconds since 1970. It is the time of everything that is packed (`SOURCE_DATE_EPOCH`).
    pub time: u64,
    /// The same time in the form of RFC 3339.
    pub created: String,
    /// The address of the project, from `Chart.yaml`.
    pub home: String,
}

impl Source {
    /// Reads it from a checkout.
    ///
    /// # Errors
    /// It is no git checkout, or has changes that are not committed and `allow_dirty` is not set, or a tag of the commit
    /// is another version.
    pub fn of(repo: &Path, allow_dirty: bool) -> Result<Self> {
        let git = |args: &[&str]| Cmd::new("git").dir(repo).args(args).env("TZ", "UTC").output();
        let changes = git(&["status", "--porcelain"]).context("a release is made of a commit")?;
        ensure!(
            allow_dirty || changes.is_empty(),
            "there are changes that are not committed: commit them, or add --allow-dirty for a trial:\n{changes}"
        );
        let version = field(repo, "Cargo.toml", "version = ")?;
        for tag in git(&["tag", "--points-at", "HEAD", "--list", "v*"])?.lines() {
            ensure!(tag == format!("v{version}"), "the commit has the tag {tag}, and is {version}");
        }
        let time = git(&["log", "-1", "--format=%ct"])?;
        Ok(Self {
            version,
            commit: git(&["rev-parse", "HEAD"])?,
            time: time.parse().with_context(|| format!("the time of the commit: {time}"))?,
            created: git(&["log", "-1", "--format=%cd", "--date=format-local:%Y-%m-%dT%H:%M:%SZ"])?,
            home: field(repo, "charts/ovl-csi/Chart.yaml", "home: ")?,
        })
    }

    /// The tag of the release.
    pub fn tag(&self) -> String {
        format!("v{}", self.version)
    }

    /// Where a file of the release will be downloaded from.
    pub fn download(&self, file: &str) -> String {
        format!("{}/releases/download/{}/{file}", self.home, self.tag())
    }

    /// The repository of the image: that of the project in the container registry of its forge.
    ///
    /// # Errors
    /// The project has another forge.
    pub fn image(&self) -> Result<String> {
        let path = self.home.strip_prefix("https://github.com/");
        let path = path.with_context(|| {
            format!("{}: its container registry is not known: give --image", self.home)
        })?;
        Ok(format!("ghcr.io/{}", path.trim_end_matches('/').to_lowercase()))
    }
}

/// The rest of the first line of a file that begins so, without quotes.
fn field(repo: &Path, file: &str, start: &str) -> Result<String> {
    let text = fs::read_to_string(repo.join(file)).with_context(|| format!("reading {file}"))?;
    let found = text.lines().find_map(|line| line.strip_prefix(start));
    let found = found.with_context(|| format!("{file} has no line that begins with `{start}`"))?;
    Ok(found.trim_matches(['"', ' ']).to_owned())
}

#[cfg(test)]
impl Source {
    /// A source for tests.
    pub fn example() -> Self {
        Self {
            version: "1.2.3".to_owned(),
            commit: "0123456789abcdef0123456789abcdef01234567".to_owned(),
            time: 1_700_000_000,
            created: "2023-11-14T22:13:20Z".to_owned(),
            home: "https://github.com/Example/ovl".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_follow_the_address_of_the_project() -> Result<()> {
        let source = Source::example();
        let download = source.download("a.tar.gz");
        assert_eq!(download, "https://github.com/Example/ovl/releases/download/v1.2.3/a.tar.gz");
        assert_eq!(source.image()?, "ghcr.io/example/ovl");
        let elsewhere = Source { home: "https://forge.example/ovl".to_owned(), ..source };
        assert!(elsewhere.image().is_err());
        Ok(())
    }

    #[test]
    fn a_commit_with_changes_or_with_the_tag_of_another_version_is_refused() -> Result<()> {
        let repo = std::env::temp_dir().join(format!("ovl-release-{}", std::process::id()));
        let git = |args: &[&str]| {
            let git =
                Cmd::new("git").dir(&repo).args(["-c", "user.name=a", "-c", "user.email=a@b"]);
            git.args(args).env("GIT_COMMITTER_DATE", "1700000000 +0200").output()
        };
        fs::create_dir_all(repo.join("charts/ovl-csi"))?;
        fs::write(repo.join("Cargo.toml"), "[workspace.package]\nversion = \"1.2.3\"\n")?;
        fs::write(repo.join("charts/ovl-csi/Chart.yaml"), "home: https://github.com/a/b\n")?;
        git(&["init", "--quiet"])?;
        git(&["add", "."])?;
        git(&["commit", "--quiet", "--message", "a", "--no-gpg-sign"])?;
        let clean = Source::of(&repo, false)?;
        assert_eq!(
            (clean.version.as_str(), clean.time, clean.created.as_str(), clean.home.as_str()),
            ("1.2.3", 1_700_000_000, "2023-11-14T22:13:20Z", "https://github.com/a/b")
        );
        fs::write(repo.join("new"), "")?;
        assert!(Source::of(&repo, false).is_err() && Source::of(&repo, true).is_ok());
        fs::remove_file(repo.join("new"))?;
        git(&["tag", "v1.2.3"])?;
        assert!(Source::of(&repo, false).is_ok());
        git(&["tag", "v1.2.4"])?;
        assert!(Source::of(&repo, false).is_err());
        fs::remove_dir_all(repo)?;
        Ok(())
    }
}
