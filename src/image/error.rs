//! Errors of pulls and pushes.
//!
//! Deliberately absent from every message: text that a server wrote. Bodies, reason phrases and URL queries come from
//! the server, and may contain tokens or secrets of another host. The system's text about a connection and the TLS
//! verifier's text about a certificate are absent too: with them, a user who names an image could map the node's
//! network. The log has them.

use std::{error::Error, fmt, io, time::Duration};

use super::{
    Reference,
    advice::{Fix, Refused, is_transient},
    proxy_fault::ProxyFault,
    refusal::Refusal,
};
use crate::{budget::OverBudget, digest::Digest, error::Class, format, registry_name};

/// A pull or push of an image, or of one of its blobs, failed.
///
/// A [`super::BlobReader`] returns it inside its [`io::Error`].
#[derive(Debug, Clone, thiserror::Error)]
#[error("image {reference}: {host}: {problem}{}", Tried(.tried))]
pub struct ImageError {
    reference: Reference,
    /// The last server that was tried, `host[:port]`.
    host: String,
    problem: Problem,
    /// The servers that were tried before it, each with its own problem.
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

    /// The class of the last server's problem; the servers before it do not count.
    pub fn class(&self) -> Class {
        self.problem.class()
    }

    /// Whether the last server said that the image, or a part of it, does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self.problem, Problem::NotFound { .. })
    }

    /// Whether the last server refused a pull that had no credentials. The caller knows where a user sets them.
    pub fn needs_credentials(&self) -> bool {
        matches!(self.problem, Problem::Denied { secret: false, push: false, .. })
    }

    /// The image of the request.
    pub fn image(&self) -> &Reference {
        &self.reference
    }

    /// Whether the last server responded with a status that a retry does not change: it does not support the request.
    pub(super) fn is_response(&self) -> bool {
        matches!(self.problem, Problem::Status { .. }) && !self.problem.is_transient()
    }
}

struct Tried<'a>(&'a [(String, Problem)]);

impl fmt::Display for Tried<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = " (tried before: ";
        for (host, problem) in self.0 {
            write!(f, "{separator}{host}: {problem}")?;
            separator = "; ";
        }
        if self.0.is_empty() { Ok(()) } else { f.write_str(")") }
    }
}

