//! Tests of kubeconfigs: how the context is chosen, and that no error quotes a secret.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::json;

use super::*;
use crate::{
    cluster::{JsonKind, Selection, fake::FakeApi, snapshot_api::VolumeSnapshot},
    error::Class,
};

const SECRET: &str = "token-that-must-not-be-shown";

fn kubeconfig(dir: &tempfile::TempDir, user: &str) -> PathBuf {
    let path = dir.path().join("config");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: one\n\
         clusters:\n- name: c\n  cluster: {{server: 'http://127.0.0.1:1'}}\n\
         contexts:\n- name: one\n  context: {{cluster: c, user: u, namespace: ci}}\n\
         - name: two\n  context: {{cluster: c, user: u}}\n- name: lost\n  context: {{cluster: x, user: u}}\n\
         users:\n- name: u\n  user: {user}\n"
    );
    fs::write(&path, text).unwrap();
    path
}

fn of(file: &Path, context: Option<&str>) -> Connection {
    let context = context.map(str::to_owned);
    Connection { kubeconfig: Some(file.to_owned()), context, ..Connection::default() }
}

#[tokio::test]
async fn the_context_decides_cluster_and_namespace() {
    let dir = tempfile::tempdir().unwrap();
    let file = kubeconfig(&dir, &format!("{{token: {SECRET}}}"));
    for (context, namespace) in [(None, "ci"), (Some("one"), "ci"), (Some("two"), "default")] {
        let (_, found) = Client::connect(&of(&file, context)).await.unwrap();
        assert_eq!(found, namespace, "{context:?}");
    }
    for (context, message) in
        [("three", "has no context \"three\""), ("lost", "names cluster \"x\"")]
    {
        let error = Client::connect(&of(&file, Some(context))).await.unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
        assert_eq!(error.class(), Class::Precondition);
    }
    let error = Client::connect(&of(&dir.path().join("no"), None)).await.unwrap_err();
    assert!(error.to_string().contains("/no: No such file"), "{error}");
}

#[tokio::test]
async fn a_server_and_a_token_replace_those_of_the_kubeconfig() {
    let dir = tempfile::tempdir().unwrap();
    // The plugin would fail if it ran.
    let file = kubeconfig(
        &dir,
        "{exec: {apiVersion: x, command: /no/such/plugin}, client-certificate-data: YQ==, client-key-data: YQ==}",
    );
    let connection = |server: &str| Connection {
        server: Some(server.to_owned()),
        token: Some(SECRET.to_owned().into()),
        ..of(&file, None)
    };
    let given = connection("https://10.0.0.1:6443");
    assert!(!format!("{given:?}").contains(SECRET), "{given:?}");
    let config = config(&given).await.unwrap();
    assert_eq!(config.cluster_url.to_string(), "https://10.0.0.1:6443/");
    let AuthInfo { token, exec, client_certificate_data, .. } = &config.auth_info;
    assert!(token.is_some() && exec.is_none() && client_certificate_data.is_none());
    let (_, namespace) = Client::connect(&given).await.unwrap();
    assert_eq!(namespace, "ci");
    for bad in ["10.0.0.1:6443", "", "ftp://a"] {
        let error = Client::connect(&connection(bad)).await.unwrap_err();
        assert!(error.to_string().contains("is not a URL: write https://HOST"), "{error}");
    }
}

#[tokio::test]
async fn errors_quote_no_secret_of_a_kubeconfig_or_a_plugin() {
    let dir = tempfile::tempdir().unwrap();
    let api = "client.authentication.k8s.io/v1";
    let plugin = |script: &str| {
        format!(
            "{{exec: {{apiVersion: {api}, command: sh, args: [-c, '{script}'], interactiveMode: Never}}}}"
        )
    };
    for (user, message) in [
        (format!("{{token: [{SECRET}"), "not a kubeconfig at line"),
        (format!("{{client-key-data: '{SECRET}', client-certificate-data: '%'}}"), ""),
        (plugin(&format!("echo {SECRET}; echo {SECRET} >&2; exit 3")), "failed (exit status: 3)"),
        (plugin(&format!("echo token: {SECRET}")), "output of its credential plugin"),
        (
            "{exec: {apiVersion: x, command: /no/such/plugin}}".to_owned(),
            "cannot run its credential plugin: No such",
        ),
    ] {
        let file = kubeconfig(&dir, &user);
        let error = Client::connect(&of(&file, None)).await.unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(text.contains(message), "{text}");
        assert!(!error.to_string().contains(SECRET), "{error}");
    }
}

#[tokio::test]
async fn a_namespace_is_listed_and_pods_keep_unknown_fields() {
    let api = FakeApi::default();
    let client = api.client();
    for (namespace, name) in [("ci", "a"), ("ci", "b"), ("other", "c")] {
        let path =
            format!("/apis/snapshot.storage.k8s.io/v1/namespaces/{namespace}/volumesnapshots");
        api.put(&path, json!({"metadata": {"name": name}, "spec": {"source": {}}}));
    }
    for (namespace, count) in [(Some("ci"), 2), (Some("none"), 0), (None, 3)] {
        let found = client.list_in::<VolumeSnapshot>(namespace).await.unwrap();
        assert_eq!(found.len(), count, "{namespace:?}");
    }
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"app": "web"}},
                     "spec": {"containers": [], "ofTomorrow": {"a": 1}}});
    let made = client.create_json(JsonKind::Pod, "ci", &pod).await.unwrap();
    assert_eq!(made["metadata"]["namespace"], "ci");
    let read = client.json(JsonKind::Pod, Some("ci"), "p").await.unwrap().unwrap();
    assert_eq!(read["spec"], pod["spec"]);
    for (labels, count) in [(None, 1), (Some("app=web"), 1), (Some("app=other"), 0)] {
        let selection = Selection { labels, ..Selection::default() };
        let pods = client.json_list(JsonKind::Pod, Some("ci"), selection).await.unwrap();
        assert_eq!(pods.len(), count, "{labels:?}");
    }
    assert_eq!(client.json(JsonKind::Pod, Some("ci"), "q").await.unwrap(), None);
    let again = client.create_json(JsonKind::Pod, "ci", &pod).await.unwrap_err();
    assert_eq!(again.class(), Class::Conflict);
}
