//! `volumeAttributes` → [`VolumeSpec`]; the table of keys is in the README.
//!
//! Conflicts are refused, and an option that is not written never makes one: it yields to what is written.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Component, Path, PathBuf},
};

use super::{
    KUBELET,
    bad::{BadRequest, MOST_BYTES, MOST_IMAGES, MOST_PATHS, OPTIONS, cut, shown},
};
use crate::{
    controller::is_subdomain,
    csi::{config::Defaults, quantity::Quantity},
    volumes::{Limits, Medium, OnUnclean, Options, Owner, PullPolicy, Reference, VolumeSpec, Xino},
};

/// Every key there is.
pub(super) const KEYS: [&str; 17] = [
    "image",
    "images",
    "snapshot",
    "pullPolicy",
    "volatile",
    "onUnclean",
    "size",
    "inodes",
    "medium",
    "metacopy",
    "redirectDir",
    "index",
    "nfsExport",
    "xino",
    "owner",
    "preCopyUp",
    "mountOptions",
];

const PULL_POLICY: [(&str, PullPolicy); 3] = [
    ("Always", PullPolicy::Always),
    ("IfNotPresent", PullPolicy::IfNotPresent),
    ("Never", PullPolicy::Never),
];
const ON_UNCLEAN: [(&str, OnUnclean); 2] =
    [("discard", OnUnclean::Discard), ("fail", OnUnclean::Fail)];
const MEDIUM: [(&str, Medium); 2] = [("", Medium::Disk), ("Memory", Medium::Memory)];
const SWITCH: [(&str, bool); 2] = [("on", true), ("off", false)];
const XINO: [(&str, Xino); 3] = [("on", Xino::On), ("off", Xino::Off), ("auto", Xino::Auto)];

/// What the kubelet says about the mount, beside the attributes.
#[derive(Debug, Default)]
pub(super) struct Mount {
    pub(super) read_only: bool,
    pub(super) group: Option<u32>,
    pub(super) options: Options,
}

/// What the pod's author asks for, with the node's defaults where nothing is said.
pub(super) fn spec(
    context: HashMap<String, String>,
    mount: Mount,
    defaults: &Defaults,
) -> Result<VolumeSpec, BadRequest> {
    let Mount { read_only, group, options } = mount;
    let mut given = Given::new(context)?;
    let mut written: BTreeSet<_> = given.0.keys().cloned().collect();
    if (Options { context: None, ..options.clone() }) != Options::default() {
        written.insert("mountOptions".to_owned());
    }
    let volatile = given.word("volatile", &[("true", true), ("false", false)])?;
    let mut spec = VolumeSpec {
        images: images(given.take("image"), given.take("images"))?,
        snapshot: given.take("snapshot").map(snapshot).transpose()?,
        pull_policy: given.word("pullPolicy", &PULL_POLICY)?,
        on_unclean: given.word("onUnclean", &ON_UNCLEAN)?.unwrap_or_default(),
        read_only,
        limits: Limits {
            size: given.quantity("size")?,
            inodes: given.quantity("inodes")?,
            by_default: false,
        },
        medium: given.word("medium", &MEDIUM)?.unwrap_or_default(),
        options: switches(&mut given, Options { volatile: volatile == Some(true), ..options })?,
        written,
        owner: given.take("owner").map(owner).transpose()?.flatten(),
        pre_copy_up: given.take("preCopyUp").map(pre_copy_up).transpose()?.unwrap_or_default(),
        // It is the group of the folder that takes writes.
        group: group.filter(|_| !read_only),
    };
    if read_only {
        refuse_writes(&spec)?;
    } else {
        spec.limits = limits_or(spec.limits, defaults);
        // A tmpfs is gone with the node whatever is said.
        spec.options.volatile =
            volatile.unwrap_or(defaults.volatile && spec.medium == Medium::Disk);
    }
    if spec.medium == Medium::Memory && spec.limits.size.is_none() {
        return Err(BadRequest::Conflict(
            "medium is Memory and there is no size: write one, it is the most memory that the volume may take",
        ));
    }
    // What is copied up would be charged to the memory of who copies: of the driver, which is not the pod's to fill.
    if spec.medium == Medium::Memory && !spec.pre_copy_up.is_empty() {
        return Err(BadRequest::Conflict(
            "medium is Memory and there is preCopyUp: write one of them. In memory a file is copied up by the pod itself, which \
             pays for it: by `touch FILE` in an init container",
        ));
    }
    Ok(spec)
}

