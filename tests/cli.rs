//! The program as it is started: what it says and how it exits.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// The exit code of `ovl` with `args`, and what it wrote to stdout and stderr.
fn ovl(args: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_ovl"))
        .args(args)
        .env_remove("NODE_NAME")
        .env_remove("POD_NAME")
        .env_remove("POD_NAMESPACE")
        .env_remove("KUBERNETES_SERVICE_HOST")
        .env_remove("OVL_LOG")
        .env_remove("OVL_LOCAL_ENDPOINT")
        .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
        .output()
        .unwrap();
    let written = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(written).unwrap())
}

#[test]
fn says_its_version() {
    let (code, said) = ovl(&["--version"]);
    assert_eq!((code, said.trim()), (Some(0), concat!("ovl ", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn a_node_that_serves_no_snapshots_is_named_with_what_to_do() {
    let (code, said) = ovl(&["snapshot", "list", "--local-endpoint", "unix:///nowhere/ovl.sock"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no `ovl node` answers at unix:///nowhere/ovl.sock"), "{said}");
    assert!(said.contains("--no-cluster"), "{said}");
}

#[test]
fn what_cannot_be_used_is_named_and_nothing_is_begun() {
    for (args, sentence) in [
        (&[][..], "Usage: ovl"),
        (&["nod"], "unrecognized subcommand"),
        (&["node"], "--node-name <NAME>"),
        (&["node", "--node-name", "N_1"], "\"N_1\" is not a node name"),
        (&["node", "--node-name", "n", "--driver-name", "a/b"], "\"a/b\" is not a driver name"),
        (
            &["node", "--node-name", "n", "--endpoint", "/csi.sock"],
            "is not an endpoint: expected unix://",
        ),
        (&["node", "--node-name", "n", "--root", "var"], "expected an absolute path"),
        (&["node", "--node-name", "n", "--log", "ovl=loud"], "is not a log filter"),
        (&["node", "--node-name", "n", "--health-address", "9808"], "invalid socket address"),
        (&["node", "--node-name", "n", "--metrics-address", "9809"], "invalid socket address"),
        (&["node", "--node-name", "n", "--default-size", "0"], "such as 10Gi"),
        (&["node", "--node-name", "n", "--default-inodes", "many"], "expected a number"),
        (&["node", "--node-name", "n", "--default-volatile", "on"], "possible values: true, false"),
        (&["node", "--node-name", "n", "--disk-high-percent", "100"], "100 is not in 1..=99"),
        (&["node", "--node-name", "n", "--trust-credentials-for=-1h"], "or 0s"),
        (
            &["node", "--node-name", "n", "--snapshot-repository", "r.io/a"],
            "required arguments were not provided:\n  --no-cluster",
        ),
        (
            &["node", "--node-name", "n", "--no-cluster", "--snapshot-repository", "r.io/a:1"],
            "it has a tag or a digest",
        ),
        (&["snapshot", "take", "csi-1"], "<NAME>"),
        (&["node", "--node-name", "n", "--layer-form", "tar"], "possible values: auto, erofs, dir"),
        (&["node", "--node-name", "n", "--otlp-endpoint", "https://c"], "without TLS"),
        (
            &["node", "--node-name", "n", "--kubelet-dir", "/proc", "--policy-file", "/nowhere"],
            "ovl node mounts|--policy-file /nowhere: No such file",
        ),
        (
            &["node", "--node-name", "n", "--kubelet-dir", "/proc", "--disk-low-percent", "90"],
            "ovl node mounts|--disk-low-percent 90 is not below --disk-high-percent 85",
        ),
        (
            &["node", "--node-name", "n", "--kubelet-dir", "/proc/self/no"],
            "ovl node mounts|--kubelet-dir /proc/self/no is not a folder",
        ),
    ] {
        let (code, said) = ovl(args);
        assert_eq!(code, Some(2), "{args:?}: {said}");
        assert!(sentence.split('|').any(|s| said.contains(s)), "{sentence:?} is not in {said:?}");
    }
}

#[test]
fn a_controller_that_cannot_be_is_named_too() {
    for (args, code, sentence) in [
        (&["controller"][..], 2, "--namespace <NAME>"),
        (&["controller", "--namespace", "n"], 2, "--pod-name <NAME>"),
        (&["controller", "--namespace", "n", "--pod-name="], 2, "--pod-name is empty"),
        (
            &["controller", "--namespace", "n", "--pod-name", "p", "--endpoint", "csi.sock"],
            2,
            "is not an endpoint",
        ),
        (
            &["controller", "--namespace", "n", "--pod-name", "p"],
            1,
            "a controller works for a cluster",
        ),
    ] {
        let (found, said) = ovl(args);
        assert_eq!(found, Some(code), "{args:?}: {said}");
        assert!(said.contains(sentence), "{sentence:?} is not in {said:?}");
    }
}

fn check(args: &[&str]) -> (Option<i32>, String, String) {
    let mut ovl = Command::new(env!("CARGO_BIN_EXE_ovl"));
    let output = ovl.arg("check").args(args).env_remove("OVL_LOG").output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_check_names_kernel_root_and_each_feature_and_leaves_nothing() {
    let root = tempfile::TempDir::new().unwrap();
    let (code, said, _) = check(&["--root", root.path().to_str().unwrap()]);
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    for words in [
        release.trim(),
        "required",
        "optional",
        "d_type",
        "quota",
        "reflink",
        "small-entries",
        "idmap",
        "erofs",
        "open-files",
    ] {
        assert!(said.contains(words), "{words} is not in\n{said}");
    }
    // Each no has its cure in the line below.
    let mut lines = said.lines().peekable();
    while let Some(line) = lines.next() {
        if line.split_whitespace().nth(1) == Some("no") {
            assert!(lines.peek().is_some_and(|next| next.contains("-> ")), "{line}");
        }
    }
    assert!([Some(0), Some(1)].contains(&code), "{code:?}");
    assert_eq!(code == Some(0), said.ends_with("\nusable\n"), "{said}");
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn a_check_for_programs_is_json_whatever_was_found() {
    let root = tempfile::TempDir::new().unwrap();
    // A root that is yet to be made is judged by where it will be.
    let missing = root.path().join("not/yet");
    let (code, said, _) = check(&["--root", missing.to_str().unwrap(), "-o", "json"]);
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(report["usable"].as_bool(), Some(code == Some(0)));
    assert_eq!(report["root"].as_str(), missing.to_str());
    let checks = report["checks"].as_array().unwrap();
    let names: Vec<_> = checks.iter().map(|check| check["name"].as_str().unwrap()).collect();
    for name in ["root-user", "filesystem", "overlay", "volatile", "erofs-directio", "layers"] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    for check in checks {
        assert_eq!(check["ok"].as_bool(), Some(check["cure"].is_null()), "{check}");
    }
    assert!(!missing.exists());
}

#[test]
fn a_root_that_cannot_hold_a_store_is_refused_unless_overridden() {
    // Nothing can be made in /proc, by nobody.
    let (code, _, complaint) = check(&["--root", "/proc/self/store"]);
    assert_eq!(code, Some(1), "{complaint}");
    for (args, words) in [
        (["--override", "colour"], "required checks: root-user, filesystem, overlay"),
        (["--root", "relative"], "expected an absolute path"),
        (["-o", "xml"], "invalid value 'xml'"),
    ] {
        let (code, _, complaint) = check(&args);
        assert_eq!(code, Some(2), "{complaint}");
        assert!(complaint.contains(words), "{complaint}");
    }
}

#[test]
#[ignore = "needs root"]
fn privileged_a_check_that_is_killed_leaves_no_mount() {
    let root = tempfile::TempDir::new().unwrap();
    let path = root.path().to_str().unwrap();
    for milliseconds in [2, 8, 15, 25, 40, 80] {
        let mut ovl = Command::new(env!("CARGO_BIN_EXE_ovl"));
        let mut running =
            ovl.args(["check", "--root", path]).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
        running.kill().unwrap();
        running.wait().unwrap();
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!table.contains(path), "{table}");
    }
    assert_eq!(check(&["--root", path]).0, Some(0));
}

#[test]
#[ignore = "needs root"]
fn privileged_this_machine_can_hold_a_store_and_another_user_is_told_why_not() {
    use std::os::unix::{fs::PermissionsExt as _, process::CommandExt as _};
    let root = tempfile::TempDir::new().unwrap();
    let path = root.path().to_str().unwrap();
    assert_eq!(check(&["--root", path]).0, Some(0));
    // The program lies where only root can go.
    let copy = std::env::temp_dir().join(format!("ovl-check-test-{}", std::process::id()));
    std::fs::copy(env!("CARGO_BIN_EXE_ovl"), &copy).unwrap();
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new(&copy).args(["check", "--root", "/"]).uid(65_534).output();
    std::fs::remove_file(&copy).unwrap();
    let output = output.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("-> run it as root"), "{said}");
}

/// Ends also when a test fails.
struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut connection = TcpStream::connect(address).ok()?;
    write!(connection, "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).ok()?;
    Some(answer)
}

#[test]
#[ignore = "needs root"]
fn privileged_a_node_serves_until_it_is_told_to_stop() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name).display().to_string();
    std::fs::create_dir(path("kubelet")).unwrap();
    let (health, metrics) = (free(), free());
    let mut node = Node(
        Command::new(env!("CARGO_BIN_EXE_ovl"))
            .args(["node", "--node-name", "n", "--no-cluster", "--log-format", "json"])
            .args(["--root", &path("store"), "--kubelet-dir", &path("kubelet")])
            .args(["--health-address", &health.to_string()])
            .args(["--metrics-address", &metrics.to_string()])
            // Nobody is there to take them.
            .args(["--otlp-endpoint", &format!("http://{}", free())])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let begun = Instant::now();
    let healthy = loop {
        match get(health, "/healthz") {
            Some(answer) if answer.starts_with("HTTP/1.1 200 ") => break true,
            _ if begun.elapsed() > Duration::from_secs(30) => break false,
            _ => sleep(Duration::from_millis(50)),
        }
    };
    assert!(healthy, "{:?}", node.0.try_wait());
    let scraped = get(metrics, "/metrics").unwrap();
    assert!(scraped.contains("\novl_volumes 0\n") && scraped.ends_with("# EOF\n"), "{scraped}");
    assert!(place.path().join("kubelet/plugins_registry/reg@ovl.csi.dev.sock").exists());

    let told = Command::new("kill").arg(node.0.id().to_string()).status().unwrap();
    assert!(told.success());
    let ended = node.0.wait().unwrap();
    assert_eq!(ended.code(), Some(0));
    let mut log = String::new();
    node.0.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(log.contains("stopped; volumes stay mounted"), "{log}");
    assert!(!place.path().join("kubelet/plugins_registry/reg@ovl.csi.dev.sock").exists());
}
