//! The keys of layers: the names under which the store has them.
//!
//! | layer | key |
//! |---|---|
//! | portable, unpacked alone | its diff ID |
//! | portable, unpacked with the layers below it | the ChainID of the stack up to it (image-spec, config.md, "Layer ChainID"): SHA-256 of `BELOW ALONE`, the ChainID of the stack below and the key that the layer has alone |
//! | native | SHA-256 of `ovl-csi native DIFFID`, because the same tar read as a portable layer is another tree |
//! | of a snapshot | SHA-256 of `ovl-csi cut ID`, because it was never a tar and has no diff ID |
//! | of a later snapshot with that ID | SHA-256 of `ovl-csi cut ID N`, if N earlier layers of that ID are in the store |
//!
//! The hashed texts are a frozen on-disk format: with another word, no layer of an earlier version would be found.
//!
//! Only the first key is a diff ID. The others equal no diff ID, because a diff ID is the digest of a tar, and these
//! texts are too short for one. But an image may claim such a key as a diff ID, see `add_with_layers_below.rs`.

use super::snapshot_id::SnapshotId;
use crate::{
    digest::{DiffId, Digest, digest_type},
    media_type::Format,
};

digest_type! {
    /// The key of a layer in the store.
    LayerKey
}

digest_type! {
    /// The ChainID of a stack of layers. A layer that has no diff ID, or whose diff ID does not say which tree it is,
    /// is in it with its key. So the ChainID of a single layer is the key that the layer has alone.
    ChainId
}

impl LayerKey {
    /// The key of a layer that is unpacked without the layers below it.
    pub fn alone(diff_id: &DiffId, format: Format) -> Self {
        match format {
            Format::Portable => Self(*diff_id.digest()),
            Format::Native => Self(Digest::of(format!("ovl-csi native {diff_id}").as_bytes())),
        }
    }

    /// The key of a layer that is unpacked with the layers below it. `chain` is the ChainID of the stack up to it.
    pub fn of_chain(chain: &ChainId) -> Self {
        Self(chain.0)
    }

    /// The key of a snapshot's layer.
    pub fn of_snapshot(id: &SnapshotId) -> Self {
        Self(Digest::of(format!("ovl-csi cut {id}").as_bytes()))
    }

    /// The key of a snapshot's layer if `before` earlier layers of that ID are still in the store: the layer of a
    /// deleted snapshot may be in use by volumes.
    pub(super) fn of_later_snapshot(id: &SnapshotId, before: u32) -> Self {
        Self(Digest::of(format!("ovl-csi cut {id} {before}").as_bytes()))
    }

    /// The key of the layer whose directory has this name; `None` if the store gives no layer such a name.
    pub(super) fn of_dir(name: &str) -> Option<Self> {
        format!("sha256:{name}").parse().ok().map(Self)
    }

    /// The name of the layer's directory: 64 hexadecimal digits.
    pub(crate) fn dir_name(&self) -> String {
        self.0.hex()
    }

    /// The UUID of the layer's image: the first 16 bytes of the hash of its key. Overlay switches features off where
    /// two lowers have the same UUID or none (observed on Linux 6.18).
    pub(super) fn uuid(&self) -> [u8; 16] {
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&Digest::of(self.to_string().as_bytes()).as_bytes()[..16]);
        uuid
    }

    /// The key of an imaginary layer.
    #[cfg(test)]
    pub(crate) fn of(name: &[u8]) -> Self {
        Self(Digest::of(name))
    }
}

impl ChainId {
    /// The ChainID of a stack, from that of the stack `below` (`None` for no layers) and the key that its top layer has
    /// alone.
    pub fn new(below: Option<&Self>, top: &LayerKey) -> Self {
        match below {
            None => Self(top.0),
            Some(below) => Self(Digest::of(format!("{below} {top}").as_bytes())),
        }
    }

    /// Its 64 hexadecimal digits.
    pub fn digits(&self) -> String {
        self.0.hex()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Layers that an earlier version stored are found under these names.
    #[test]
    fn keys_are_the_same_in_every_version() {
        let (tar, id) = (DiffId::of(b"tar"), "snap-1".parse().unwrap());
        let alone = LayerKey::alone(&tar, Format::Portable);
        let chain = ChainId::new(Some(&ChainId::new(None, &alone)), &alone);
        for (key, name) in [
            (alone, "90aebae315675cbf04612de4f7d5874850f48e0b8dd82becbeaa47ca93f5ebfb"),
            (
                LayerKey::of_chain(&chain),
                "c8d6777bb60a0b36001b39178a0d07583d3db0268d062a17b7a14bdf6373ba65",
            ),
            (
                LayerKey::alone(&tar, Format::Native),
                "a4e21981f565da627485dd788a002bae8c3c62bee852afd9c26fe706a8ff925d",
            ),
            (
                LayerKey::of_snapshot(&id),
                "b7b8a3e43788711e99c09d4f14d2387e547fe35b1269e5732d0af4425ad0d48b",
            ),
            (
                LayerKey::of_later_snapshot(&id, 2),
                "77e53910d88821c8ef45deeec6a171985fdf58d6ed290516b2da5e2e8929adf4",
            ),
        ] {
            assert_eq!((key.dir_name().as_str(), LayerKey::of_dir(name)), (name, Some(key)));
        }
        assert_eq!(LayerKey::of_dir("lost+found"), None);
    }
}
