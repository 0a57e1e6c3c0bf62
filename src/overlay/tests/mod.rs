//! Plans as a table, mounts against the twin, and what only the kernel can show.

mod features;
mod linux;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::fault::Class;
use crate::sys::Errno;
use crate::sys::mounts::{Call, MemoryMounts, MountError};
use crate::sys::scratch::Scratch;

const RW: &str = "redirect_dir=on metacopy=on index=off nfs_export=off xino=auto uuid=null";

/// A layer as of an image.
fn plain(id: &str, dir: Arc<Detached>) -> Lower {
    Lower { id: id.to_owned(), dir, mapped: true, needs: Needs::default() }
}

/// A volume's folders and layers in a scratch folder.
struct Bench {
    dir: Scratch,
    mounts: MemoryMounts,
}

impl Bench {
    fn new() -> Self {
        Self { dir: Scratch::new(), mounts: MemoryMounts::default() }
    }

    fn lower(&self, id: &str) -> Lower {
        let dir = self.mounts.open_dir(&self.dir.folder(id)).unwrap();
        plain(id, Arc::new(dir))
    }

    fn stack(&self, ids: &[&str]) -> Stack {
        Stack::new(ids.iter().map(|id| self.lower(id)).collect()).unwrap()
    }

    fn upper(&self) -> Upper {
        Upper::new(self.dir.folder("upper"), self.dir.folder("work"))
    }

    fn spec(&self, ids: &[&str], upper: Option<Upper>, options: Options) -> Spec {
        Spec { name: "vol-1".to_owned(), stack: self.stack(ids), upper, owner: None, options }
    }

    /// The last request, with the scratch folder's path left out.
    fn request(&self) -> String {
        let path = format!("{}/", self.dir.path().display());
        self.mounts.requests().pop().unwrap().replace(&path, "")
    }
}

#[test]
fn a_plan_becomes_exactly_these_parameters() {
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
        let bench = Bench::new();
        let upper = has_upper.then(|| bench.upper());
        let plan = Plan::new(bench.spec(layers, upper, options)).unwrap();
        mount(&bench.mounts, &plan).unwrap();
        assert_eq!(bench.request(), format!("overlay vol-1 {expected}"), "{layers:?}");
    }
}

#[test]
fn a_read_only_stack_without_layers_is_still_a_folder() {
    let bench = Bench::new();
    let plan = Plan::new(bench.spec(&[], None, Options::default())).unwrap();
    mount(&bench.mounts, &plan).unwrap();
    assert_eq!(bench.request().matches("lowerdir+=<ovl-csi-empty>").count(), 2);
}

#[test]
fn options_that_exclude_each_other_are_refused_with_a_sentence() {
    let on = Options::default();
    for (has_upper, options, class, words) in [
        (
            true,
            Options { redirect_dir: false, ..on.clone() },
            Class::Invalid,
            "metacopy=on needs redirectDir=on",
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
            "needs index=on",
        ),
        (
            false,
            Options { volatile: true, ..on.clone() },
            Class::Invalid,
            "volatile has no meaning",
        ),
        (false, Options { index: true, ..on.clone() }, Class::Invalid, "index has no meaning"),
    ] {
        let bench = Bench::new();
        let upper = has_upper.then(|| bench.upper());
        let error = Plan::new(bench.spec(&["a"], upper, options)).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(error.class(), class);
    }
}

