//! Tables of requests with the values or the error messages that they become.

use std::collections::BTreeSet;

use super::{attributes::KEYS, *};
use crate::{
    csi::proto::csi::volume_capability::BlockVolume,
    error::Class,
    image::PullPolicy,
    overlay::Xino,
    owner::Owner,
    reference::Reference,
    volumes::{Limits, Medium, OnUnclean, VolumeSpec},
};

/// Parses a request on a node without defaults, from a caller without a deadline.
fn publish(request: NodePublishVolumeRequest) -> Result<PublishRequest, BadRequest> {
    super::publish(request, &Defaults::default(), None)
}

/// The request of the kubelet for a pod with `volumeAttributes: {}`.
fn plain() -> NodePublishVolumeRequest {
    NodePublishVolumeRequest {
        volume_id: "csi-0123".into(),
        target_path: "/var/lib/kubelet/pods/u-1/volumes/kubernetes.io~csi/ws/mount".into(),
        volume_capability: Some(VolumeCapability {
            access_type: Some(AccessType::Mount(MountVolume::default())),
            access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
        }),
        readonly: false,
        secrets: HashMap::new(),
        volume_context: HashMap::from(
            [
                (EPHEMERAL, "true"),
                (POD_NAMESPACE, "ci"),
                (POD_NAME, "job-1"),
                (POD_UID, "u-1"),
                ("csi.storage.k8s.io/serviceAccount.name", "default"),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned())),
        ),
    }
}

fn with(attributes: &[(&str, &str)]) -> NodePublishVolumeRequest {
    let mut request = plain();
    for (key, value) in attributes {
        request.volume_context.insert((*key).to_owned(), (*value).to_owned());
    }
    request
}

fn without(key: &str) -> NodePublishVolumeRequest {
    let mut request = plain();
    request.volume_context.remove(key);
    request
}

fn mounted(mount: MountVolume) -> NodePublishVolumeRequest {
    used(Some(AccessType::Mount(mount)), Some(Mode::SingleNodeWriter))
}

fn used(access_type: Option<AccessType>, mode: Option<Mode>) -> NodePublishVolumeRequest {
    let access_mode = mode.map(|mode| AccessMode { mode: mode.into() });
    NodePublishVolumeRequest {
        volume_capability: Some(VolumeCapability { access_type, access_mode }),
        ..plain()
    }
}

fn by(mode: Mode) -> NodePublishVolumeRequest {
    used(Some(AccessType::Mount(MountVolume::default())), Some(mode))
}

#[test]
fn without_attributes_a_volume_is_empty_and_writable() {
    let request = publish(plain()).unwrap();
    assert_eq!(request.id.as_str(), "csi-0123");
    assert_eq!(request.target.to_string(), plain().target_path);
    let pod = &request.pod;
    assert_eq!((&*pod.namespace, &*pod.name, pod.uid.as_str()), ("ci", "job-1", "u-1"));
    let nothing = VolumeSpec::default();
    assert_eq!(request.spec, nothing);
}

