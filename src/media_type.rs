//! The media types of indexes, manifests, configs and layers (OCI image-spec, media-types.md; Docker's image-spec
//! v2.2), and the format and the compression of a layer that each of them means.

/// An index: the manifests of an image, one for each platform.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Docker's form of an index.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// A manifest: the config and the layers of an image.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Docker's form of a manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// The value of `Accept` for a manifest or an index: the four types of these.
pub const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json";
/// The config of an image.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Docker's form of a config.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// How a layer expresses what is hidden, renamed or in a lower layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// As in the OCI image-spec. Every runtime can use it.
    Portable,
    /// With overlay's own xattrs: smaller, for ovl-csi only.
    Native,
}

/// The compression of a layer's blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// A plain tar.
    None,
    /// gzip, of one member or several.
    Gzip,
    /// zstd, of one frame or several.
    Zstd,
}

impl Compression {
    /// The compression of bytes that begin with `first`: the first four bytes, or all of less.
    pub fn detect(first: &[u8]) -> Self {
        match first {
            [0x1f, 0x8b, 0x08, ..] => Self::Gzip,
            // A frame, or a frame that decoders skip.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// The media types of layers without compression, with what separates the compression from them.
const LAYERS: [(&str, char, Format); 5] = [
    ("application/vnd.oci.image.layer.v1.tar", '+', Format::Portable),
    ("application/vnd.oci.image.layer.nondistributable.v1.tar", '+', Format::Portable),
    ("application/vnd.docker.image.rootfs.diff.tar", '.', Format::Portable),
    ("application/vnd.docker.image.rootfs.foreign.diff.tar", '.', Format::Portable),
    ("application/vnd.ovl-csi.layer.v1.native.tar", '+', Format::Native),
];

/// The media type of a layer that the driver writes.
pub fn of_layer(format: Format, compression: Compression) -> &'static str {
    match (format, compression) {
        (Format::Portable, Compression::None) => "application/vnd.oci.image.layer.v1.tar",
        (Format::Portable, Compression::Gzip) => "application/vnd.oci.image.layer.v1.tar+gzip",
        (Format::Portable, Compression::Zstd) => "application/vnd.oci.image.layer.v1.tar+zstd",
        (Format::Native, Compression::None) => "application/vnd.ovl-csi.layer.v1.native.tar",
        (Format::Native, Compression::Gzip) => "application/vnd.ovl-csi.layer.v1.native.tar+gzip",
        (Format::Native, Compression::Zstd) => "application/vnd.ovl-csi.layer.v1.native.tar+zstd",
    }
}

/// Format and compression of a layer by its media type. The types of Docker and those of nondistributable layers mean
/// the same bytes as those of OCI. `None` for all other types.
pub fn parse_layer(media_type: &str) -> Option<(Format, Compression)> {
    LAYERS.into_iter().find_map(|(plain, separator, format)| {
        let compression = match media_type.strip_prefix(plain)? {
            "" => Compression::None,
            suffix => match suffix.strip_prefix(separator)? {
                "gzip" => Compression::Gzip,
                "zstd" => Compression::Zstd,
                _ => return None,
            },
        };
        Some((format, compression))
    })
}

/// The media type in a `Content-Type` header: without parameters, in lower case.
pub fn of_header(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_media_type_is_parsed_to_the_same_layer() {
        for format in [Format::Portable, Format::Native] {
            for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
                let written = of_layer(format, compression);
                assert_eq!(parse_layer(written), Some((format, compression)), "{written}");
            }
        }
    }

    #[test]
    fn media_types_of_docker_and_of_nondistributable_layers_mean_those_of_oci() {
        for (base, separator) in [
            ("application/vnd.docker.image.rootfs.diff.tar", "."),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar", "."),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar", "+"),
        ] {
            for (name, compression) in [("gzip", Compression::Gzip), ("zstd", Compression::Zstd)] {
                let layer = Some((Format::Portable, compression));
                assert_eq!(parse_layer(&format!("{base}{separator}{name}")), layer);
            }
            assert_eq!(parse_layer(base), Some((Format::Portable, Compression::None)));
        }
        for other in [
            "",
            "application/json",
            "application/vnd.docker.image.rootfs.diff.tar.xz",
            "application/vnd.docker.image.rootfs.diff.tar+gzip",
            "application/vnd.oci.image.layer.v1.tar.gzip",
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            "application/vnd.oci.image.layer.v1.tar+",
            "application/vnd.oci.image.layer.v1.tarx",
        ] {
            assert_eq!(parse_layer(other), None, "{other}");
        }
    }

    #[test]
    fn all_manifests_and_indexes_are_accepted() {
        let all = [OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST];
        assert_eq!(MANIFESTS, all.join(", "));
    }

    #[test]
    fn a_header_has_parameters_and_any_case() {
        assert_eq!(of_header(" Application/VND.oci; charset=utf-8"), "application/vnd.oci");
        assert_eq!(of_header(""), "");
    }
}
