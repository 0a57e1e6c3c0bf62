//! Real archives and images: what published Go modules test their own readers with.
//!
//! Deliberately absent: the files themselves, here and anywhere in the sources.

use super::*;

/// Modules with such files: who names the directory, and where the harness has it.
const MODULES: &[(&str, &str, &str)] = &[
    ("OVL_TAR_SPLIT", "github.com/vbatts", "tar-split@v"),
    ("OVL_GO_CONTAINERREGISTRY", "github.com/google", "go-containerregistry@v"),
    ("OVL_STEREOSCOPE", "github.com/anchore", "stereoscope@v"),
    ("OVL_FANAL", "github.com/aquasecurity", "fanal@v"),
];

/// What is in the modules: archives, and layouts by their `oci-layout`.
fn files() -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    for (variable, below, prefix) in MODULES {
        let module = kept(variable, &format!("go/pkg/mod/{below}"), prefix);
        let lines =
            "find . -name '*.tar' -o -name '*.tar.*' -o -name '*.tgz' -o -name oci-layout | sort";
        for name in sh(lines, &module, Path::new("/dev/null")).lines() {
            let short = prefix.trim_end_matches("@v");
            found.push((format!("{short}{}", &name[1..]), module.join(name)));
        }
    }
    found
}

/// How pod and containerd differ in an image, in a few words and then at length.
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

/// Where pod and containerd differ, how, and why.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    (
        "/gnu-nil-sparse-data.tar",
        "peer refuses",
        "containerd knows no sparse files of GNU's old form",
    ),
    ("/gnu-nil-sparse-hole.tar", "peer refuses", "the same"),
    ("/sparse-formats.tar", "peer refuses", "the same"),
    (
        "/invalid-go17.tar",
        "differs",
        "an old Go's mixture of two formats: GNU tar reads the name as a pod does",
    ),
    (
        "/pax-global-records.tar",
        "pod refuses",
        "a path for every entry: Go passes over it, GNU tar takes it",
    ),
    (
        "/pax-nul-xattrs.tar",
        "peer refuses",
        "an attribute's value may hold a NUL; Go's reader takes the name for damaged",
    ),
    ("/pax-path-hdr.tar", "pod refuses", "a header without its entry: a tar that was cut off"),
    (
        "/pax-pos-size-file.tar",
        "pod refuses",
        "two sizes for one entry: readers differ in what comes next (CVE-2025-62518)",
    ),
    (
        "/test_gc_index/oci-layout",
        "pod refuses",
        "the index gives a manifest another type than it has itself",
    ),
    ("/test_index/oci-layout", "pod refuses", "the same"),
];

/// How many files both take, at least: no version of the modules has fewer.
const SAME: usize = 55;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, skopeo, and modules and containerd as the harness has them"]
async fn privileged_archives_that_others_test_with_are_the_trees_that_containerd_unpacks() {
    let containerd = Containerd::start();
    let registry = pinged().await;
    let node = Node::new(&registry);
    let (mut same, mut wrong, mut met) = (0, Vec::new(), 0);
    for (number, (name, path)) in files().into_iter().enumerate() {
        let Some(image) = image(&registry, &path, &format!("n{number}")) else { continue };
        let pod = published(&node, &image).await;
        let peer = containerd.unpacked(&image, pod.as_ref().unwrap_or(&Tree::new()));
        let said = outcome(pod, peer);
        same += usize::from(said == "same");
        let exception = EXCEPTIONS.iter().find(|(end, ..)| name.ends_with(end));
        met += usize::from(exception.is_some());
        let expected = match exception {
            Some((_, how, _)) => said.starts_with(how),
            None => said == "same" || said.starts_with("both refuse"),
        };
        if !expected {
            wrong.push(format!("{name}: {said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(same >= SAME && met == EXCEPTIONS.len(), "{same} alike, {met} exceptions");
}

/// Puts a file into the registry as the image or the layer that it is; `None` where it holds no image, or several.
fn image(registry: &FakeRegistry, path: &Path, tag: &str) -> Option<Reference> {
    // Files of 16 and 60 GB, which others write out.
    if path.to_str().unwrap().contains("-big") {
        return None;
    }
    let dir = TempDir::new().unwrap();
    let nowhere = Path::new("/dev/null");
    let at = path.display();
    if path.ends_with("oci-layout") {
        return layout(registry, path.parent().unwrap(), tag);
    }
    let inflate = "case $A in *gz) gzip -dc $A;; *.bz2) bzip2 -dc $A;; *.zst) zstd -dc $A;; *) cat $A;; esac > tar";
    sh(&format!("A={at}; {inflate}"), dir.path(), nowhere);
    let tar = fs::read(dir.path().join("tar")).unwrap();
    if sh("tar -tf tar manifest.json 2>/dev/null || true", dir.path(), nowhere).is_empty() {
        registry.push_image("archive", tag, &[tar], false);
        return Some(registry.reference("archive", tag));
    }
    let line = format!(
        "skopeo --insecure-policy copy -q --dest-tls-verify=false docker-archive:tar docker://{}/archive:{tag} 2>said || cat said",
        registry.host()
    );
    sh(&line, dir.path(), nowhere).is_empty().then(|| registry.reference("archive", tag))
}

/// Puts an OCI layout into the registry as it is: every blob, and its first manifest under a tag.
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
