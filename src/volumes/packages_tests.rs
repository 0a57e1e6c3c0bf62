//! How much PostgreSQL, rpm and dpkg copy up in a volume whose layers hold their data. `docs/programs.md` explains
//! the numbers.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    programs_tests::{Tree, noise},
    tools_tests::sh,
};

const MIB: u64 = 1 << 20;

/// The program directory of the newest PostgreSQL of Debian's packages.
fn postgres() -> PathBuf {
    let mut versions: Vec<_> =
        fs::read_dir("/usr/lib/postgresql").unwrap().map(|entry| entry.unwrap().path()).collect();
    versions.sort();
    versions.pop().expect("PostgreSQL is installed").join("bin")
}

/// A PostgreSQL server. It runs as the user `postgres`, because it refuses to run as root.
struct Server {
    cluster: PathBuf,
    sockets: tempfile::TempDir,
    settings: &'static str,
}

impl Server {
    fn of(cluster: PathBuf, settings: &'static str) -> Self {
        let sockets = tempfile::tempdir().unwrap();
        sh("chown postgres .", sockets.path(), Path::new("/"));
        Self { cluster, sockets, settings }
    }

    fn run(&self, line: &str) -> String {
        let as_postgres = "setpriv --reuid=postgres --regid=postgres --clear-groups";
        let path = format!("PATH={}:/usr/bin:/bin", postgres().display());
        let line = format!("{path} PGDATA={} exec {as_postgres} {line}", self.cluster.display());
        sh(&line, self.sockets.path(), Path::new("/"))
    }

    fn start(&self) {
        let sockets = self.sockets.path().display();
        let settings = format!(
            "-c listen_addresses= -c unix_socket_directories={sockets} -c shared_buffers=16MB {}",
            self.settings
        );
        self.run(&format!("pg_ctl -sw -l {sockets}/log -o '{settings}' start"));
    }

    fn query(&self, sql: &str) -> String {
        self.run(&format!(
            "psql -qtAX -h {} -d postgres -c \"{sql}\"",
            self.sockets.path().display()
        ))
    }

    /// Stops the server: `fast` with a checkpoint, `immediate` like a crash.
    fn stop(&self, how: &str) {
        self.run(&format!("pg_ctl -sw -m {how} stop"));
    }
}

#[tokio::test]
#[ignore = "needs root and postgresql"]
async fn privileged_postgres_copies_what_it_opens_and_a_recovery_copies_all_except_with_syncfs() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = dir.path().join("cluster");
    sh("chmod 755 . && mkdir cluster && chown postgres cluster", dir.path(), Path::new("/"));
    let source = Server::of(cluster.clone(), "-c fsync=off");
    source.run("initdb -N -A trust --wal-segsize=1 > /dev/null");
    source.start();
    source.query("create table t as select g as id, repeat(md5(g::text), 8) as v from generate_series(1, 60000) g");
    source.query("create unique index on t(id)");
    source.query("vacuum freeze");
    source.query("checkpoint");
    source.stop("fast");
    let size = sh("du -sb cluster | cut -f1", dir.path(), Path::new("/"));
    let size: u64 = size.trim().parse().unwrap();
    let tree = Tree::of(dir.path()).await;

    let server = Server::of(tree.publish("postgres").await.join("cluster"), "");
    server.start();
    let started = tree.copied("postgres");
    assert!(started < 4 * MIB, "a start copies {started} of {size}");
    server.query("select v from t where id = 777");
    let selected = tree.copied("postgres");
    assert!(selected > started + 15 * MIB, "a query for one row copies {selected} of {size}");
    server.stop("immediate");
    server.start();
    let recovered = tree.copied("postgres");
    assert!(recovered > size / 10 * 9, "a recovery copies {recovered} of {size}");
    server.stop("fast");
    tree.node.unpublish("postgres").await;

    let at = tree.publish("syncfs").await.join("cluster");
    let server = Server::of(at, "-c recovery_init_sync_method=syncfs");
    server.start();
    server.stop("immediate");
    server.start();
    let recovered = tree.copied("syncfs");
    assert!(recovered < 4 * MIB, "a recovery by syncfs copies {recovered} of {size}");
    server.stop("fast");
    tree.node.unpublish("syncfs").await;
}

