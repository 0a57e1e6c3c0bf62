//! The `ovl` program: its output and its exit codes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// Runs `ovl` with `args`. Returns its exit code and its output on stdout and stderr.
fn ovl(args: &[&str]) -> (Option<i32>, String) {
    let ended = Command::new(env!("CARGO_BIN_EXE_ovl"))
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
    let output = [ended.stdout, ended.stderr].concat();
    (ended.status.code(), String::from_utf8(output).unwrap())
}

#[test]
fn version_prints_the_version() {
    let (code, output) = ovl(&["--version"]);
    assert_eq!((code, output.trim()), (Some(0), concat!("ovl ", env!("CARGO_PKG_VERSION"))));
}

/// A Job can run the plugin from the driver's image.
#[test]
fn the_plugin_is_a_command_of_ovl() {
    let (code, output) = ovl(&["kubectl", "list", "--help"]);
    assert_eq!(code, Some(0));
    assert!(output.contains("Usage: kubectl ovl list"), "{output}");
    let (code, output) = ovl(&["kubectl", "delete"]);
    assert_eq!(code, Some(2), "{output}");
    let (code, output) = ovl(&["--log", "info", "kubectl"]);
    assert_eq!(code, Some(2), "{output}");
    assert!(output.contains("options come after `ovl kubectl`"), "{output}");
}

#[test]
fn a_snapshot_command_without_a_local_socket_is_an_error_with_advice() {
    let (code, output) =
        ovl(&["node-snapshot", "list", "--local-endpoint", "unix:///nowhere/ovl.sock"]);
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("no `ovl node` responds at unix:///nowhere/ovl.sock"), "{output}");
    assert!(output.contains("--no-cluster"), "{output}");
}

#[test]
fn arguments_that_cannot_be_used_are_named_and_exit_with_2() {
    for (args, message) in [
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
        (&["node-snapshot", "take", "csi-1"], "<NAME>"),
        (
            &["node", "--node-name", "n", "--layer-storage", "tar"],
            "possible values: auto, erofs, dir",
        ),
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
            "ovl node mounts|--kubelet-dir /proc/self/no is not a directory",
        ),
    ] {
        let (code, output) = ovl(args);
        assert_eq!(code, Some(2), "{args:?}: {output}");
        assert!(message.split('|').any(|m| output.contains(m)), "{message:?} is not in {output:?}");
    }
}

#[test]
fn a_controller_without_its_arguments_or_without_a_cluster_is_an_error() {
    for (args, code, message) in [
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
            "the controller needs a cluster",
        ),
    ] {
        let (found, output) = ovl(args);
        assert_eq!(found, Some(code), "{args:?}: {output}");
        assert!(output.contains(message), "{message:?} is not in {output:?}");
    }
}

fn check(args: &[&str]) -> (Option<i32>, String, String) {
    check_with_root(None, args)
}

/// The same with `root` as the value of `OVL_ROOT`.
fn check_with_root(root: Option<&str>, args: &[&str]) -> (Option<i32>, String, String) {
    let mut ovl = Command::new(env!("CARGO_BIN_EXE_ovl"));
    ovl.arg("check").args(args).env_remove("OVL_LOG").env_remove("OVL_ROOT");
    let ended = ovl.envs(root.map(|root| ("OVL_ROOT", root))).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (ended.status.code(), text(ended.stdout), text(ended.stderr))
}

#[test]
fn a_check_reports_the_kernel_and_each_feature_and_leaves_no_files() {
    let root = tempfile::TempDir::new().unwrap();
    let (code, output, _) = check(&["--root", root.path().to_str().unwrap()]);
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
        "unprivileged-overlay",
        "apparmor",
        "mounts",
    ] {
        assert!(output.contains(words), "{words} is not in\n{output}");
    }
    // Each "no" has its fix in the next line.
    let mut lines = output.lines().peekable();
    while let Some(line) = lines.next() {
        if line.split_whitespace().nth(1) == Some("no") {
            assert!(lines.peek().is_some_and(|next| next.contains("-> ")), "{line}");
        }
    }
    assert!([Some(0), Some(1)].contains(&code), "{code:?}");
    // The last line is for a report.
    let last = output.lines().last().unwrap();
    assert_eq!(code == Some(0), last.starts_with("usable: ovl "), "{output}");
    assert!(last.contains(release.trim()), "{last}");
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn a_check_with_json_output_prints_json_for_any_result() {
    let root = tempfile::TempDir::new().unwrap();
    // A root that does not exist yet is checked by its nearest existing parent.
    let missing = root.path().join("not/yet");
    let (code, output, _) = check(&["--root", missing.to_str().unwrap(), "-o", "json"]);
    let report: serde_json::Value = serde_json::from_str(&output).unwrap();
    assert_eq!(report["usable"].as_bool(), Some(code == Some(0)));
    assert_eq!(report["root"].as_str(), missing.to_str());
    let checks = report["checks"].as_array().unwrap();
    let names: Vec<_> = checks.iter().map(|check| check["name"].as_str().unwrap()).collect();
    for name in ["root-user", "filesystem", "overlay", "volatile", "erofs-directio", "layers"] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    for check in checks {
        assert_eq!(check["ok"].as_bool(), Some(check["fix"].is_null()), "{check}");
    }
    assert!(!missing.exists());
}

