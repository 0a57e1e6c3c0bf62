//! Tests of the traces of calls, with a fake collector that receives OTLP over gRPC.

use std::collections::BTreeMap;

use tokio::{net::TcpListener, sync::mpsc, task::spawn_blocking};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Response, codegen::http, transport::Server};
use tower::service_fn;
use tracing_subscriber::layer::SubscriberExt as _;

use super::*;
use crate::telemetry::Traces;

/// opentelemetry.proto.collector.trace.v1, only the fields that the test checks.
#[derive(Clone, PartialEq, prost::Message)]
struct Export {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AnyValue {
    #[prost(string, tag = "1")]
    string_value: String,
}

fn words(attributes: &[KeyValue]) -> BTreeMap<&str, &str> {
    let word = |a: &AnyValue| !a.string_value.is_empty();
    let words =
        attributes.iter().filter_map(|a| Some((&*a.key, a.value.as_ref().filter(|v| word(v))?)));
    words.map(|(key, value)| (key, &*value.string_value)).collect()
}

/// Starts a collector. Returns its address, and the exports that it receives.
async fn collector() -> (SocketAddr, mpsc::UnboundedReceiver<Export>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sent, received) = mpsc::unbounded_channel();
    let service = service_fn(move |request: http::Request<tonic::body::Body>| {
        let sent = sent.clone();
        async move {
            let path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
            assert_eq!(request.uri().path(), path);
            let take = service_fn(move |export: Request<Export>| {
                let _ = sent.send(export.into_inner());
                async { Ok::<_, Status>(Response::new(())) }
            });
            let codec = tonic_prost::ProstCodec::<(), Export>::default();
            Ok::<_, std::convert::Infallible>(
                tonic::server::Grpc::new(codec).unary(take, request).await,
            )
        }
    });
    tokio::spawn(Server::builder().serve_with_incoming(service, TcpListenerStream::new(listener)));
    (address, received)
}

#[tokio::test]
async fn a_call_is_a_span_in_the_trace_of_its_caller() {
    let (address, mut received) = collector().await;
    let traces = Traces::to(&format!("http://{address}").parse().unwrap(), Some("node-1")).unwrap();
    let subscriber = tracing_subscriber::registry().with(traces.layer());
    let guard = tracing::subscriber::set_default(subscriber);

    let driver = Driver::start().await;
    let (mut request, _) = driver.publish(&[]);
    request.secrets.insert("token".into(), "hunter2".into());
    let mut request = Request::new(request);
    let parent = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01";
    request.metadata_mut().insert("traceparent", parent.parse().unwrap());
    driver.node().await.node_publish_volume(request).await.unwrap_err();
    driver.stop().await.unwrap();
    drop(guard);
    spawn_blocking(|| traces.end()).await.unwrap();

    let export = received.recv().await.unwrap();
    assert!(!format!("{export:?}").contains("hunter2"), "{export:#?}");
    let [of_process] = export.resource_spans.as_slice() else { panic!("{export:#?}") };
    let resource = words(&of_process.resource.as_ref().unwrap().attributes);
    assert_eq!((resource["service.name"], resource["k8s.node.name"]), ("ovl-csi", "node-1"));
    let spans: Vec<_> = of_process.scope_spans.iter().flat_map(|scope| &scope.spans).collect();
    let [span] = spans.as_slice() else { panic!("{spans:#?}") };
    // 2 is SPAN_KIND_SERVER.
    assert_eq!((&*span.name, span.kind), ("NodePublishVolume", 2));
    assert_eq!(hex::encode(&span.trace_id), "0123456789abcdef0123456789abcdef");
    assert_eq!(hex::encode(&span.parent_span_id), "0123456789abcdef");
    let attributes = words(&span.attributes);
    for (key, value) in [("volume", "csi-1"), ("pod", "ci/job-1"), ("code", "InvalidArgument")] {
        assert_eq!(attributes.get(key), Some(&value), "{attributes:?}");
    }
}
