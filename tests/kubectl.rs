//! The kubectl plugin as it is started: what it says and how it exits.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    process::Command,
    thread,
};

/// The exit code of `kubectl-ovl` with `args`, and what it wrote to stdout and to stderr.
fn plugin(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_kubectl-ovl"))
        .args(args)
        .env_clear()
        .env("HOME", "/nowhere")
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn help_says_how_it_is_called_and_how_it_exits() {
    let (code, said, _) = plugin(&["--help"]);
    assert_eq!(code, Some(0));
    for sentence in ["Usage: kubectl ovl ", "snapshot", "Exit codes: 0 done", "--kubeconfig <FILE>"]
    {
        assert!(said.contains(sentence), "{sentence:?} is not in {said}");
    }
    for (command, sentence) in [
        ("snapshot", "<POD> <VOLUME> <NAME>"),
        ("fork", "ovl.csi.dev/fork-of"),
        ("list", "--all-namespaces"),
        ("describe", "<NAME>"),
        ("delete", "deletionPolicy"),
        ("diff", "credential helpers (credsStore, credHelpers) are never run"),
        ("completion", "kubectl_complete-ovl"),
    ] {
        let (code, said, _) = plugin(&[command, "--help"]);
        assert_eq!(code, Some(0), "{command}");
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains(sentence), "{sentence:?} is not in {said}");
    }
}

#[test]
fn what_cannot_be_used_is_named_and_exits_with_2() {
    for (args, sentence) in [
        (&[][..], "Usage: kubectl ovl"),
        (&["snapshop"], "unrecognized subcommand"),
        (&["snapshot", "dev-0", "ws"], "<NAME>"),
        (&["snapshot", "dev-0", "ws", "WS_1"], "expected lower-case letters"),
        (&["snapshot", "dev-0", "ws", "a", "--timeout", "soon"], "expected a duration"),
        (&["fork", "dev-0", "ws", "--replicas", "0"], "0 is not in 1..=1000"),
        (&["fork", "dev-0", "ws", "--snapshot", "a", "--class", "b"], "cannot be used with"),
        (&["list", "-o", "xml"], "possible values: text, wide, json"),
        (&["delete"], "<NAME>"),
        (&["diff", "a"], "<B>"),
        (&["completion", "tcsh"], "possible values: bash, zsh, fish"),
        (&["list", "--log", "ovl=loud"], "is not a log filter"),
    ] {
        let (code, _, said) = plugin(args);
        assert_eq!(code, Some(2), "{args:?}: {said}");
        assert!(said.contains(sentence), "{sentence:?} is not in {said:?}");
    }
}

#[test]
fn without_a_cluster_it_says_so() {
    let (code, out, said) = plugin(&["list"]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(said.starts_with("error: no cluster can be asked: the kubeconfig /nowhere/"), "{said}");
    // Completion is silent about it.
    let (code, out, said) = plugin(&["__complete", "describe", ""]);
    assert_eq!((code, out.as_str(), said.as_str()), (Some(0), ":4\n", ""));
    let (_, out, _) = plugin(&["__complete", "de"]);
    assert_eq!(out, "describe\ndelete\n:4\n");
}

#[test]
fn version_and_completion_need_no_cluster() {
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(plugin(&["version"]).1, format!("kubectl-ovl {version}\n"));
    assert_eq!(
        plugin(&["version", "-o", "json"]).1,
        format!("{{\n  \"version\": \"{version}\"\n}}\n")
    );
    for shell in ["bash", "zsh", "fish"] {
        let (code, said, _) = plugin(&["completion", shell]);
        assert_eq!(code, Some(0));
        assert!(said.contains("kubectl-ovl") && !said.contains("kubectl ovl;"), "{shell}: {said}");
    }
}

/// An API server that answers one request, and notes it.
#[test]
fn the_kubeconfig_decides_whom_it_asks_and_where() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config");
    let address = server.local_addr().unwrap();
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         clusters: [{{name: c, cluster: {{server: 'http://{address}'}}}}]\n\
         contexts: [{{name: c, context: {{cluster: c, user: u, namespace: ci}}}}]\n\
         users: [{{name: u, user: {{token: of-the-test}}}}]\n"
    );
    fs::write(&file, text).unwrap();
    let asked = thread::spawn(move || {
        let (mut stream, _) = server.accept().unwrap();
        let mut request = vec![0; 8192];
        let len = stream.read(&mut request).unwrap();
        let body = r#"{"kind":"List","apiVersion":"v1","metadata":{},"items":[]}"#;
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n";
        write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
        String::from_utf8_lossy(&request[..len]).into_owned()
    });
    let (code, out, said) = plugin(&["--kubeconfig", file.to_str().unwrap(), "list", "-o", "json"]);
    assert_eq!((code, out.as_str()), (Some(0), "{\n  \"items\": []\n}\n"), "{said}");
    let asked = asked.join().unwrap().to_lowercase();
    assert!(
        asked.starts_with("get /apis/snapshot.storage.k8s.io/v1/namespaces/ci/volumesnapshots"),
        "{asked}"
    );
    assert!(asked.contains("authorization: bearer of-the-test"), "{asked}");
    assert!(!said.contains("of-the-test"), "{said}");
}