#[test]
fn attributes_are_parsed() {
    type Change = fn(&mut VolumeSpec);
    let rows: &[(&[(&str, &str)], Change)] = &[
        (&[("image", "r.io/a:1")], |s| s.images = references(&["r.io/a:1"])),
        (&[("images", "r.io/a:1")], |s| s.images = references(&["r.io/a:1"])),
        (&[("images", " r.io/base:1\n\tr.io/top:2  ")], |s| {
            s.images = references(&["r.io/base:1", "r.io/top:2"]);
        }),
        (&[("snapshot", "ws-1.before")], |s| s.snapshot = Some("ws-1.before".to_owned())),
        (&[("snapshot", "ws-1"), ("image", "r.io/a:1")], |s| {
            (s.snapshot, s.images) = (Some("ws-1".to_owned()), references(&["r.io/a:1"]));
        }),
        (&[("pullPolicy", "Always")], |s| s.pull_policy = Some(PullPolicy::Always)),
        (&[("pullPolicy", "IfNotPresent")], |s| s.pull_policy = Some(PullPolicy::IfNotPresent)),
        (&[("pullPolicy", "Never")], |s| s.pull_policy = Some(PullPolicy::Never)),
        (&[("volatile", "true")], |s| s.options.volatile = true),
        (&[("volatile", "false")], |_| {}),
        (&[("onUnclean", "discard")], |_| {}),
        (&[("onUnclean", "fail")], |s| s.on_unclean = OnUnclean::Fail),
        (&[("size", "1Gi"), ("inodes", "100k")], |s| {
            s.limits = Limits { size: Some(1 << 30), inodes: Some(100_000), by_default: false };
        }),
        (&[("medium", "")], |_| {}),
        (&[("medium", "Memory"), ("size", "500M")], |s| {
            s.medium = Medium::Memory;
            s.limits.size = Some(500_000_000);
        }),
        (&[("metacopy", "off")], |s| s.options.metacopy = false),
        // The default of an option adapts to the options that are set.
        (&[("redirectDir", "off")], |s| {
            (s.options.redirect_dir, s.options.metacopy) = (false, false);
        }),
        (&[("index", "on"), ("nfsExport", "on")], |s| {
            (s.options.index, s.options.nfs_export, s.options.metacopy) = (true, true, false);
        }),
        (&[("xino", "auto")], |_| {}),
        (&[("xino", "off")], |s| s.options.xino = Xino::Off),
        (&[("xino", "on")], |s| s.options.xino = Xino::On),
        (&[("owner", "1000:2000")], |s| s.owner = Some(Owner { uid: 1000, gid: 2000 })),
        (&[("owner", "0:2000")], |s| s.owner = Some(Owner { uid: 0, gid: 2000 })),
        (&[("owner", "0:0")], |_| {}),
        (&[("preCopyUp", " var/lib/rpm\netc//passwd/ ")], |s| {
            s.pre_copy_up = vec!["var/lib/rpm".into(), "etc/passwd".into()];
        }),
        (&[("mountOptions", "noexec, noatime,nodev,nosuid")], |s| {
            (s.options.noexec, s.options.noatime) = (true, true);
        }),
        // The keys of the kubelet are accepted, also those of later versions.
        (&[("csi.storage.k8s.io/new", "x")], |_| {}),
    ];
    for (attributes, change) in rows {
        let written = attributes.iter().map(|(key, _)| (*key).to_owned());
        let written = written.filter(|key| !key.starts_with("csi.storage")).collect();
        let mut expected = VolumeSpec { written, ..VolumeSpec::default() };
        change(&mut expected);
        assert_eq!(publish(with(attributes)).unwrap().spec, expected, "{attributes:?}");
    }
}

fn references(written: &[&str]) -> Vec<Reference> {
    written.iter().map(|image| image.parse().unwrap()).collect()
}

#[test]
fn the_node_has_defaults_for_attributes_that_are_not_set() {
    let defaults = Defaults { size: Some(1 << 30), inodes: Some(1000), volatile: true };
    let read_only = NodePublishVolumeRequest { readonly: true, ..with(&[("snapshot", "ws-1")]) };
    for (request, size, inodes, by_default, volatile) in [
        (plain(), Some(1 << 30), Some(1000), true, true),
        (with(&[("size", "1k")]), Some(1000), Some(1000), false, true),
        (with(&[("inodes", "5")]), Some(1 << 30), Some(5), false, true),
        (with(&[("volatile", "false")]), Some(1 << 30), Some(1000), true, false),
        (with(&[("medium", "Memory")]), Some(1 << 30), Some(1000), true, false),
        (read_only, None, None, false, false),
    ] {
        let spec = super::publish(request, &defaults, None).unwrap().spec;
        assert_eq!(spec.limits, Limits { size, inodes, by_default });
        assert_eq!(spec.options.volatile, volatile);
    }
}

#[test]
fn the_kubelet_may_set_a_group_a_label_and_mount_options() {
    let label = "system_u:object_r:container_file_t:s0:c1,c2";
    let mount = MountVolume {
        mount_flags: vec!["noexec".into(), format!("context=\"{label}\"")],
        volume_mount_group: "2000".into(),
        ..Default::default()
    };
    let spec = publish(mounted(mount.clone())).unwrap().spec;
    assert_eq!(spec.options.context.as_deref(), Some(label));
    assert!(spec.options.noexec && spec.options.nosuid && spec.options.nodev);
    assert_eq!(spec.written, BTreeSet::from(["mountOptions".to_owned()]));
    assert_eq!(spec.group, Some(2000));
    let read_only = NodePublishVolumeRequest { readonly: true, ..mounted(mount) };
    assert_eq!(publish(read_only).unwrap().spec.group, None);
    let mount_flags = vec![format!("context={label}")];
    let spec = publish(mounted(MountVolume { mount_flags, ..Default::default() })).unwrap().spec;
    assert_eq!(spec.options.context.as_deref(), Some(label));
}

