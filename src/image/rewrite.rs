//! Repository names that a mirror rewrites: the key `rewrite` in the `hosts.toml` of k3s and RKE2.

use regex::Regex;

/// A pattern of repository names, and their replacement at the mirror. In the replacement `$1` is the pattern's first
/// group.
#[derive(Debug, Clone)]
pub(super) struct Rewrite {
    pattern: Regex,
    replacement: String,
}

impl Rewrite {
    /// # Errors
    /// `pattern` is not a valid regular expression.
    pub(super) fn new(pattern: &str, replacement: &str) -> Result<Self, regex::Error> {
        Ok(Self { pattern: Regex::new(pattern)?, replacement: replacement.to_owned() })
    }

    /// The name of `repository` at the mirror; `None` where the pattern does not match.
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
