//! One blob's way into a repository.
//!
//! ```text
//!        POST             PATCH, a chunk a time            PUT ?digest=
//! New ─────────> Sure ───────────────────────> Sure at the end ─────────> there
//!  ^              │  ^ the server says how far it is: GET, Range
//!  │   trouble    v  │
//!  └─────────── Unsure     the server does not know it any more, or says nothing of use
//! ```
//!
//! A small blob goes with the PUT, and so does a blob of any size where the server refuses chunks (some
//! do, or only take small ones). Before an upload begins again, the blob is looked for: of an answer that was lost
//! only the answer is missing.
//!
//! A chunk that was accepted counts, whatever `Range` stands in the answer: there are registries where it lags
//! behind. The digest at the end is the registry's to check.

use std::{fs::File, sync::Arc};

use reqwest::{Response, Url, header::RANGE};

use super::{
    ask::{Ask, Place, Verb},
    auth::Grant,
    error::{Problem, is_transient},
    payload::{Part, Payload},
    push::{Target, UPLOAD},
};
use crate::digest::Digest;

/// What may be sent again without a thought: less is sent at once, and is no progress.
const LITTLE: u64 = 4 << 20;

/// An upload, and what is to be uploaded.
pub(super) struct Upload<'a> {
    target: Target,
    blob: Digest,
    size: u64,
    file: &'a Arc<File>,
    sent: &'a (dyn Fn(u64) + Sync),
    /// In one request.
    whole: bool,
    begun: bool,
}

enum State {
    New,
    Unsure(Session),
    Sure(Session),
    There,
}

/// An upload that the server knows.
#[derive(Clone)]
struct Session {
    /// As the last answer gave it.
    url: Url,
    /// How many bytes the server has.
    at: u64,
    /// Whether the server itself said so last.
    confirmed: bool,
    /// Whether the server has asked for a token.
    locked: bool,
}

impl<'a> Upload<'a> {
    pub(super) fn new(
        target: Target,
        blob: Digest,
        size: u64,
        file: &'a Arc<File>,
        sent: &'a (dyn Fn(u64) + Sync),
    ) -> Self {
        let whole = size <= LITTLE.min(target.transport.pace().chunk);
        Self { target, blob, size, file, sent, whole, begun: false }
    }

    /// To the end.
    pub(super) async fn run(mut self) -> Result<(), Problem> {
        let pace = self.target.transport.pace();
        let (mut state, mut failed, mut reached) = (State::New, 0, 0);
        loop {
            let step = match &state {
                State::New => self.begin().await,
                State::Unsure(session) => self.find(session).await,
                State::Sure(session) => self.send(session).await,
                State::There => {
                    (self.sent)(self.size);
                    return Ok(());
                }
            };
            state = match step {
                Ok(next) => {
                    if let State::Sure(session) = &next {
                        (self.sent)(session.at);
                        // Only bytes that had never been there are a success: a blob has an end.
                        if session.at >= reached + LITTLE.min(pace.chunk) {
                            (reached, failed) = (session.at, 0);
                        }
                    }
                    next
                }
                Err(problem) => self.trouble(state, problem, &mut failed).await?,
            };
        }
    }

    /// Goes on after a problem, if that is of use.
    async fn trouble(
        &mut self,
        state: State,
        problem: Problem,
        failed: &mut u32,
    ) -> Result<State, Problem> {
        if let Some(session) = self.refused(&state, &problem) {
            tracing::info!(%problem, "a registry takes no such chunks; sending a blob at once");
            self.whole = true;
            self.target.cancel(&session.url, Grant::Push).await;
            return Ok(State::New);
        }
        let problem = lost(&state, problem);
        let is_lost = problem == Problem::Lost;
        if let Err(problem) = self.target.transport.pace().pause(failed, problem).await {
            self.leave(&state, &problem).await;
            return Err(problem);
        }
        self.whole |= is_lost && *failed > 1;
        Ok(match state {
            State::Sure(session) | State::Unsure(session) if !self.whole => State::Unsure(session),
            _ => State::New,
        })
    }

    fn ask<'b>(&'b self, verb: Verb, session: &'b Session) -> Ask<'b> {
        self.target.ask(verb, Place::Upload(&session.url), UPLOAD)
    }

