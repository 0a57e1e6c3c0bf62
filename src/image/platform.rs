//! Platforms: decides which entry of an index is for this host.

use serde::Deserialize;

/// The platform of an entry in an index (OCI image-spec, image-index.md), normalized.
#[derive(Debug, Clone, Deserialize)]
#[serde(from = "Written")]
pub(super) struct Platform {
    os: String,
    architecture: String,
    variant: String,
    features: Vec<String>,
}

/// A platform as it is written. Tools use several spellings for the same platform.
#[derive(Deserialize)]
struct Written {
    os: String,
    architecture: String,
    variant: Option<String>,
    #[serde(rename = "os.features")]
    features: Option<Vec<String>>,
}

impl From<Written> for Platform {
    /// Normalizes to Go's names. The spellings are those that containerd knows (`platforms`, "Architecture" in its
    /// documentation).
    fn from(Written { os, architecture, variant, features }: Written) -> Self {
        let lower = |text: String| text.to_ascii_lowercase();
        let (architecture, variant) = (lower(architecture), lower(variant.unwrap_or_default()));
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("x86_64" | "x86-64", _) => ("amd64", variant.as_str()),
            ("i386" | "i686", _) => ("386", ""),
            ("aarch64", _) => ("arm64", variant.as_str()),
            ("armhf", _) => ("arm", "v7"),
            ("armel", _) => ("arm", "v6"),
            (same, other) => (same, other),
        };
        let variant = match (architecture, variant) {
            ("arm" | "arm64", v) if v.bytes().next().is_some_and(|b| b.is_ascii_digit()) => {
                format!("v{v}")
            }
            (_, other) => other.to_owned(),
        };
        let (os, architecture) = (lower(os), architecture.to_owned());
        Self { os, architecture, variant, features: features.unwrap_or_default() }
    }
}

/// The architecture that this program was built for, by its Go name, as images use it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        "powerpc64" => "ppc64",
        "loongarch64" => "loong64",
        same => same,
    }
}

/// The platform of this host, with Go's names.
#[derive(Debug, Clone, Copy)]
pub(super) struct HostPlatform {
    architecture: &'static str,
    /// The version of 32-bit arm, 5 to 8; 0 for all other architectures.
    arm: u8,
}

impl HostPlatform {
    /// The platform that this program was built for. The host could run other programs too (amd64 runs 386), but a user
    /// who names an image does not mean those.
    pub(super) fn this() -> Self {
        let architecture = architecture();
        let arm = match architecture {
            "arm" if cfg!(target_feature = "v7") => 7,
            "arm" => 6,
            _ => 0,
        };
        Self { architecture, arm }
    }

    /// Rates how well an entry fits: `None` if it does not run here, otherwise higher is better.
    ///
    /// The rule for variants: arm runs every older version of itself (no variant means 7), and the newest is the best.
    /// The variant of arm64 must be `v8` or empty, that of amd64 `v1` or empty.
    pub(super) fn fit(self, platform: &Platform) -> Option<u8> {
        let ours = platform.os == "linux"
            && platform.architecture == self.architecture
            && platform.features.is_empty();
        let variant = platform.variant.as_str();
        match self.architecture {
            _ if !ours => None,
            "arm" => {
                let version = match variant {
                    "" => 7,
                    _ => variant.strip_prefix('v')?.parse().ok()?,
                };
                (version <= self.arm).then_some(version)
            }
            "arm64" => matches!(variant, "" | "v8").then_some(0),
            "amd64" => matches!(variant, "" | "v1").then_some(0),
            _ => variant.is_empty().then_some(0),
        }
    }

    /// `linux/amd64`, `linux/arm/v7`.
    pub(super) fn name(self) -> String {
        match self.arm {
            0 => format!("linux/{}", self.architecture),
            version => format!("linux/arm/v{version}"),
        }
    }
}

impl Platform {
    /// The name for messages. An index is untrusted input, so everything except short plain words is left out.
    pub(super) fn name(&self) -> Option<String> {
        let plain = |word: &&String| {
            word.len() <= 16 && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        let words = [&self.os, &self.architecture, &self.variant];
        let kept: Vec<&str> = words
            .iter()
            .copied()
            .filter(plain)
            .map(String::as_str)
            .filter(|w| !w.is_empty())
            .collect();
        (kept.len() >= 2).then(|| kept.join("/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut words = text.split('/').map(str::to_owned);
        let mut word = || words.next().unwrap_or_default();
        let (os, architecture, variant) = (word(), word(), Some(word()));
        Written { os, architecture, variant, features: None }.into()
    }

    #[test]
    fn an_entry_fits_by_os_architecture_and_variant() {
        let machine = |architecture, arm| HostPlatform { architecture, arm };
        for (machine, entry, fit) in [
            (machine("amd64", 0), "linux/amd64", Some(0)),
            (machine("amd64", 0), "linux/amd64/v1", Some(0)),
            (machine("amd64", 0), "linux/amd64/v3", None),
            (machine("amd64", 0), "windows/amd64", None),
            (machine("amd64", 0), "unknown/unknown", None),
            (machine("amd64", 0), "linux/386", None),
            (machine("arm64", 0), "linux/arm64/v8", Some(0)),
            (machine("arm64", 0), "linux/arm64/v9", None),
            (machine("arm64", 0), "linux/arm/v7", None),
            (machine("arm", 7), "linux/arm", Some(7)),
            (machine("arm", 7), "linux/arm/v6", Some(6)),
            (machine("arm", 6), "linux/arm/v7", None),
            (machine("arm", 6), "linux/arm", None),
            (machine("arm", 7), "linux/arm/7", Some(7)),
            (machine("arm", 7), "linux/arm/seven", None),
            (machine("arm", 7), "Linux/armhf", Some(7)),
            (machine("arm", 7), "linux/armel", Some(6)),
            (machine("amd64", 0), "Linux/x86_64", Some(0)),
            (machine("amd64", 0), "linux/X86-64", Some(0)),
            (machine("386", 0), "linux/i386", Some(0)),
            (machine("arm64", 0), "linux/aarch64/8", Some(0)),
            (machine("s390x", 0), "linux/s390x", Some(0)),
        ] {
            assert_eq!(machine.fit(&platform(entry)), fit, "{machine:?} {entry}");
        }
    }

    #[test]
    fn an_entry_that_requires_os_features_does_not_fit() {
        let mut wanting = platform(&HostPlatform::this().name());
        assert!(HostPlatform::this().fit(&wanting).is_some());
        wanting.features.push("x".to_owned());
        assert!(HostPlatform::this().fit(&wanting).is_none());
    }

    #[test]
    fn platform_names_in_messages_are_plain_words() {
        assert_eq!(platform("linux/arm/v7").name().as_deref(), Some("linux/arm/v7"));
        assert_eq!(platform("linux/<script>").name(), None);
    }
}
