//! The Secrets of the chart's registry: which are made, which stay, and what is an error.

use std::net::Ipv4Addr;

use clap::Parser;
use serde_json::Value;

use super::*;
use crate::{cluster::fake::FakeApi, image::Keyring};

const HOST: &str = "ovl-registry.kube-system.svc";
const IP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 50));
const SECRETS: &str = "/api/v1/namespaces/kube-system/secrets";

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    args: RegistrySecretsArgs,
}

fn args(more: &[&str]) -> RegistrySecretsArgs {
    let registry = format!("{HOST}:5000");
    let usual = ["ovl", "--namespace", "kube-system", "--registry", &registry];
    let secrets = ["--address", "10.96.0.50", "--client-secret", "c", "--server-secret", "s"];
    Cli::parse_from(usual.iter().chain(&secrets).chain(more)).args
}

fn now() -> Timestamp {
    "2026-11-29T03:00:00Z".parse().unwrap()
}

fn value(api: &FakeApi, secret: &str, key: &str) -> Vec<u8> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let secret = api.get(&format!("{SECRETS}/{secret}")).unwrap();
    STANDARD.decode(secret["data"][key].as_str().unwrap()).unwrap()
}

#[tokio::test]
async fn a_missing_login_and_certificate_are_made_and_fit_each_other() {
    let api = FakeApi::default();
    args(&[]).ensure(&api.client(), now()).await.unwrap();

    let config = value(&api, "c", ".dockerconfigjson");
    assert!(Keyring::from_docker_config(&config).is_ok());
    let config: Value = serde_json::from_slice(&config).unwrap();
    let password = config["auths"][format!("{HOST}:5000")]["password"].as_str().unwrap();
    let line = String::from_utf8(value(&api, "s", "htpasswd")).unwrap();
    let hash = line.strip_prefix("ovl-csi:").unwrap().trim();
    assert!(bcrypt::verify(password, hash).unwrap() && password.len() >= 32, "{line}");

    let (ca, certificate) = (value(&api, "c", "ca.crt"), value(&api, "s", "tls.crt"));
    contents::fits(&ca, &certificate, HOST, IP, now()).unwrap();
    assert!(value(&api, "s", "tls.key").starts_with(b"-----BEGIN PRIVATE KEY-----"));
    let client = api.get(&format!("{SECRETS}/c")).unwrap();
    assert_eq!(client["type"], "kubernetes.io/dockerconfigjson");
    assert_eq!(client["data"].as_object().unwrap().len(), 2, "nodes read more: {client}");
}

#[tokio::test]
async fn an_existing_login_and_certificate_are_not_changed() {
    let api = FakeApi::default();
    args(&[]).ensure(&api.client(), now()).await.unwrap();
    let first = api.all(SECRETS);
    args(&[]).ensure(&api.client(), now()).await.unwrap();
    assert_eq!((api.all(SECRETS), first.len()), (first, 2));
}

#[tokio::test]
async fn a_missing_secret_after_an_interrupted_run_is_made_together_with_the_other() {
    let api = FakeApi::default();
    args(&[]).ensure(&api.client(), now()).await.unwrap();
    let before = value(&api, "s", "htpasswd");
    api.delete(&format!("{SECRETS}/c"));
    args(&[]).ensure(&api.client(), now()).await.unwrap();
    assert_ne!(value(&api, "s", "htpasswd"), before);
    let (ca, certificate) = (value(&api, "c", "ca.crt"), value(&api, "s", "tls.crt"));
    contents::fits(&ca, &certificate, HOST, IP, now()).unwrap();
}

#[tokio::test]
async fn a_certificate_for_another_address_or_near_its_expiry_is_an_error_with_advice() {
    let api = FakeApi::default();
    args(&[]).ensure(&api.client(), now()).await.unwrap();
    let moved = RegistrySecretsArgs { address: Ipv4Addr::new(10, 96, 0, 51).into(), ..args(&[]) };
    let error = moved.ensure(&api.client(), now()).await.unwrap_err().to_string();
    assert!(error.contains("tls.crt for 10.96.0.51") && error.contains("Delete both"), "{error}");
    let late = "2036-11-15T00:00:00Z".parse().unwrap();
    let error = args(&[]).ensure(&api.client(), late).await.unwrap_err().to_string();
    assert!(error.contains("rollout restart"), "{error}");
    let earlier = "2036-10-01T00:00:00Z".parse().unwrap();
    args(&[]).ensure(&api.client(), earlier).await.unwrap();
}

#[tokio::test]
async fn with_login_only_no_certificate_is_made() {
    let api = FakeApi::default();
    args(&["--login-only"]).ensure(&api.client(), now()).await.unwrap();
    args(&["--login-only"]).ensure(&api.client(), now()).await.unwrap();
    for (secret, key) in [("c", ".dockerconfigjson"), ("s", "htpasswd")] {
        let data = api.get(&format!("{SECRETS}/{secret}")).unwrap()["data"].clone();
        assert_eq!(data.as_object().unwrap().keys().collect::<Vec<_>>(), [key]);
    }
}

#[test]
fn a_registry_without_a_port_is_refused() {
    let error = RegistrySecretsArgs { registry: HOST.into(), ..args(&[]) };
    assert!(error.host().unwrap_err().to_string().contains("HOST:PORT"));
}
