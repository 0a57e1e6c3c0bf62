//! What can go wrong between a reference and its bytes, either way.
//!
//! Deliberately absent from every message: anything a server wrote. Bodies, reasons and queries of URLs come
//! from whoever answers, and may hold tokens or another machine's secrets. So is what the system says of a connection, and the
//! verifier of a certificate: whoever names an image could map the node's network by it. The log has it.

use std::{error::Error, fmt, io, time::Duration};

use super::{payload::Unreadable, policy::Refusal, reference::Reference};
use crate::{budget::OverBudget, digest::Digest, fault::Class};

/// Why an image or one of its blobs could not be had, or not be pushed.
///
/// A [`super::BlobReader`] carries it inside its [`io::Error`].
#[derive(Debug, Clone, thiserror::Error)]
#[error("image {reference}: {host}: {problem}{}", Tried(.tried))]
pub struct ImageError {
    reference: Reference,
    /// The server that was asked last, `host[:port]`.
    host: String,
    problem: Problem,
    /// The mirrors before it, each with its own problem.
    tried: Vec<(String, Problem)>,
}

impl ImageError {
    pub(super) fn new(
        reference: &Reference,
        host: String,
        problem: Problem,
        tried: Vec<(String, Problem)>,
    ) -> Self {
        Self { reference: reference.clone(), host, problem, tried }
    }

    /// The class of what the last server did; mirrors before it do not count.
    pub fn class(&self) -> Class {
        self.problem.class()
    }

    /// Whether the last server does not know such a request.
    pub(super) fn is_an_answer(&self) -> bool {
        matches!(self.problem, Problem::Answered { .. }) && !self.problem.is_transient()
    }
}

struct Tried<'a>(&'a [(String, Problem)]);

impl fmt::Display for Tried<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = " (before it: ";
        for (host, problem) in self.0 {
            write!(f, "{before}{host}: {problem}")?;
            before = "; ";
        }
        if self.0.is_empty() { Ok(()) } else { f.write_str(")") }
    }
}

