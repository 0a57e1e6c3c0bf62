//! What the registry's Secrets hold.
//!
//! Deliberately absent: the CA's key. It signs once and is forgotten, so nobody can steal it; what is signed is made anew as a whole.

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

/// The account; the registry knows no other.
const USER: &str = "ovl-csi";

/// How many years the CA and the certificate are good for: nodes read them at their start, so a short life would need somebody who
/// restarts them.
const YEARS: i16 = 10;

/// How long before its end a certificate is told to be no good, so that there is time to make another.
const NOTICE: Duration = Duration::from_secs(30 * 24 * 3600);

/// bcrypt's least. The password is 24 random bytes, which no work factor makes safer, and the registry computes this with every
/// request: at the usual 10 that is 50 ms each.
const COST: u32 = 4;

/// A new password.
pub(super) struct Login {
    /// For clients: `{"auths": {HOST:PORT: …}}`.
    pub(super) docker_config: String,
    /// For the registry: one line of an htpasswd file, bcrypt.
    pub(super) htpasswd: String,
}

impl Login {
    /// For the registry of this name, `HOST:PORT`.
    ///
    /// # Errors
    /// The machine gives no random numbers.
    pub(super) fn new(registry: &str) -> anyhow::Result<Self> {
        let mut random = [0; 24];
        let source = ring::default_provider().secure_random;
        source.fill(&mut random).map_err(|_| anyhow!("the machine gives no random numbers"))?;
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

/// A new CA with one certificate, all PEM.
pub(super) struct Tls {
    pub(super) ca: String,
    pub(super) certificate: String,
    /// The certificate's, PKCS #8.
    pub(super) key: String,
}

impl Tls {
    /// For a server of this name and this address.
    ///
    /// # Errors
    /// The name cannot stand in a certificate, or the machine gives no random numbers.
    pub(super) fn new(host: &str, address: IpAddr, now: Timestamp) -> anyhow::Result<Self> {
        let ca_key = KeyPair::generate().context("cannot make a key")?;
        let mut ca = params(&format!("CA of {host}"), now)?;
        // It signs servers and no other CA.
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca_pem = ca.self_signed(&ca_key).context("cannot sign the CA")?.pem();

        let key = KeyPair::generate().context("cannot make a key")?;
        let mut server = params(host, now)?;
        let name = host.try_into().with_context(|| format!("{host} is no DNS name"))?;
        server.subject_alt_names = vec![SanType::DnsName(name), SanType::IpAddress(address)];
        server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        server.use_authority_key_identifier_extension = true;
        let signed = server.signed_by(&key, &Issuer::new(ca, ca_key));
        let certificate = signed.context("cannot sign the certificate")?.pem();
        Ok(Self { ca: ca_pem, certificate, key: key.serialize_pem() })
    }
}

/// Good from the day before, because not all clocks agree, and for [`YEARS`].
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

/// Checks that a client which trusts this CA takes the certificate for both names, now and for [`NOTICE`].
///
/// # Errors
/// Why not.
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
        roots.add(root).context("ca.crt holds no CA")?;
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
            let seen = verifier.verify_server_cert(first, rest, name, &[], at);
            seen.with_context(|| format!("tls.crt for {}", name.to_str()))?;
        }
    }
    Ok(())
}
