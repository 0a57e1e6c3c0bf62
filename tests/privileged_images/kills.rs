//! `ovl image export`, killed at random points.

use std::{fs, process::Stdio, thread::sleep, time::Duration};

use super::place::Place;

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_a_killed_export_leaves_only_what_the_next_one_takes_over() {
    let place = Place::new();
    let chain = place.image("a");
    place.sh("mkdir out");
    // How long one takes, so that the kills are spread over it.
    let start = std::time::Instant::now();
    place.ovl("a", &["image", "export", &chain, "oci-archive:out/whole.tar"]);
    let whole = start.elapsed();
    let mut left = 0;
    for round in 0..16_u32 {
        for to in ["oci-archive:out/k.tar", "oci:out/layout"] {
            let mut export = place.command("a", &["image", "export", &chain, to]);
            let mut export = export.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            sleep(whole * (round + 1) / 16 + Duration::from_micros(u64::from(round) * 37));
            export.kill().unwrap();
            export.wait().unwrap();
            let _ = fs::remove_file(place.path("out/k.tar"));
            left += usize::from(place.path("out/.k.tar.ovl-part").exists());
        }
        let names = place.sh("ls -A out");
        for name in names.lines() {
            assert!(["whole.tar", ".k.tar.ovl-part", "layout"].contains(&name), "{name}");
        }
    }
    assert!(left > 0, "no kill came during the write; the test shows nothing");
    for to in ["oci-archive:out/k.tar", "oci:out/layout"] {
        place.ovl("a", &["image", "export", &chain, to]);
        place.ovl("b", &["image", "import", to]);
    }
    assert_eq!(
        place.sh("ls -A out; ls -A out/layout"),
        "k.tar\nlayout\nwhole.tar\nblobs\nindex.json\noci-layout"
    );
    assert_eq!(place.sh("find out -name '*ovl-part*'"), "");
    assert_eq!(place.chain("b", "oci:out/layout"), place.chain("b", "oci-archive:out/k.tar"));
    place.ovl("a", &["gc"]);
    assert_eq!(place.sh("ls -A a/staging a/leases | grep -v : || :"), "");
}
