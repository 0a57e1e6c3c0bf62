//! A repository's name at a mirror that keeps it elsewhere: the key `rewrite` of k3s' and RKE2's `hosts.toml`.

use regex::Regex;

/// Which repositories, and what they are called there. In the replacement `$1` is the pattern's first group.
#[derive(Debug, Clone)]
pub(super) struct Rewrite {
    pattern: Regex,
    replacement: String,
}

impl Rewrite {
    /// # Errors
    /// `pattern` is no regular expression.
    pub(super) fn new(pattern: &str, replacement: &str) -> Result<Self, regex::Error> {
        Ok(Self { pattern: Regex::new(pattern)?, replacement: replacement.to_owned() })
    }

    /// What `repository` is called there, if this is for it.
    pub(super) fn apply(&self, repository: &str) -> Option<String> {
        let matches = self.pattern.is_match(repository);
        matches.then(|| self.pattern.replace_all(repository, &self.replacement).into_owned())
    }
}

impl PartialEq for Rewrite {
    fn eq(&self, other: &Self) -> bool {
        (self.pattern.as_str(), &self.replacement) == (other.pattern.as_str(), &other.replacement)
    }
}

impl Eq for Rewrite {}
