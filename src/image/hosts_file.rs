//! Parses one `hosts.toml`, and reads and checks the files that it names.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::{
    Url,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{endpoint::Settings, hosts_error::HostsError, rewrite::Rewrite, tls::TlsSettings};
use crate::format;

/// The contents of a file.
#[derive(Debug, Clone, Default)]
pub(super) struct HostsFile {
    /// In the order of the file.
    pub(super) mirrors: Vec<(Url, Settings)>,
    /// `None` means https to the registry itself.
    pub(super) server: Option<Url>,
    /// Settings of the server.
    pub(super) settings: Settings,
}

/// Parses the text of a file, and adds its TLS settings to `tls_settings`. An unknown key has no effect except a
/// warning: other versions and other programs read the same file.
///
/// # Errors
/// Invalid TOML, with the line; a known key with an invalid value, with the key.
pub(super) fn parse(
    file: &Path,
    text: &str,
    tls_settings: &mut Vec<TlsSettings>,
) -> Result<HostsFile, HostsError> {
    let table = DeTable::parse(text).map_err(|e| HostsError::Syntax {
        file: file.to_owned(),
        line: 1 + text[..e.span().map_or(0, |span| span.start)].matches('\n').count(),
        why: e.message().to_owned(),
    })?;
    let mut server = None;
    let mut mirrors = Vec::new();
    let mut top = Table::new(file, String::new());
    for (key, entry) in table.get_ref() {
        match (key.get_ref().as_ref(), entry.get_ref()) {
            ("server", DeValue::String(url)) if url.is_empty() => (),
            ("server", DeValue::String(url)) => {
                server = Some(base(url).map_err(|why| top.wrong("server", why))?);
            }
            ("server", _) => return Err(top.wrong("server", "must be a string")),
            ("host", DeValue::Table(hosts)) => {
                for (url, keys) in hosts {
                    let name = format!("host.{:?}", url.get_ref());
                    let base = base(url.get_ref()).map_err(|why| top.wrong(&name, why))?;
                    let DeValue::Table(keys) = keys.get_ref() else {
                        return Err(top.wrong(&name, "must be a table"));
                    };
                    let mut mirror = Table::new(file, format!("{name}."));
                    mirror.settings.push = false;
                    for (key, entry) in keys {
                        mirror.read(key.get_ref(), entry.get_ref())?;
                    }
                    mirrors.push((url.span().start, (base, mirror.settings(tls_settings))));
                }
            }
            ("host", _) => return Err(top.wrong("host", "must be a table")),
            (key, value) => top.read(key, value)?,
        }
    }
    // The parser sorts its keys; mirrors are tried in the order of the file.
    mirrors.sort_by_key(|(place, _)| *place);
    let mirrors = mirrors.into_iter().map(|(_, mirror)| mirror).collect();
    Ok(HostsFile { mirrors, server, settings: top.settings(tls_settings) })
}

/// Reads the directory of a registry without a `hosts.toml`: certificates with Docker's names, which containerd reads
/// too. `*.crt` are CAs; `NAME.cert` and `NAME.key` are a client certificate and its key.
///
/// # Errors
/// A directory or file that cannot be read, or a file without a valid certificate.
pub(super) fn certificates(
    dir: &Path,
    tls_settings: &mut Vec<TlsSettings>,
) -> Result<HostsFile, HostsError> {
    let mut table = Table::new(dir, String::new());
    let entries = fs::read_dir(dir).map_err(|e| HostsError::read(dir, e))?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut paths = paths.collect::<Result<Vec<_>, _>>().map_err(|e| HostsError::read(dir, e))?;
    paths.sort();
    let ending = |ending: &str| -> Vec<PathBuf> {
        let ends = |path: &&PathBuf| path.extension().is_some_and(|found| found == ending);
        paths.iter().filter(ends).cloned().collect()
    };
    let read = |path: &PathBuf| fs::read(path).map_err(|e| HostsError::read(path, e));
    table.tls.ca = ending("crt").iter().map(read).collect::<Result<_, _>>()?;
    table.check("*.crt", TlsSettings { ca: table.tls.ca.clone(), ..TlsSettings::default() })?;
    match ending("cert").as_slice() {
        [] => (),
        [cert] => {
            let pem = [read(cert)?, read(&cert.with_extension("key"))?].join(&b'\n');
            table.tls.client = Some(pem.clone());
            table.check("*.cert", TlsSettings { client: Some(pem), ..TlsSettings::default() })?;
        }
        _ => return Err(table.wrong("*.cert", "several client certificates are not supported")),
    }
    Ok(HostsFile { settings: table.settings(tls_settings), ..HostsFile::default() })
}

/// Parses the URL of a server. The default scheme is https.
///
/// # Errors
/// What the value must be.
fn base(text: &str) -> Result<Url, &'static str> {
    let spelled = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let mut url =
        Url::parse(&spelled).map_err(|_| "must be a URL such as https://mirror.example:8080")?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err("must start with https:// or http:// and name a host");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not contain a user name or password");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must not contain a query or fragment");
    }
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Ok(url)
}

/// The keys that a server and a mirror have in common.
struct Table<'a> {
    file: &'a Path,
    /// The names of the tables that contain the keys, for messages.
    prefix: String,
    settings: Settings,
    tls: TlsSettings,
}

type Strings<'a> = Vec<&'a str>;

impl<'a> Table<'a> {
    fn new(file: &'a Path, prefix: String) -> Self {
        Self { file, prefix, settings: Settings::default(), tls: TlsSettings::default() }
    }

