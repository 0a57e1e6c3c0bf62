//! The upload of one blob to a repository, as a state machine.
//!
//! ```text
//!        POST                   PATCH, one chunk at a time             PUT ?digest=
//! New ─────────> OffsetKnown ─────────────────────────────> offset = size ─────────> Stored
//!  ^              │       ^ the server reports its offset: GET, Range
//!  │    problem   v       │
//!  └─────────── OffsetUnknown     the server no longer knows the upload, or reports no useful offset
//! ```
//!
//! A small blob goes with the PUT, and so does a blob of any size if the server refuses chunks (some servers do, or
//! only accept small ones). Before an upload starts again, a HEAD request checks whether the blob exists: perhaps only
//! a response was lost.
//!
//! A chunk that was accepted counts, whatever the `Range` of the response says: at some registries it lags behind. The
//! registry checks the digest at the end.

use std::{fs::File, sync::Arc};

use reqwest::{Response, Url, header::RANGE};

use super::{
    advice::is_transient,
    auth::Grant,
    body::{Part, RequestBody},
    error::Problem,
    request::{Place, RegistryRequest, Verb},
    target::{PushTarget, UPLOAD},
};
use crate::digest::BlobDigest;

/// Bytes that are cheap to send again. A smaller blob is sent in one request, and fewer new bytes are not progress.
const SMALL: u64 = 4 << 20;

/// An upload, and the blob to upload.
pub(super) struct Upload<'a> {
    target: PushTarget,
    blob: BlobDigest,
    size: u64,
    file: &'a Arc<File>,
    /// Receives the number of bytes that the server has.
    sent: &'a (dyn Fn(u64) + Sync),
    /// Send the blob in one request, not in chunks.
    whole: bool,
    /// An upload was started before.
    begun: bool,
}

enum State {
    New,
    OffsetUnknown(Session),
    OffsetKnown(Session),
    Stored,
}

/// An upload that the server knows.
#[derive(Clone)]
struct Session {
    /// From the `Location` of the last response.
    url: Url,
    /// Number of bytes that the server has.
    at: u64,
    /// The server itself reported `at`, and no chunk was sent since.
    confirmed: bool,
    /// The server requires a token.
    needs_token: bool,
}

impl<'a> Upload<'a> {
    pub(super) fn new(
        target: PushTarget,
        blob: BlobDigest,
        size: u64,
        file: &'a Arc<File>,
        sent: &'a (dyn Fn(u64) + Sync),
    ) -> Self {
        let whole = size <= SMALL.min(target.transport.retry().chunk);
        Self { target, blob, size, file, sent, whole, begun: false }
    }

    /// Runs the upload to its end.
    pub(super) async fn run(mut self) -> Result<(), Problem> {
        let retry = self.target.transport.retry();
        let (mut state, mut failed, mut reached) = (State::New, 0, 0);
        loop {
            let step = match &state {
                State::New => self.begin().await,
                State::OffsetUnknown(session) => self.query_offset(session).await,
                State::OffsetKnown(session) => self.send(session).await,
                State::Stored => {
                    (self.sent)(self.size);
                    return Ok(());
                }
            };
            state = match step {
                Ok(next) => {
                    if let State::OffsetKnown(session) = &next {
                        (self.sent)(session.at);
                        // Only bytes that the server never had before reset the count. So the tries always end, because
                        // a blob has an end.
                        if session.at >= reached + SMALL.min(retry.chunk) {
                            (reached, failed) = (session.at, 0);
                        }
                    }
                    next
                }
                Err(problem) => self.recover(state, problem, &mut failed).await?,
            };
        }
    }

    /// The state from which to continue after a problem.
    ///
    /// # Errors
    /// The problem, if no retry can help or no try is left.
    async fn recover(
        &mut self,
        state: State,
        problem: Problem,
        failed: &mut u32,
    ) -> Result<State, Problem> {
        if let Some(session) = self.chunk_refused(&state, &problem) {
            tracing::info!(%problem, "the registry does not accept chunks; sending the blob in one request");
            self.whole = true;
            self.target.cancel(&session.url, Grant::Push).await;
            return Ok(State::New);
        }
        let problem = lost(&state, problem);
        let is_lost = problem == Problem::Lost;
        if let Err(problem) = self.target.transport.retry().pause(failed, problem).await {
            self.abandon(&state, &problem).await;
            return Err(problem);
        }
        self.whole |= is_lost && *failed > 1;
        Ok(match state {
            State::OffsetKnown(session) | State::OffsetUnknown(session) if !self.whole => {
                State::OffsetUnknown(session)
            }
            _ => State::New,
        })
    }

    fn request<'b>(&'b self, verb: Verb, session: &'b Session) -> RegistryRequest<'b> {
        self.target.request(verb, Place::Upload(&session.url), UPLOAD)
    }

