//! Tests of the middleware with services that wait or fail, and with a captured log.

use std::sync::Arc;

use tokio::sync::Notify;
use tower::service_fn;

use super::*;
use crate::csi::tests::log::Log;

const METHOD: &str = "/csi.v1.Node/NodePublishVolume";

fn request() -> Request<Body> {
    request_of(METHOD)
}

fn request_of(method: &str) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = method.parse().unwrap();
    request
}

fn ok() -> Response<Body> {
    Response::new(Body::empty())
}

#[tokio::test]
async fn a_call_runs_to_its_end_when_its_caller_is_gone() {
    let (started, go, done) =
        (Arc::new(Notify::new()), Arc::new(Notify::new()), Arc::new(Notify::new()));
    let service = {
        let (started, go, done) = (started.clone(), go.clone(), done.clone());
        service_fn(move |_| {
            let (started, go, done) = (started.clone(), go.clone(), done.clone());
            async move {
                started.notify_one();
                go.notified().await;
                done.notify_one();
                Ok(ok())
            }
        })
    };
    let tasks = TaskTracker::new();
    let waiting = Calls::new(service, tasks.clone(), Metrics::default()).call(request());
    started.notified().await;
    drop(waiting);
    go.notify_one();
    done.notified().await;
    tasks.close();
    tasks.wait().await;
}

#[tokio::test]
async fn a_call_logs_one_line() {
    let log = Log::default();
    let _guard = log.capture();
    let service = service_fn(|_| async {
        about_volume("csi-1");
        let context = [("pod.namespace", "ci"), ("pod.name", "job\n1")]
            .map(|(key, value)| (format!("csi.storage.k8s.io/{key}"), value.to_owned()));
        about_pod(&HashMap::from(context));
        Ok(Status::not_found("image a is not there").into_http())
    });
    Calls::new(service, TaskTracker::new(), Metrics::default()).call(request()).await.unwrap();
    let lines = log.lines();
    let [line] = lines.as_slice() else { panic!("{lines:#?}") };
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["fields"]["code"], "NotFound");
    assert_eq!(line["fields"]["error"], "image a is not there");
    assert!(line["fields"]["ms"].is_u64());
    assert_eq!(line["span"]["method"], "NodePublishVolume");
    assert_eq!(line["span"]["volume"], "csi-1");
    assert_eq!(line["span"]["pod"], "ci/job\\n1");
}

#[tokio::test]
async fn the_log_level_depends_on_the_method_and_the_code() {
    const READ_ONLY: &str = "/csi.v1.Node/NodeGetCapabilities";
    for (method, response, level) in [
        (METHOD, ok(), "INFO"),
        (READ_ONLY, ok(), "DEBUG"),
        (METHOD, Status::invalid_argument("").into_http(), "WARN"),
        (READ_ONLY, Status::aborted("").into_http(), "WARN"),
        (METHOD, Status::internal("").into_http(), "ERROR"),
        (METHOD, Status::data_loss("").into_http(), "ERROR"),
    ] {
        let log = Log::default();
        let _guard = log.capture();
        let mut response = Some(response);
        let service = service_fn(move |_| {
            let response = response.take().unwrap();
            async { Ok(response) }
        });
        Calls::new(service, TaskTracker::new(), Metrics::default())
            .call(request_of(method))
            .await
            .unwrap();
        assert_eq!(log.lines()[0]["level"], level);
    }
}

#[tokio::test]
async fn a_panic_becomes_an_internal_error_and_the_server_goes_on() {
    let mut calls = Calls::new(
        service_fn(|_| async {
            if tokio::task::try_id().is_some() {
                panic!("a bug");
            }
            Ok(ok())
        }),
        TaskTracker::new(),
        Metrics::default(),
    );
    for _ in 0..2 {
        let response = calls.call(request()).await.unwrap();
        let status = Status::from_header_map(response.headers()).unwrap();
        assert_eq!(status.code(), Code::Internal);
        assert!(!status.message().contains("a bug"), "{status}");
    }
}