    fn read(&mut self, key: &str, value: &DeValue<'_>) -> Result<(), HostsError> {
        match key {
            "capabilities" => self.capabilities(value),
            "override_path" => value.as_bool().map(|it| self.settings.override_path = it),
            "skip_verify" => value.as_bool().map(|it| self.tls.skip_verify = it),
            "dial_timeout" => {
                value.as_str().and_then(duration).map(|it| self.tls.dial = Some(it))
            }
            "header" => self.header(value),
            "ca" => {
                let Some(files) = strings(value) else { return Err(self.wrong(key, CA)) };
                self.tls.ca = self.files(&files)?;
                return self.check(key, TlsSettings { ca: self.tls.ca.clone(), ..TlsSettings::default() });
            }
            "client" => {
                let Some(files) = client(value) else { return Err(self.wrong(key, CLIENT)) };
                // The concatenation of certificate and key is one PEM.
                let pem = self.files(&files)?.join(&b'\n');
                self.tls.client = Some(pem.clone());
                return self.check(key, TlsSettings { client: Some(pem), ..TlsSettings::default() });
            }
            "rewrite" => self.rewrite(value),
            other => {
                let (file, key) = (self.file.display(), format!("{}{other}", self.prefix));
                tracing::warn!(%file, key, "unknown key in a registry's hosts.toml; it has no effect");
                Some(())
            }
        }
        .ok_or_else(|| {
            self.wrong(
                key,
                match key {
                    "capabilities" => {
                        "must be a list of \"pull\", \"resolve\", \"push\" and \"referrers\""
                    }
                    "rewrite" => {
                        "must be a table of regular expressions, each with the replacement for a repository"
                    }
                    "dial_timeout" => "must be a time such as \"5s\"",
                    "header" => {
                        "must be a table of header names, each with a string or a list of strings"
                    }
                    _ => "must be true or false",
                },
            )
        })
    }

    fn capabilities(&mut self, value: &DeValue<'_>) -> Option<()> {
        value.as_array()?;
        let names = strings(value)?;
        // The driver never requests referrers.
        let known = |name: &&str| matches!(*name, "pull" | "resolve" | "push" | "referrers");
        self.settings.resolve = names.contains(&"resolve");
        self.settings.pull = names.contains(&"pull");
        self.settings.push = names.contains(&"push");
        names.iter().all(known).then_some(())
    }

    fn rewrite(&mut self, value: &DeValue<'_>) -> Option<()> {
        let mut rules = Vec::new();
        for (pattern, to) in value.as_table()? {
            let rule = Rewrite::new(pattern.get_ref(), to.get_ref().as_str()?).ok()?;
            rules.push((pattern.span().start, rule));
        }
        rules.sort_by_key(|(place, _)| *place);
        self.settings.rewrite = rules.into_iter().map(|(_, rule)| rule).collect();
        Some(())
    }

    fn header(&mut self, value: &DeValue<'_>) -> Option<()> {
        let mut headers = HeaderMap::new();
        for (name, value) in value.as_table()? {
            let name = HeaderName::try_from(name.get_ref().as_ref()).ok()?;
            for value in strings(value.get_ref())? {
                let mut value = HeaderValue::from_str(value).ok()?;
                value.set_sensitive(true);
                headers.append(name.clone(), value);
            }
        }
        self.settings.header = headers;
        Some(())
    }

    fn files(&self, names: &[&str]) -> Result<Vec<Vec<u8>>, HostsError> {
        let dir = self.file.parent().unwrap_or(Path::new(""));
        let read = |path: PathBuf| fs::read(&path).map_err(|e| HostsError::read(&path, e));
        names.iter().map(|name| read(dir.join(name))).collect()
    }

    fn check(&self, key: &str, tls: TlsSettings) -> Result<(), HostsError> {
        let refused = |why| self.wrong(key, &format!("names files that cannot be used: {why}"));
        tls.check().map_err(refused)
    }

    fn settings(self, tls_settings: &mut Vec<TlsSettings>) -> Settings {
        let place = tls_settings.iter().position(|other| *other == self.tls);
        let tls = place.unwrap_or(tls_settings.len());
        if place.is_none() {
            tls_settings.push(self.tls);
        }
        Settings { tls, ..self.settings }
    }

    fn wrong(&self, key: &str, why: &str) -> HostsError {
        let key = format!("{}{key}", self.prefix);
        HostsError::Value { file: self.file.to_owned(), key, why: why.to_owned() }
    }
}

const CA: &str = "must be the name of a PEM file, or a list of such names";
const CLIENT: &str = "must be the name of a PEM file with certificate and key, or one pair [[\"client.crt\", \
     \"client.key\"]]; several client certificates are not supported";

/// A string, or a list of strings.
fn strings<'a>(value: &'a DeValue<'_>) -> Option<Strings<'a>> {
    match value {
        DeValue::String(one) => Some(vec![one]),
        DeValue::Array(list) => list.iter().map(|one| one.get_ref().as_str()).collect(),
        _ => None,
    }
}

/// One certificate in any of containerd's spellings: `"both"`, `["both"]`, `[["crt", "key"]]`, `[["both", ""]]`.
fn client<'a>(value: &'a DeValue<'_>) -> Option<Strings<'a>> {
    let one = |list: &'a [Spanned<DeValue<'_>>]| match list {
        [pair] => pair.get_ref().as_array(),
        _ => None,
    };
    let pair = value.as_array().and_then(|list| one(list));
    let mut files = match pair {
        Some(pair) => {
            pair.iter().map(|file| file.get_ref().as_str()).collect::<Option<Strings<'_>>>()?
        }
        None => strings(value).filter(|files| files.len() == 1)?,
    };
    files.retain(|file| !file.is_empty());
    (1..=2).contains(&files.len()).then_some(files)
}

/// A duration such as `5s`, `1m30s` or `500ms`; not zero.
fn duration(text: &str) -> Option<Duration> {
    format::duration(text).filter(|time| !time.is_zero())
}
