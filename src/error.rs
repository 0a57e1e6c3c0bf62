//! The classes of failure, which an edge maps to its own codes (gRPC status, exit code), and the parts of an error for
//! people.
//!
//! Every error of every module has a class. Each edge has one exhaustive table from the class to its codes.
//! Deliberately absent: the codes of the edges, and how they print the parts.

use std::{fmt, io};

/// What a failure means to the caller, independent of the cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The request itself is wrong. The same request will fail again.
    Invalid,
    /// The object that the request names does not exist.
    NotFound,
    /// The object exists already and was made with other arguments.
    Conflict,
    /// The request is right, but this node, kernel or state cannot carry it out, or the object passes a limit of the
    /// driver. A user or an administrator must change something first.
    Precondition,
    /// Another operation on the same object is under way. A later try can succeed.
    Busy,
    /// A system outside (a registry, the network) did not respond. A later try can succeed.
    Unavailable,
    /// Disk space, quota or descriptors are used up. The same request succeeds once some are free again.
    Exhausted,
    /// The caller has no right to this object.
    Denied,
    /// Data that arrived or that lie on disk do not match their digest or format.
    Corrupt,
    /// A failure of this program or machine. The caller cannot do anything about it.
    Internal,
}

impl Class {
    /// The class of an I/O error of the disk: [`Self::Exhausted`] for a full disk or quota, which passes when space is
    /// freed; [`Self::Internal`] for every other error, which an administrator must look at on the node.
    pub fn of_disk(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Exhausted,
            _ => Self::Internal,
        }
    }
}

/// What an error says to people, in up to three parts. As one text, which is for logs, it is `what: why; fix`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Explained {
    /// What failed, on which object. `None`: the caller knows what it did.
    pub what: Option<String>,
    /// Why. It can have several lines.
    pub why: Option<String>,
    /// What to do.
    pub fix: Option<String>,
}

impl Explained {
    /// An error that says what failed.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: Some(what.into()), ..Self::default() }
    }

    /// An error that says why, and whose caller says what failed.
    pub fn because(why: impl Into<String>) -> Self {
        Self { why: Some(why.into()), ..Self::default() }
    }

    /// The reason.
    #[must_use]
    pub fn why(self, why: impl Into<String>) -> Self {
        Self { why: Some(why.into()), ..self }
    }

    /// What to do.
    #[must_use]
    pub fn fix(self, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..self }
    }
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has_lines = self.why.as_ref().is_some_and(|why| why.contains('\n'));
        let parts = match has_lines {
            true => [("", &self.what), ("\n", &self.why), ("\n", &self.fix)],
            false => [("", &self.what), (": ", &self.why), ("; ", &self.fix)],
        };
        let parts = parts.into_iter().filter_map(|(before, part)| Some((before, part.as_ref()?)));
        for (number, (before, part)) in parts.enumerate() {
            write!(f, "{}{part}", if number == 0 { "" } else { before })?;
        }
        Ok(())
    }
}

impl std::error::Error for Explained {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_an_error_are_one_sentence_in_a_log() {
        let all = Explained::new("cannot do it").why("it is late").fix("sleep");
        assert_eq!(all.to_string(), "cannot do it: it is late; sleep");
        assert_eq!(Explained::because("it is late").fix("sleep").to_string(), "it is late; sleep");
        assert_eq!(Explained::new("cannot do it").to_string(), "cannot do it");
        let list = Explained::new("cannot do it").why("of these:\n  a\n  b").fix("wait");
        assert_eq!(list.to_string(), "cannot do it\nof these:\n  a\n  b\nwait");
    }
}