#[test]
fn the_grpc_timeout_header_sets_the_deadline() {
    let left = |text: &str| {
        let mut headers = MetadataMap::new();
        headers.insert("grpc-timeout", text.parse().unwrap());
        let now = Instant::now();
        deadline(&headers).map(|at| at.duration_since(now).as_secs_f64())
    };
    for (text, seconds) in
        [("2M", 120.0), ("119999m", 119.999), ("1H", 3600.0), ("10S", 10.0), ("0S", 0.0)]
    {
        let left = left(text).unwrap();
        assert!((seconds - 0.1..seconds + 5.0).contains(&left), "{text}: {left}");
    }
    assert!(left("99999999u").is_some() && left("99999999n").is_some());
    for text in ["", "S", "10", "10s", "123456789S", "-1S", "+1S", "1 S"] {
        assert_eq!(left(text), None, "{text:?}");
    }
    assert_eq!(deadline(&MetadataMap::new()), None);
}

#[test]
fn a_volume_is_read_only_if_the_flag_or_the_access_mode_says_so() {
    for (mode, readonly, expected) in [
        (Mode::SingleNodeWriter, false, false),
        (Mode::SingleNodeWriter, true, true),
        (Mode::SingleNodeSingleWriter, false, false),
        (Mode::SingleNodeMultiWriter, false, false),
        (Mode::SingleNodeReaderOnly, false, true),
        (Mode::SingleNodeReaderOnly, true, true),
    ] {
        let request = NodePublishVolumeRequest { readonly, ..by(mode) };
        assert_eq!(publish(request).unwrap().spec.read_only, expected, "{mode:?} {readonly}");
    }
}

#[test]
fn the_fs_type_may_be_empty_or_overlay() {
    for fs_type in ["", "overlay"] {
        assert!(
            publish(mounted(MountVolume { fs_type: fs_type.into(), ..Default::default() })).is_ok()
        );
    }
}

