//! The kubectl plugin: its output and its exit codes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::Command,
    thread,
};

/// Runs `kubectl-ovl` with `args`. Returns its exit code, its stdout and its stderr.
fn plugin(args: &[&str]) -> (Option<i32>, String, String) {
    let ended = Command::new(env!("CARGO_BIN_EXE_kubectl-ovl"))
        .args(args)
        .env_clear()
        .env("HOME", "/nowhere")
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (ended.status.code(), text(ended.stdout), text(ended.stderr))
}

#[test]
fn help_has_the_usage_and_the_exit_codes() {
    let (code, output, _) = plugin(&["--help"]);
    assert_eq!(code, Some(0));
    for message in ["Usage: kubectl ovl ", "snapshot", "Exit codes: 0 done", "--kubeconfig <FILE>"]
    {
        assert!(output.contains(message), "{message:?} is not in {output}");
    }
    for (command, message) in [
        ("snapshot", "<POD>[/VOLUME] [VOLUME] [NAME]"),
        ("fork", "ovl.csi.dev/fork-of"),
        ("list", "--all-namespaces"),
        ("tree", "-o html > snapshots.html"),
        ("describe", "<NAME>"),
        ("delete", "deletionPolicy"),
        ("diff", "kubectl ovl diff [OPTIONS] [BASE] POD/VOLUME"),
        ("completion", "kubectl_complete-ovl"),
    ] {
        let (code, output, _) = plugin(&[command, "--help"]);
        assert_eq!(code, Some(0), "{command}");
        let output = output.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(output.contains(message), "{message:?} is not in {output}");
        let has_examples = output.contains("Examples:") && output.contains("kubectl ovl ");
        assert!(has_examples, "{command}: {output}");
    }
}

#[test]
fn arguments_of_the_plugin_that_cannot_be_used_are_named_and_exit_with_2() {
    for (args, message) in [
        (&[][..], "Usage: kubectl ovl"),
        (&["snapshop"], "unrecognized subcommand"),
        (&["snapshot"], "<POD>"),
        (&["snapshot", "dev-0/"], "is not the name of a volume"),
        (&["snapshot", "dev-0", "--generate-name", "A-"], "expected lower-case letters"),
        (&["fork"], "<POD>"),
        (&["fork", "--of", "pod/a"], "expected deployment/NAME"),
        (&["list", "--as-group", "g"], "--as-group needs the user of --as"),
        (&["list", "--request-timeout", "soon"], "expected a duration"),
        (&["list", "--color", "red"], "possible values: auto, always, never"),
        (&["snapshot", "dev-0", "ws", "WS_1"], "expected lower-case letters"),
        (&["snapshot", "dev-0", "ws", "a", "--timeout", "soon"], "expected a duration"),
        (&["fork", "dev-0", "ws", "--replicas", "0"], "0 is not in 1..=1000"),
        (&["fork", "dev-0", "ws", "--snapshot", "a", "--class", "b"], "cannot be used with"),
        (&["list", "-o", "xml"], "possible values: text, wide, json, yaml, name"),
        (&["delete"], "<NAME>"),
        (&["diff"], "<NAME>"),
        (&["diff", "a/b/c"], "expected lower-case letters"),
        (&["completion", "tcsh"], "possible values: bash, zsh, fish"),
        (&["list", "--log", "ovl=loud"], "is not a log filter"),
        (&["list", "--log", "blah"], "\"blah\" is not a level"),
        (&["delete", "a", "--dry-run=some"], "possible values: none, client, server"),
    ] {
        let (code, _, output) = plugin(args);
        assert_eq!(code, Some(2), "{args:?}: {output}");
        assert!(output.contains(message), "{message:?} is not in {output:?}");
    }
}

#[test]
fn a_missing_cluster_is_an_error_but_not_for_completion() {
    let (code, out, output) = plugin(&["list"]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    let start = "error: cannot connect to a cluster: cannot read the kubeconfig /nowhere/";
    assert!(output.starts_with(start), "{output}");
    // Completion prints no error.
    let (code, out, output) = plugin(&["__complete", "describe", ""]);
    assert_eq!((code, out.as_str(), output.as_str()), (Some(0), ":4\n", ""));
    let (_, out, _) = plugin(&["__complete", "de"]);
    assert_eq!(out, "describe\ndelete\n:4\n");
}

/// kubectl runs a program of this name for its completion.
#[test]
fn a_link_completes_for_kubectl() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("kubectl_complete-ovl");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_kubectl-ovl"), &link).unwrap();
    let ended = Command::new(&link).arg("de").env_clear().output().unwrap();
    assert_eq!(String::from_utf8(ended.stdout).unwrap(), "describe\ndelete\n:4\n");
    // The words are not options of the program itself. A context needs no cluster.
    let file = dir.path().join("config");
    let text =
        "apiVersion: v1\nkind: Config\ncontexts:\n- {name: one, context: {cluster: c, user: u}}\n";
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    for (words, candidates) in [
        (&["--kubeconfig", file, "--context", ""][..], "one\n:4\n"),
        (&["--kubeconfig", file, "-n", "ci", "list", "--context", "o"], "one\n:4\n"),
        (&["-n", "ci", "de"], "describe\ndelete\n:4\n"),
        // The namespaces cannot be listed without a cluster, and there is no other candidate.
        (&["-n", ""], ":4\n"),
    ] {
        let ended = Command::new(&link).args(words).env_clear().env("HOME", "/nowhere").output();
        let printed = String::from_utf8(ended.unwrap().stdout).unwrap();
        assert_eq!(printed, candidates, "{words:?}");
    }
}