/// What a server did, or had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Problem {
    /// HTTP 404.
    #[error("there is no such {what}; check the image's name and tag")]
    NotFound {
        /// `manifest`, `config` or `layer`.
        what: &'static str,
    },
    /// HTTP 401 or 403, with and without a token.
    #[error("{}", Refused { why, secret: *.secret, push: *.push })]
    Denied {
        /// What it answered.
        why: String,
        /// Whether it was given a secret.
        secret: bool,
        /// Whether something was to be changed there.
        push: bool,
    },
    /// A host that the node does not contact.
    #[error("not contacted: {0}")]
    Refused(#[from] Refusal),
    /// No connection, or one that broke.
    #[error(
        "it cannot be reached; check its name, the network and the registry (the log says more)"
    )]
    Unreachable {
        /// The system's words, for the log.
        why: String,
    },
    /// A connection that lives, and carries next to nothing.
    #[error("it sent only {bytes} bytes in {} s; check the network and the registry, and try again", .waited.as_secs())]
    Slow {
        /// Received.
        bytes: u64,
        /// While waiting for more.
        waited: Duration,
    },
    /// What the hosts directory says of it.
    #[error(
        "it is not asked, for its settings cannot be used; whoever runs the node must mend them and restart the driver there: {0}"
    )]
    Hosts(String),
    /// An answer to a TLS greeting that is no TLS.
    #[error(
        "it speaks no TLS, and https is how it was asked; where it is meant to speak plain http, put \
         server = \"http://{server}\" into its hosts.toml in the node's registry hosts folder (for a mirror: \
         [host.\"http://{server}\"])"
    )]
    NoTls {
        /// `host[:port]`.
        server: String,
    },
    /// A blob that takes far longer than one of its size should.
    #[error(
        "its blob of {size} bytes did not come within {} s; check the network and the registry, and try again",
        .most.as_secs()
    )]
    TooLong {
        /// Promised.
        size: u64,
        /// The longest that it is waited for.
        most: Duration,
    },
    /// Memory that other work holds.
    #[error("its {what} is not read: {why}")]
    Memory {
        /// `manifest`, `config` …
        what: &'static str,
        /// Whether that passes.
        why: OverBudget,
    },
    /// Its certificate.
    #[error(
        "its certificate is not accepted; its CA must be among the trusted ones, and it must be for this name and this time (the log \
         says more)"
    )]
    Untrusted {
        /// The verifier's words, for the log.
        why: String,
    },
    /// An HTTP status that is no answer.
    #[error("it answered {what} with HTTP {status}{}", Advice(*.status, .later))]
    Answered {
        /// What was asked for.
        what: &'static str,
        /// The HTTP status.
        status: u16,
        /// When to come back, if it said.
        later: Option<Duration>,
    },
    /// Redirects without end.
    #[error("it redirects more than {0} times; the registry is set up wrongly")]
    Redirects(usize),
    /// Content that breaks its format, or says two things about itself.
    #[error(
        "its {what} is refused: {why}; whoever made the image or runs the registry must mend it"
    )]
    Malformed {
        /// `manifest`, `config` …
        what: &'static str,
        /// The rule it breaks.
        why: String,
    },
    /// Content beyond a bound of ours.
    #[error("its {what} is larger than the {limit} bytes that are accepted")]
    TooLarge {
        /// `manifest`, `config` …
        what: &'static str,
        /// The bound.
        limit: u64,
    },
    /// A list beyond a bound of ours.
    #[error("it has more than {limit} {what}; squash some of them")]
    TooMany {
        /// `layers`.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
    /// Content whose digest is another.
    #[error(
        "its {what} is not what its digest promises: {promised} asked, {found} received; try again"
    )]
    Mismatch {
        /// `manifest`, `config` …
        what: &'static str,
        /// By reference, descriptor or header.
        promised: Digest,
        /// Of the bytes.
        found: Digest,
    },
    /// Content whose length is another.
    #[error("its {what} has {found} bytes where {promised} were promised; try again")]
    WrongSize {
        /// `manifest`, `config` …
        what: &'static str,
        /// By descriptor.
        promised: u64,
        /// Received.
        found: u64,
    },
    /// A repository to push to that there is not, and that does not come by pushing.
    #[error("it has no such repository to push to; check the name, or create it there")]
    NoRepository,
    /// An upload that it does not know any more, or not as far as it said.
    #[error("it lost the upload; try again later, and check the registry's storage")]
    Lost,
    /// Content of ours that cannot be read.
    #[error("the file that is to be pushed cannot be read: {0}; check the node's disk")]
    Unreadable(#[from] Unreadable),
    /// A kind of image that is well-formed and not for us, or not yet.
    #[error("{0}")]
    Unsupported(&'static str),
    /// An index without this machine.
    #[error("it has no image for {wanted}, only for {offered}")]
    NoPlatform {
        /// `linux/amd64` and the like.
        wanted: String,
        /// What the index lists.
        offered: String,
    },
}

struct Refused<'a> {
    why: &'a str,
    secret: bool,
    push: bool,
}

impl fmt::Display for Refused<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (why, may) = (self.why, if self.push { "push to" } else { "pull" });
        match (self.secret, self.push) {
            (true, _) => write!(
                f,
                "the secret was refused ({why}); check its user name and password, and that they may {may} this \
                 repository"
            ),
            (false, false) => write!(
                f,
                "it does not give this repository to anonymous users ({why}); check the name, or give a secret for \
                 it (nodePublishSecretRef)"
            ),
            (false, true) => write!(
                f,
                "it does not let anonymous users push to this repository ({why}); check the name, or give a secret \
                 for it (pushSecretName)"
            ),
        }
    }
}

struct Advice<'a>(u16, &'a Option<Duration>);

impl fmt::Display for Advice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self(413, None) => {
                f.write_str("; what stands before the registry must let larger requests pass")
            }
            Self(_, Some(later)) => write!(f, "; try again in {} s", later.as_secs()),
            Self(status, None) if is_transient(*status) => f.write_str("; try again later"),
            Self(..) => f.write_str("; check that it is an OCI registry"),
        }
    }
}

impl Problem {
    /// What the problem means to whoever asked for the image.
    pub(super) fn class(&self) -> Class {
        match self {
            Self::NotFound { .. } | Self::NoPlatform { .. } => Class::NotFound,
            Self::Denied { .. } | Self::Refused(_) => Class::Denied,
            Self::Unreachable { .. } | Self::Slow { .. } | Self::TooLong { .. } | Self::Lost => {
                Class::Unavailable
            }
            Self::Memory { why, .. } => why.class(),
            Self::Unreadable(_) => Class::Internal,
            Self::NoRepository => Class::Precondition,
            Self::Answered { status, .. } if is_transient(*status) => Class::Unavailable,
            Self::Answered { .. }
            | Self::Hosts(_)
            | Self::NoTls { .. }
            | Self::Untrusted { .. }
            | Self::Redirects(_) => Class::Precondition,
            Self::Unsupported(_) | Self::TooLarge { .. } | Self::TooMany { .. } => {
                Class::Precondition
            }
            Self::Malformed { .. } | Self::Mismatch { .. } | Self::WrongSize { .. } => {
                Class::Corrupt
            }
        }
    }