/// What went wrong with one server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Problem {
    /// HTTP 404.
    #[error("the {what} does not exist; check the image's name and tag")]
    NotFound {
        /// `manifest`, `config` or `layer`.
        what: &'static str,
    },
    /// HTTP 401 or 403, with and without a token.
    #[error("{}", Refused { why, secret: *.secret, push: *.push })]
    Denied {
        /// The refusal in a few words of ours, such as `HTTP 403`.
        why: String,
        /// Whether a secret was sent with the request.
        secret: bool,
        /// Whether the request was part of a push or delete.
        push: bool,
    },
    /// A host that the policy does not allow.
    #[error("the server is not contacted: {0}")]
    Refused(#[from] Refusal),
    /// The connection failed or broke, or the server timed out.
    #[error(
        "the server cannot be reached; check its name, the network and the registry (the log has details)"
    )]
    Unreachable {
        /// The system's error text, for the log.
        why: String,
    },
    /// The connection is open and almost no data arrives.
    #[error(
        "the server sent only {bytes} bytes in {}; check the network and the registry, and try again",
        format::span(*.waited)
    )]
    Slow {
        /// Bytes received in the window.
        bytes: u64,
        /// Time spent waiting for them.
        waited: Duration,
    },
    /// The registry's settings in the hosts directory are invalid.
    #[error(
        "the registry is not contacted, because its settings are invalid; an administrator must fix them and restart \
         the driver on this node: {0}"
    )]
    Hosts(String),
    /// The response to a TLS ClientHello was not TLS.
    #[error(
        "the server does not speak TLS, and the request used https; if the server uses plain http, put \
         server = \"http://{server}\" into its hosts.toml in the node's registry hosts directory (for a mirror: \
         [host.\"http://{server}\"])"
    )]
    NoTls {
        /// `host[:port]`.
        server: String,
    },
    /// A blob took far longer than a blob of its size may take.
    #[error(
        "the blob of {} did not arrive within {}; check the network and the registry, and try again",
        format::bytes(*.size), format::span(*.most)
    )]
    TooLong {
        /// Size of the blob in bytes, from its descriptor.
        size: u64,
        /// The time limit for a blob of that size.
        most: Duration,
    },
    /// The memory budget does not allow to read the document.
    #[error("cannot read the {what} into memory: {why}")]
    Memory {
        /// `manifest`, `config` …
        what: &'static str,
        /// Says whether the shortage is temporary.
        why: OverBudget,
    },
    /// A proxy failed, or did not connect to the server.
    #[error("{}", fault.message(proxy))]
    Proxy {
        /// `host[:port]` of the proxy.
        proxy: String,
        /// What is wrong with it.
        fault: ProxyFault,
        /// The cause, for the log.
        why: String,
    },
    /// The server's certificate did not pass verification.
    #[error(
        "the server's certificate is not accepted; it must come from a trusted CA (in the chart's values: ca in \
         registries, or extraCA), be for this name, and be valid now (the log has details)"
    )]
    Untrusted {
        /// The verifier's error text, for the log.
        why: String,
    },
    /// An HTTP status other than the expected ones.
    #[error("the server responded to the request for the {what} with HTTP {status}{}", Fix(*.status, .later))]
    Status {
        /// What was requested: `manifest`, `upload` …
        what: &'static str,
        /// The HTTP status.
        status: u16,
        /// Time until the next try, from `Retry-After`; `None` without that header.
        later: Option<Duration>,
    },
    /// More redirects than we follow.
    #[error("the server redirects more than {0} times; check the configuration of the registry")]
    Redirects(usize),
    /// Content that breaks its format or contradicts itself.
    #[error(
        "the {what} is invalid: {why}; the author of the image or the administrator of the registry must fix it"
    )]
    Malformed {
        /// `manifest`, `config` …
        what: &'static str,
        /// The rule that the content breaks.
        why: String,
    },
    /// Content larger than our limit.
    #[error("the {what} is larger than the limit of {}", format::bytes(*.limit))]
    TooLarge {
        /// `manifest`, `config` …
        what: &'static str,
        /// The limit in bytes.
        limit: u64,
    },
    /// A list longer than our limit.
    #[error("the image has more than {limit} {what}; squash some of them")]
    TooMany {
        /// `layers`.
        what: &'static str,
        /// The largest number that is accepted.
        limit: u64,
    },
    /// Content with another digest than expected.
    #[error(
        "the {what} does not match its digest: {promised} requested, {found} received; try again"
    )]
    Mismatch {
        /// `manifest`, `config` …
        what: &'static str,
        /// The digest in the reference, descriptor or header.
        promised: Digest,
        /// The digest of the received bytes.
        found: Digest,
    },
    /// Content with another length than its descriptor says.
    #[error("the {what} has {found} bytes instead of {promised}; try again")]
    WrongSize {
        /// `manifest`, `config` …
        what: &'static str,
        /// Size in bytes in the descriptor.
        promised: u64,
        /// Bytes received.
        found: u64,
    },
    /// The repository does not exist, and the registry does not create it on a push.
    #[error("the repository does not exist at the registry; check its name, or create it there")]
    NoRepository,
    /// The server no longer knows the upload, or lost bytes that it had confirmed.
    #[error("the registry lost the upload; try again later, and check the registry's storage")]
    Lost,
    /// The local file to push cannot be read.
    #[error("the file to push cannot be read: {0}; check the node's disk")]
    Unreadable(#[from] FileError),
    /// A valid image or request of a kind that we do not support.
    #[error("{0}")]
    Unsupported(&'static str),
    /// An index without an entry for this host's platform.
    #[error("the image does not exist for {wanted}, only for {offered}")]
    NoPlatform {
        /// The platform of this host: `linux/amd64` and the like.
        wanted: String,
        /// The platforms that the index lists.
        offered: String,
    },
}

/// The file to send cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct FileError(pub(super) String);

impl FileError {
    pub(super) fn new(error: &io::Error) -> Self {
        Self(error.to_string())
    }
}

impl Problem {
    /// The class of the problem for the caller of the pull or push.
    pub(super) fn class(&self) -> Class {
        match self {
            Self::NotFound { .. } | Self::NoPlatform { .. } => Class::NotFound,
            Self::Denied { .. } | Self::Refused(_) => Class::Denied,
            Self::Unreachable { .. } | Self::Slow { .. } | Self::TooLong { .. } | Self::Lost => {
                Class::Unavailable
            }
            Self::Memory { why, .. } => why.class(),
            Self::Proxy { fault, .. } => fault.class(),
            Self::Unreadable(_) => Class::Internal,
            Self::NoRepository => Class::Precondition,
            Self::Status { status, .. } if is_transient(*status) => Class::Unavailable,
            Self::Status { .. }
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

    /// Text for the log that is not in the message.
    pub(super) fn details(&self) -> Option<&str> {
        match self {
            Self::Unreachable { why } | Self::Untrusted { why } | Self::Proxy { why, .. } => {
                Some(why)
            }
            _ => None,
        }
    }

    /// Whether a retry at the same server within seconds can succeed.
    pub(super) fn is_transient(&self) -> bool {
        self.class() == Class::Unavailable
    }

    /// Classifies the HTTP client's error about a request, without its URL.
    pub(super) fn of_request(error: reqwest::Error) -> Self {
        if let Some(refusal) = find::<Refusal>(&error) {
            return Self::Refused(refusal.clone().of(error.url()));
        }
        if let Some(unreadable) = find::<FileError>(&error) {
            return Self::Unreadable(unreadable.clone());
        }
        if let Some(rustls::Error::InvalidMessage(_)) = find(&error) {
            let server = error.url().map(registry_name::of_url).unwrap_or_default();
            return Self::NoTls { server };
        }
        if let Some(tls) = find::<rustls::Error>(&error) {
            return Self::Untrusted { why: tls.to_string() };
        }
        Self::of_body(error)
    }

    /// Classifies the HTTP client's error about a response body. The policy allowed the server and TLS verified it
    /// before the response started, so every error is one of the connection: always [`Class::Unavailable`].
    pub(super) fn of_body(error: reqwest::Error) -> Self {
        let error = error.without_url();
        if error.is_timeout() {
            return Self::Unreachable { why: "the server did not respond in time".to_owned() };
        }
        Self::Unreachable { why: Self::root_cause(&error) }
    }

    /// The problem of invalid JSON: its position, never its text.
    pub(super) fn invalid_json(what: &'static str, error: &serde_json::Error) -> Self {
        let why = format!("it is not valid at line {} column {}", error.line(), error.column());
        Self::Malformed { what, why }
    }

    /// The text of the innermost source of an error. The errors around it only say where in the client it happened.
    pub(super) fn root_cause(error: &(dyn Error + 'static)) -> String {
        error.source().map_or_else(|| error.to_string(), Self::root_cause)
    }
}

/// The first `T` among an error and its sources, also inside an [`io::Error`].
pub(super) fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    if let Some(found) = error.downcast_ref::<T>() {
        return Some(found);
    }
    // io::Error::source returns the source of the inner error, and so skips the inner error itself.
    if let Some(inner) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        return find(inner);
    }
    error.source().and_then(find)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_the_image_the_servers_the_problems_and_the_fix() {
        let reference: Reference = "r.io/a:1".parse().unwrap();
        let missing = Problem::NotFound { what: "manifest" };
        let unreachable = Problem::Unreachable { why: "connection refused".to_owned() };
        let tried = vec![("m.io".to_owned(), missing.clone())];
        let error = ImageError::new(&reference, "r.io".to_owned(), unreachable, tried);
        assert_eq!(
            error.to_string(),
            "image r.io/a:1: r.io: the server cannot be reached; check its name, the network and the registry (the \
             log has details) (tried before: m.io: the manifest does not exist; check the image's name and tag)"
        );
        assert_eq!(error.class(), Class::Unavailable);
        let error = ImageError::new(&reference, "r.io".to_owned(), missing, Vec::new());
        assert_eq!(error.class(), Class::NotFound);
    }

    #[tokio::test]
    async fn a_tls_error_in_a_response_body_is_a_broken_connection() {
        let broken = || io::Error::other(rustls::Error::DecryptError);
        let body = reqwest::Body::wrap_stream(futures::stream::iter([Err::<Vec<u8>, _>(broken())]));
        let mut response = reqwest::Response::from(axum::http::Response::new(body));
        let problem = Problem::of_body(response.chunk().await.unwrap_err());
        assert_eq!(problem.class(), Class::Unavailable, "{problem}");
        assert!(problem.details().is_some_and(|why| why.contains("decrypt")), "{problem}");
        assert!(!problem.to_string().contains("decrypt"), "the log has it: {problem}");
    }

    #[test]
    fn an_error_is_found_inside_an_io_error() {
        let refusal = Refusal::Address { host: "h".to_owned(), kind: "a loopback address" };
        let wrapped = io::Error::other(io::Error::other(refusal.clone()));
        assert_eq!(find::<Refusal>(&wrapped), Some(&refusal));
        assert_eq!(find::<rustls::Error>(&wrapped), None);
    }
}