#[tokio::test]
#[ignore = "needs root and rpm"]
async fn privileged_rpm_copies_its_database_only_to_write() {
    let dir = tempfile::tempdir().unwrap();
    let (out, packages) = (dir.path().join("tree"), dir.path().join("packages"));
    fs::create_dir_all(&out).unwrap();
    fs::create_dir_all(&packages).unwrap();
    let spec = "Name: aa\nVersion: %{v}\nRelease: 1\nSummary: a\nLicense: a\nBuildArch: noarch\n%description\na\n%install\n\
                mkdir -p %{buildroot}/opt; head -c 4194304 /dev/urandom > %{buildroot}/opt/large\n%files\n/opt/large\n";
    fs::write(packages.join("aa.spec"), spec).unwrap();
    for version in [1, 2] {
        let build = format!(
            "rpmbuild --quiet -bb --define 'v {version}' --define \"_topdir $PWD\" aa.spec >/dev/null 2>&1"
        );
        sh(&build, &packages, &out);
    }
    let rpm = |root: &Path, rest: &str| {
        let rpm = "rpm --dbpath /var/lib/rpm --root";
        sh(&format!("{rpm} {} {rest} 2>/dev/null", root.display()), &packages, &out)
    };
    rpm(&out, "--nodeps -i RPMS/noarch/aa-1-1.noarch.rpm");
    let tree = Tree::of(&out).await;
    let database = |id: &str| tree.upper(id).join("var/lib/rpm/rpmdb.sqlite");

    let at = tree.publish("rpm").await;
    assert_eq!(rpm(&at, "-qa"), "aa-1-1.noarch\n");
    rpm(&at, "-V aa");
    assert!(!database("rpm").exists() && tree.copied("rpm") < 256 << 10);
    rpm(&at, "--nodeps -U RPMS/noarch/aa-2-1.noarch.rpm");
    assert_eq!(rpm(&at, "-qa"), "aa-2-1.noarch\n");
    assert!(database("rpm").exists(), "its database is written");
    // The files of the new package are written. The old files are not copied up before.
    let copied = tree.copied("rpm");
    assert!((3 * MIB..6 * MIB).contains(&copied), "{copied}");
    tree.node.unpublish("rpm").await;
}

#[tokio::test]
#[ignore = "needs root and dpkg"]
async fn privileged_dpkg_writes_its_list_and_the_new_files_and_copies_no_old_file() {
    let dir = tempfile::tempdir().unwrap();
    let (out, packages) = (dir.path().join("tree"), dir.path().join("packages"));
    fs::create_dir_all(out.join("var/lib/dpkg/info")).unwrap();
    fs::create_dir_all(packages.join("aa/DEBIAN")).unwrap();
    fs::create_dir_all(packages.join("aa/opt")).unwrap();
    sh("cd var/lib/dpkg && mkdir updates triggers parts && touch status available", &out, &out);
    for version in [1, 2] {
        let control = format!(
            "Package: aa\nVersion: {version}\nArchitecture: all\nMaintainer: a <a@b>\nDescription: a\n"
        );
        fs::write(packages.join("aa/DEBIAN/control"), control).unwrap();
        noise(&packages.join("aa/opt/large"), 4 * MIB);
        sh(&format!("dpkg-deb -b aa aa_{version}.deb > /dev/null"), &packages, &out);
    }
    let dpkg = |root: &Path, rest: &str| {
        let dpkg = "dpkg --force-all --log=/dev/null --root";
        sh(&format!("{dpkg}={} {rest} 2>/dev/null", root.display()), &packages, &out)
    };
    dpkg(&out, "-i aa_1.deb");
    let tree = Tree::of(&out).await;
    let at = tree.publish("dpkg").await;
    assert!(dpkg(&at, "-l aa").contains("aa"));
    dpkg(&at, "-V aa");
    assert_eq!(fs::read_dir(tree.upper("dpkg")).unwrap().count(), 0, "a query copies something");
    dpkg(&at, "-i aa_2.deb");
    let copied = tree.copied("dpkg");
    assert!((3 * MIB..6 * MIB).contains(&copied), "{copied}");
    dpkg(&at, "-r aa");
    assert!(!at.join("opt/large").exists() && tree.copied("dpkg") < MIB);
    tree.node.unpublish("dpkg").await;
}
