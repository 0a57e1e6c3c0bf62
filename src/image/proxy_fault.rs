//! What is wrong with a proxy.

use crate::error::Class;

/// What is wrong with a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProxyFault {
    /// No connection to the proxy itself.
    Unreachable,
    /// The response of an https proxy to a TLS ClientHello was not TLS.
    NoTls,
    /// The certificate of an https proxy did not pass verification.
    Certificate,
    /// The proxy requires another user name and password.
    Password,
    /// The proxy made no connection to the server.
    NoConnection,
}

impl ProxyFault {
    /// The message.
    pub(super) fn message(self, proxy: &str) -> String {
        match self {
            Self::Unreachable => format!(
                "the proxy {proxy} cannot be reached; check HTTPS_PROXY and HTTP_PROXY (in the chart's values: proxy) \
                 and the network (the log has details)"
            ),
            Self::NoTls => format!(
                "the proxy {proxy} does not speak TLS; write http:// in its URL (in the chart's values: proxy)"
            ),
            Self::Certificate => format!(
                "the certificate of the proxy {proxy} is not accepted; give the driver its CA (in the chart's values: \
                 extraCA; the log has details)"
            ),
            Self::Password => format!(
                "the proxy {proxy} requires a user name and password, or others than it got; write them into its URL \
                 (in the chart's values: proxy)"
            ),
            Self::NoConnection => format!(
                "the server cannot be reached through the proxy {proxy}; check that the proxy allows this server, or \
                 name the server in NO_PROXY (in the chart's values: proxy.noProxy; the log has details)"
            ),
        }
    }

    /// A retry can help with a network, and not with settings.
    pub(super) fn class(self) -> Class {
        match self {
            Self::Unreachable | Self::NoConnection => Class::Unavailable,
            Self::NoTls | Self::Certificate | Self::Password => Class::Precondition,
        }
    }
}
