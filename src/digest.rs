//! A content digest, checked once where it enters the process.
//!
//! Only the two algorithms that the OCI image-spec registers are accepted, so the length of a digest's text is known
//! wherever it becomes a path. The driver itself hashes with SHA-256, which every registry accepts. Layer keys are
//! SHA-256 too.
//!
//! A digest that names one kind of content has a type of its own. None of these types converts into another one by
//! itself: each place where one follows from another calls a constructor that says so.

use std::{
    fmt,
    io::{self, Read},
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha512};

/// A digest: `sha256:` and 64, or `sha512:` and 128 lower-case hexadecimal digits (OCI image-spec, descriptor.md,
/// "Digests"). It is made only from checked text or by hashing, so it is safe as a part of a path or URL.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest(Hash);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Hash {
    Sha256([u8; 32]),
    Sha512([u8; 64]),
}

impl Digest {
    /// The SHA-256 digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Hash::Sha256(Sha256::digest(bytes).into()))
    }

    /// The digest of `bytes` in the algorithm of this digest. It equals this digest if `bytes` are the content that it
    /// names.
    pub fn again(&self, bytes: &[u8]) -> Self {
        let mut digester = Digester::like(self);
        digester.update(bytes);
        digester.finish()
    }

    /// The hexadecimal digits without the algorithm, as used in file names. 64 digits are SHA-256, 128 are SHA-512.
    pub fn hex(&self) -> String {
        hex::encode(self.as_bytes())
    }

    /// The algorithm's name: `sha256` or `sha512`.
    pub fn algorithm(&self) -> &'static str {
        match self.0 {
            Hash::Sha256(_) => "sha256",
            Hash::Sha512(_) => "sha512",
        }
    }

    /// The raw bytes: 32 or 64.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Hash::Sha256(bytes) => bytes,
            Hash::Sha512(bytes) => bytes,
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Defines the type of digests that name one kind of content, so that no signature takes digests of another kind.
macro_rules! digest_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name($crate::digest::Digest);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(&self.0, f)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

// For those of `layers`.
#[cfg(target_os = "linux")]
pub(crate) use digest_type;

/// As [`digest_type`], for content that a registry serves or an image's config names.
macro_rules! content_digest {
    ($(#[$doc:meta])* $name:ident) => {
        digest_type! { $(#[$doc])* $name }

        impl $name {
            /// The digest `digest` of such content.
            pub fn new(digest: Digest) -> Self {
                Self(digest)
            }

            /// The SHA-256 digest of such content.
            pub fn of(bytes: &[u8]) -> Self {
                Self(Digest::of(bytes))
            }

            /// The digest without its type.
            pub fn digest(&self) -> &Digest {
                &self.0
            }
        }
    };
}

content_digest! {
    /// The digest of a layer's uncompressed tar (OCI image-spec, config.md, "Layer DiffID"). An image's config claims
    /// one for each of its layers; the code that unpacks a layer checks it.
    DiffId
}

content_digest! {
    /// The digest of a layer or config as a registry serves it: of the compressed bytes, if it is compressed (OCI
    /// distribution-spec, "blob").
    BlobDigest
}

content_digest! {
    /// The digest of an image manifest or image index (OCI distribution-spec calls both manifests).
    ManifestDigest
}

/// Text that is no accepted digest; the first 100 characters of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a digest: expected sha256: and 64, or sha512: and 128 lower-case hexadecimal digits"
)]
pub struct DigestError(String);

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let refused = || DigestError(text.chars().take(100).collect());
        let (algorithm, hex) = text.split_once(':').ok_or_else(refused)?;
        if hex.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(refused());
        }
        let bytes = hex::decode(hex).map_err(|_| refused())?;
        let hash = match algorithm {
            "sha256" => bytes.try_into().map(Hash::Sha256),
            "sha512" => bytes.try_into().map(Hash::Sha512),
            _ => return Err(refused()),
        };
        hash.map(Self).map_err(|_| refused())
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

/// Hashes a stream piece by piece, with SHA-256 by default.
#[derive(Clone)]
pub struct Digester(State);

#[derive(Clone)]
enum State {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Default for Digester {
    fn default() -> Self {
        Self(State::Sha256(Sha256::default()))
    }
}

impl Digester {
    /// A digester with the algorithm of `promised`, so that the result can be compared with it.
    pub fn like(promised: &Digest) -> Self {
        match promised.0 {
            Hash::Sha256(_) => Self::default(),
            Hash::Sha512(_) => Self(State::Sha512(Sha512::default())),
        }
    }

    /// Hashes everything that `from` still has.
    ///
    /// # Errors
    /// Those of the reader.
    pub fn update_from(&mut self, mut from: impl Read) -> io::Result<()> {
        let mut piece = vec![0; 256 << 10];
        loop {
            match from.read(&mut piece)? {
                0 => return Ok(()),
                count => self.update(&piece[..count]),
            }
        }
    }

    /// Hashes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
    }

    /// The digest of all bytes so far.
    pub fn finish(self) -> Digest {
        Digest(match self.0 {
            State::Sha256(state) => Hash::Sha256(state.finalize().into()),
            State::Sha512(state) => Hash::Sha512(state.finalize().into()),
        })
    }
}

impl fmt::Debug for Digester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digester")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn reads_what_it_writes() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        assert_eq!(EMPTY.parse::<Digest>().unwrap(), Digest::of(b""));
        let json = serde_json::to_string(&Digest::of(b"")).unwrap();
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), Digest::of(b""));
    }

    #[test]
    fn text_that_could_leave_its_directory_or_mean_two_things_is_refused() {
        for text in [
            "",
            "sha256:",
            "sha256:../../../../etc/passwd",
            "sha512:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "SHA256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "sha256:E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855",
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b85",
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b8555",
            &WIDE.replace("sha512", "sha256"),
            &WIDE.replace("sha512", "sha384"),
            &WIDE[..WIDE.len() - 2],
        ] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    /// The SHA-512 of no bytes (FIPS 180-4).
    const WIDE: &str = "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce\
                        47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e";

    #[test]
    fn sha512_is_another_digest_of_the_same_bytes() {
        let wide: Digest = WIDE.parse().unwrap();
        assert_eq!((wide.to_string().as_str(), wide.hex().len()), (WIDE, 128));
        assert_eq!((wide.again(b""), Digest::of(b"").again(b"")), (wide, Digest::of(b"")));
        assert_ne!(wide.again(b"a"), wide);
        assert_eq!(serde_json::from_str::<Digest>(&format!("{WIDE:?}")).unwrap(), wide);
    }

    #[test]
    fn hashing_in_pieces_gives_the_same_digest_as_hashing_at_once() {
        let mut digester = Digester::default();
        digester.update(b"one");
        digester.update(b"two");
        assert_eq!(digester.finish(), Digest::of(b"onetwo"));
    }
}