/// A wish about what is written, for a volume that nobody writes to, is a mistake.
fn refuse_writes(spec: &VolumeSpec) -> Result<(), BadRequest> {
    let wishes = [
        ("volatile", spec.options.volatile),
        ("size", spec.limits.size.is_some()),
        ("inodes", spec.limits.inodes.is_some()),
        ("medium", spec.medium == Medium::Memory),
        ("index", spec.options.index),
        ("preCopyUp", !spec.pre_copy_up.is_empty()),
    ];
    match wishes.into_iter().find(|(_, wished)| *wished) {
        Some((key, _)) => Err(BadRequest::ReadOnly(key)),
        None => Ok(()),
    }
}

/// What the author wrote and nobody has looked at yet. Sorted, so that of two wrong keys the same one is always named.
struct Given(BTreeMap<String, String>);

impl Given {
    fn new(context: HashMap<String, String>) -> Result<Self, BadRequest> {
        let given: BTreeMap<_, _> =
            context.into_iter().filter(|(key, _)| !key.starts_with(KUBELET)).collect();
        let bytes = given.iter().map(|(key, value)| key.len() + value.len()).sum();
        if bytes > MOST_BYTES {
            return Err(BadRequest::TooLong(bytes));
        }
        // First, so that a mistyped key is not hidden by what its absence leads to.
        match given.keys().find(|key| !KEYS.contains(&key.as_str())) {
            Some(key) => {
                let accepted = listed(KEYS.to_vec());
                Err(BadRequest::UnknownAttribute { key: shown(key), accepted })
            }
            None => Ok(Self(given)),
        }
    }

    fn take(&mut self, key: &'static str) -> Option<String> {
        self.0.remove(key)
    }

    /// One of a few words.
    fn word<T: Copy>(
        &mut self,
        key: &'static str,
        words: &[(&str, T)],
    ) -> Result<Option<T>, BadRequest> {
        let Some(value) = self.take(key) else { return Ok(None) };
        match words.iter().find(|(word, _)| *word == value) {
            Some((_, meaning)) => Ok(Some(*meaning)),
            None => {
                let quoted: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
                let accepted = listed(quoted.iter().map(String::as_str).collect());
                Err(BadRequest::Value { key, value: shown(&value), accepted })
            }
        }
    }

    fn quantity(&mut self, key: &'static str) -> Result<Option<u64>, BadRequest> {
        let Some(value) = self.take(key) else { return Ok(None) };
        match value.parse::<Quantity>() {
            Ok(quantity) => Ok(Some(quantity.get())),
            Err(source) => Err(BadRequest::Quantity { key, value: shown(&value), source }),
        }
    }
}

/// Bottom first. Neither key is an empty stack; a key without a reference is a mistake, for instance of a template.
fn images(image: Option<String>, images: Option<String>) -> Result<Vec<Reference>, BadRequest> {
    let (key, written): (_, Vec<&str>) = match (&image, &images) {
        (None, None) => return Ok(Vec::new()),
        (Some(_), Some(_)) => return Err(BadRequest::ImageAndImages),
        (Some(one), None) => ("image", vec![one.as_str()]),
        (None, Some(several)) => ("images", several.split_whitespace().collect()),
    };
    if written.iter().all(|reference| reference.is_empty()) {
        let accepted = "an image reference, or for images several, split by spaces, bottom first";
        return Err(BadRequest::Value { key, value: String::new(), accepted: accepted.to_owned() });
    }
    let parse = |reference: &str| {
        reference
            .parse::<Reference>()
            .map_err(|e| BadRequest::Reference { key, why: cut(&e.to_string(), 500) })
    };
    if written.len() > MOST_IMAGES {
        return Err(BadRequest::ImageCount(written.len()));
    }
    written.into_iter().map(parse).collect()
}

/// The name of a snapshot, of the pod's namespace: there is no way to write another's.
fn snapshot(name: String) -> Result<String, BadRequest> {
    if is_subdomain(&name) {
        return Ok(name);
    }
    Err(BadRequest::Value {
        key: "snapshot",
        value: shown(&name),
        accepted: "names of snapshots in the pod's namespace".to_owned(),
    })
}

