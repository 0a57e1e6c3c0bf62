//! Tests of the TLS settings in a hosts file, against a server with a certificate of a CA that the system does not
//! trust.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
};

use rustls::{
    RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};

use super::{
    Hosts, Image, ImageError, Keyring, Registries,
    clients::Trust,
    fake::{self, FakeRegistry, soon},
    retry::RetryPolicy,
    tls,
};
use crate::error::Class;

const CA: &[u8] = include_bytes!("fixtures/ca.crt");
const SERVER: [&[u8]; 2] =
    [include_bytes!("fixtures/server.crt"), include_bytes!("fixtures/server.key")];
const CLIENT: [&[u8]; 2] =
    [include_bytes!("fixtures/client.crt"), include_bytes!("fixtures/client.key")];

/// Starts a TLS proxy in front of `behind`, with one request per connection. Returns its `host:port`.
fn in_front_of(behind: String, wants_client: bool) -> String {
    tls::provider();
    let chain = vec![CertificateDer::from_pem_slice(SERVER[0]).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(SERVER[1]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(CA).unwrap()).unwrap();
    let config = ServerConfig::builder();
    let config = if wants_client {
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
        config.with_client_cert_verifier(verifier)
    } else {
        config.with_no_client_auth()
    };
    serve("127.0.0.1:0", config.with_single_cert(chain, key).unwrap(), behind)
}

/// Listens at `at` with TLS in front of `behind`, with one request per connection. Returns its `host:port`.
pub(super) fn serve(at: &str, config: ServerConfig, behind: String) -> String {
    let (config, listener) = (Arc::new(config), TcpListener::bind(at).unwrap());
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            // An error means that the client rejected the certificate, which some tests expect.
            let _ = pass_on(StreamOwned::new(connection, client.unwrap()), &behind);
        }
    });
    address
}

fn pass_on(mut tls: StreamOwned<ServerConnection, TcpStream>, behind: &str) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        tls.read_exact(&mut byte)?;
        request.push(byte[0]);
    }
    let request = String::from_utf8(request).unwrap();
    let request = request.replacen("\r\n", "\r\nconnection: close\r\n", 1);
    let mut plain = TcpStream::connect(behind)?;
    plain.write_all(request.as_bytes())?;
    std::io::copy(&mut plain, &mut tls)?;
    tls.conn.send_close_notify();
    tls.flush()
}

/// Resolves an image from a server with TLS whose hosts file has `settings`.
async fn resolve(settings: &str, wants_client: bool) -> Result<Image, ImageError> {
    let registry = FakeRegistry::start().await;
    registry.push_image("a", "1", &[b"layer".to_vec()], false);
    let host = in_front_of(registry.host(), wants_client);
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().join(&host);
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(
        directory.join("hosts.toml"),
        format!("server = \"https://{host}\"\n{settings}"),
    )
    .unwrap();
    std::fs::write(directory.join("ca.crt"), CA).unwrap();
    std::fs::write(directory.join("client.crt"), CLIENT[0]).unwrap();
    std::fs::write(directory.join("client.key"), CLIENT[1]).unwrap();
    std::fs::write(directory.join("client.pem"), CLIENT.concat()).unwrap();
    let hosts = Hosts::load(dir.path()).unwrap();
    let retry =
        RetryPolicy { first: std::time::Duration::from_millis(1), ..RetryPolicy::default() };
    let registries = Registries::with(hosts, retry, Trust::NoCa).unwrap();
    let reference = format!("{host}/a:1").parse().unwrap();
    soon(registries.resolve(&reference, &Keyring::default())).await
}

#[tokio::test]
async fn only_a_ca_of_the_hosts_file_is_trusted() {
    let error = resolve("", false).await.unwrap_err();
    assert_eq!(error.class(), Class::Precondition, "{error}");
    assert!(error.to_string().contains("the server's certificate is not accepted"), "{error}");
    assert!(!error.to_string().contains("UnknownIssuer"), "the log has it: {error}");
    for settings in ["ca = \"ca.crt\"", "ca = [\"client.crt\", \"ca.crt\"]", "skip_verify = true"] {
        assert!(resolve(settings, false).await.is_ok(), "{settings}");
    }
    let error = resolve("ca = \"client.crt\"", false).await.unwrap_err();
    assert!(error.to_string().contains("the server's certificate is not accepted"), "{error}");
}

#[tokio::test]
async fn a_client_certificate_of_the_hosts_file_is_sent() {
    assert!(resolve("ca = \"ca.crt\"", true).await.is_err());
    for client in [
        "[[\"client.crt\", \"client.key\"]]",
        "[[\"client.pem\", \"\"]]",
        "[\"client.pem\"]",
        "\"client.pem\"",
    ] {
        let done = resolve(&format!("ca = \"ca.crt\"\nclient = {client}"), true).await;
        assert!(done.is_ok(), "{client}: {done:?}");
    }
}

#[tokio::test]
async fn an_error_of_a_server_without_tls_has_the_line_for_plain_http() {
    let registry = FakeRegistry::start().await;
    let host = registry.host();
    let registries = fake::registries(&[(&host, &format!("server = \"https://{host}\""))]);
    let (reference, anonymous) = (registry.reference("a", "1"), Keyring::default());
    let error = soon(registries.resolve(&reference, &anonymous)).await.unwrap_err();
    let shown = error.to_string();
    assert!(shown.contains("the server does not speak TLS"), "{shown}");
    assert!(shown.contains(&format!("server = \"http://{host}\"")), "{shown}");
    assert!(!shown.contains("certificate"), "{shown}");
    assert_eq!(error.class(), Class::Precondition);
}
