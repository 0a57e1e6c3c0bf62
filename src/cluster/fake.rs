//! An API server for tests: notes what it is asked, and answers as it is told.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use axum::http::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};

use super::Client;

/// One request, as it came.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) body: Value,
}

/// Answers each request with the next of the codes that it was given, and with 200 once they are used up.
#[derive(Debug, Clone, Default)]
pub(crate) struct FakeApi {
    asked: Arc<Mutex<Vec<Asked>>>,
    codes: Arc<Mutex<VecDeque<u16>>>,
}

impl FakeApi {
    pub(crate) fn answering(codes: &[u16]) -> Self {
        Self { codes: Arc::new(Mutex::new(codes.iter().copied().collect())), ..Self::default() }
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
        self.asked.lock().unwrap().clone()
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let body: Value = serde_json::from_slice(&body.collect_bytes().await.unwrap()).unwrap();
        let path = head.uri.path().to_owned();
        self.asked.lock().unwrap().push(Asked {
            method: head.method.to_string(),
            path: path.clone(),
            body: body.clone(),
        });
        let code = self.codes.lock().unwrap().pop_front().unwrap_or(200);
        let answer = if code == 200 {
            // An Event is answered with an Event; of a patch's, the parts that the type demands.
            let name = path.rsplit('/').next().unwrap();
            let mut event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": name}, "involvedObject": {}});
            event.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
            event
        } else {
            json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code,
                   "reason": "Because", "message": "no such luck", "metadata": {}})
        };
        let body = Body::from(answer.to_string().into_bytes());
        Response::builder().status(code).body(body).unwrap()
    }
}
