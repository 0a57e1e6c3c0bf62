//! An API server for tests: keeps objects in memory, notes what it is asked, and fails as it is told.
//!
//! Objects are what they were given as: no schema, no defaults. Of Kubernetes' rules it has those that the code leans on: uids and
//! resource versions, names that are taken, `status` apart from the rest, merge patches, finalizers, preconditions, field and label
//! selectors, watches.

mod store;

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use axum::{body::Body as Answer, http};
use futures::stream;
use http::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::Client;
use store::{Path, Refused, Store};

/// One request, as it came.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) body: Value,
}

/// How a request fails that is told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// It never arrives.
    Request,
    /// It is carried out, and nobody hears of it.
    Answer,
}

/// Answers each request with the next of the codes that it was given; once they are used up, and for 200, out of its store.
#[derive(Debug, Clone)]
pub(crate) struct FakeApi(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    asked: Mutex<Vec<Asked>>,
    codes: Mutex<VecDeque<u16>>,
    /// Requests until one is lost, and everything behind it too.
    lost: Mutex<Option<(usize, Loss)>>,
    store: Mutex<Store>,
    /// How many changes there were.
    changes: watch::Sender<usize>,
}

impl Default for FakeApi {
    fn default() -> Self {
        Self::answering(&[])
    }
}

impl FakeApi {
    pub(crate) fn answering(codes: &[u16]) -> Self {
        Self(Arc::new(Inner {
            asked: Mutex::default(),
            codes: Mutex::new(codes.iter().copied().collect()),
            lost: Mutex::default(),
            store: Mutex::default(),
            changes: watch::channel(0).0,
        }))
    }

    pub(crate) fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        Client::of(kube::Client::new(service, "default"))
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.0.asked.lock().unwrap().clone()
    }

    /// From so many requests on nothing gets through any more, the first of them in this way; until [`mend`](Self::mend). Events are
    /// exempt: they are written at their own time, and so would make a count of requests another one each time.
    pub(crate) fn lose(&self, after: usize, how: Loss) {
        *self.0.lost.lock().unwrap() = Some((after, how));
    }

    /// Requests get through again. Answers whether any was lost.
    pub(crate) fn mend(&self) -> bool {
        self.0.lost.lock().unwrap().take().is_some_and(|(after, _)| after == 0)
    }

    /// Keeps an object, as somebody else's request would.
    pub(crate) fn put(&self, path: &str, object: Value) -> Value {
        self.change("POST", path, &object).unwrap()
    }

    /// The object at a path.
    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.0.store.lock().unwrap().get(&Path::of(path))
    }

    /// All objects beneath a path.
    pub(crate) fn all(&self, path: &str) -> Vec<Value> {
        self.0.store.lock().unwrap().list(&Path::of(path), "")
    }

    /// Changes an object by a merge patch.
    pub(crate) fn patch(&self, path: &str, changes: Value) -> Value {
        self.change("PATCH", path, &changes).unwrap()
    }

    /// Deletes an object, as far as its finalizers allow.
    pub(crate) fn delete(&self, path: &str) {
        let _ = self.change("DELETE", path, &Value::Null);
    }

    fn change(&self, method: &str, path: &str, body: &Value) -> Result<Value, Refused> {
        let mut store = self.0.store.lock().unwrap();
        let answer = store.change(method, &Path::of(path), body);
        self.0.changes.send_replace(store.changes().len());
        answer
    }

    async fn answer(&self, request: Request<Body>) -> Response<Answer> {
        let (head, body) = request.into_parts();
        let body = body.collect_bytes().await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let (method, path) = (head.method.to_string(), head.uri.path().to_owned());
        let query = head.uri.query().unwrap_or_default().to_owned();
        let loss = if path.contains("/events") { None } else { self.loses() };
        let method = if loss == Some(Loss::Request) { "LOST".to_owned() } else { method };
        self.0.asked.lock().unwrap().push(Asked {
            method: method.clone(),
            path,
            body: body.clone(),
        });
        if loss == Some(Loss::Request) {
            return refusal(&Refused(503, "ServiceUnavailable", "it is lost"));
        }
        let code = self.0.codes.lock().unwrap().pop_front().unwrap_or(200);
        if code != 200 {
            return refusal(&Refused(code, "Because", "no such luck"));
        }
        if query.contains("watch=true") {
            return self.watch(head.uri.path(), &query);
        }
        let answer = self.read_or_change(&method, head.uri.path(), &query, &body);
        if loss == Some(Loss::Answer) {
            return refusal(&Refused(504, "Timeout", "the answer is lost"));
        }
        match answer {
            Ok(answer) => Response::new(Answer::from(answer.to_string())),
            Err(refused) => refusal(&refused),
        }
    }

    /// Whether and how the request that is here now gets lost.
    fn loses(&self) -> Option<Loss> {
        let mut lost = self.0.lost.lock().unwrap();
        let (after, how) = (*lost)?;
        if after > 0 {
            *lost = Some((after - 1, how));
            return None;
        }
        // It stays away: what comes behind it does not arrive either.
        *lost = Some((0, Loss::Request));
        Some(how)
    }

    fn read_or_change(
        &self,
        method: &str,
        path: &str,
        query: &str,
        body: &Value,
    ) -> Result<Value, Refused> {
        if path == "/version" {
            let words = [
                "gitVersion",
                "gitCommit",
                "gitTreeState",
                "buildDate",
                "goVersion",
                "compiler",
                "platform",
            ];
            let mut version = json!({"major": "1", "minor": "36"});
            words.iter().for_each(|word| version[*word] = "".into());
            return Ok(version);
        }
        if method != "GET" {
            return self.change(method, path, body);
        }
        let at = Path::of(path);
        let store = self.0.store.lock().unwrap();
        if at.name.is_some() {
            return store.get(&at).ok_or(store::NONE);
        }
        let items = store.list(&at, query);
        let metadata = json!({"resourceVersion": store.version().to_string()});
        Ok(json!({"apiVersion": "v1", "kind": "List", "metadata": metadata, "items": items}))
    }

    fn watch(&self, path: &str, query: &str) -> Response<Answer> {
        let (at, selector) = (Path::of(path), store::fields(query));
        let since = query.split('&').find_map(|part| part.strip_prefix("resourceVersion="));
        let since: u64 = since.and_then(|version| version.parse().ok()).unwrap_or(0);
        let begin = (self.clone(), self.0.changes.subscribe(), 0);
        let lines = stream::unfold(begin, move |(api, mut changes, mut seen)| {
            let (at, selector) = (at.clone(), selector.clone());
            async move {
                loop {
                    let next = api.0.store.lock().unwrap().changes().get(seen).cloned();
                    let Some(change) = next else {
                        changes.changed().await.ok()?;
                        continue;
                    };
                    seen += 1;
                    let object = &change.line["object"];
                    if change.version > since
                        && at.holds(&change.path)
                        && store::selected(object, &selector)
                    {
                        let line = format!("{}\n", change.line);
                        return Some((Ok::<_, Infallible>(line), (api, changes, seen)));
                    }
                }
            }
        });
        Response::new(Answer::from_stream(lines))
    }
}

fn refusal(Refused(code, reason, message): &Refused) -> Response<Answer> {
    let status = json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code,
                        "reason": reason, "message": message, "metadata": {}});
    Response::builder().status(*code).body(Answer::from(status.to_string())).unwrap()
}