#[test]
fn the_root_of_a_check_is_the_argument_or_the_variable_or_the_default() {
    let root = tempfile::TempDir::new().unwrap();
    let path = root.path().to_str().unwrap();
    for (variable, args, expected) in [
        (Some("/from/the/variable"), &["--root", path][..], path),
        (Some(path), &[], path),
        (None, &["--ignore-check", "filesystem"], "/var/lib/ovl"),
    ] {
        let args = [args, &["-o", "json"]].concat();
        let (_, output, error) = check_with_root(variable, &args);
        let report: serde_json::Value = serde_json::from_str(&output).expect(&error);
        assert_eq!(report["root"].as_str(), Some(expected), "{variable:?} {args:?}");
    }
}

#[test]
fn a_root_that_cannot_hold_a_store_is_refused_unless_ignored() {
    // No user can make a directory in /proc.
    let (code, _, error) = check(&["--root", "/proc/self/store"]);
    assert_eq!(code, Some(1), "{error}");
    let lines: Vec<_> = error.lines().collect();
    assert!(
        matches!(lines[..], [what, why] if what.starts_with("error: ") && why.starts_with("  why: ")),
        "no line of a log: {error}"
    );
    for (args, words) in [
        (["--ignore-check", "colour"], "that can be ignored: filesystem, overlay"),
        (["--ignore-check", "root-user"], "that can be ignored: filesystem, overlay"),
        (["--root", "relative"], "expected an absolute path"),
        (["-o", "xml"], "invalid value 'xml'"),
    ] {
        let (code, _, error) = check(&args);
        assert_eq!(code, Some(2), "{error}");
        assert!(error.contains(words), "{error}");
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
fn privileged_a_check_reports_to_another_user_what_can_be_found_out_without_root() {
    use std::os::unix::{fs::PermissionsExt as _, process::CommandExt as _};
    let root = tempfile::TempDir::new().unwrap();
    let path = root.path().to_str().unwrap();
    assert_eq!(check(&["--root", path]).0, Some(0));
    // The build directory can be readable for root only.
    let copy = std::env::temp_dir().join(format!("ovl-check-test-{}", std::process::id()));
    std::fs::copy(env!("CARGO_BIN_EXE_ovl"), &copy).unwrap();
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
    let ended = Command::new(&copy).args(["check", "--root", "/"]).uid(65_534).output();
    std::fs::remove_file(&copy).unwrap();
    let ended = ended.unwrap();
    let output = String::from_utf8(ended.stdout).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{output}");
    assert!(output.contains("\nonly root can find out\n  root-user, "), "{output}");
    assert!(output.lines().any(|line| line.starts_with("  filesystem ")), "{output}");
    assert!(!output.contains("not usable") && !output.contains("Operation not"), "{output}");
    let last = output.lines().last().unwrap();
    assert!(last.starts_with("unknown without root: ovl "), "{last}");
    let error = String::from_utf8(ended.stderr).unwrap();
    assert!(error.contains("\n  fix: run it as root"), "{error}");
}

/// A running node. Its drop kills it, also when a test fails.
struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut connection = TcpStream::connect(address).ok()?;
    write!(connection, "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").ok()?;
    let mut response = String::new();
    connection.read_to_string(&mut response).ok()?;
    Some(response)
}

#[test]
#[ignore = "needs root"]
fn privileged_a_node_serves_until_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    std::fs::create_dir(path("kubelet")).unwrap();
    let (health, metrics) = (free_address(), free_address());
    let mut node = Node(
        Command::new(env!("CARGO_BIN_EXE_ovl"))
            .args(["node", "--node-name", "n", "--no-cluster", "--log-format", "json"])
            .args(["--root", &path("store"), "--kubelet-dir", &path("kubelet")])
            .args(["--health-address", &health.to_string()])
            .args(["--metrics-address", &metrics.to_string()])
            // No collector listens there.
            .args(["--otlp-endpoint", &format!("http://{}", free_address())])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let start = Instant::now();
    let healthy = loop {
        match get(health, "/healthz") {
            Some(response) if response.starts_with("HTTP/1.1 200 ") => break true,
            _ if start.elapsed() > Duration::from_secs(30) => break false,
            _ => sleep(Duration::from_millis(50)),
        }
    };
    assert!(healthy, "{:?}", node.0.try_wait());
    let scraped = get(metrics, "/metrics").unwrap();
    assert!(scraped.contains("\novl_volumes 0\n") && scraped.ends_with("# EOF\n"), "{scraped}");
    assert!(dir.path().join("kubelet/plugins_registry/reg@ovl.csi.dev.sock").exists());

    let killed = Command::new("kill").arg(node.0.id().to_string()).status().unwrap();
    assert!(killed.success());
    let ended = node.0.wait().unwrap();
    assert_eq!(ended.code(), Some(0));
    let mut log = String::new();
    node.0.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(log.contains("stopped; volumes stay mounted"), "{log}");
    assert!(!dir.path().join("kubelet/plugins_registry/reg@ovl.csi.dev.sock").exists());
}

#[test]
#[ignore = "needs root"]
fn privileged_a_node_does_not_start_on_a_store_that_a_command_uses() {
    let dir = tempfile::tempdir().unwrap();
    let (store, kubelet) = (dir.path().join("store"), dir.path().join("kubelet"));
    std::fs::create_dir(&kubelet).unwrap();
    let _command = ovl::layers::StoreLock::shared(&store).unwrap();
    let (store, kubelet) = (store.to_str().unwrap(), kubelet.to_str().unwrap());
    let node = ["node", "--node-name", "n", "--no-cluster", "--root", store];
    let (code, output) = ovl(&[&node[..], &["--kubelet-dir", kubelet]].concat());
    let why = format!("the store {store} is in use by process {}", std::process::id());
    assert!(code == Some(1) && output.contains(&why), "{code:?}: {output}");
    assert!(output.contains("start the node with another --root"), "{output}");
}
