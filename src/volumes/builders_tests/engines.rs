//! Images that podman, Docker, crane, ko and stargz-snapshotter's estargz module write and push.

use super::*;

/// Shell lines that make the files of the build context.
const CONTEXT: &str = "mkdir -p more/d; echo n > more/d/n; ln more/d/n more/d/o; ln -s ../n more/d/link; touch -d @987654321.5 more/d/n";

/// Instructions that make unusual layers: unpacked archives, owners, and directories that are reached through links.
const INSTRUCTIONS: &str = "FROM scratch\nADD gnu.tar /\nADD libarchive.tar /\nCOPY --chown=5:6 more /new/dir/\nCOPY more/d/n /lib/n\n\
    COPY more/d/n /tmp/seed\nLABEL a=b\nCOPY more /srv/\nWORKDIR /opt/a/work\n";

/// Changes in a container's root, `$m`, for which overlay storage drivers use marks of their own.
const CONTAINER: &str = "rm -r $m/etc/conf; mkdir $m/etc/conf; echo new > $m/etc/conf/new; rm $m/srv/old; rm -r $m/opt/a; echo file > $m/opt/a
    rm -r $m/home/u; ln -s /nowhere $m/home/u; mv $m/var/old $m/var/older; chmod 711 $m/new/dir; chown 9:9 $m/usr/bin/tool; rm $m/dev/sda
    ln $m/new/dir/d/n $m/new/dir/d/p; setfattr -n user.mood -v calm $m/srv; mkfifo $m/var/pipe";

