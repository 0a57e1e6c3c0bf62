//! The client of registries for this user, with the credentials of `docker login` and similar programs.

use std::{
    env, fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow};
use clap::Args;

use crate::{
    error::Class,
    http_proxy::HttpProxies,
    image::{Hosts, Image, Keyring, Registries},
    reference::Reference,
    registry_name::is_local,
};

/// The arguments about registries.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Registry")]
pub(super) struct RegistryArgs {
    /// Use plain http for the registry of the snapshots; it is always used for a registry on localhost
    #[arg(long)]
    plain_http: bool,
    /// A directory of hosts.toml files, as for containerd: mirrors, CAs, plain http
    #[arg(long, value_name = "DIR")]
    hosts_dir: Option<PathBuf>,
    /// A file with registry credentials; else $REGISTRY_AUTH_FILE, $DOCKER_CONFIG/config.json or ~/.docker/config.json.
    /// Only its `auths` are used: credential helpers (credsStore, credHelpers) are never run
    #[arg(long, value_name = "FILE")]
    auth_file: Option<PathBuf>,
}

/// The client of the registries, and the user's credentials.
pub(super) struct Access {
    pub(super) registries: Registries,
    keyring: Keyring,
    /// Why the file of credentials has no usable ones, if there is a file.
    unusable: Option<String>,
}

impl RegistryArgs {
    /// Makes the client for the registries of these images. It does not connect yet.
    pub(super) fn open(&self, images: &[&Reference]) -> anyhow::Result<Access> {
        let mut hosts = match &self.hosts_dir {
            Some(dir) => Hosts::load(dir).context("--hosts-dir cannot be used")?,
            None => Hosts::default(),
        };
        for image in images {
            if self.plain_http || is_local(image.host()) {
                hosts = hosts.with_plain_http(image.registry());
            }
        }
        // The user chose these images, so their registries may be resolved by the user's proxy.
        let registries = images.iter().map(|image| image.registry().to_owned());
        hosts = hosts.with_proxies(HttpProxies::from_env()?, registries);
        let (keyring, unusable) = self.keyring()?;
        Ok(Access { registries: Registries::new(hosts)?, keyring, unusable })
    }

    fn keyring(&self) -> anyhow::Result<(Keyring, Option<String>)> {
        let variable =
            |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(file) = &self.auth_file {
            return read(file)?
                .ok_or_else(|| anyhow!("--auth-file {} does not exist", file.display()));
        }
        let file = variable("REGISTRY_AUTH_FILE")
            .or_else(|| Some(variable("DOCKER_CONFIG")?.join("config.json")))
            .or_else(|| Some(variable("HOME")?.join(".docker/config.json")));
        let read = file.map(|file| read(&file)).transpose()?.flatten();
        Ok(read.unwrap_or_default())
    }
}

/// Reads a file of credentials. `None` where it does not exist. A file without usable credentials is no error yet: its
/// reason is kept until a registry requires credentials. On most machines that is a file which names a credential
/// helper.
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
    /// The credentials for all images.
    pub(super) fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// A client with these credentials, for tests.
    #[cfg(test)]
    pub(super) fn of(registries: Registries, keyring: Keyring) -> Self {
        Self { registries, keyring, unusable: None }
    }

    /// Resolves the image of a pushed snapshot.
    pub(super) async fn resolve(&self, image: &Reference) -> anyhow::Result<Image> {
        let resolved = self.registries.resolve(image, &self.keyring).await;
        resolved.map_err(|error| {
            let denied = error.class() == Class::Denied;
            let error = anyhow!(error);
            match &self.unusable {
                Some(why) => error.context(format!("the request had no credentials ({why})")),
                None if denied => {
                    error.context("the registry denied access; use docker login or --auth-file")
                }
                None => error,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_come_from_the_files_auths_only() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        assert!(read(&file).unwrap().is_none());
        let image: Reference = "r.io/a:1".parse().unwrap();
        for (text, usable, reason) in [
            (r#"{"auths": {"r.io": {"username": "u", "password": "p"}}}"#, true, None),
            (r#"{"credsStore": "desktop"}"#, false, Some("helper program")),
            (r#"{"auths": {"r.io": {}}, "credsStore": "desktop"}"#, false, Some("helper program")),
            (r#"{"psFormat": "x"}"#, false, Some("no `auths`")),
            ("{secret", false, Some("not valid at line 1")),
        ] {
            fs::write(&file, text).unwrap();
            let (keyring, why) = read(&file).unwrap().unwrap();
            assert_eq!(!keyring.accesses(&image).is_empty(), usable, "{text}");
            assert_eq!(why.is_some(), reason.is_some(), "{text}");
            let why = why.unwrap_or_default();
            assert!(why.contains(reason.unwrap_or_default()) && !why.contains("secret"), "{why}");
        }
        let missing =
            RegistryArgs { auth_file: Some(dir.path().join("no")), ..RegistryArgs::default() };
        assert!(missing.keyring().unwrap_err().to_string().contains("--auth-file"));
    }
}
