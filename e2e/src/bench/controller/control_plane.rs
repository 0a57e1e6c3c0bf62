//! etcd and kube-apiserver on loopback, with the kinds of snapshots, and without kubelets and other
//! controllers.
//!
//! ```text
//! <directory>/
//!   etcd/                    its data; it does not sync, so the disk does not count
//!   certificates/            the server's, and the key of tokens of ServiceAccounts
//!   audit.log                the requests of the accounts of this driver
//!   kubeconfig               for the bench itself, which may do all
//!   <account>/               what a pod of this account sees as /var/run
//! ```
//!
//! The bench calls it through `kubectl proxy`, so it needs no encryption itself. Deliberately absent: authorization.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::cluster::snapshotter;
use crate::machine::background::Background;
use crate::machine::harness::Harness;
use crate::machine::process::{Cmd, tail};
use crate::machine::progress::seconds;
use crate::machine::wait::wait_for;
use crate::oci::http;
use crate::toolchain::{programs, versions};

/// The token of the bench.
const ADMIN: &str = "bench";

/// The accounts of the driver's pods. Each has its name as its token.
pub const CONTROLLER: &str = "controller";
pub const NODE: &str = "node";

/// Gives a process its own /var/run, because a client in a pod reads its token from a fixed path there.
const IN_POD: &str = "mount --bind \"$1\" /var/run && shift && exec \"$@\"";

/// A running control plane. It ends when this is dropped, its newest process first.
pub struct ControlPlane {
    _proxy: Background,
    _server: Background,
    _etcd: Background,
    /// Where `kubectl proxy` listens.
    pub proxy: SocketAddr,
    /// For clients with the rights of an administrator.
    pub kubeconfig: PathBuf,
    server: SocketAddr,
    dir: PathBuf,
}

impl ControlPlane {
    /// Starts one in an empty directory, with logs in another one.
    ///
    /// # Errors
    /// A program cannot be built, or does not start.
    pub fn start(h: &Harness, dir: &Path, logs: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        let kubernetes = programs::kubernetes().ensure(h)?;
        let (etcd, client, peer) = (programs::etcd().ensure(h)?, free()?, free()?);
        let etcd = Background::start(
            &etcd_command(&etcd.join("etcd"), dir, client, peer),
            logs.join("etcd.log"),
        )?;
        let certificates = dir.join("certificates");
        let key = Cmd::new(kubernetes.join("kubeadm")).args(["init", "phase", "certs", "sa"]);
        let key = key.arg("--cert-dir").arg(&certificates);
        // Else it looks for the newest one on the network.
        key.arg("--kubernetes-version").arg(format!("v{}", versions::KUBERNETES)).output()?;
        let server = free()?;
        let command = server_command(&kubernetes.join("kube-apiserver"), dir, client, server)?;
        let mut running = Background::start(&command, logs.join("kube-apiserver.log"))?;
        let kubeconfig = write_kubeconfig(dir, server)?;
        let proxy = free()?;
        let kubectl = Cmd::new(kubernetes.join("kubectl")).arg("--kubeconfig").arg(&kubeconfig);
        let command = kubectl.args(["proxy", "--port", &proxy.port().to_string()]);
        wait_for("the certificate of the API server", seconds(60), || {
            if running.ended() {
                bail!("it ended: {}", tail(&running.log, 20)?);
            }
            // It is written after the certificate.
            Ok(dir.join("certificates/apiserver.key").exists().then_some(()))
        })?;
        let forwarding = Background::start(&command, logs.join("proxy.log"))?;
        wait_for("the API server", seconds(120), || {
            if running.ended() {
                bail!("it ended: {}", tail(&running.log, 20)?);
            }
            let response = http::send(proxy, "GET", "/readyz", &[], &[])?;
            Ok((response.status == 200).then_some(()))
        })?;
        Ok(Self {
            _proxy: forwarding,
            _server: running,
            _etcd: etcd,
            proxy,
            kubeconfig,
            server,
            dir: dir.to_owned(),
        })
    }

    /// Installs the kinds of snapshots: the published ones, and ours as the driver's program prints it.
    ///
    /// # Errors
    /// The published ones cannot be downloaded, or the API server refuses one.
    pub fn install_kinds(&self, h: &Harness, driver: &Path) -> Result<()> {
        let (_, client) = programs::external_snapshotter_sources(h)?;
        let mut kinds = snapshotter::kinds(&client)?;
        kinds.push(Cmd::new(driver).arg("crd").output()?);
        let kubectl = || -> Result<Cmd> {
            let kubectl = programs::kubernetes().ensure(h)?.join("kubectl");
            Ok(Cmd::new(kubectl).arg("--kubeconfig").arg(&self.kubeconfig))
        };
        let apply = kubectl()?.args(["apply", "--server-side", "-f", "-"]);
        apply.stdin(kinds.join("\n---\n")).output()?;
        let wait = ["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"];
        kubectl()?.args(wait).output().map(drop)
    }