/// HAZARDS 7: without the option whatever has the mark answers EPERM.
#[test]
fn what_a_layer_needs_is_on_or_its_absence_is_told() {
    let on = Options::default();
    let no_metacopy = Options { metacopy: false, ..on.clone() };
    let no_redirects = Options { redirect_dir: false, ..no_metacopy.clone() };
    let exported = Options { index: true, nfs_export: true, ..no_metacopy.clone() };
    let [both, metacopy, redirect_dir] = [(true, true), (true, false), (false, true)]
        .map(|(metacopy, redirect_dir)| Needs { metacopy, redirect_dir });
    for (needs, options, refused) in [
        (both, &on, None),
        (Needs::default(), &no_redirects, None),
        (redirect_dir, &no_metacopy, None),
        (redirect_dir, &exported, None),
        (metacopy, &no_metacopy, Some("metacopy: off")),
        (metacopy, &no_redirects, Some("redirectDir: off")),
        (metacopy, &exported, Some("nfsExport: on")),
        (redirect_dir, &no_redirects, Some("redirectDir: off")),
        (both, &no_redirects, Some("renamed folders, which nobody can read with redirectDir: off")),
    ] {
        let bench = Bench::new();
        let mut spec = bench.spec(&[], Some(bench.upper()), options.clone());
        let layers = vec![bench.lower("plain"), Lower { needs, ..bench.lower("marked") }];
        spec.stack = Stack::new(layers).unwrap();
        let Some(words) = refused else {
            Plan::new(spec).unwrap();
            continue;
        };
        let error = Plan::new(spec).unwrap_err();
        assert_eq!(error.class(), Class::Precondition);
        let sentence = error.to_string();
        assert!(sentence.contains("layer marked has") && sentence.contains(words), "{sentence}");
    }
}

#[test]
fn only_layers_of_images_are_mapped() {
    let bench = Bench::new();
    let written = Lower { mapped: false, ..bench.lower("written") };
    let spec = Spec {
        stack: Stack::new(vec![bench.lower("image"), written]).unwrap(),
        owner: Some(Owner { uid: 1000, gid: 1000 }),
        ..bench.spec(&[], Some(bench.upper()), Options::default())
    };
    mount(&bench.mounts, &Plan::new(spec).unwrap()).unwrap();
    let request = bench.request();
    assert!(request.contains("lowerdir+=written lowerdir+=image@1000:1000 "), "{request}");
}

#[test]
fn paths_that_cannot_be_an_upper_and_its_work_are_refused() {
    let bench = Bench::new();
    for (upper, work, words) in [
        ("/v/upper", "/v/upper/work", "side by side"),
        ("/v/work/upper", "/v/work", "side by side"),
        ("/v/same", "/v/same", "side by side"),
        ("v/upper", "/v/work", "v/upper has to be an absolute path"),
        ("/v/upper", "/v/../work", "/v/../work has to be"),
    ] {
        let pair = Upper::new(PathBuf::from(upper), PathBuf::from(work));
        let error = Plan::new(bench.spec(&["a"], Some(pair), Options::default())).unwrap_err();
        assert!(error.to_string().contains(words), "{upper} {work}: {error}");
    }
    // A name that only begins like the other is another folder.
    let pair = Upper::new("/v/upper".into(), "/v/upper-work".into());
    Plan::new(bench.spec(&["a"], Some(pair), Options::default())).unwrap();
}

#[test]
fn a_name_has_to_fit_the_mount_table() {
    let bench = Bench::new();
    for (length, fits) in [(0, false), (1, true), (255, true), (256, false)] {
        let spec = bench.spec(&["a"], None, Options::default());
        let plan = Plan::new(Spec { name: "x".repeat(length), ..spec });
        assert_eq!(plan.is_ok(), fits, "{length}");
    }
}