/// Makes a build context: [`INSTRUCTIONS`], and the files that they name.
fn context(at: &Path) {
    layered(at, "it", &["bare", "linked", "dotted", "whiteouts"]);
    sh(CONTEXT, at, Path::new("/dev/null"));
    fs::write(at.join("Dockerfile"), INSTRUCTIONS).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, podman, umoci, skopeo and containerd as the harness builds it"]
async fn privileged_images_of_podman_match_umoci_and_containerd() {
    let dir = TestDir::new();
    let at = dir.path();
    context(at);
    let (containerd, registry, node) = start_peers().await;
    let host = registry.host();
    let lines = format!(
        "p() {{ podman --storage-driver overlay --root $PWD/root --runroot $PWD/run --tmpdir $PWD/tmp --events-backend none \"$@\"; }}
        p build -q --isolation chroot --layers -t localhost/it:1 .
        c=$(p create localhost/it:1 nothing); m=$(p mount $c); {CONTAINER}
        p umount $c; p commit -q $c localhost/it:2
        p push -q --tls-verify=false localhost/it:1 docker://{host}/podman:layers
        p push -q --tls-verify=false --format v2s2 localhost/it:2 docker://{host}/podman:changed
        p build -q --isolation chroot --squash-all -t localhost/it:3 .
        p push -q --tls-verify=false --compression-format zstd localhost/it:3 docker://{host}/podman:squashed
        p rm -a; p rmi -af"
    );
    sh(&lines, at, Path::new("/dev/null"));
    for tag in ["layers", "changed", "squashed"] {
        let tree =
            assert_peers_agree(&node, &containerd, &registry.reference("podman", tag), tag).await;
        assert_eq!(tree.contains_key(Path::new("var/older/deep/f")), tag == "changed", "{tag}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, docker.io, umoci, skopeo, and buildx and containerd as the harness builds them"]
async fn privileged_images_of_docker_match_umoci_and_containerd() {
    let dir = TestDir::new();
    let at = dir.path();
    context(at);
    let (containerd, registry, node) = start_peers().await;
    let host = registry.host();
    let docker = Docker::start();
    let buildx = program("OVL_BUILDX", "buildx");
    let lines = format!(
        "export DOCKER_HOST={} DOCKER_CONFIG=$PWD/config; mkdir config
        DOCKER_BUILDKIT=0 docker build -q -t {host}/docker:classic .
        {} build -q --builder default --provenance=false -t {host}/docker:buildkit .
        c=$(docker create {host}/docker:classic nothing)
        of() {{ docker inspect -f \"{{{{.GraphDriver.Data.$1}}}}\" $c; }}
        m=$PWD/mounted; mkdir $m; mount -t overlay overlay -o lowerdir=$(of LowerDir),upperdir=$(of UpperDir),workdir=$(of WorkDir) $m
        {CONTAINER}
        umount $m; docker commit $c {host}/docker:changed; docker rm $c
        for tag in classic buildkit changed; do docker push -q {host}/docker:$tag; done",
        docker.host(),
        buildx.display(),
    );
    sh(&lines, at, Path::new("/dev/null"));
    drop(docker);
    for tag in ["classic", "buildkit", "changed"] {
        let tree =
            assert_peers_agree(&node, &containerd, &registry.reference("docker", tag), tag).await;
        assert_eq!(tree.contains_key(Path::new("var/older/deep/f")), tag == "changed", "{tag}");
    }
}

/// A Docker daemon for one test, without a network.
struct Docker {
    // Dropped first: the daemon must end before its directories are removed.
    _daemon: Daemon,
    _stray: StrayDirs,
    dir: TestDir,
}

/// Removes directories that dockerd makes outside of its configured ones and leaves behind.
///
/// Another engine may use them, so only empty ones are removed.
struct StrayDirs;

impl Drop for StrayDirs {
    fn drop(&mut self) {
        for dir in ["/run/docker/plugins", "/run/docker"] {
            let _ = fs::remove_dir(dir);
        }
    }
}

impl Docker {
    fn start() -> Self {
        let dir = TestDir::new();
        let at = dir.path();
        // Later versions keep images in containerd, where a container has no directories of a graph driver.
        let config = json!({ "features": { "containerd-snapshotter": false } });
        fs::write(at.join("daemon.json"), config.to_string()).unwrap();
        let mut command = Command::new("dockerd");
        command.arg("--config-file").arg(at.join("daemon.json"));
        command.arg("--data-root").arg(at.join("data")).arg("--exec-root").arg(at.join("exec"));
        command.arg("--pidfile").arg(at.join("pid"));
        command.arg("--host").arg(format!("unix://{}/socket", at.display()));
        command.args(["--storage-driver", "overlay2", "--bridge", "none", "--iptables=false"]);
        command.args(["--ip6tables=false", "--ip-forward=false", "--ip-masq=false"]);
        let host = format!("unix://{}/socket", at.display());
        let ready = || {
            let mut docker = Command::new("docker");
            docker.args(["--host", &host, "version"]).output().unwrap().status.success()
        };
        let daemon = Daemon::start(&mut command, &at.join("log"), ready);
        Self { _daemon: daemon, _stray: StrayDirs, dir }
    }

    fn host(&self) -> String {
        format!("unix://{}/socket", self.dir.path().display())
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, umoci, skopeo, and crane and containerd as the harness builds them"]
async fn privileged_images_of_crane_match_umoci_and_containerd() {
    let dir = TestDir::new();
    let at = dir.path();
    layered(at, "it", &["linked"]);
    let (containerd, registry, node) = start_peers().await;
    let host = registry.host();
    let lines = format!(
        "c() {{ {} \"$@\"; }}
        c append --oci-empty-base -f gnu.tar -t {host}/crane:base; c append -b {host}/crane:base -f libarchive.tar -f bare.tar -t {host}/crane:appended
        gzip -kn dotted.tar; c mutate {host}/crane:appended --append dotted.tar.gz --append whiteouts.tar --entrypoint /x -t {host}/crane:mutated
        c flatten {host}/crane:mutated -t {host}/crane:flat
        c append --oci-empty-base -f bare.tar -t {host}/crane:other
        c rebase {host}/crane:appended --old_base {host}/crane:base --new_base {host}/crane:other -t {host}/crane:rebased",
        program("OVL_CRANE", "crane").display(),
    );
    sh(&lines, at, Path::new("/dev/null"));
    for tag in ["base", "appended", "mutated", "flat"] {
        assert_peers_agree(&node, &containerd, &registry.reference("crane", tag), tag).await;
    }
    // A Docker manifest with OCI layers: skopeo does not copy it for umoci.
    let image = registry.reference("crane", "rebased");
    let pod = published(&node, &image).await.unwrap();
    assert_same(&pod, &containerd.unpacked(&image, &pod).unwrap(), "rebased");
}

/// Shell lines that make a Go program without imports, and its `kodata`.
const KO: &str = "mkdir -p kodata/d; echo a > kodata/d/a; ln -s d/a kodata/link; ln kodata/d/a kodata/d/b
    printf 'module ovl.invalid/it\\n\\ngo 1.21\\n' > go.mod; printf 'package main\\n\\nfunc main() {}\\n' > main.go";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, Go, umoci, skopeo, and ko and containerd as the harness builds them"]
async fn privileged_images_of_ko_match_umoci_and_containerd() {
    let dir = TestDir::new();
    let at = dir.path();
    layered(at, "it", &["linked"]);
    let (containerd, registry, node) = start_peers().await;
    push(&registry, &at.join("layout"), "it");
    let lines = format!(
        "{KO}; export PATH=\"$PATH:/usr/local/go/bin\" KO_DOCKER_REPO={0}/ko KO_DEFAULTBASEIMAGE={0}/built:it
        {1} build --bare --sbom=none --tags it .; SOURCE_DATE_EPOCH=1 {1} build --bare --sbom=none --tags dated .",
        registry.host(),
        program("OVL_KO", "ko").display(),
    );
    sh(&lines, at, Path::new("/dev/null"));
    for tag in ["it", "dated"] {
        let tree =
            assert_peers_agree(&node, &containerd, &registry.reference("ko", tag), tag).await;
        assert!(tree.contains_key(Path::new("ko-app/it")), "{:?}", tree.keys());
        assert!(tree.contains_key(Path::new("var/run/ko/d/b")), "{:?}", tree.keys());
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, umoci, skopeo, and estargz and containerd as the harness builds them"]
async fn privileged_estargz_images_match_umoci_and_containerd() {
    let dir = TestDir::new();
    let at = dir.path();
    // The module cannot read libarchive's form of sparse files ("unexpected EOF"). Without that layer, no layer has
    // entries for the directories that "bare" needs.
    let left_out = ["libarchive", "bare", "linked", "dotted"];
    layered(at, "it", &left_out);
    let (containerd, registry, node) = start_peers().await;
    let names = LAYERS.iter().map(|(name, _)| *name).filter(|name| !left_out.contains(name));
    let names: Vec<_> = names.collect();
    for form in ["gzip", "zstd"] {
        let pack = |name: &&str| {
            let estargz = program("OVL_ESTARGZ", "estargz");
            let line = format!("{} {form} {name}.tar {name}.{form}", estargz.display());
            let diff_id = sh(&line, at, Path::new("/dev/null"));
            (fs::read(at.join(format!("{name}.{form}"))).unwrap(), diff_id.trim().to_owned())
        };
        let layers: Vec<_> = names.iter().map(pack).collect();
        let image = push_layers(&registry, form, &layers);
        let tree = assert_peers_agree(&node, &containerd, &image, form).await;
        assert!(tree.contains_key(Path::new(".no.prefetch.landmark")), "{:?}", tree.keys());
    }
}

/// Pushes an image of these packed layers, each with its diff ID.
fn push_layers(registry: &FakeRegistry, form: &str, layers: &[(Vec<u8>, String)]) -> Reference {
    let diff_ids: Vec<_> = layers.iter().map(|(_, diff_id)| diff_id).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = config.to_string().into_bytes();
    let media_type = format!("application/vnd.oci.image.layer.v1.tar+{form}");
    let described = |(blob, _): &(Vec<u8>, String)| descriptor(&media_type, blob);
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": layers.iter().map(described).collect::<Vec<_>>(),
    });
    registry.put_blob(config);
    for (blob, _) in layers {
        registry.put_blob(blob.clone());
    }
    registry.put_manifest("lazy", form, &manifest.to_string(), OCI_MANIFEST);
    registry.reference("lazy", form)
}