    /// A command that runs as a process of a pod with this account: it finds the API server as there.
    ///
    /// # Errors
    /// The files of the pod cannot be written.
    pub fn in_pod(&self, account: &str, program: &Path) -> Result<Cmd> {
        let run = self.dir.join(account);
        let secrets = run.join("secrets/kubernetes.io/serviceaccount");
        fs::create_dir_all(&secrets).context("making the directory of a token")?;
        fs::copy(certificate(&self.dir), secrets.join("ca.crt"))
            .context("copying a certificate")?;
        for (file, text) in [("token", account), ("namespace", "ovl-csi")] {
            fs::write(secrets.join(file), text).with_context(|| format!("writing {file}"))?;
        }
        let own = ["--mount", "--propagation", "private", "sh", "-c", IN_POD, "sh"];
        let command = Cmd::new("unshare").args(own).arg(run).arg(program);
        let command = command.env("KUBERNETES_SERVICE_HOST", self.server.ip().to_string());
        Ok(command.env("KUBERNETES_SERVICE_PORT", self.server.port().to_string()))
    }

    /// The requests of the driver's accounts.
    pub fn audit_log(&self) -> PathBuf {
        self.dir.join("audit.log")
    }
}

/// The name by which the API server knows an account.
pub fn user(account: &str) -> String {
    format!("system:serviceaccount:ovl-csi:{account}")
}

fn etcd_command(etcd: &Path, dir: &Path, client: SocketAddr, peer: SocketAddr) -> Cmd {
    let (client, peer) = (format!("http://{client}"), format!("http://{peer}"));
    let etcd = Cmd::new(etcd).args(["--unsafe-no-fsync", "--quota-backend-bytes=8589934592"]);
    let etcd = etcd.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    let etcd = etcd.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    let cluster = format!("default={peer}");
    etcd.args(["--initial-cluster", &cluster, "--log-level=warn", "--data-dir"])
        .arg(dir.join("etcd"))
}

fn server_command(program: &Path, dir: &Path, etcd: SocketAddr, own: SocketAddr) -> Result<Cmd> {
    let accounts = [CONTROLLER, NODE].map(|account| (account, user(account)));
    let line = |(account, user): &(&str, String)| {
        format!("{account},{user},{account},system:serviceaccounts\n")
    };
    let tokens =
        format!("{ADMIN},bench,bench,system:masters\n{}", accounts.each_ref().map(line).concat());
    let policy = json!({
        "apiVersion": "audit.k8s.io/v1", "kind": "Policy",
        "omitStages": ["RequestReceived", "ResponseStarted"],
        "rules": [
            { "level": "Metadata", "users": accounts.map(|(_, user)| user) },
            { "level": "None" },
        ],
    });
    for (file, text) in [("tokens.csv", tokens), ("audit-policy.json", policy.to_string())] {
        fs::write(dir.join(file), text).with_context(|| format!("writing {file}"))?;
    }
    let in_dir = |flag: &str, file: &str| format!("--{flag}={}", dir.join(file).display());
    Ok(Cmd::new(program)
        .arg(format!("--etcd-servers=http://{etcd}"))
        .args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1"])
        .arg(format!("--secure-port={}", own.port()))
        .arg(in_dir("cert-dir", "certificates"))
        .arg(in_dir("token-auth-file", "tokens.csv"))
        .args(["--authorization-mode=AlwaysAllow", "--anonymous-auth=false"])
        .arg("--service-account-issuer=https://bench.invalid")
        .arg(in_dir("service-account-key-file", "certificates/sa.pub"))
        .arg(in_dir("service-account-signing-key-file", "certificates/sa.key"))
        .args(["--service-cluster-ip-range=10.96.0.0/16", "--endpoint-reconciler-type=none"])
        // Pods need no account.
        .arg("--disable-admission-plugins=ServiceAccount")
        .arg(in_dir("audit-policy-file", "audit-policy.json"))
        .arg(in_dir("audit-log-path", "audit.log"))
        // Each request is in the log before its response. The log is one file.
        .args(["--audit-log-mode=blocking", "--audit-log-maxsize=100000"])
        // So old revisions do not fill etcd.
        .arg("--etcd-compaction-interval=1m"))
}

/// The certificate that the API server makes for itself, with that of its authority.
fn certificate(dir: &Path) -> PathBuf {
    dir.join("certificates/apiserver.crt")
}

fn write_kubeconfig(dir: &Path, server: SocketAddr) -> Result<PathBuf> {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "bench",
        "clusters": [{ "name": "bench", "cluster": {
            "server": format!("https://{server}"), "certificate-authority": certificate(dir) } }],
        "users": [{ "name": "bench", "user": { "token": ADMIN } }],
        "contexts": [{ "name": "bench", "context": { "cluster": "bench", "user": "bench" } }],
    });
    let path = dir.join("kubeconfig");
    fs::write(&path, config.to_string()).context("writing a kubeconfig")?;
    Ok(path)
}

/// An address of this machine on which nothing listens.
///
/// # Errors
/// There is no free port.
pub fn free() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("finding a free port")?;
    listener.local_addr().context("finding a free port")
}