    async fn begin(&mut self) -> Result<State, Problem> {
        if std::mem::replace(&mut self.begun, true) && self.target.has(&self.blob).await? {
            return Ok(State::Stored);
        }
        let url = self.target.begin().await?;
        let mut session = Session { url, at: 0, confirmed: true, needs_token: false };
        session.needs_token = self.target.holds_token(&self.request(Verb::Patch, &session));
        Ok(State::OffsetKnown(session))
    }

    /// Requests the server's offset.
    async fn query_offset(&self, session: &Session) -> Result<State, Problem> {
        let request = self.request(Verb::Get, session);
        let response = match self.target.once(request).await {
            Ok(response) => response,
            // The server no longer knows the upload, or does not support the request.
            Err(Problem::NotFound { .. }) => return Ok(State::New),
            Err(Problem::Status { status, .. }) if !is_transient(status) => {
                return Ok(State::New);
            }
            Err(problem) => return Err(problem),
        };
        let at = match end(&response) {
            // `0-0` means one byte or none. If it means one, the response to the next chunk shows it.
            Some(1) => 0,
            Some(at) if at <= self.size => at,
            _ => {
                self.target.cancel(&session.url, Grant::Push).await;
                return Ok(State::New);
            }
        };
        let url = self.next(&response, &session.url)?;
        let needs_token = self.target.holds_token(&request);
        Ok(State::OffsetKnown(Session { url, at, confirmed: true, needs_token }))
    }

    /// Sends the next chunk, or the final request.
    async fn send(&self, session: &Session) -> Result<State, Problem> {
        let last = self.whole || session.at == self.size;
        let request = self.request(if last { Verb::Put } else { Verb::Patch }, session);
        if !self.whole && session.needs_token && !self.target.holds_token(&request) {
            // The GET for the offset gets the new token, so that no chunk is sent in vain.
            return Ok(State::OffsetUnknown(session.clone()));
        }
        let chunk = self.target.transport.retry().chunk;
        let left = self.size - session.at;
        let part = Part::new(self.file, session.at, if last { left } else { left.min(chunk) });
        let body =
            if left > 0 || self.whole { RequestBody::Part(&part) } else { RequestBody::Nothing };
        if last {
            let mut url = session.url.clone();
            url.query_pairs_mut().append_pair("digest", &self.blob.to_string());
            self.target
                .once(RegistryRequest { place: Place::Upload(&url), body, ..request })
                .await?;
            return Ok(State::Stored);
        }
        let response = self.target.once(RegistryRequest { body, ..request }).await?;
        let url = self.next(&response, &session.url)?;
        let at = session.at + body.size();
        let needs_token = session.needs_token;
        Ok(State::OffsetKnown(Session { url, at, confirmed: false, needs_token }))
    }

    /// The URL at which the upload continues: every response may have a new `Location`.
    fn next(&self, response: &Response, url: &Url) -> Result<Url, Problem> {
        if response.headers().contains_key(reqwest::header::LOCATION) {
            return self.target.upload(response, url);
        }
        Ok(url.clone())
    }

    /// The upload, if the problem means that the server does not accept chunks.
    fn chunk_refused<'s>(&self, state: &'s State, problem: &Problem) -> Option<&'s Session> {
        let (State::OffsetKnown(session), Problem::Status { status, .. }) = (state, problem) else {
            return None;
        };
        let chunks = match status {
            // The offset may be wrong, unless the server has confirmed it.
            416 => session.confirmed,
            // The complete blob is even larger than the chunk.
            413 => false,
            status => (400..500).contains(status) && !is_transient(*status),
        };
        (chunks && !self.whole).then_some(session)
    }

    /// Cancels the upload, unless the server cannot be reached.
    async fn abandon(&self, state: &State, problem: &Problem) {
        if let State::OffsetKnown(session) | State::OffsetUnknown(session) = state
            && !matches!(problem, Problem::Unreachable { .. })
        {
            self.target.cancel(&session.url, Grant::Push).await;
        }
    }
}

/// Converts the statuses that mean that the server lost an upload or a part of it.
fn lost(state: &State, problem: Problem) -> Problem {
    match (state, &problem) {
        (State::OffsetKnown(_), Problem::NotFound { .. } | Problem::Status { status: 416, .. }) => {
            Problem::Lost
        }
        _ => problem,
    }
}

/// The number of bytes that the server has, from `Range: 0-<last>`.
fn end(response: &Response) -> Option<u64> {
    let range = response.headers().get(RANGE)?.to_str().ok()?.trim();
    let last =
        range.trim_start_matches("bytes").trim_start_matches(['=', ' ']).strip_prefix("0-")?;
    last.parse::<u64>().ok()?.checked_add(1)
}
