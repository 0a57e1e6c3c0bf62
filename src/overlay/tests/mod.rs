//! Plans, mounts with the fake, and mounts with the kernel.

mod features;
mod linux;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::error::Class;
use crate::sys::Errno;
use crate::sys::mounts::{Call, FakeMounts, MountError};
use crate::sys::test_dir::TestDir;

const RW: &str = "redirect_dir=on metacopy=on index=off nfs_export=off xino=auto uuid=null";

/// A layer with the properties of an image's layer.
fn plain(id: &str, dir: Arc<Detached>) -> Lower {
    Lower { id: id.to_owned(), dir, mapped: true, needs: RequiredFeatures::default() }
}

/// The directories and layers of a volume, in a scratch directory.
struct Fixture {
    dir: TestDir,
    mounts: FakeMounts,
}

impl Fixture {
    fn new() -> Self {
        Self { dir: TestDir::new(), mounts: FakeMounts::default() }
    }

    fn lower(&self, id: &str) -> Lower {
        let dir = self.mounts.open_dir(&self.dir.dir(id)).unwrap();
        plain(id, Arc::new(dir))
    }

    fn stack(&self, ids: &[&str]) -> Stack {
        Stack::new(ids.iter().map(|id| self.lower(id)).collect()).unwrap()
    }

    fn upper(&self) -> UpperAndWork {
        UpperAndWork::new(self.dir.dir("upper"), self.dir.dir("work"))
    }

    fn spec(&self, ids: &[&str], upper: Option<UpperAndWork>, options: Options) -> Spec {
        Spec { name: "vol-1".to_owned(), stack: self.stack(ids), upper, owner: None, options }
    }

    /// The last request, without the path of the scratch directory.
    fn request(&self) -> String {
        let path = format!("{}/", self.dir.path().display());
        self.mounts.requests().pop().unwrap().replace(&path, "")
    }
}

#[test]
fn a_plan_becomes_exactly_these_mount_parameters() {
    let writable = "upperdir=upper workdir=work";
    let options = Options::default;
    let cases: [(&[&str], bool, Options, String); 8] = [
        (&["a"], true, options(), format!("[nosuid,nodev] lowerdir+=a {writable} {RW}")),
        (
            &["a", "b", "c"],
            true,
            options(),
            format!("[nosuid,nodev] lowerdir+=c lowerdir+=b lowerdir+=a {writable} {RW}"),
        ),
        (
            &["a", "b", "a", "b", "c"],
            true,
            options(),
            format!("[nosuid,nodev] lowerdir+=c lowerdir+=b lowerdir+=a {writable} {RW}"),
        ),
        (&[], true, options(), format!("[nosuid,nodev] lowerdir+=<ovl-csi-empty> {writable} {RW}")),
        (&["a", "b"], false, options(), format!("[ro,nosuid,nodev] lowerdir+=b lowerdir+=a {RW}")),
        (
            &["a"],
            false,
            options(),
            format!("[ro,nosuid,nodev] lowerdir+=a lowerdir+=<ovl-csi-empty> {RW}"),
        ),
        (
            &["a"],
            true,
            Options { volatile: true, noexec: true, nosuid: false, nodev: false, ..options() },
            format!("[noexec] lowerdir+=a {writable} {RW} volatile"),
        ),
        (
            &["a"],
            true,
            Options {
                metacopy: false,
                redirect_dir: false,
                index: true,
                nfs_export: true,
                xino: Xino::Auto,
                ..options()
            },
            format!(
                "[nosuid,nodev] lowerdir+=a {writable} \
                 redirect_dir=off metacopy=off index=on nfs_export=on xino=auto uuid=null"
            ),
        ),
    ];
    for (layers, has_upper, options, expected) in cases {
        let fixture = Fixture::new();
        let upper = has_upper.then(|| fixture.upper());
        let plan = Plan::new(fixture.spec(layers, upper, options)).unwrap();
        mount(&fixture.mounts, &plan).unwrap();
        assert_eq!(fixture.request(), format!("overlay vol-1 {expected}"), "{layers:?}");
    }
}

#[test]
fn a_read_only_overlay_without_layers_is_an_empty_directory() {
    let fixture = Fixture::new();
    let plan = Plan::new(fixture.spec(&[], None, Options::default())).unwrap();
    mount(&fixture.mounts, &plan).unwrap();
    assert_eq!(fixture.request().matches("lowerdir+=<ovl-csi-empty>").count(), 2);
}

