//! One `hosts.toml`, parsed. The files that it names are read and checked here too.

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

use super::{hosts::Settings, hosts_error::HostsError, reach::Reach, rewrite::Rewrite};
use crate::units;

/// What a file says.
#[derive(Debug, Clone, Default)]
pub(super) struct HostsFile {
    /// In the file's order.
    pub(super) mirrors: Vec<(Url, Settings)>,
    pub(super) server: Option<Url>,
    /// How the server is asked.
    pub(super) settings: Settings,
}

/// Reads a file's text; what it says of connections is added to `reaches`. A key that is not known is warned of, and has no
/// effect: other versions and other programs read the same file.
///
/// # Errors
/// A known key's wrong value, with its place.
pub(super) fn parse(
    file: &Path,
    text: &str,
    reaches: &mut Vec<Reach>,
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
            ("server", _) => return Err(top.wrong("server", "must be a text")),
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
                    mirrors.push((url.span().start, (base, mirror.settings(reaches))));
                }
            }
            ("host", _) => return Err(top.wrong("host", "must be a table")),
            (key, value) => top.read(key, value)?,
        }
    }
    // The parser sorts its keys; the file's own order is the order to ask in.
    mirrors.sort_by_key(|(place, _)| *place);
    let mirrors = mirrors.into_iter().map(|(_, mirror)| mirror).collect();
    Ok(HostsFile { mirrors, server, settings: top.settings(reaches) })
}

/// What a registry's directory says that has no `hosts.toml`: Docker's certificates, which containerd takes too. `*.crt`
/// are CAs, `NAME.cert` and `NAME.key` a client's certificate.
///
/// # Errors
/// A directory or file that cannot be read or used.
pub(super) fn certificates(dir: &Path, reaches: &mut Vec<Reach>) -> Result<HostsFile, HostsError> {
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
    table.reach.ca = ending("crt").iter().map(read).collect::<Result<_, _>>()?;
    table.check("*.crt", Reach { ca: table.reach.ca.clone(), ..Reach::default() })?;
    match ending("cert").as_slice() {
        [] => (),
        [cert] => {
            let pem = [read(cert)?, read(&cert.with_extension("key"))?].join(&b'\n');
            table.reach.client = Some(pem.clone());
            table.check("*.cert", Reach { client: Some(pem), ..Reach::default() })?;
        }
        _ => return Err(table.wrong("*.cert", "several client certificates are not supported")),
    }
    Ok(HostsFile { settings: table.settings(reaches), ..HostsFile::default() })
}

/// A server's URL as people write it: https where no scheme is given.
fn base(text: &str) -> Result<Url, &'static str> {
    let spelled = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let mut url =
        Url::parse(&spelled).map_err(|_| "must be a URL such as https://mirror.example:8080")?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err("must begin with https:// or http:// and name a host");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a user name or password");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must not hold a query or fragment");
    }
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Ok(url)
}

/// The keys that a server and a mirror have in common.
struct Table<'a> {
    file: &'a Path,
    /// The tables around the keys, for messages.
    around: String,
    settings: Settings,
    reach: Reach,
}

type Words<'a> = Vec<&'a str>;

impl<'a> Table<'a> {
    fn new(file: &'a Path, around: String) -> Self {
        Self { file, around, settings: Settings::default(), reach: Reach::default() }
    }