/// Overlay's own options, and those of the mount.
fn switches(given: &mut Given, mut options: Options) -> Result<Options, BadRequest> {
    let (metacopy, redirect_dir) =
        (given.word("metacopy", &SWITCH)?, given.word("redirectDir", &SWITCH)?);
    let (index, nfs_export) = (given.word("index", &SWITCH)?, given.word("nfsExport", &SWITCH)?);
    let xino = given.word("xino", &XINO)?;
    options.redirect_dir = redirect_dir.unwrap_or(options.redirect_dir);
    options.index = index.unwrap_or(options.index);
    options.nfs_export = nfs_export.unwrap_or(options.nfs_export);
    options.metacopy = metacopy.unwrap_or(options.redirect_dir && !options.nfs_export);
    options.xino = xino.unwrap_or(options.xino);
    let broken = [
        (
            options.metacopy && !options.redirect_dir,
            "metacopy is on and redirectDir is off: metacopy needs redirectDir, turn it on too",
        ),
        (
            options.metacopy && options.nfs_export,
            "metacopy and nfsExport are both on, and exclude one another: turn one of them off",
        ),
        (
            options.nfs_export && !options.index,
            "nfsExport is on and index is not: nfsExport needs index, turn it on too",
        ),
    ];
    if let Some((_, why)) = broken.into_iter().find(|(broken, _)| *broken) {
        return Err(BadRequest::Conflict(why));
    }
    if let Some(written) = given.take("mountOptions") {
        for option in written.split(',').map(str::trim) {
            if !set(&mut options, option)? {
                return Err(BadRequest::Value {
                    key: "mountOptions",
                    value: shown(option),
                    accepted: format!("{OPTIONS}, split by commas"),
                });
            }
        }
    }
    Ok(options)
}

/// Sets a mount option; whether it is one that pods may set.
pub(super) fn set(options: &mut Options, option: &str) -> Result<bool, BadRequest> {
    match option {
        "noexec" => options.noexec = true,
        "nodev" => options.nodev = true,
        "nosuid" => options.nosuid = true,
        "noatime" => options.noatime = true,
        // A layer's set-user-id files and devices would be the node's (a lower's own nosuid is not inherited).
        "suid" => return Err(BadRequest::Lifted("suid")),
        "dev" => return Err(BadRequest::Lifted("dev")),
        _ => return Ok(false),
    }
    Ok(true)
}

/// Root's files staying root's is no map at all.
fn owner(value: String) -> Result<Option<Owner>, BadRequest> {
    match value.parse::<Owner>() {
        Ok(owner) => Ok(Some(owner).filter(|owner| (owner.uid, owner.gid) != (0, 0))),
        Err(_) => Err(BadRequest::Value {
            key: "owner",
            value: shown(&value),
            accepted: "UID:GID, two numbers such as 1000:1000".to_owned(),
        }),
    }
}

fn pre_copy_up(value: String) -> Result<Vec<PathBuf>, BadRequest> {
    let count = value.split_whitespace().count();
    if count > MOST_PATHS {
        return Err(BadRequest::PreCopyUpCount(count));
    }
    let parse = |text: &str| {
        let path = Path::new(text);
        // 255 bytes is the longest name there can be, 4095 the longest path (limits.h).
        let name = |c| matches!(c, Component::Normal(name) if name.len() <= 255);
        let plain = text.len() <= 4095 && path.components().all(name);
        if !plain || text.chars().any(char::is_control) {
            return Err(BadRequest::PreCopyUp(shown(text)));
        }
        Ok(path.components().collect())
    };
    value.split_whitespace().map(parse).collect()
}

fn limits_or(given: Limits, defaults: &Defaults) -> Limits {
    let said = given.size.is_some() || given.inodes.is_some();
    let (size, inodes) = (given.size.or(defaults.size), given.inodes.or(defaults.inodes));
    // What enforces one enforces the other, so one wish of the pod's makes both firm.
    Limits { size, inodes, by_default: !said && (size.is_some() || inodes.is_some()) }
}

/// `a, b and c`.
fn listed(words: Vec<&str>) -> String {
    match words.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} and {last}", others.join(", ")),
        _ => words.concat(),
    }
}
