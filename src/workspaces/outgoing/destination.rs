//! Where an image is written, as users say it.

use std::{fmt, path::PathBuf, str::FromStr};

use crate::reference::Reference;

/// A destination in files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// `oci:DIR[:TAG]`: an OCI layout, to which the image is added.
    Layout {
        /// The directory.
        dir: PathBuf,
        /// The name in the layout.
        name: Option<String>,
    },
    /// `oci-archive:FILE[:TAG]`: a tar of an OCI layout.
    OciArchive {
        /// The file.
        file: PathBuf,
        /// The name in the layout.
        name: Option<String>,
    },
    /// `docker-archive:FILE[:REFERENCE]`: a tar as of `docker save`.
    DockerArchive {
        /// The file.
        file: PathBuf,
        /// The name that `docker load` gives the image.
        name: Option<Reference>,
    },
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        // A name can contain colons; a path must not.
        let (path, name) = rest.split_once(':').map_or((rest, None), |(p, name)| (p, Some(name)));
        if path.is_empty() || name == Some("") {
            return Err(WRITE.to_owned());
        }
        match kind {
            "oci" => Ok(Self::Layout { dir: path.into(), name: name.map(tag).transpose()? }),
            "oci-archive" => {
                Ok(Self::OciArchive { file: path.into(), name: name.map(tag).transpose()? })
            }
            "docker-archive" => {
                let name = name.map(str::parse).transpose().map_err(|e| format!("{e}"))?;
                let is_tagged = |name: &Reference| name.tag().is_some() && name.digest().is_none();
                if name.as_ref().is_some_and(|name| !is_tagged(name)) {
                    return Err("the name in a docker archive has a tag and no digest".to_owned());
                }
                Ok(Self::DockerArchive { file: path.into(), name })
            }
            _ => Err(WRITE.to_owned()),
        }
    }
}

const WRITE: &str = "write oci:DIR[:TAG], oci-archive:FILE[:TAG] or docker-archive:FILE[:REFERENCE]; a path must not \
                     contain a colon";

/// A name in a layout (image-spec, annotations.md, `org.opencontainers.image.ref.name`).
fn tag(text: &str) -> Result<String, String> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-._:@/+".contains(c);
    match text.chars().all(is_allowed) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "{text:?} cannot be a name in a layout; use letters, digits and - . _ : @ / +"
        )),
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, path, name) = match self {
            Self::Layout { dir, name } => ("oci", dir, name.clone()),
            Self::OciArchive { file, name } => ("oci-archive", file, name.clone()),
            Self::DockerArchive { file, name } => {
                ("docker-archive", file, name.as_ref().map(ToString::to_string))
            }
        };
        write!(f, "{kind}:{}", path.display())?;
        name.map_or(Ok(()), |name| write!(f, ":{name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_a_kind_a_path_and_perhaps_a_name() {
        for (text, canonical) in [
            ("oci:out", "oci:out"),
            ("oci:/a/b:r.io/base:1", "oci:/a/b:r.io/base:1"),
            ("oci-archive:x.tar:1", "oci-archive:x.tar:1"),
            ("docker-archive:x.tar", "docker-archive:x.tar"),
            ("docker-archive:x.tar:box", "docker-archive:x.tar:docker.io/library/box:latest"),
        ] {
            assert_eq!(text.parse::<Destination>().unwrap().to_string(), canonical);
        }
        for bad in
            ["out.tar", "oci:", "oci::1", "oci:d:", "oci:d:a b", "dir:x", "docker-archive:x:A"]
        {
            assert!(bad.parse::<Destination>().is_err(), "{bad}");
        }
    }
}
