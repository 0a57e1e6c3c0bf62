#!/bin/sh
# What was expected: kube-client (feature http-proxy) uses HTTPS_PROXY for an API server unless NO_PROXY names that server, as kubectl
# does (Go's httpproxy, curl and others compare NO_PROXY with the server of the request). Empty entries of NO_PROXY have no effect, so
# a list may end with a comma.
# What happens (kube-client 5.0.0, src/config/file_loader.rs, `proxy_url`): NO_PROXY is compared with the URL of the proxy, so an API
# server in NO_PROXY still gets the proxy. NO_PROXY with an empty entry is an error, so the kubeconfig cannot be used at all.
# Who is affected: programs with kube-client that read a kubeconfig on machines behind a proxy, when the API server is reached
# directly: their requests go to a proxy that cannot reach it. A program can set `Config::proxy_url` itself; it cannot avoid the error.
# Needs: cargo and a registry of crates. Exits with 0 while the behaviour is as described, with 1 if it has changed.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/src"
cat >"$work/Cargo.toml" <<'TOML'
[package]
name = "finding"
version = "0.1.0"
edition = "2024"
[workspace]
[dependencies]
kube-client = { version = "=5.0.0", default-features = false, features = ["client", "http-proxy"] }
k8s-openapi = { version = "0.29", features = ["latest"] }
serde_json = "1"
tokio = { version = "1", features = ["macros", "rt"] }
TOML
cat >"$work/src/main.rs" <<'RUST'
use kube_client::config::{Config, KubeConfigOptions, Kubeconfig};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let text = r#"{"apiVersion": "v1", "kind": "Config", "current-context": "a",
        "clusters": [{"name": "c", "cluster": {"server": "https://api.internal.example:6443"}}],
        "contexts": [{"name": "a", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {"token": "t"}}]}"#;
    let kubeconfig: Kubeconfig = serde_json::from_str(text).unwrap();
    match Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await {
        Ok(config) => println!("{}", config.proxy_url.map_or("direct".into(), |url| url.to_string())),
        Err(error) => println!("error: {error}"),
    }
}
RUST
cargo build --quiet --manifest-path "$work/Cargo.toml" --target-dir "$work/target"
run() { HTTPS_PROXY=http://proxy.example:3128 NO_PROXY="$1" "$work/target/debug/finding"; }
echo "kube-client 5.0.0, API server https://api.internal.example:6443, HTTPS_PROXY=http://proxy.example:3128"
server=$(run api.internal.example)
comma=$(run localhost,)
echo "NO_PROXY=api.internal.example: $server"
echo "NO_PROXY=localhost,:           $comma"
case "$server,$comma" in
http://proxy.example:3128/,error:*)
    echo "as described: a server in NO_PROXY gets the proxy, and an empty entry is an error"
    ;;
*)
    echo "the behaviour has changed"
    exit 1
    ;;
esac