    /// What the log says beside the message.
    pub(super) fn details(&self) -> Option<&str> {
        match self {
            Self::Unreachable { why } | Self::Untrusted { why } => Some(why),
            _ => None,
        }
    }

    /// Whether it is worth asking the same server again within seconds.
    pub(super) fn is_transient(&self) -> bool {
        self.class() == Class::Unavailable
    }

    /// What the HTTP client says of a request, without the URL it says it about.
    pub(super) fn of_request(error: reqwest::Error) -> Self {
        if let Some(refusal) = find::<Refusal>(&error) {
            return Self::Refused(refusal.clone().of(error.url()));
        }
        if let Some(unreadable) = find::<Unreadable>(&error) {
            return Self::Unreadable(unreadable.clone());
        }
        if let Some(rustls::Error::InvalidMessage(_)) = find(&error) {
            let server = error.url().map(server).unwrap_or_default();
            return Self::NoTls { server };
        }
        if let Some(tls) = find::<rustls::Error>(&error) {
            return Self::Untrusted { why: tls.to_string() };
        }
        Self::of_body(error)
    }

    /// What it says of an answer's body. The server was allowed and trusted when the answer began, so it is the
    /// connection, whatever broke: always [`Class::Unavailable`].
    pub(super) fn of_body(error: reqwest::Error) -> Self {
        let error = error.without_url();
        if error.is_timeout() {
            return Self::Unreachable { why: "it did not answer in time".to_owned() };
        }
        Self::Unreachable { why: Self::words(&error) }
    }

    /// What lies at the bottom of an error; the layers above it say where in the client it happened.
    pub(super) fn words(error: &(dyn Error + 'static)) -> String {
        error.source().map_or_else(|| error.to_string(), Self::words)
    }
}

/// `host[:port]` of a URL.
pub(super) fn server(url: &reqwest::Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Statuses that pass by themselves: too many requests, a timeout, or the server's own trouble, unless it is that it
/// cannot do such things.
pub(super) fn is_transient(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502..=599)
}

/// The first `T` among an error and its sources, also where an [`io::Error`] is wrapped around it.
pub(super) fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    if let Some(found) = error.downcast_ref::<T>() {
        return Some(found);
    }
    // An io::Error gives its inner error's source as its own, and so hides the inner error.
    if let Some(inner) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        return find(inner);
    }
    error.source().and_then(find)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_what_where_why_and_what_to_do() {
        let reference: Reference = "r.io/a:1".parse().unwrap();
        let gone = Problem::NotFound { what: "manifest" };
        let away = Problem::Unreachable { why: "connection refused".to_owned() };
        let tried = vec![("m.io".to_owned(), gone.clone())];
        let error = ImageError::new(&reference, "r.io".to_owned(), away, tried);
        assert_eq!(
            error.to_string(),
            "image r.io/a:1: r.io: it cannot be reached; check its name, the network and the registry (the log says more) \
             (before it: m.io: there is no such manifest; check the image's name and tag)"
        );
        assert_eq!(error.class(), Class::Unavailable);
        let error = ImageError::new(&reference, "r.io".to_owned(), gone, Vec::new());
        assert_eq!(error.class(), Class::NotFound);
    }

    #[tokio::test]
    async fn tls_that_breaks_under_a_body_is_no_matter_of_trust() {
        let broken = || io::Error::other(rustls::Error::DecryptError);
        let body = reqwest::Body::wrap_stream(futures::stream::iter([Err::<Vec<u8>, _>(broken())]));
        let mut response = reqwest::Response::from(axum::http::Response::new(body));
        let problem = Problem::of_body(response.chunk().await.unwrap_err());
        assert_eq!(problem.class(), Class::Unavailable, "{problem}");
        assert!(problem.details().is_some_and(|why| why.contains("decrypt")), "{problem}");
        assert!(!problem.to_string().contains("decrypt"), "the log has it: {problem}");
    }

    #[test]
    fn an_error_is_found_through_an_io_error() {
        let refusal = Refusal::Address { host: "h".to_owned(), kind: "a loopback address" };
        let wrapped = io::Error::other(io::Error::other(refusal.clone()));
        assert_eq!(find::<Refusal>(&wrapped), Some(&refusal));
        assert_eq!(find::<rustls::Error>(&wrapped), None);
    }
}
