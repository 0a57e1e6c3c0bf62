//! Registries as this user reaches them, with the credentials of `docker login` and the like.

use std::{
    env, fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow};
use clap::Args;

use crate::{
    fault::Class,
    image::{Hosts, Image, Keyring, Reference, Registries},
};

/// How registries are reached.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Registry")]
pub(super) struct RegistryArgs {
    /// Reach the snapshots' registry by plain http; one on localhost is reached so anyway
    #[arg(long)]
    plain_http: bool,
    /// A folder of hosts.toml files, as containerd has it: mirrors, CAs, plain http
    #[arg(long, value_name = "DIR")]
    hosts_dir: Option<PathBuf>,
    /// A file with registry credentials; else $REGISTRY_AUTH_FILE, $DOCKER_CONFIG/config.json or ~/.docker/config.json. Only what
    /// stands in its `auths` counts: credential helpers (credsStore, credHelpers) are never run
    #[arg(long, value_name = "FILE")]
    auth_file: Option<PathBuf>,
}

/// The registries, and who we may say we are.
pub(super) struct Access {
    pub(super) registries: Registries,
    keyring: Keyring,
    /// Why the file of credentials has none, if there is a file.
    without: Option<String>,
}

impl RegistryArgs {
    /// Sets up the way to the registries of these images. Nothing is asked yet.
    pub(super) fn open(&self, images: &[&Reference]) -> anyhow::Result<Access> {
        let mut hosts = match &self.hosts_dir {
            Some(folder) => Hosts::load(folder).context("--hosts-dir cannot be used")?,
            None => Hosts::default(),
        };
        for image in images {
            if self.plain_http || is_local(image.host()) {
                hosts = hosts.with_plain(image.registry());
            }
        }
        let (keyring, without) = self.keyring()?;
        Ok(Access { registries: Registries::new(hosts)?, keyring, without })
    }

    fn keyring(&self) -> anyhow::Result<(Keyring, Option<String>)> {
        let variable =
            |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(file) = &self.auth_file {
            return read(file)?
                .ok_or_else(|| anyhow!("--auth-file {} is not there", file.display()));
        }
        let file = variable("REGISTRY_AUTH_FILE")
            .or_else(|| Some(variable("DOCKER_CONFIG")?.join("config.json")))
            .or_else(|| Some(variable("HOME")?.join(".docker/config.json")));
        let read = file.map(|file| read(&file)).transpose()?.flatten();
        Ok(read.unwrap_or_default())
    }
}

/// What a file of credentials holds; none where there is no file. One without usable credentials is remembered for when a registry
/// wants some: on most machines that is a file which leaves them to a helper.
fn read(file: &Path) -> anyhow::Result<Option<(Keyring, Option<String>)>> {
    let text = match fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
    };
    Ok(Some(match Keyring::from_docker_config(&text) {
        Ok(keyring) => (keyring, None),
        Err(why) => (Keyring::default(), Some(format!("{}: {why}", file.display()))),
    }))
}

impl Access {
    /// What is used for an image.
    pub(super) fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// With these credentials, for tests.
    #[cfg(test)]
    pub(super) fn of(registries: Registries, keyring: Keyring) -> Self {
        Self { registries, keyring, without: None }
    }

    /// The image that a snapshot was pushed as.
    pub(super) async fn resolve(&self, image: &Reference) -> anyhow::Result<Image> {
        let resolved = self.registries.resolve(image, &self.keyring).await;
        resolved.map_err(|error| {
            let denied = error.class() == Class::Denied;
            let error = anyhow!(error);
            match &self.without {
                Some(why) => error.context(format!("asked without credentials ({why})")),
                None if denied => error.context("docker login, or --auth-file, gives credentials"),
                None => error,
            }
        })
    }
}

/// Whether a host is this machine, as far as its name says.
fn is_local(host: &str) -> bool {
    host == "localhost"
        || host.ends_with(".localhost")
        || host == "[::1]"
        || host.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_this_machine() {
        for local in [
            "localhost",
            "localhost:5000",
            "a.localhost:1",
            "127.0.0.1:5000",
            "127.1.2.3",
            "[::1]:5000",
            "[0:0::1]:5000",
        ] {
            let image: Reference = format!("{local}/a").parse().unwrap();
            assert!(is_local(image.host()), "{local}");
        }
        for other in
            ["localhost.example.com", "r.io:5000", "127.0.0.1.nip.io", "10.0.0.1:5000", "[::2]:1"]
        {
            let image: Reference = format!("{other}/a").parse().unwrap();
            assert!(!is_local(image.host()), "{other}");
        }
    }

    #[test]
    fn credentials_are_those_that_stand_there() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        assert!(read(&file).unwrap().is_none());
        let image: Reference = "r.io/a:1".parse().unwrap();
        for (text, knows, without) in [
            (r#"{"auths": {"r.io": {"username": "u", "password": "p"}}}"#, true, None),
            (r#"{"credsStore": "desktop"}"#, false, Some("helper program")),
            (r#"{"auths": {"r.io": {}}, "credsStore": "desktop"}"#, false, Some("helper program")),
            (r#"{"psFormat": "x"}"#, false, Some("no `auths`")),
            ("{secret", false, Some("not valid at line 1")),
        ] {
            fs::write(&file, text).unwrap();
            let (keyring, why) = read(&file).unwrap().unwrap();
            assert_eq!(!keyring.accesses(&image).is_empty(), knows, "{text}");
            assert_eq!(why.is_some(), without.is_some(), "{text}");
            let why = why.unwrap_or_default();
            assert!(why.contains(without.unwrap_or_default()) && !why.contains("secret"), "{why}");
        }
        let named =
            RegistryArgs { auth_file: Some(folder.path().join("no")), ..RegistryArgs::default() };
        assert!(named.keyring().unwrap_err().to_string().contains("--auth-file"));
    }
}
