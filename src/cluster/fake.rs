//! A fake API server for tests. It keeps objects in memory, records requests and fails on demand.
//!
//! It stores objects as they are: no schema, no defaults. It implements the rules of Kubernetes on which the code
//! depends: uids and resource versions, taken names, `status` as a subresource, merge patches, finalizers,
//! preconditions, field selectors, pages and watches.

mod store;

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{body::Body as HttpBody, http};
use futures::stream;
use http::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::Client;
use store::{Path, Refused, Store};

/// One request, as the server received it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SeenRequest {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) body: Value,
}

/// Looks until there is a result. Panics after 20 s.
pub(crate) async fn eventually<T>(look: impl Fn() -> Option<T>) -> T {
    let found = async {
        loop {
            match look() {
                Some(found) => return found,
                None => sleep(Duration::from_millis(2)).await,
            }
        }
    };
    timeout(Duration::from_secs(20), found).await.expect("nothing within 20 s")
}

/// Which half of an exchange is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// The request never arrives.
    Request,
    /// The request is carried out, and the client gets no response.
    Response,
}

/// Responds to each request with the next of the given status codes. After the last one, and for 200, it responds from
/// its store.
#[derive(Debug, Clone)]
pub(crate) struct FakeApi(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    requests: Mutex<Vec<SeenRequest>>,
    codes: Mutex<VecDeque<u16>>,
    /// How many requests get through before one is lost. All later requests are lost too.
    lost: Mutex<Option<(usize, Loss)>>,
    store: Mutex<Store>,
    /// The number of changes so far, for watches.
    changes: watch::Sender<usize>,
}

impl Default for FakeApi {
    fn default() -> Self {
        Self::responding(&[])
    }
}

impl FakeApi {
    pub(crate) fn responding(codes: &[u16]) -> Self {
        Self(Arc::new(Inner {
            requests: Mutex::default(),
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
            async move { Ok::<_, Infallible>(api.respond(request).await) }
        });
        Client::of(kube::Client::new(service, "default"))
    }

    pub(crate) fn requests(&self) -> Vec<SeenRequest> {
        self.0.requests.lock().unwrap().clone()
    }

    /// After `after` requests, every request is lost until `restore` is called; the first one is lost in the way `how`.
    /// Requests about Events are exempt: they come at any time, so a count that includes them would differ from run to
    /// run.
    pub(crate) fn lose(&self, after: usize, how: Loss) {
        *self.0.lost.lock().unwrap() = Some((after, how));
    }

    /// Lets requests through again. Returns whether any was lost.
    pub(crate) fn restore(&self) -> bool {
        self.0.lost.lock().unwrap().take().is_some_and(|(after, _)| after == 0)
    }

    /// Stores an object, as a request of another client would.
    pub(crate) fn put(&self, path: &str, object: Value) -> Value {
        self.change("POST", path, &object).unwrap()
    }

    /// The object at a path.
    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.0.store.lock().unwrap().get(&Path::of(path))
    }

    /// All objects that a list request of this path returns.
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
        let result = store.change(method, &Path::of(path), body);
        self.0.changes.send_replace(store.changes().len());
        result
    }

    async fn respond(&self, request: Request<Body>) -> Response<HttpBody> {
        let (head, body) = request.into_parts();
        let body = body.collect_bytes().await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let (method, path) = (head.method.to_string(), head.uri.path().to_owned());
        let query = head.uri.query().unwrap_or_default().to_owned();
        let loss = if path.contains("/events") { None } else { self.loses() };
        let method = if loss == Some(Loss::Request) { "LOST".to_owned() } else { method };
        self.0.requests.lock().unwrap().push(SeenRequest {
            method: method.clone(),
            path,
            body: body.clone(),
        });
        if loss == Some(Loss::Request) {
            return refusal(&Refused(503, "ServiceUnavailable", "the request is lost"));
        }
        let code = self.0.codes.lock().unwrap().pop_front().unwrap_or(200);
        if code != 200 {
            return refusal(&Refused(code, "Because", "refused by the test"));
        }
        if query.contains("watch=true") {
            return self.watch(head.uri.path(), &query);
        }
        let result = self.read_or_change(&method, head.uri.path(), &query, &body);
        if loss == Some(Loss::Response) {
            return refusal(&Refused(504, "Timeout", "the response is lost"));
        }
        match result {
            Ok(object) => Response::new(HttpBody::from(object.to_string())),
            Err(refused) => refusal(&refused),
        }
    }

    /// Whether and how the current request is lost.
    fn loses(&self) -> Option<Loss> {
        let mut lost = self.0.lost.lock().unwrap();
        let (after, how) = (*lost)?;
        if after > 0 {
            *lost = Some((after - 1, how));
            return None;
        }
        // The server stays unreachable: later requests do not arrive either.
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
            let is_dry_run = query.contains("dryRun=All") || body["dryRun"] == json!(["All"]);
            return match is_dry_run {
                true => self.0.store.lock().unwrap().clone().change(method, &Path::of(path), body),
                false => self.change(method, path, body),
            };
        }
        let at = Path::of(path);
        let store = self.0.store.lock().unwrap();
        if at.name.is_some() {
            return store.get(&at).ok_or(store::NONE);
        }
        let mut items = store.list(&at, query);
        let mut metadata = json!({"resourceVersion": store.version().to_string()});
        // A page. Unlike the real one, a token does not name the state of the first page.
        let number = |key: &str| -> Option<usize> {
            let value = query.split('&').find_map(|part| part.strip_prefix(key))?;
            Some(value.parse().unwrap())
        };
        let rest = items.split_off(number("continue=").unwrap_or(0).min(items.len()));
        let start = std::mem::replace(&mut items, rest).len();
        if let Some(limit) = number("limit=").filter(|limit| *limit < items.len()) {
            items.truncate(limit);
            metadata["continue"] = (start + limit).to_string().into();
        }
        Ok(json!({"apiVersion": "v1", "kind": "List", "metadata": metadata, "items": items}))
    }

    fn watch(&self, path: &str, query: &str) -> Response<HttpBody> {
        let (at, selector) = (Path::of(path), store::fields(query));
        let since = query.split('&').find_map(|part| part.strip_prefix("resourceVersion="));
        let since: u64 = since.and_then(|version| version.parse().ok()).unwrap_or(0);
        let start = (self.clone(), self.0.changes.subscribe(), 0);
        let lines = stream::unfold(start, move |(api, mut changes, mut index)| {
            let (at, selector) = (at.clone(), selector.clone());
            async move {
                loop {
                    let next = api.0.store.lock().unwrap().changes().get(index).cloned();
                    let Some(change) = next else {
                        changes.changed().await.ok()?;
                        continue;
                    };
                    index += 1;
                    let object = &change.line["object"];
                    if change.version > since
                        && at.holds(&change.path)
                        && store::selected(object, &selector)
                    {
                        let line = format!("{}\n", change.line);
                        return Some((Ok::<_, Infallible>(line), (api, changes, index)));
                    }
                }
            }
        });
        Response::new(HttpBody::from_stream(lines))
    }
}

fn refusal(Refused(code, reason, message): &Refused) -> Response<HttpBody> {
    let status = json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code,
                        "reason": reason, "message": message, "metadata": {}});
    Response::builder().status(*code).body(HttpBody::from(status.to_string())).unwrap()
}