#[test]
fn layers_are_counted_once_and_up_to_the_limit() {
    let bench = Bench::new();
    let dir = bench.lower("a").dir;
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

fn refused(bench: &Bench, upper: Upper, words: &str) -> OverlayError {
    let plan = Plan::new(bench.spec(&["a"], Some(upper), Options::default())).unwrap();
    let error = mount(&bench.mounts, &plan).unwrap_err();
    assert!(error.to_string().contains(words), "{error}");
    assert!(bench.mounts.requests().is_empty(), "the kernel was asked though the answer was known");
    error
}

#[test]
fn a_work_folder_with_foreign_entries_is_refused() {
    let bench = Bench::new();
    let upper = bench.upper();
    bench.dir.folder("work/work");
    bench.dir.file("work/notes", "");
    let error = refused(&bench, upper, "\"notes\"");
    assert_eq!(error.class(), Class::Precondition);
}

#[test]
fn upper_and_work_have_to_be_folders_that_are_there() {
    let bench = Bench::new();
    let missing = bench.dir.path().join("missing");
    refused(&bench, Upper::new(bench.dir.folder("upper"), missing.clone()), "missing");
    refused(&bench, Upper::new(missing, bench.dir.folder("work")), "missing");
    let file = bench.dir.file("file", "");
    refused(&bench, Upper::new(bench.dir.folder("upper"), file), "file");
}

#[test]
fn work_on_another_file_system_is_refused() {
    let bench = Bench::new();
    let error =
        refused(&bench, Upper::new(bench.dir.folder("upper"), "/proc".into()), "file system");
    assert!(matches!(error, OverlayError::OtherFileSystem { .. }), "{error}");
}

#[test]
fn a_volatile_upper_is_refused_until_it_is_said_to_be_whole() {
    let bench = Bench::new();
    let volatile = Options { volatile: true, ..Options::default() };
    let plan = Plan::new(bench.spec(&["a"], Some(bench.upper()), volatile)).unwrap();
    mount(&bench.mounts, &plan).unwrap();

    let error = mount(&bench.mounts, &plan).unwrap_err();
    assert!(matches!(error, OverlayError::VolatileMarker { .. }), "{error}");
    forget_volatile(&bench.upper()).unwrap();
    mount(&bench.mounts, &plan).unwrap();
    forget_volatile(&bench.upper()).unwrap();
    forget_volatile(&bench.upper()).unwrap();
}

#[test]
fn an_overlay_that_comes_up_read_only_is_an_error() {
    let bench = Bench::new();
    bench.mounts.come_up_read_only(true);
    let plan = Plan::new(bench.spec(&["a"], Some(bench.upper()), Options::default())).unwrap();
    let error = mount(&bench.mounts, &plan).unwrap_err();
    assert!(matches!(error, OverlayError::FellBackToReadOnly { .. }), "{error}");
    // Where no writes were asked for, none are missed.
    let plan = Plan::new(bench.spec(&["a"], None, Options::default())).unwrap();
    mount(&bench.mounts, &plan).unwrap();
}

#[test]
fn the_kernels_refusal_is_passed_on_with_its_class() {
    let bench = Bench::new();
    bench.mounts.fail(Call::Create, 1, Errno::ENOSPC);
    let plan = Plan::new(bench.spec(&["a"], Some(bench.upper()), Options::default())).unwrap();
    let error = mount(&bench.mounts, &plan).unwrap_err();
    assert!(matches!(error, OverlayError::Mount(MountError::Refused { .. })), "{error}");
    assert_eq!(error.class(), Class::Exhausted);
}

#[test]
fn ours_is_the_overlay_with_our_upper_and_nothing_else() {
    let bench = Bench::new();
    let target = bench.dir.folder("target");
    let plan = Plan::new(bench.spec(&["a"], Some(bench.upper()), Options::default())).unwrap();
    bench.mounts.attach(mount(&bench.mounts, &plan).unwrap(), &target).unwrap();
    let line = bench.mounts.table().unwrap().remove(0);
    let upper = bench.dir.path().join("upper");
    assert!(is_ours(&line, &upper));
    assert!(!is_ours(&line, &bench.dir.path().join("upper2")));
    assert!(!is_ours(&line, bench.dir.path()));
    assert!(is_named(&line, "vol-1") && !is_named(&line, "vol-2"));
    let other = mounts::Mount { fs_type: "tmpfs".to_owned(), ..line };
    assert!(!is_ours(&other, &upper) && !is_named(&other, "vol-1"));
}