    fn read(&mut self, key: &str, value: &DeValue<'_>) -> Result<(), HostsError> {
        match key {
            "capabilities" => self.capabilities(value),
            "override_path" => value.as_bool().map(|it| self.settings.override_path = it),
            "skip_verify" => value.as_bool().map(|it| self.reach.skip_verify = it),
            "dial_timeout" => {
                value.as_str().and_then(duration).map(|it| self.reach.dial = Some(it))
            }
            "header" => self.header(value),
            "ca" => {
                let Some(files) = words(value) else { return Err(self.wrong(key, CA)) };
                self.reach.ca = self.files(&files)?;
                return self.check(key, Reach { ca: self.reach.ca.clone(), ..Reach::default() });
            }
            "client" => {
                let Some(files) = client(value) else { return Err(self.wrong(key, CLIENT)) };
                // Certificate and key, one after the other, are one PEM.
                let pem = self.files(&files)?.join(&b'\n');
                self.reach.client = Some(pem.clone());
                return self.check(key, Reach { client: Some(pem), ..Reach::default() });
            }
            "rewrite" => self.rewrite(value),
            other => {
                let (file, key) = (self.file.display(), format!("{}{other}", self.around));
                tracing::warn!(%file, key, "a key of a registry's hosts.toml is not known, and has no effect");
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
                        "must be a table of regular expressions, each with a text for the repositories that it matches"
                    }
                    "dial_timeout" => "must be a time such as \"5s\"",
                    "header" => {
                        "must be a table of header names, each with a text or a list of texts"
                    }
                    _ => "must be true or false",
                },
            )
        })
    }

    fn capabilities(&mut self, value: &DeValue<'_>) -> Option<()> {
        value.as_array()?;
        let words = words(value)?;
        // Nobody here asks for referrers.
        let known = |word: &&str| matches!(*word, "pull" | "resolve" | "push" | "referrers");
        self.settings.resolve = words.contains(&"resolve");
        self.settings.pull = words.contains(&"pull");
        self.settings.push = words.contains(&"push");
        words.iter().all(known).then_some(())
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
            for value in words(value.get_ref())? {
                let mut value = HeaderValue::from_str(value).ok()?;
                value.set_sensitive(true);
                headers.append(name.clone(), value);
            }
        }
        self.settings.header = headers;
        Some(())
    }

    fn files(&self, names: &[&str]) -> Result<Vec<Vec<u8>>, HostsError> {
        let beside = self.file.parent().unwrap_or(Path::new(""));
        let read = |path: PathBuf| fs::read(&path).map_err(|e| HostsError::read(&path, e));
        names.iter().map(|name| read(beside.join(name))).collect()
    }

    fn check(&self, key: &str, reach: Reach) -> Result<(), HostsError> {
        let refused = |why| self.wrong(key, &format!("names files that cannot be used: {why}"));
        reach.check().map_err(refused)
    }

    fn settings(self, reaches: &mut Vec<Reach>) -> Settings {
        let place = reaches.iter().position(|reach| *reach == self.reach);
        let reach = place.unwrap_or(reaches.len());
        if place.is_none() {
            reaches.push(self.reach);
        }
        Settings { reach, ..self.settings }
    }

    fn wrong(&self, key: &str, why: &str) -> HostsError {
        let key = format!("{}{key}", self.around);
        HostsError::Value { file: self.file.to_owned(), key, why: why.to_owned() }
    }
}

const CA: &str = "must be the name of a PEM file, or a list of such names";
const CLIENT: &str = "must be the name of a PEM file with certificate and key, or one pair [[\"client.crt\", \
     \"client.key\"]]; several client certificates are not supported";

/// A text, or a list of texts.
fn words<'a>(value: &'a DeValue<'_>) -> Option<Words<'a>> {
    match value {
        DeValue::String(word) => Some(vec![word]),
        DeValue::Array(list) => list.iter().map(|word| word.get_ref().as_str()).collect(),
        _ => None,
    }
}

/// One certificate in any of containerd's spellings: `"both"`, `["both"]`, `[["crt", "key"]]`, `[["both", ""]]`.
fn client<'a>(value: &'a DeValue<'_>) -> Option<Words<'a>> {
    let one = |list: &'a [Spanned<DeValue<'_>>]| match list {
        [pair] => pair.get_ref().as_array(),
        _ => None,
    };
    let pair = value.as_array().and_then(|list| one(list));
    let mut files = match pair {
        Some(pair) => {
            pair.iter().map(|word| word.get_ref().as_str()).collect::<Option<Words<'_>>>()?
        }
        None => words(value).filter(|files| files.len() == 1)?,
    };
    files.retain(|file| !file.is_empty());
    (1..=2).contains(&files.len()).then_some(files)
}

/// `5s`, `1m30s`, `500ms`.
fn duration(text: &str) -> Option<Duration> {
    units::duration(text).filter(|time| !time.is_zero())
}
