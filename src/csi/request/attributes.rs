//! Parses `volumeAttributes` into a [`VolumeSpec`]. The README has the table of keys.
//!
//! Conflicting options are refused. The default of an option never conflicts: it adapts to the options that are set.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Component, Path, PathBuf},
};

use super::invalid_argument::{
    BadRequest, MAX_BYTES, MAX_IMAGES, MAX_PATHS, OPTIONS, shown, truncated,
};
use crate::{
    csi::config::Defaults,
    dns_name::is_subdomain,
    image::PullPolicy,
    overlay::{Options, Xino},
    owner::Owner,
    quantity::Quantity,
    reference::Reference,
    volumes::{Limits, Medium, OnUnclean, VolumeSpec},
};

/// The prefix of the keys that the kubelet adds to the volume context. They replace any that the pod's author wrote.
pub(super) const KUBELET: &str = "csi.storage.k8s.io/";

/// All accepted keys.
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

const VOLATILE: [(&str, bool); 2] = [("true", true), ("false", false)];
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

/// The attributes whose value is one of a few words, and these words.
pub(super) fn words() -> [(&'static str, Vec<&'static str>); 9] {
    fn of<T>(words: &[(&'static str, T)]) -> Vec<&'static str> {
        words.iter().map(|(word, _)| *word).collect()
    }
    [
        ("pullPolicy", of(&PULL_POLICY)),
        ("volatile", of(&VOLATILE)),
        ("onUnclean", of(&ON_UNCLEAN)),
        ("medium", of(&MEDIUM)),
        ("metacopy", of(&SWITCH)),
        ("redirectDir", of(&SWITCH)),
        ("index", of(&SWITCH)),
        ("nfsExport", of(&SWITCH)),
        ("xino", of(&XINO)),
    ]
}

/// What is expected instead of an unknown key.
pub(super) fn expected_key() -> String {
    listed(KEYS.to_vec())
}

/// What is expected instead of a value that is none of these words.
pub(super) fn expected_word(words: &[&str]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("{word:?}")).collect();
    listed(quoted.iter().map(String::as_str).collect())
}

/// The mount settings that come from the kubelet and not from the attributes.
#[derive(Debug, Default)]
pub(super) struct Mount {
    pub(super) read_only: bool,
    pub(super) group: Option<u32>,
    pub(super) options: Options,
}

/// The spec of a volume: the author's attributes, with the node's defaults for attributes that are not set.
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
    let volatile = given.one_of("volatile", &VOLATILE)?;
    let mut spec = VolumeSpec {
        images: images(given.take("image"), given.take("images"))?,
        snapshot: given.take("snapshot").map(snapshot).transpose()?,
        pull_policy: given.one_of("pullPolicy", &PULL_POLICY)?,
        on_unclean: given.one_of("onUnclean", &ON_UNCLEAN)?.unwrap_or_default(),
        read_only,
        limits: Limits {
            size: given.quantity("size")?,
            inodes: given.quantity("inodes")?,
            by_default: false,
        },
        medium: given.one_of("medium", &MEDIUM)?.unwrap_or_default(),
        options: switches(&mut given, Options { volatile: volatile == Some(true), ..options })?,
        written,
        owner: given.take("owner").map(owner).transpose()?.flatten(),
        pre_copy_up: given.take("preCopyUp").map(pre_copy_up).transpose()?.unwrap_or_default(),
        // The group applies to the directory that takes the writes.
        group: group.filter(|_| !read_only),
    };
    spec.options.check(!read_only)?;
    if read_only {
        refuse_writes(&spec)?;
    } else {
        spec.limits = limits_or(spec.limits, defaults);
        // A tmpfs does not survive a restart of the node in any case.
        spec.options.volatile =
            volatile.unwrap_or(defaults.volatile && spec.medium == Medium::Disk);
    }
    if spec.medium == Medium::Memory && spec.limits.size.is_none() {
        return Err(BadRequest::Conflict(
            "medium is Memory and size is missing: set size to the most memory that the volume may use",
        ));
    }
    // The driver would copy the files up, so they would count as memory of the driver and not of the pod.
    if spec.medium == Medium::Memory && !spec.pre_copy_up.is_empty() {
        return Err(BadRequest::Conflict(
            "medium is Memory and preCopyUp is set: set only one of them. In memory, the pod itself must copy files up, \
             because they count as its memory: run `touch FILE` in an init container",
        ));
    }
    Ok(spec)
}

/// Refuses attributes about writes for a read-only volume: they are a mistake of the author.
fn refuse_writes(spec: &VolumeSpec) -> Result<(), BadRequest> {
    let about_writes = [
        ("size", spec.limits.size.is_some()),
        ("inodes", spec.limits.inodes.is_some()),
        ("medium", spec.medium == Medium::Memory),
        ("preCopyUp", !spec.pre_copy_up.is_empty()),
    ];
    match about_writes.into_iter().find(|(_, is_set)| *is_set) {
        Some((key, _)) => Err(BadRequest::ReadOnly(key)),
        None => Ok(()),
    }
}

/// The attributes that are not parsed yet. They are sorted, so that the error for two wrong keys always names the same
/// one.
struct Given(BTreeMap<String, String>);

impl Given {
    fn new(context: HashMap<String, String>) -> Result<Self, BadRequest> {
        let given: BTreeMap<_, _> =
            context.into_iter().filter(|(key, _)| !key.starts_with(KUBELET)).collect();
        let bytes = given.iter().map(|(key, value)| key.len() + value.len()).sum();
        if bytes > MAX_BYTES {
            return Err(BadRequest::TooLong(bytes));
        }
        // This check comes first: a mistyped key could otherwise cause another error because it is missing.
        match given.keys().find(|key| !KEYS.contains(&key.as_str())) {
            Some(key) => {
                Err(BadRequest::UnknownAttribute { key: shown(key), expected: expected_key() })
            }
            None => Ok(Self(given)),
        }
    }

    fn take(&mut self, key: &'static str) -> Option<String> {
        self.0.remove(key)
    }

    /// Takes an attribute whose value is one of a few words.
    fn one_of<T: Copy>(
        &mut self,
        key: &'static str,
        words: &[(&str, T)],
    ) -> Result<Option<T>, BadRequest> {
        let Some(value) = self.take(key) else { return Ok(None) };
        match words.iter().find(|(word, _)| *word == value) {
            Some((_, meaning)) => Ok(Some(*meaning)),
            None => {
                let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
                let expected = expected_word(&words);
                Err(BadRequest::Value { key, value: shown(&value), expected })
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

/// The images of the volume, bottom first. Without either key there are none. A key without a reference is refused,
/// because it is a mistake, for example of a template.
fn images(image: Option<String>, images: Option<String>) -> Result<Vec<Reference>, BadRequest> {
    let (key, written): (_, Vec<&str>) = match (&image, &images) {
        (None, None) => return Ok(Vec::new()),
        (Some(_), Some(_)) => return Err(BadRequest::ImageAndImages),
        (Some(one), None) => ("image", vec![one.as_str()]),
        (None, Some(several)) => ("images", several.split_whitespace().collect()),
    };
    if written.iter().all(|reference| reference.is_empty()) {
        let expected = match key {
            "image" => "an image reference",
            _ => "image references separated by spaces, bottom first",
        };
        return Err(BadRequest::Value { key, value: String::new(), expected: expected.to_owned() });
    }
    let parse = |reference: &str| {
        reference
            .parse::<Reference>()
            .map_err(|e| BadRequest::Reference { key, why: truncated(&e.to_string(), 500) })
    };
    if written.len() > MAX_IMAGES {
        return Err(BadRequest::ImageCount(written.len()));
    }
    written.into_iter().map(parse).collect()
}

/// The name of a snapshot in the pod's namespace. The name cannot refer to another namespace.
fn snapshot(name: String) -> Result<String, BadRequest> {
    if is_subdomain(&name) {
        return Ok(name);
    }
    Err(BadRequest::Value {
        key: "snapshot",
        value: shown(&name),
        expected: "the name of a snapshot in the pod's namespace".to_owned(),
    })
}

/// The options of overlayfs and of the mount.
fn switches(given: &mut Given, mut options: Options) -> Result<Options, BadRequest> {
    let (metacopy, redirect_dir) =
        (given.one_of("metacopy", &SWITCH)?, given.one_of("redirectDir", &SWITCH)?);
    let (index, nfs_export) =
        (given.one_of("index", &SWITCH)?, given.one_of("nfsExport", &SWITCH)?);
    let xino = given.one_of("xino", &XINO)?;
    options.redirect_dir = redirect_dir.unwrap_or(options.redirect_dir);
    options.index = index.unwrap_or(options.index);
    options.nfs_export = nfs_export.unwrap_or(options.nfs_export);
    options.metacopy = metacopy.unwrap_or(options.redirect_dir && !options.nfs_export);
    options.xino = xino.unwrap_or(options.xino);
    if let Some(written) = given.take("mountOptions") {
        for option in written.split(',').map(str::trim) {
            if !set(&mut options, option)? {
                return Err(BadRequest::Value {
                    key: "mountOptions",
                    value: shown(option),
                    expected: format!("{OPTIONS}, separated by commas"),
                });
            }
        }
    }
    Ok(options)
}

/// Sets a mount option. Returns false for an option that pods may not set.
pub(super) fn set(options: &mut Options, option: &str) -> Result<bool, BadRequest> {
    match option {
        "noexec" => options.noexec = true,
        "nodev" => options.nodev = true,
        "nosuid" => options.nosuid = true,
        "noatime" => options.noatime = true,
        // Set-user-id files and devices of a layer would work on the node: an overlay does not inherit nosuid from its
        // lowers.
        "suid" => return Err(BadRequest::AlwaysOff("suid")),
        "dev" => return Err(BadRequest::AlwaysOff("dev")),
        _ => return Ok(false),
    }
    Ok(true)
}

/// The owner; `None` for 0:0, which leaves root's files to root and so needs no mapping.
fn owner(value: String) -> Result<Option<Owner>, BadRequest> {
    match value.parse::<Owner>() {
        Ok(owner) => Ok(Some(owner).filter(|owner| *owner != Owner::ROOT)),
        Err(_) => Err(BadRequest::Value {
            key: "owner",
            value: shown(&value),
            expected: "UID:GID, two numbers such as 1000:1000".to_owned(),
        }),
    }
}

fn pre_copy_up(value: String) -> Result<Vec<PathBuf>, BadRequest> {
    let count = value.split_whitespace().count();
    if count > MAX_PATHS {
        return Err(BadRequest::PreCopyUpCount(count));
    }
    let parse = |text: &str| {
        let path = Path::new(text);
        // A name has at most 255 bytes, a path at most 4095 (limits.h).
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
    let by_pod = given.size.is_some() || given.inodes.is_some();
    let (size, inodes) = (given.size.or(defaults.size), given.inodes.or(defaults.inodes));
    // Both limits are enforced by the same means. So if the pod sets one of them, both count as set by the pod.
    Limits { size, inodes, by_default: !by_pod && (size.is_some() || inodes.is_some()) }
}

/// `a, b or c`.
fn listed(words: Vec<&str>) -> String {
    match words.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        _ => words.concat(),
    }
}
