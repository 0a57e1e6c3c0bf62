//! Whom to ask, as whom, and what came of it.
//!
//! Deliberately absent: a mirror that is asked with the registry's credentials. Each server gets what the keyring
//! has for its own name.

use std::sync::Arc;

use super::{
    error::{ImageError, Problem},
    hosts::{Endpoint, Hosts},
    keyring::{Access, Credential, Keyring},
    reference::Reference,
};

/// One server, asked by one who.
#[derive(Clone)]
pub(super) struct Attempt {
    pub(super) endpoint: Endpoint,
    pub(super) who: Option<Arc<Credential>>,
}

/// The servers for `reference` that `may`, in order, each once with every credential for it; anonymously where
/// there is none.
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
        let mut whos: Vec<_> = credentials.into_iter().cloned().map(Some).collect();
        if whos.is_empty() {
            whos.push(None);
        }
        attempts.extend(whos.into_iter().map(|who| Attempt { endpoint: endpoint.clone(), who }));
    }
    attempts
}

impl Attempt {
    pub(super) fn access(&self) -> Access {
        self.who.as_ref().map_or(Access::Anonymous, |credential| credential.access.clone())
    }
}

/// The servers that did not give what was asked, each with the last thing it did.
#[derive(Default)]
pub(super) struct Tried(Vec<(String, Problem)>);

impl Tried {
    /// Whether there is no use in asking the same server again as somebody else.
    pub(super) fn rules_out(&self, attempt: &Attempt) -> bool {
        let other = |problem: &Problem| {
            !matches!(problem, Problem::Denied { .. } | Problem::NotFound { .. })
        };
        self.0
            .last()
            .is_some_and(|(host, problem)| *host == attempt.endpoint.name() && other(problem))
    }

    pub(super) fn note(&mut self, reference: &Reference, attempt: &Attempt, problem: Problem) {
        let host = attempt.endpoint.name();
        let details = problem.details();
        tracing::info!(image = %reference, host, %problem, details, "a registry server did not give what was asked");
        self.0.retain(|(other, _)| *other != host);
        self.0.push((host, problem));
    }

    pub(super) fn gave_up(mut self, reference: &Reference) -> ImageError {
        let none = || {
            let problem = Problem::Unsupported("no server is configured for it");
            (reference.registry().to_owned(), problem)
        };
        let (host, problem) = self.0.pop().unwrap_or_else(none);
        ImageError::new(reference, host, problem, self.0)
    }

    pub(super) fn before(self) -> Vec<(String, Problem)> {
        self.0
    }
}
