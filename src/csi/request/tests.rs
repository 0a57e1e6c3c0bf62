//! A row for each rule: what is asked for, what is said.

use super::*;
use crate::csi::proto::csi::volume_capability::BlockVolume;

/// What the kubelet asks for a pod with `volumeAttributes: {}`.
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
fn nothing_said_is_an_empty_writable_volume() {
    let request = publish(plain()).unwrap();
    assert_eq!(request.id.as_str(), "csi-0123");
    assert_eq!(request.target.to_string(), plain().target_path);
    let pod = &request.pod;
    assert_eq!((&*pod.namespace, &*pod.name, pod.uid.as_str()), ("ci", "job-1", "u-1"));
    let nothing =
        VolumeSpec { images: Vec::new(), pull_policy: None, volatile: false, read_only: false };
    assert_eq!(request.spec, nothing);
}

#[test]
fn attributes_are_understood() {
    for (attributes, images, pull_policy, volatile) in [
        (&[("image", "r.io/a:1")][..], &["r.io/a:1"][..], None, false),
        (&[("images", "r.io/a:1")], &["r.io/a:1"], None, false),
        (
            &[("images", " r.io/base:1\n\tr.io/top:2  ")],
            &["r.io/base:1", "r.io/top:2"],
            None,
            false,
        ),
        (&[("pullPolicy", "Always")], &[], Some(PullPolicy::Always), false),
        (&[("pullPolicy", "IfNotPresent")], &[], Some(PullPolicy::IfNotPresent), false),
        (&[("pullPolicy", "Never")], &[], Some(PullPolicy::Never), false),
        (&[("volatile", "true")], &[], None, true),
        (&[("volatile", "false")], &[], None, false),
        // The kubelet's own keys are its own business, also those of later versions.
        (&[("csi.storage.k8s.io/new", "x")], &[], None, false),
    ] {
        let spec = publish(with(attributes)).unwrap().spec;
        let images: Vec<Reference> = images.iter().map(|image| image.parse().unwrap()).collect();
        let expected = VolumeSpec { images, pull_policy, volatile, read_only: false };
        assert_eq!(spec, expected, "{attributes:?}");
    }
}

#[test]
fn read_only_is_what_either_says() {
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
fn the_file_system_is_overlay_however_it_is_said() {
    for fs_type in ["", "overlay"] {
        assert!(
            publish(mounted(MountVolume { fs_type: fs_type.into(), ..Default::default() })).is_ok()
        );
    }
}

#[test]
fn a_bad_request_is_told_what_to_do() {
    let mount = |fs_type: &str, flags: &[&str]| {
        let mount_flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        mounted(MountVolume { fs_type: fs_type.into(), mount_flags })
    };
    let id = |id: &str| NodePublishVolumeRequest { volume_id: id.into(), ..plain() };
    let at = |target: &str| NodePublishVolumeRequest { target_path: target.into(), ..plain() };
    let secret = NodePublishVolumeRequest {
        secrets: HashMap::from([("token".to_owned(), "hunter2".to_owned())]),
        ..plain()
    };
    let any = Some(AccessType::Mount(MountVolume::default()));
    for (request, sentence) in [
        (id(""), "volume_id is missing"),
        (id("../../etc"), "\"../../etc\" is not a volume id"),
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
        (by(Mode::MultiNodeReaderOnly), "access mode MULTI_NODE_READER_ONLY is not served"),
        (by(Mode::MultiNodeSingleWriter), "access mode MULTI_NODE_SINGLE_WRITER is not served"),
        (by(Mode::MultiNodeMultiWriter), "access mode MULTI_NODE_MULTI_WRITER is not served"),
        (mount("ext4", &[]), "fsType \"ext4\" is not served: leave it out, or write overlay"),
        (mount("", &["noatime"]), "mount option \"noatime\" is not accepted"),
        (mount("", &["password=hunter2"]), "mount option \"password\" is not accepted"),
        (secret, "nodePublishSecretRef is not supported yet by this version"),
        (without(EPHEMERAL), "the volume is not inline"),
        (with(&[(EPHEMERAL, "false")]), "the volume is not inline"),
        (without(POD_NAMESPACE), "csi.storage.k8s.io/pod.namespace is missing from the request"),
        (without(POD_NAME), "the CSIDriver object has to say podInfoOnMount: true"),
        (with(&[(POD_UID, "")]), "csi.storage.k8s.io/pod.uid is missing"),
        (with(&[(POD_UID, "../x")]), "pod.uid is \"../x\", which is no pod's uid"),
        (
            with(&[("Image", "a")]),
            "unknown attribute \"Image\" in volumeAttributes: accepted are image, images, pullPolicy and volatile",
        ),
        (with(&[("b", ""), ("a", "")]), "unknown attribute \"a\""),
        (with(&[("snapshot", "s")]), "snapshot is not supported yet by this version: leave it out"),
        (with(&[("size", "1Gi")]), "size is not supported yet by this version"),
        (with(&[("image", "a"), ("images", "a b")]), "image and images are both given"),
        (with(&[("image", "")]), "image is \"\": accepted are"),
        (with(&[("images", " \n")]), "images is \"\": accepted are"),
        (with(&[("image", "http://r.io/a")]), "volumeAttributes: image: "),
        (with(&[("image", "r.io/a r.io/b")]), "volumeAttributes: image: "),
        (with(&[("images", "r.io/a http://r.io/b")]), "volumeAttributes: images: "),
        (
            with(&[("pullPolicy", "always")]),
            "pullPolicy is \"always\": accepted are Always, IfNotPresent and Never",
        ),
        (with(&[("volatile", "yes")]), "volatile is \"yes\": accepted are \"true\" and \"false\""),
    ] {
        let error = publish(request).unwrap_err();
        assert_eq!(error.class(), Class::Invalid, "{error}");
        assert!(
            error.to_string().contains(sentence),
            "{sentence:?} is not in {:?}",
            error.to_string()
        );
    }
}

#[test]
fn a_secret_in_a_mount_option_is_not_repeated() {
    let mount_flags = vec!["password=hunter2".to_owned()];
    let error = publish(mounted(MountVolume { mount_flags, ..Default::default() })).unwrap_err();
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

#[test]
fn every_planned_attribute_is_told_from_a_mistyped_one() {
    for key in LATER {
        let error = publish(with(&[(key, "x")])).unwrap_err();
        assert!(matches!(error, BadRequest::Later(later) if later == key), "{error}");
    }
}

#[test]
fn a_sentence_stays_short_whatever_is_written() {
    let long = "ä".repeat(4000);
    for (key, value) in [(long.as_str(), "x"), ("pullPolicy", long.as_str()), ("volatile", &long)] {
        let sentence = publish(with(&[(key, value)])).unwrap_err().to_string();
        assert!(sentence.len() < 1024, "{} bytes", sentence.len());
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
    for (request, sentence) in [
        (request("", "/k/mount"), "volume_id is missing"),
        (request("a/b", "/k/mount"), "\"a/b\" is not a volume id"),
        (request("csi-1", ""), "target_path is missing"),
        (request("csi-1", "k"), "\"k\" is not an absolute path"),
    ] {
        let error = unpublish(&request).unwrap_err().to_string();
        assert!(error.contains(sentence), "{sentence:?} is not in {error:?}");
    }
}
