//! An endless watch of a kind: an error is logged, and the watch is retried.

use std::{pin::Pin, task};

use futures::{Stream, StreamExt as _, TryStreamExt as _, stream::BoxStream};
use kube::{
    Api,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};

use super::{Client, api::Kind};

/// A change of the objects of a kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Change<T> {
    /// All objects: at the start, and whenever changes may have been missed.
    All(Vec<T>),
    /// An object is new or has changed.
    Applied(T),
    /// An object is gone; its last known state.
    Gone(T),
}

impl<T> Change<T> {
    /// The objects of the change.
    pub fn objects(self) -> Vec<T> {
        match self {
            Self::All(all) => all,
            Self::Applied(one) | Self::Gone(one) => vec![one],
        }
    }
}

/// The stream of changes of a kind. It never ends: after an error it restarts, with growing pauses.
pub struct Watch<T> {
    events: BoxStream<'static, watcher::Result<Event<T>>>,
    what: &'static str,
    /// The objects of a list that is not complete yet.
    listed: Vec<T>,
    /// Whether the watch fails at the moment. An error is logged once, not at each retry.
    failing: bool,
}

impl Client {
    /// Watches all objects of a kind, or those that match a field selector such as `spec.nodeName=node-1`.
    pub fn watch<T: Kind>(&self, fields: Option<&str>) -> Watch<T> {
        self.watch_trimmed(fields, |object: T| object)
    }

    /// Watches as [`Self::watch`] does, and keeps of each object only what `trim` returns. So a list of many objects is
    /// never whole in memory.
    pub fn watch_trimmed<T: Kind, U: Send + 'static>(
        &self,
        fields: Option<&str>,
        trim: impl Fn(T) -> U + Send + 'static,
    ) -> Watch<U> {
        Watch::of(T::api(self, None), fields, T::REQUEST.watch, trim)
    }
}

impl<U: Send + 'static> Watch<U> {
    /// Watches the objects of `api`. `what` says in the log what is watched.
    pub(super) fn of<T>(
        api: Api<T>,
        fields: Option<&str>,
        what: &'static str,
        trim: impl Fn(T) -> U + Send + 'static,
    ) -> Self
    where
        T: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
    {
        let config = match fields {
            Some(fields) => watcher::Config::default().fields(fields),
            None => watcher::Config::default(),
        };
        let events = watcher(api, config).default_backoff();
        let events = events.map_ok(move |event| trimmed(event, &trim)).boxed();
        Self { events, what, listed: Vec::new(), failing: false }
    }
}

fn trimmed<T, U>(event: Event<T>, trim: impl Fn(T) -> U) -> Event<U> {
    match event {
        Event::Apply(object) => Event::Apply(trim(object)),
        Event::Delete(object) => Event::Delete(trim(object)),
        Event::InitApply(object) => Event::InitApply(trim(object)),
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
    }
}

impl<T> Watch<T> {
    fn change(&mut self, event: watcher::Result<Event<T>>) -> Option<Change<T>> {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(%error, "cannot {}: retrying", self.what);
                }
                return None;
            }
        };
        if std::mem::take(&mut self.failing) {
            tracing::info!("can {} again", self.what);
        }
        match event {
            Event::Init => {
                self.listed.clear();
                None
            }
            Event::InitApply(object) => {
                self.listed.push(object);
                None
            }
            Event::InitDone => Some(Change::All(std::mem::take(&mut self.listed))),
            Event::Apply(object) => Some(Change::Applied(object)),
            Event::Delete(object) => Some(Change::Gone(object)),
        }
    }
}

impl<T> Unpin for Watch<T> {}

impl<T> Stream for Watch<T> {
    type Item = Change<T>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> task::Poll<Option<Change<T>>> {
        loop {
            match self.events.poll_next_unpin(cx) {
                task::Poll::Ready(Some(event)) => {
                    if let Some(change) = self.change(event) {
                        return task::Poll::Ready(Some(change));
                    }
                }
                task::Poll::Ready(None) => return task::Poll::Ready(None),
                task::Poll::Pending => return task::Poll::Pending,
            }
        }
    }
}

impl<T> std::fmt::Debug for Watch<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}