#[test]
fn options_that_exclude_each_other_are_refused_with_the_reason() {
    let on = Options::default();
    for (has_upper, options, class, words) in [
        (
            true,
            Options { redirect_dir: false, ..on.clone() },
            Class::Invalid,
            "`metacopy: on` needs `redirectDir: on`",
        ),
        (
            true,
            Options { nfs_export: true, index: true, ..on.clone() },
            Class::Invalid,
            "exclude each other",
        ),
        (
            true,
            Options { nfs_export: true, metacopy: false, ..on.clone() },
            Class::Invalid,
            "needs `index: on`",
        ),
        (
            false,
            Options { volatile: true, ..on.clone() },
            Class::Invalid,
            "`volatile` has no effect",
        ),
        (false, Options { index: true, ..on.clone() }, Class::Invalid, "`index` has no effect"),
    ] {
        let fixture = Fixture::new();
        let upper = has_upper.then(|| fixture.upper());
        let error = Plan::new(fixture.spec(&["a"], upper, options)).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(error.class(), class);
    }
}

/// docs/hazards.md, 7: without the option the kernel returns EPERM for a file that has the xattr.
#[test]
fn a_layer_that_needs_an_option_is_refused_where_the_option_is_off() {
    let on = Options::default();
    let no_metacopy = Options { metacopy: false, ..on.clone() };
    let no_redirects = Options { redirect_dir: false, ..no_metacopy.clone() };
    let exported = Options { index: true, nfs_export: true, ..no_metacopy.clone() };
    let [both, metacopy, redirect_dir] = [(true, true), (true, false), (false, true)]
        .map(|(metacopy, redirect_dir)| RequiredFeatures { metacopy, redirect_dir });
    for (needs, options, refusal) in [
        (both, &on, None),
        (RequiredFeatures::default(), &no_redirects, None),
        (redirect_dir, &no_metacopy, None),
        (redirect_dir, &exported, None),
        (metacopy, &no_metacopy, Some("metacopy: off")),
        (metacopy, &no_redirects, Some("redirectDir: off")),
        (metacopy, &exported, Some("nfsExport: on")),
        (redirect_dir, &no_redirects, Some("redirectDir: off")),
        (
            both,
            &no_redirects,
            Some("renamed directories, which cannot be read with `redirectDir: off`"),
        ),
    ] {
        let fixture = Fixture::new();
        let mut spec = fixture.spec(&[], Some(fixture.upper()), options.clone());
        let layers = vec![fixture.lower("plain"), Lower { needs, ..fixture.lower("marked") }];
        spec.stack = Stack::new(layers).unwrap();
        let Some(words) = refusal else {
            Plan::new(spec).unwrap();
            continue;
        };
        let error = Plan::new(spec).unwrap_err();
        assert_eq!(error.class(), Class::Precondition);
        let message = error.to_string();
        assert!(message.contains("layer marked has") && message.contains(words), "{message}");
    }
}

#[test]
fn only_layers_of_images_are_mapped() {
    let fixture = Fixture::new();
    let written = Lower { mapped: false, ..fixture.lower("written") };
    let spec = Spec {
        stack: Stack::new(vec![fixture.lower("image"), written]).unwrap(),
        owner: Some(Owner { uid: 1000, gid: 1000 }),
        ..fixture.spec(&[], Some(fixture.upper()), Options::default())
    };
    mount(&fixture.mounts, &Plan::new(spec).unwrap()).unwrap();
    let request = fixture.request();
    assert!(request.contains("lowerdir+=written lowerdir+=image@1000:1000 "), "{request}");
}

#[test]
fn paths_that_cannot_be_upper_and_work_are_refused() {
    let fixture = Fixture::new();
    for (upper, work, words) in [
        ("/v/upper", "/v/upper/work", "side by side"),
        ("/v/work/upper", "/v/work", "side by side"),
        ("/v/same", "/v/same", "side by side"),
        ("v/upper", "/v/work", "v/upper must be an absolute path"),
        ("/v/upper", "/v/../work", "/v/../work must be"),
    ] {
        let pair = UpperAndWork::new(PathBuf::from(upper), PathBuf::from(work));
        let error = Plan::new(fixture.spec(&["a"], Some(pair), Options::default())).unwrap_err();
        assert!(error.to_string().contains(words), "{upper} {work}: {error}");
    }
    // A path that only has the other one as a textual prefix is another directory.
    let pair = UpperAndWork::new("/v/upper".into(), "/v/upper-work".into());
    Plan::new(fixture.spec(&["a"], Some(pair), Options::default())).unwrap();
}

#[test]
fn a_name_that_does_not_fit_the_mount_table_is_refused() {
    let fixture = Fixture::new();
    for (length, fits) in [(0, false), (1, true), (255, true), (256, false)] {
        let spec = fixture.spec(&["a"], None, Options::default());
        let plan = Plan::new(Spec { name: "x".repeat(length), ..spec });
        assert_eq!(plan.is_ok(), fits, "{length}");
    }
}

#[test]
fn layers_are_counted_once_and_up_to_the_limit() {
    let fixture = Fixture::new();
    let dir = fixture.lower("a").dir;
    let lowers = |different: usize| -> Vec<Lower> {
        // Every layer twice: a repeat must not count.
        let ids = (0..different).chain(0..different);
        ids.map(|n| plain(&n.to_string(), dir.clone())).collect()
    };
    assert_eq!(Stack::new(lowers(LAYER_LIMIT)).unwrap().len(), LAYER_LIMIT);
    let error = Stack::new(lowers(LAYER_LIMIT + 1)).unwrap_err();
    assert_eq!(error, PlanError::TooManyLayers { count: 501 });
    assert_eq!(error.class(), Class::Precondition);
}

