//! The servers and credentials to try for a reference, and the outcome of each try.
//!
//! Deliberately absent: the registry's credentials for a mirror. Each server receives only what the keyring has for its
//! own name.

use std::sync::Arc;

use super::{
    Reference,
    endpoint::Endpoint,
    error::{ImageError, Problem},
    hosts::Hosts,
    keyring::{Access, Credential, Keyring},
};

/// One server with one credential; anonymous without one.
#[derive(Clone)]
pub(super) struct Attempt {
    pub(super) endpoint: Endpoint,
    pub(super) credential: Option<Arc<Credential>>,
}

/// The servers for `reference` that pass the filter `may`, in order. Each server comes once with every credential for
/// it, or once without a credential where the keyring has none.
pub(super) fn attempts(
    hosts: &Hosts,
    reference: &Reference,
    keyring: &Keyring,
    may: impl Fn(&Endpoint) -> bool,
) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    for endpoint in hosts.endpoints(reference.registry()).into_iter().filter(may) {
        let name = endpoint.name();
        let host = if endpoint.own { reference.registry() } else { &name };
        let credentials = keyring.credentials(host, reference.repository());
        let mut optional: Vec<_> = credentials.into_iter().cloned().map(Some).collect();
        if optional.is_empty() {
            optional.push(None);
        }
        let attempt = |credential| Attempt { endpoint: endpoint.clone(), credential };
        attempts.extend(optional.into_iter().map(attempt));
    }
    attempts
}

impl Attempt {
    pub(super) fn access(&self) -> Access {
        self.credential.as_ref().map_or(Access::Anonymous, |credential| credential.access.clone())
    }
}

/// The servers that failed, each with its last problem.
#[derive(Default)]
pub(super) struct Tried(Vec<(String, Problem)>);

impl Tried {
    /// Whether the server of `attempt` failed in a way that another credential does not change.
    pub(super) fn rules_out(&self, attempt: &Attempt) -> bool {
        let other = |problem: &Problem| {
            !matches!(problem, Problem::Denied { .. } | Problem::NotFound { .. })
        };
        self.0
            .last()
            .is_some_and(|(host, problem)| *host == attempt.endpoint.name() && other(problem))
    }

    pub(super) fn record(&mut self, reference: &Reference, attempt: &Attempt, problem: Problem) {
        let host = attempt.endpoint.name();
        let details = problem.details();
        tracing::info!(image = %reference, host, %problem, details, "a request to a registry server failed");
        self.0.retain(|(other, _)| *other != host);
        self.0.push((host, problem));
    }

    /// The error of the last server, with the problems of the others.
    pub(super) fn into_error(mut self, reference: &Reference) -> ImageError {
        let none = || {
            let problem = Problem::Unsupported(
                "no server of the registry has the capability for this request; check its hosts.toml",
            );
            (reference.registry().to_owned(), problem)
        };
        let (host, problem) = self.0.pop().unwrap_or_else(none);
        ImageError::new(reference, host, problem, self.0)
    }

    pub(super) fn into_vec(self) -> Vec<(String, Problem)> {
        self.0
    }
}