#[test]
fn the_error_of_a_bad_request_says_what_to_do() {
    let mount = |fs_type: &str, flags: &[&str]| {
        let mount_flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        mounted(MountVolume { fs_type: fs_type.into(), mount_flags, ..Default::default() })
    };
    let group = |group: &str| {
        mounted(MountVolume { volume_mount_group: group.into(), ..Default::default() })
    };
    let read_only =
        |key, value| NodePublishVolumeRequest { readonly: true, ..with(&[(key, value)]) };
    let many = "a ".repeat(101);
    let images = "a ".repeat(33);
    let much = "a".repeat(70_000);
    let id = |id: &str| NodePublishVolumeRequest { volume_id: id.into(), ..plain() };
    let at = |target: &str| NodePublishVolumeRequest { target_path: target.into(), ..plain() };
    let secret = NodePublishVolumeRequest {
        secrets: HashMap::from([("token".to_owned(), "hunter2".to_owned())]),
        ..plain()
    };
    let any = Some(AccessType::Mount(MountVolume::default()));
    for (request, expected) in [
        (id(""), "volume_id is missing"),
        (id("../../etc"), "\"../../etc\" is not a valid volume ID"),
        (at(""), "target_path is missing"),
        (at("pods/x/mount"), "\"pods/x/mount\" is not an absolute path"),
        (at("/var/lib/kubelet/../../etc"), "is not an absolute path without '.' and '..'"),
        (
            NodePublishVolumeRequest { volume_capability: None, ..plain() },
            "volume_capability is missing",
        ),
        (used(None, Some(Mode::SingleNodeWriter)), "volume_capability.mount is missing"),
        (used(Some(AccessType::Block(BlockVolume {})), None), "use volumeMode: Filesystem"),
        (used(any.clone(), None), "volume_capability.access_mode is missing"),
        (by(Mode::Unknown), "access mode UNKNOWN"),
        (by(Mode::MultiNodeReaderOnly), "access mode MULTI_NODE_READER_ONLY is not supported"),
        (by(Mode::MultiNodeSingleWriter), "access mode MULTI_NODE_SINGLE_WRITER is not supported"),
        (by(Mode::MultiNodeMultiWriter), "access mode MULTI_NODE_MULTI_WRITER is not supported"),
        (mount("ext4", &[]), "fsType \"ext4\" is not supported: remove it, or set it to overlay"),
        (mount("", &["ro"]), "mount option \"ro\" is unknown: expected noexec, nodev,"),
        (mount("", &["lowerdir=/etc"]), "mount option \"lowerdir\" is unknown"),
        (mount("", &["suid"]), "suid is not allowed: volumes are always nosuid and nodev"),
        (mount("", &["context="]), "mount option context= is not an SELinux label"),
        (mount("", &["context=a:b:c,userxattr "]), "mount option context= is not an SELinux label"),
        (group("wheel"), "fsGroup is \"wheel\", which is not a group ID"),
        (group("4294967295"), "fsGroup is"),
        (group("-1"), "fsGroup is"),
        (mount("", &["password=hunter2"]), "mount option \"password\" is unknown"),
        (secret, "has the key \"token\": expected a Secret of type kubernetes.io/dockerconfigjson"),
        (without(EPHEMERAL), "the volume is not inline"),
        (with(&[(EPHEMERAL, "false")]), "the volume is not inline"),
        (without(POD_NAMESPACE), "csi.storage.k8s.io/pod.namespace is missing from the request"),
        (without(POD_NAME), "set podInfoOnMount: true in the CSIDriver object"),
        (with(&[(POD_UID, "")]), "csi.storage.k8s.io/pod.uid is missing"),
        (with(&[(POD_UID, "../x")]), "pod.uid is \"../x\", which is not a valid pod uid"),
        (
            with(&[("Image", "a")]),
            "unknown attribute \"Image\" in volumeAttributes: expected image, images, snapshot, pullPolicy,",
        ),
        (with(&[("b", ""), ("a", "")]), "unknown attribute \"a\""),
        (with(&[("snapshot", "")]), "snapshot is \"\": expected the name of a snapshot in"),
        (with(&[("snapshot", "other/ws-1")]), "snapshot is \"other/ws-1\": expected the name of"),
        (with(&[("snapshot", "../ws-1")]), "snapshot is \"../ws-1\""),
        (with(&[("snapshot", "Ws-1")]), "snapshot is \"Ws-1\""),
        (with(&[("snapshot", &much[..254])]), "snapshot is \"aaa"),
        (with(&[("size", "0")]), "size is \"0\": expected a number greater than zero"),
        (with(&[("size", "-1Gi")]), "size is \"-1Gi\": expected a number"),
        (with(&[("size", "1GB")]), "such as 10Gi"),
        (with(&[("inodes", "")]), "inodes is \"\": expected a number"),
        (with(&[("onUnclean", "keep")]), "expected \"discard\" or \"fail\""),
        (with(&[("medium", "memory")]), "medium is \"memory\": expected \"\" or \"Memory\""),
        (with(&[("medium", "Memory")]), "medium is Memory and size is missing: set size"),
        (
            with(&[("medium", "Memory"), ("size", "1Gi"), ("preCopyUp", "a")]),
            "medium is Memory and preCopyUp is set: set only one of them",
        ),
        (with(&[("xino", "yes")]), "expected \"on\", \"off\" or \"auto\""),
        (with(&[("index", "true")]), "index is \"true\": expected \"on\" or \"off\""),
        (
            with(&[("metacopy", "on"), ("redirectDir", "off")]),
            "`metacopy: on` needs `redirectDir: on`",
        ),
        (with(&[("metacopy", "on"), ("nfsExport", "on"), ("index", "on")]), "exclude each other"),
        (with(&[("nfsExport", "on")]), "`nfsExport: on` needs `index: on`"),
        (with(&[("owner", "1000")]), "owner is \"1000\": expected UID:GID"),
        (with(&[("owner", "root:root")]), "expected UID:GID, two numbers"),
        (with(&[("owner", "4294967295:0")]), "expected UID:GID"),
        (with(&[("owner", "1:4294967296")]), "expected UID:GID"),
        (with(&[("owner", "+1:-1")]), "expected UID:GID"),
        (with(&[("owner", "1:2:3")]), "expected UID:GID"),
        (with(&[("preCopyUp", "a ../b")]), "preCopyUp has \"../b\": use paths relative"),
        (with(&[("preCopyUp", "/etc/passwd")]), "preCopyUp has \"/etc/passwd\""),
        (with(&[("preCopyUp", "a/./b/../c")]), "preCopyUp has"),
        (with(&[("preCopyUp", "./a")]), "preCopyUp has"),
        (with(&[("preCopyUp", "a\0b")]), "preCopyUp has \"a\\0b\""),
        (with(&[("preCopyUp", &much[..300])]), "preCopyUp has \"aaa"),
        (with(&[("images", &images)]), "images has 33 references, and at most 32 are allowed"),
        (with(&[("preCopyUp", &many)]), "preCopyUp has 101 paths, and at most 100 are allowed"),
        (with(&[("mountOptions", "noexec,exec")]), "mountOptions is \"exec\": expected noexec,"),
        (with(&[("mountOptions", "")]), "mountOptions is \"\": expected"),
        (with(&[("mountOptions", "noexec,dev")]), "mount option dev is not allowed"),
        (with(&[("mountOptions", "context=a:b:c")]), "mountOptions is \"context=a:b:c\""),
        (with(&[("images", &much)]), "volumeAttributes have 70006 bytes, and at most 65536"),
        (read_only("volatile", "true"), "volatile is for writable volumes"),
        (read_only("size", "1Gi"), "size is for writable volumes"),
        (read_only("inodes", "1"), "inodes is for writable volumes"),
        (read_only("medium", "Memory"), "medium is for writable volumes"),
        (read_only("index", "on"), "index is for writable volumes"),
        (read_only("preCopyUp", "a"), "preCopyUp is for writable volumes"),
        // A pod never gets files of the node.
        (with(&[("image", "oci:/var/lib/images")]), "volumeAttributes: image: "),
        (with(&[("image", "docker-archive:/a.tar")]), "volumeAttributes: image: "),
        (with(&[("image", "a"), ("images", "a b")]), "image and images are both set"),
        (with(&[("image", "")]), "image is \"\": expected"),
        (with(&[("images", " \n")]), "images is \"\": expected"),
        (with(&[("image", "http://r.io/a")]), "volumeAttributes: image: "),
        (with(&[("image", "r.io/a r.io/b")]), "volumeAttributes: image: "),
        (with(&[("images", "r.io/a http://r.io/b")]), "volumeAttributes: images: "),
        (
            with(&[("pullPolicy", "always")]),
            "pullPolicy is \"always\": expected \"Always\", \"IfNotPresent\" or \"Never\"",
        ),
        (with(&[("volatile", "yes")]), "volatile is \"yes\": expected \"true\" or \"false\""),
    ] {
        let error = publish(request).unwrap_err();
        assert_eq!(error.class(), Class::Invalid, "{error}");
        assert!(
            error.to_string().contains(expected),
            "{expected:?} is not in {:?}",
            error.to_string()
        );
    }
}

