//! Owners: pairs of a user id and a group id, written `UID:GID`, that are swapped with root in the layers' files.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The user and the group who appear to own the layers' files of root. The map swaps 0 with the user (and 0 with the
/// group) and leaves all other ids, so it can be reversed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// The user id that is swapped with 0.
    pub uid: u32,
    /// The group id that is swapped with 0.
    pub gid: u32,
}

/// A text that is not an [`Owner`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected UID:GID, two numbers such as 1000:1000")]
pub struct OwnerError;

impl FromStr for Owner {
    type Err = OwnerError;

    fn from_str(text: &str) -> Result<Self, OwnerError> {
        let id = |text: &str| {
            let digits = text.bytes().all(|b| b.is_ascii_digit());
            // The kernel takes u32::MAX for "not given".
            text.parse().ok().filter(|id| digits && *id != u32::MAX)
        };
        let (uid, gid) = text.split_once(':').ok_or(OwnerError)?;
        Ok(Self { uid: id(uid).ok_or(OwnerError)?, gid: id(gid).ok_or(OwnerError)? })
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}

impl Owner {
    /// Root's files stay root's: nothing is swapped.
    pub const ROOT: Self = Self { uid: 0, gid: 0 };

    /// The user id that a file of `uid` appears to have; also the way back.
    pub fn user(self, uid: u32) -> u32 {
        swapped(uid, self.uid)
    }

    /// The group id that a file of `gid` appears to have; also the way back.
    pub fn group(self, gid: u32) -> u32 {
        swapped(gid, self.gid)
    }
}

fn swapped(id: u32, with: u32) -> u32 {
    match id {
        0 => with,
        id if id == with => 0,
        id => id,
    }
}

/// The form `[UID, GID]` of an owner in JSON, for `#[serde(with)]`.
pub mod pair {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use super::Owner;

    /// Writes `[UID, GID]`, or `null`.
    pub fn serialize<S: Serializer>(owner: &Option<Owner>, to: S) -> Result<S::Ok, S::Error> {
        owner.map(|Owner { uid, gid }| (uid, gid)).serialize(to)
    }

    /// Reads what [`serialize`] writes.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Owner>, D::Error> {
        let pair = Option::<(u32, u32)>::deserialize(from)?;
        Ok(pair.map(|(uid, gid)| Owner { uid, gid }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_two_numbers_that_the_kernel_knows() {
        for (text, uid, gid) in [("0:0", 0, 0), ("1000:4294967294", 1000, u32::MAX - 1)] {
            let owner = Owner { uid, gid };
            assert_eq!((text.parse(), owner.to_string().as_str()), (Ok(owner), text));
        }
        for text in [
            "",
            ":",
            "1",
            "1:",
            ":1",
            "+5:5",
            "5:-1",
            "1:2:3",
            "4294967295:0",
            "0:4294967296",
            "a:b",
        ] {
            assert_eq!(text.parse::<Owner>(), Err(OwnerError), "{text:?}");
        }
    }

    #[test]
    fn root_and_the_owner_are_swapped_both_ways() {
        let owner = Owner { uid: 1000, gid: 2000 };
        for (of_file, shown) in [
            ((0, 0), (1000, 2000)),
            ((5, 6), (5, 6)),
            ((1000, 0), (0, 2000)),
            ((2000, 1000), (2000, 1000)),
        ] {
            let swap = |(uid, gid)| (owner.user(uid), owner.group(gid));
            assert_eq!((swap(of_file), swap(shown)), (shown, of_file));
        }
        assert_eq!((Owner::ROOT.user(0), Owner::ROOT.group(7)), (0, 7));
    }

    #[test]
    fn a_pair_in_json_is_a_list() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Record(#[serde(with = "pair")] Option<Owner>);
        for (record, text) in
            [(Record(Some(Owner { uid: 1, gid: 2 })), "[1,2]"), (Record(None), "null")]
        {
            assert_eq!(serde_json::to_string(&record).unwrap(), text);
            assert_eq!(serde_json::from_str::<Record>(text).unwrap(), record);
        }
    }
}