#[test]
fn colours_are_printed_on_a_terminal_or_on_request() {
    let red = |args: &[&str], variables: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-ovl"));
        // Without a kubeconfig each of them prints an error, whatever clusters this user has.
        let command = command.args(args).env_clear().env("HOME", "/nowhere");
        let command = command.envs(variables.iter().copied());
        command.output().unwrap().stderr.contains(&0x1b)
    };
    assert!(!red(&["list"], &[]));
    assert!(red(&["list", "--color", "always"], &[("NO_COLOR", "1")]));
    assert!(red(&["list"], &[("CLICOLOR_FORCE", "1")]));
    assert!(!red(&["list", "--color=never"], &[("CLICOLOR_FORCE", "1")]));
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
        let (code, output, _) = plugin(&["completion", shell]);
        assert_eq!(code, Some(0));
        assert!(
            output.contains("kubectl-ovl") && !output.contains("kubectl ovl;"),
            "{shell}: {output}"
        );
    }
}

/// The fake API server responds to one request and returns it.
#[test]
fn the_kubeconfig_sets_the_server_the_user_and_the_namespace() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config");
    let address = server.local_addr().unwrap();
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         clusters: [{{name: c, cluster: {{server: 'http://{address}'}}}}]\n\
         contexts: [{{name: c, context: {{cluster: c, user: u, namespace: ci}}}}]\n\
         users: [{{name: u, user: {{token: of-the-test}}}}]\n"
    );
    fs::write(&file, text).unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = server.accept().unwrap();
        let mut request = vec![0; 8192];
        let len = stream.read(&mut request).unwrap();
        let body = r#"{"kind":"List","apiVersion":"v1","metadata":{},"items":[]}"#;
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n";
        write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
        String::from_utf8_lossy(&request[..len]).into_owned()
    });
    let user = ["--as", "dev", "--as-group", "g-1", "--as-group", "g-2", "-l", "a=b"];
    let (code, out, output) = plugin(
        &[&["--kubeconfig", file.to_str().unwrap(), "list", "-o", "json"], &user[..]].concat(),
    );
    assert_eq!((code, out.as_str()), (Some(0), "{\n  \"items\": []\n}\n"), "{output}");
    let request = server.join().unwrap().to_lowercase();
    assert!(
        request.starts_with("get /apis/snapshot.storage.k8s.io/v1/namespaces/ci/volumesnapshots"),
        "{request}"
    );
    assert!(request.contains("authorization: bearer of-the-test"), "{request}");
    assert!(request.contains("labelselector=a%3db"), "{request}");
    for header in ["impersonate-user: dev", "impersonate-group: g-1", "impersonate-group: g-2"] {
        assert!(request.contains(header), "{header:?} is not in {request}");
    }
    assert!(!output.contains("of-the-test"), "{output}");
}

/// The first line that a proxy gets from `kubectl ovl list`; `None` without a connection to it.
fn request_to_proxy(server: &str, proxy_url: &str, variables: &[(&str, &str)]) -> Option<String> {
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = proxy.local_addr().unwrap().to_string();
    let received = thread::spawn(move || {
        let (mut client, _) = proxy.accept().unwrap();
        let mut text = Vec::new();
        while !text.ends_with(b"\r\n") {
            let mut byte = [0];
            match client.read(&mut byte) {
                Ok(1) => text.push(byte[0]),
                _ => return None,
            }
        }
        Some(String::from_utf8(text).unwrap().trim().to_owned())
    });
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config");
    let proxy_url = proxy_url.replace("PROXY", &address);
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: one\n\
         clusters:\n- name: c\n  cluster: {{server: 'https://{server}', proxy-url: '{proxy_url}'}}\n\
         contexts:\n- name: one\n  context: {{cluster: c, user: u}}\n\
         users:\n- name: u\n  user: {{token: t}}\n"
    );
    fs::write(&file, text).unwrap();
    let variables = variables.iter().map(|(name, value)| (*name, value.replace("PROXY", &address)));
    let ended = Command::new(env!("CARGO_BIN_EXE_kubectl-ovl"))
        .args(["list", "--kubeconfig", file.to_str().unwrap()])
        .env_clear()
        .envs(variables)
        .output()
        .unwrap();
    assert_eq!(ended.status.code(), Some(1));
    // Ends the wait where no connection came.
    drop(TcpStream::connect(&address));
    received.join().unwrap()
}

#[test]
fn the_api_server_is_contacted_through_the_proxy_of_the_environment() {
    let connect = Some("CONNECT 192.0.2.1:6443 HTTP/1.1".to_owned());
    let proxy = ("HTTPS_PROXY", "http://PROXY");
    for (server, proxy_url, variables, expected) in [
        ("192.0.2.1:6443", "", &[proxy][..], connect.clone()),
        ("192.0.2.1:6443", "", &[("https_proxy", "PROXY")], connect.clone()),
        ("192.0.2.1:6443", "", &[proxy, ("NO_PROXY", "127.0.0.1,corp.example")], connect.clone()),
        ("192.0.2.1:6443", "http://PROXY", &[("HTTPS_PROXY", "http://127.0.0.1:1")], connect),
        ("api.invalid:6443", "", &[proxy, ("NO_PROXY", ".invalid")], None),
        ("127.0.0.1:1", "", &[proxy], None),
    ] {
        let found = request_to_proxy(server, proxy_url, variables);
        assert_eq!(found, expected, "{server} {proxy_url} {variables:?}");
    }
}