fn refused(fixture: &Fixture, upper: UpperAndWork, words: &str) -> OverlayError {
    let plan = Plan::new(fixture.spec(&["a"], Some(upper), Options::default())).unwrap();
    let error = mount(&fixture.mounts, &plan).unwrap_err();
    assert!(error.to_string().contains(words), "{error}");
    assert!(fixture.mounts.requests().is_empty(), "the request went to the kernel");
    error
}

#[test]
fn a_work_directory_with_foreign_entries_is_refused() {
    let fixture = Fixture::new();
    let upper = fixture.upper();
    fixture.dir.dir("work/work");
    fixture.dir.file("work/notes", "");
    let error = refused(&fixture, upper, "\"notes\"");
    assert_eq!(error.class(), Class::Precondition);
}

#[test]
fn upper_and_work_that_are_missing_or_files_are_refused() {
    let fixture = Fixture::new();
    let missing = fixture.dir.path().join("missing");
    refused(&fixture, UpperAndWork::new(fixture.dir.dir("upper"), missing.clone()), "missing");
    refused(&fixture, UpperAndWork::new(missing, fixture.dir.dir("work")), "missing");
    let file = fixture.dir.file("file", "");
    refused(&fixture, UpperAndWork::new(fixture.dir.dir("upper"), file), "file");
}

#[test]
fn a_work_directory_on_another_file_system_is_refused() {
    let fixture = Fixture::new();
    let error = refused(
        &fixture,
        UpperAndWork::new(fixture.dir.dir("upper"), "/proc".into()),
        "file system",
    );
    assert!(matches!(error, OverlayError::OtherFileSystem { .. }), "{error}");
}

#[test]
fn a_volatile_upper_is_refused_until_its_marker_is_removed() {
    let fixture = Fixture::new();
    let volatile = Options { volatile: true, ..Options::default() };
    let plan = Plan::new(fixture.spec(&["a"], Some(fixture.upper()), volatile)).unwrap();
    mount(&fixture.mounts, &plan).unwrap();

    let error = mount(&fixture.mounts, &plan).unwrap_err();
    assert!(matches!(error, OverlayError::VolatileMarker { .. }), "{error}");
    clear_volatile_marker(&fixture.upper()).unwrap();
    mount(&fixture.mounts, &plan).unwrap();
    clear_volatile_marker(&fixture.upper()).unwrap();
    clear_volatile_marker(&fixture.upper()).unwrap();
}

#[test]
fn an_overlay_that_comes_up_read_only_is_an_error() {
    let fixture = Fixture::new();
    fixture.mounts.make_read_only(true);
    let plan = Plan::new(fixture.spec(&["a"], Some(fixture.upper()), Options::default())).unwrap();
    let error = mount(&fixture.mounts, &plan).unwrap_err();
    assert!(matches!(error, OverlayError::FellBackToReadOnly { .. }), "{error}");
    // A read-only overlay without an upper is no error.
    let plan = Plan::new(fixture.spec(&["a"], None, Options::default())).unwrap();
    mount(&fixture.mounts, &plan).unwrap();
}

#[test]
fn an_error_of_the_kernel_keeps_its_class() {
    let fixture = Fixture::new();
    fixture.mounts.fail(Call::Create, 1, Errno::ENOSPC);
    let plan = Plan::new(fixture.spec(&["a"], Some(fixture.upper()), Options::default())).unwrap();
    let error = mount(&fixture.mounts, &plan).unwrap_err();
    assert!(matches!(error, OverlayError::Mount(MountError::Refused { .. })), "{error}");
    assert_eq!(error.class(), Class::Exhausted);
}

#[test]
fn an_entry_of_the_mount_table_is_recognized_by_its_upper_or_by_its_name() {
    let fixture = Fixture::new();
    let target = fixture.dir.dir("target");
    let plan = Plan::new(fixture.spec(&["a"], Some(fixture.upper()), Options::default())).unwrap();
    fixture.mounts.attach(mount(&fixture.mounts, &plan).unwrap(), &target).unwrap();
    let line = fixture.mounts.table().unwrap().remove(0);
    let upper = fixture.dir.path().join("upper");
    assert!(is_ours(&line, &upper));
    assert!(!is_ours(&line, &fixture.dir.path().join("upper2")));
    assert!(!is_ours(&line, fixture.dir.path()));
    assert!(is_named(&line, "vol-1") && !is_named(&line, "vol-2"));
    let other = mounts::Mount { fs_type: "tmpfs".to_owned(), ..line };
    assert!(!is_ours(&other, &upper) && !is_named(&other, "vol-1"));
}
