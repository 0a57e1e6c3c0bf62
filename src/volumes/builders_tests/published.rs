//! Real archives and images: the test data of published Go modules.
//!
//! The files themselves are deliberately not in the sources.

use std::path::PathBuf;

use super::*;

/// Modules with such files: the environment variable that names the directory, and its parent and prefix in the cache
/// of the harness.
const MODULES: &[(&str, &str, &str)] = &[
    ("OVL_TAR_SPLIT", "github.com/vbatts", "tar-split@v"),
    ("OVL_GO_CONTAINERREGISTRY", "github.com/google", "go-containerregistry@v"),
    ("OVL_STEREOSCOPE", "github.com/anchore", "stereoscope@v"),
    ("OVL_FANAL", "github.com/aquasecurity", "fanal@v"),
];

/// The archives and OCI layouts in the modules, each with a short name. The file `oci-layout` stands for a layout.
fn files() -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    for (variable, below, prefix) in MODULES {
        let module = cached(variable, &format!("go/pkg/mod/{below}"), prefix);
        let lines =
            "find . -name '*.tar' -o -name '*.tar.*' -o -name '*.tgz' -o -name oci-layout | sort";
        for name in sh(lines, &module, Path::new("/dev/null")).lines() {
            let short = prefix.trim_end_matches("@v");
            found.push((format!("{short}{}", &name[1..]), module.join(name)));
        }
    }
    found
}

/// Compares the trees of the pod and of containerd: first a few words, then the details.
fn outcome(pod: Result<Tree, String>, peer: Result<Tree, String>) -> String {
    match (pod, peer) {
        (Ok(pod), Ok(peer)) => match difference(&pod, &peer) {
            other if other.is_empty() => "same".to_owned(),
            other => format!("differs: {other}"),
        },
        (Err(pod), Err(peer)) => format!("both refuse: {pod}\n  peer {peer}"),
        (Ok(_), Err(peer)) => format!("peer refuses: {peer}"),
        (Err(pod), Ok(_)) => format!("pod refuses: {pod}"),
    }
}

/// Expected differences between the pod and containerd: the file, the kind of difference and the reason.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    (
        "/gnu-nil-sparse-data.tar",
        "peer refuses",
        "containerd does not support the old GNU form of sparse files",
    ),
    ("/gnu-nil-sparse-hole.tar", "peer refuses", "the same"),
    ("/sparse-formats.tar", "peer refuses", "the same"),
    (
        "/invalid-go17.tar",
        "differs",
        "an old Go mixed two formats: GNU tar reads the same name as the driver",
    ),
    (
        "/pax-global-records.tar",
        "pod refuses",
        "a global record gives every entry a path: Go ignores it, GNU tar uses it",
    ),
    (
        "/pax-nul-xattrs.tar",
        "peer refuses",
        "an xattr's value may contain a NUL; Go's reader takes the name for damaged",
    ),
    ("/pax-path-hdr.tar", "pod refuses", "a header without its entry: a tar that was cut off"),
    (
        "/pax-pos-size-file.tar",
        "pod refuses",
        "two sizes for one entry: readers disagree where the next entry starts (CVE-2025-62518)",
    ),
    (
        "/test_gc_index/oci-layout",
        "pod refuses",
        "the index gives the manifest another media type than the manifest itself",
    ),
    ("/test_index/oci-layout", "pod refuses", "the same"),
];

/// The minimum number of files that both unpack to the same tree. No version of the modules has fewer.
const SAME: usize = 55;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, skopeo, and modules and containerd as the harness has them"]
async fn privileged_test_archives_of_go_modules_match_containerd() {
    let (containerd, registry, node) = start_peers().await;
    let (mut same, mut wrong, mut exceptions_met) = (0, Vec::new(), 0);
    for (number, (name, path)) in files().into_iter().enumerate() {
        let Some(image) = image(&registry, &path, &format!("n{number}")) else { continue };
        let pod = published(&node, &image).await;
        let peer = containerd.unpacked(&image, pod.as_ref().unwrap_or(&Tree::new()));
        let result = outcome(pod, peer);
        same += usize::from(result == "same");
        let exception = EXCEPTIONS.iter().find(|(end, ..)| name.ends_with(end));
        exceptions_met += usize::from(exception.is_some());
        let expected = match exception {
            Some((_, how, _)) => result.starts_with(how),
            None => result == "same" || result.starts_with("both refuse"),
        };
        if !expected {
            wrong.push(format!("{name}: {result}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(
        same >= SAME && exceptions_met == EXCEPTIONS.len(),
        "{same} alike, {exceptions_met} exceptions"
    );
}

/// Pushes a file to the registry, as an image or as a layer. `None` if it holds no image, or several.
fn image(registry: &FakeRegistry, path: &Path, tag: &str) -> Option<Reference> {
    // Archives with files of 16 and 60 GB, which the peers would write in full.
    if path.to_str().unwrap().contains("-big") {
        return None;
    }
    let dir = TempDir::new().unwrap();
    let no_out = Path::new("/dev/null");
    let at = path.display();
    if path.ends_with("oci-layout") {
        return layout(registry, path.parent().unwrap(), tag);
    }
    let inflate = "case $A in *gz) gzip -dc $A;; *.bz2) bzip2 -dc $A;; *.zst) zstd -dc $A;; *) cat $A;; esac > tar";
    sh(&format!("A={at}; {inflate}"), dir.path(), no_out);
    let tar = fs::read(dir.path().join("tar")).unwrap();
    if sh("tar -tf tar manifest.json 2>/dev/null || true", dir.path(), no_out).is_empty() {
        registry.push_image("archive", tag, &[tar], false);
        return Some(registry.reference("archive", tag));
    }
    let line = format!(
        "skopeo --insecure-policy copy -q --dest-tls-verify=false docker-archive:tar docker://{}/archive:{tag} 2>errors || cat errors",
        registry.host()
    );
    sh(&line, dir.path(), no_out).is_empty().then(|| registry.reference("archive", tag))
}

/// Pushes an OCI layout unchanged: every blob, every manifest under its digest, and the index under `tag`.
fn layout(registry: &FakeRegistry, layout: &Path, tag: &str) -> Option<Reference> {
    let index = fs::read(layout.join("index.json")).ok()?;
    let index: Value = serde_json::from_slice(&index).ok()?;
    for blob in fs::read_dir(layout.join("blobs/sha256")).ok()? {
        let blob = fs::read(blob.unwrap().path()).unwrap();
        let digest = registry.put_blob(blob.clone());
        let media_type =
            index["manifests"].as_array()?.iter().find(|m| m["digest"] == digest.to_string());
        let nested = serde_json::from_slice::<Value>(&blob).ok();
        let own = nested.as_ref().and_then(|text| text["mediaType"].as_str());
        if let Some(media_type) = media_type.and_then(|m| m["mediaType"].as_str()).or(own) {
            let text = String::from_utf8(blob).unwrap();
            registry.put_manifest("layout", &digest.to_string(), &text, media_type);
        }
    }
    let text = index.to_string();
    registry.put_manifest("layout", tag, &text, OCI_INDEX);
    Some(registry.reference("layout", tag))
}