    async fn begin(&mut self) -> Result<State, Problem> {
        if std::mem::replace(&mut self.begun, true) && self.target.has(&self.blob).await? {
            return Ok(State::There);
        }
        let url = self.target.begin().await?;
        let mut session = Session { url, at: 0, confirmed: true, locked: false };
        session.locked = self.target.holds_token(&self.ask(Verb::Patch, &session));
        Ok(State::Sure(session))
    }

    /// Asks how far the server is.
    async fn find(&self, session: &Session) -> Result<State, Problem> {
        let ask = self.ask(Verb::Get, session);
        let response = match self.target.once(ask).await {
            Ok(response) => response,
            // It does not know the upload any more, or cannot say.
            Err(Problem::NotFound { .. }) => return Ok(State::New),
            Err(Problem::Answered { status, .. }) if !is_transient(status) => {
                return Ok(State::New);
            }
            Err(problem) => return Err(problem),
        };
        let at = match end(&response) {
            // One byte and none are both written `0-0`; one byte too few is told by the next answer.
            Some(1) => 0,
            Some(at) if at <= self.size => at,
            _ => {
                self.target.cancel(&session.url, Grant::Push).await;
                return Ok(State::New);
            }
        };
        let url = self.next(&response, &session.url)?;
        let locked = self.target.holds_token(&ask);
        Ok(State::Sure(Session { url, at, confirmed: true, locked }))
    }

    /// Sends the next chunk, or the end.
    async fn send(&self, session: &Session) -> Result<State, Problem> {
        let last = self.whole || session.at == self.size;
        let ask = self.ask(if last { Verb::Put } else { Verb::Patch }, session);
        if !self.whole && session.locked && !self.target.holds_token(&ask) {
            // A token is better got with a question than with a chunk that is sent in vain.
            return Ok(State::Unsure(session.clone()));
        }
        let chunk = self.target.transport.pace().chunk;
        let left = self.size - session.at;
        let part = Part::new(self.file, session.at, if last { left } else { left.min(chunk) });
        let payload = if left > 0 || self.whole { Payload::Part(&part) } else { Payload::Nothing };
        if last {
            let mut url = session.url.clone();
            url.query_pairs_mut().append_pair("digest", &self.blob.to_string());
            self.target.once(Ask { place: Place::Upload(&url), payload, ..ask }).await?;
            return Ok(State::There);
        }
        let response = self.target.once(Ask { payload, ..ask }).await?;
        let url = self.next(&response, &session.url)?;
        let at = session.at + payload.size();
        Ok(State::Sure(Session { url, at, confirmed: false, locked: session.locked }))
    }

    /// Where the upload goes on: every answer may say so anew.
    fn next(&self, response: &Response, url: &Url) -> Result<Url, Problem> {
        if response.headers().contains_key(reqwest::header::LOCATION) {
            return self.target.upload(response, url);
        }
        Ok(url.clone())
    }

    /// The upload, if it is chunks that the server does not take.
    fn refused<'s>(&self, state: &'s State, problem: &Problem) -> Option<&'s Session> {
        let (State::Sure(session), Problem::Answered { status, .. }) = (state, problem) else {
            return None;
        };
        let chunks = match status {
            // Not this one, or not from there?
            416 => session.confirmed,
            // Nothing larger helps against that.
            413 => false,
            status => (400..500).contains(status) && !is_transient(*status),
        };
        (chunks && !self.whole).then_some(session)
    }

    /// Leaves nothing behind where somebody is there to be told.
    async fn leave(&self, state: &State, problem: &Problem) {
        if let State::Sure(session) | State::Unsure(session) = state
            && !matches!(problem, Problem::Unreachable { .. })
        {
            self.target.cancel(&session.url, Grant::Push).await;
        }
    }
}

/// What a refusal means to an upload that was there before.
fn lost(state: &State, problem: Problem) -> Problem {
    match (state, &problem) {
        (State::Sure(_), Problem::NotFound { .. } | Problem::Answered { status: 416, .. }) => {
            Problem::Lost
        }
        _ => problem,
    }
}

/// How many bytes there are by `Range: 0-<last>`.
fn end(response: &Response) -> Option<u64> {
    let range = response.headers().get(RANGE)?.to_str().ok()?.trim();
    let last =
        range.trim_start_matches("bytes").trim_start_matches(['=', ' ']).strip_prefix("0-")?;
    last.parse::<u64>().ok()?.checked_add(1)
}
