//! Makes and checks the contents of the registry's Secrets: the login, the CA and the certificate.
//!
//! Deliberately absent: the CA's private key. It signs one certificate and is dropped, so it cannot be stolen. A new
//! certificate always comes with a new CA.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, anyhow};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::{Span, Timestamp, civil::Date, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
    crypto::ring,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};
use serde_json::json;

/// The only account of the registry.
const USER: &str = "ovl-csi";

/// The validity of the CA and the certificate, in years. Nodes read them at their start, so with a short validity the
/// nodes would have to be restarted regularly.
const YEARS: i16 = 10;

/// How long before its expiry a certificate is reported as invalid. This leaves time to make a new one.
const NOTICE: Duration = Duration::from_secs(30 * 24 * 3600);

/// The lowest cost of bcrypt. The password is 24 random bytes, which a higher cost makes no safer. The registry
/// computes the hash for every request: with the usual cost of 10 that takes 50 ms.
const COST: u32 = 4;

/// A new password.
pub(super) struct Login {
    /// For clients: `{"auths": {HOST:PORT: …}}`.
    pub(super) docker_config: String,
    /// For the registry: one line of an htpasswd file, bcrypt.
    pub(super) htpasswd: String,
}

impl Login {
    /// A login for the registry `HOST:PORT`.
    ///
    /// # Errors
    /// The system returns no random numbers.
    pub(super) fn new(registry: &str) -> anyhow::Result<Self> {
        let mut random = [0; 24];
        let source = ring::default_provider().secure_random;
        source.fill(&mut random).map_err(|_| anyhow!("the system returns no random numbers"))?;
        let password = hex::encode(random);
        let line = bcrypt::hash(&password, COST).context("cannot hash the password")?;
        let auth = STANDARD.encode(format!("{USER}:{password}"));
        let account = json!({ "username": USER, "password": password, "auth": auth });
        Ok(Self {
            docker_config: json!({ "auths": { registry: account } }).to_string(),
            htpasswd: format!("{USER}:{line}\n"),
        })
    }
}

/// A new CA with one certificate, all as PEM.
pub(super) struct Tls {
    pub(super) ca: String,
    pub(super) certificate: String,
    /// The private key of the certificate, PKCS #8.
    pub(super) key: String,
}

impl Tls {
    /// A certificate for a server with this name and this address.
    ///
    /// # Errors
    /// The name cannot be in a certificate, or the system returns no random numbers.
    pub(super) fn new(host: &str, address: IpAddr, now: Timestamp) -> anyhow::Result<Self> {
        let ca_key = KeyPair::generate().context("cannot make a key")?;
        let mut ca = params(&format!("CA of {host}"), now)?;
        // The CA signs servers, but no other CA.
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca_pem = ca.self_signed(&ca_key).context("cannot sign the CA")?.pem();

        let key = KeyPair::generate().context("cannot make a key")?;
        let mut server = params(host, now)?;
        let name = host.try_into().with_context(|| format!("{host} is not a DNS name"))?;
        server.subject_alt_names = vec![SanType::DnsName(name), SanType::IpAddress(address)];
        server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        server.use_authority_key_identifier_extension = true;
        let signed = server.signed_by(&key, &Issuer::new(ca, ca_key));
        let certificate = signed.context("cannot sign the certificate")?.pem();
        Ok(Self { ca: ca_pem, certificate, key: key.serialize_pem() })
    }
}

/// The parameters of a certificate. It is valid from the day before, because clocks differ, and for [`YEARS`].
fn params(name: &str, now: Timestamp) -> anyhow::Result<CertificateParams> {
    let today = now.to_zoned(TimeZone::UTC).date();
    let date = |date: Date| {
        let (month, day) = (date.month().unsigned_abs(), date.day().unsigned_abs());
        date_time_ymd(date.year().into(), month, day)
    };
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date(today.checked_sub(Span::new().days(1))?);
    params.not_after = date(today.checked_add(Span::new().years(YEARS))?);
    Ok(params)
}

/// Checks that a client which trusts this CA accepts the certificate for both names, now and for [`NOTICE`].
///
/// # Errors
/// A client would refuse the certificate, for the reason in the error.
pub(super) fn fits(
    ca: &[u8],
    certificate: &[u8],
    host: &str,
    address: IpAddr,
    now: Timestamp,
) -> anyhow::Result<()> {
    let read = |pem: &[u8], key: &str| -> anyhow::Result<Vec<CertificateDer<'static>>> {
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        all.ok().filter(|all| !all.is_empty()).with_context(|| format!("no certificate in {key}"))
    };
    let mut roots = RootCertStore::empty();
    for root in read(ca, "ca.crt")? {
        roots.add(root).context("ca.crt has no CA")?;
    }
    let chain = read(certificate, "tls.crt")?;
    let (first, rest) = chain.split_first().context("no certificate in tls.crt")?;
    let provider = ring::default_provider().into();
    let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build()?;
    let names = [ServerName::try_from(host)?, ServerName::IpAddress(address.into())];
    let now = SystemTime::from(now).duration_since(SystemTime::UNIX_EPOCH)?;
    for at in [now, now + NOTICE] {
        for name in &names {
            let at = UnixTime::since_unix_epoch(at);
            let verified = verifier.verify_server_cert(first, rest, name, &[], at);
            verified.with_context(|| format!("tls.crt for {}", name.to_str()))?;
        }
    }
    Ok(())
}