#[test]
fn both_formats_of_a_docker_secret_are_read() {
    let auths = "{\"r.io\":{\"auth\":\"YTpi\"}}";
    let newer = format!("{{\"auths\":{auths}}}");
    let image = "r.io/a".parse().unwrap();
    let read = |key: &str, text: &str| {
        let keyring = keyring(HashMap::from([(key.to_owned(), text.to_owned())]));
        keyring.map(|keyring| keyring.accesses(&image))
    };
    let credentials = read(".dockerconfigjson", &newer).unwrap();
    assert_eq!(credentials.len(), 1);
    assert_eq!(read(".dockercfg", auths).unwrap(), credentials);
    assert!(read("password", "hunter2").is_err());
}

#[test]
fn the_value_of_a_mount_option_is_not_quoted() {
    let mount_flags = vec!["password=hunter2".to_owned()];
    let error = publish(mounted(MountVolume { mount_flags, ..Default::default() })).unwrap_err();
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

#[test]
fn an_error_message_is_short_and_has_no_control_characters() {
    let long = "ä".repeat(4000);
    for written in [long.as_str(), "%s%n{}{0}$(id)`id`", "a\0b\x1b[31m\r\nc", "\u{202e}x"] {
        let attributes = KEYS.into_iter().map(|key| (key, written)).chain([(written, "x")]);
        for (key, value) in attributes {
            let error = match publish(with(&[(key, value)])) {
                Err(error) => error,
                // A file name may have nearly any characters.
                Ok(_) if key == "preCopyUp" => continue,
                Ok(_) => panic!("{key}: {value:?} was accepted"),
            };
            let message = error.to_string();
            assert!(message.len() < 1024, "{key}: {} bytes: {message}", message.len());
            assert!(!message.contains(|c: char| c.is_control() || c == '\u{202e}'), "{message:?}");
        }
    }
}

#[test]
fn an_unpublish_names_a_volume_and_a_target() {
    let request = |id: &str, target: &str| NodeUnpublishVolumeRequest {
        volume_id: id.into(),
        target_path: target.into(),
    };
    let (id, target) = unpublish(&request("csi-1", "/k/mount")).unwrap();
    assert_eq!((id.as_str(), target.to_string().as_str()), ("csi-1", "/k/mount"));
    for (request, expected) in [
        (request("", "/k/mount"), "volume_id is missing"),
        (request("a/b", "/k/mount"), "\"a/b\" is not a valid volume ID"),
        (request("csi-1", ""), "target_path is missing"),
        (request("csi-1", "k"), "\"k\" is not an absolute path"),
    ] {
        let error = unpublish(&request).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected:?} is not in {error:?}");
    }
}
