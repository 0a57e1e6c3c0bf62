//! Fuzz targets of names, manifests, registry settings and pull secrets.

#![allow(clippy::unwrap_used)] // a target fails by panicking

use std::path::Path;

use super::{
    Keyring, Reference, Repository, config, hosts_file,
    manifest::{self, Manifest},
    platform::HostPlatform,
};
use crate::digest::DiffId;

/// A reference prints to itself, and its parts are canonical.
pub fn reference(data: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(data) else { return false };
    let reference = text.parse::<Reference>();
    if let Ok(reference) = &reference {
        let printed = reference.to_string();
        assert_eq!(printed.parse::<Reference>().as_ref(), Ok(reference), "{printed}");
        assert!(reference.tag().is_some() || reference.digest().is_some());
        for part in [reference.registry(), reference.repository()] {
            assert!(!part.is_empty() && !part.bytes().any(|b| b.is_ascii_uppercase()), "{printed}");
        }
        assert!(reference.repository().split('/').all(|part| !matches!(part, "" | "." | "..")));
        assert!(printed.is_ascii() && !printed.contains([' ', '?', '#', '%', '\\']), "{printed}");
        let json = serde_json::to_string(reference).unwrap();
        assert_eq!(serde_json::from_str::<Reference>(&json).unwrap(), *reference);
    }
    if let Ok(repository) = text.parse::<Repository>() {
        let printed = repository.to_string();
        assert_eq!(printed.parse::<Repository>().unwrap().to_string(), printed);
    }
    reference.is_ok()
}

/// No document is both a manifest and an index (CVE-2021-41190), and the parts of an accepted one fit together.
pub fn manifest(data: &[u8]) -> bool {
    const TYPES: [&str; 4] = [
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    ];
    let (mut is_index, mut is_image) = (false, false);
    for kind in TYPES {
        match manifest::parse(data, kind) {
            Ok(Manifest::Index(entries)) => {
                is_index = true;
                if let Ok(found) = manifest::candidates(&entries, HostPlatform::this()) {
                    assert!((1..=8).contains(&found.len()));
                    for candidate in found {
                        let digest = &candidate.descriptor.digest;
                        assert_eq!(digest.to_string().parse().as_ref(), Ok(digest));
                    }
                }
            }
            Ok(Manifest::Image { config, layers }) => {
                is_image = true;
                if manifest::check(&config, &layers).is_ok() {
                    let ids = layers.iter().map(|layer| DiffId::new(layer.digest)).collect();
                    let joined = manifest::layers(&layers, Some(ids)).unwrap();
                    assert_eq!(joined.len(), layers.len());
                    if let Ok(own) = manifest::layers(&layers, None) {
                        assert_eq!(own.len(), layers.len());
                    }
                }
            }
            Err(problem) => drop(problem.to_string()),
        }
    }
    assert!(!(is_index && is_image), "one document is a manifest and an index");
    let config = config::read(data).ok();
    if let Some(config) = &config {
        let again = config::read(config.kept.as_bytes()).unwrap();
        assert_eq!(again.kept, config.kept);
        assert_eq!(again.diff_ids, config.diff_ids);
    }
    is_index || is_image || config.is_some_and(|config| config.diff_ids.is_some())
}

/// What is accepted names only servers without credentials, and means the same each time.
pub fn hosts_toml(data: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(data) else { return false };
    // The administrator's file may name files with certificates. A target opens none of the host's devices.
    if ["/dev", "/proc", "/sys", "..", "\\u", "\\U", "\\x"].iter().any(|part| text.contains(part)) {
        return false;
    }
    let parse = || hosts_file::parse(Path::new("/nonexistent/hosts.toml"), text, &mut Vec::new());
    let Ok(file) = parse() else { return false };
    assert_eq!(format!("{:?}", parse().unwrap()), format!("{file:?}"));
    for url in file.mirrors.iter().map(|(url, _)| url).chain(&file.server) {
        assert!(matches!(url.scheme(), "http" | "https") && url.has_host(), "{url}");
        assert!(url.username().is_empty() && url.password().is_none(), "{url}");
        assert!(url.query().is_none() && url.fragment().is_none(), "{url}");
    }
    true
}

/// No message quotes a secret, and a keyring gives the same credentials for an image each time, each once.
pub fn pull_secret(data: &[u8]) -> bool {
    match Keyring::from_docker_config(data) {
        Ok(keyring) => {
            assert!(format!("{keyring:?}").len() < 40);
            for image in ["alpine", "registry.example:5000/team/tool", "a.b.example/c", "[::1]:1/a"]
            {
                let image: Reference = image.parse().unwrap();
                let accesses = keyring.accesses(&image);
                let again = Keyring::from_docker_config(data).unwrap();
                assert_eq!(accesses, again.accesses(&image));
                let is_new = |at: usize| !accesses[..at].contains(&accesses[at]);
                assert!((0..accesses.len()).all(is_new));
                assert_eq!(keyring.clone().and(&again).accesses(&image), accesses);
            }
            true
        }
        // A text of ours, with a line and a column at most.
        Err(error) => {
            assert!(error.to_string().len() < 250 && error.to_string().is_ascii());
            false
        }
    }
}
