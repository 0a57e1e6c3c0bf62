//! Package managers and databases in copies, as the page on programs describes them.

use std::fs;

use super::Place;

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_a_command_gets_the_store_of_pnpm_unless_it_has_one() {
    let place = Place::new();
    place.dir("project/node_modules");
    place.ovl(&["create", "one", "--over", "project"]);
    let shown = |name: &str, value: &str| {
        let words = ["run", "one", "--", "sh", "-c", "echo ${npm_config_store_dir-none}"];
        let done = place.command(&words).env(name, value).output().unwrap();
        String::from_utf8(done.stdout).unwrap().trim_end().to_owned()
    };
    assert_eq!(shown("OTHER", ""), "none");
    fs::write(place.path("project/node_modules/.modules.yaml"), "storeDir: /s/v3\n").unwrap();
    assert_eq!(shown("OTHER", ""), "/s");
    assert_eq!(shown("npm_config_store_dir", "/mine"), "/mine");
}

/// What was committed is in the `-wal` file until a checkpoint, so a layer without it would lose it.
#[test]
#[ignore = "needs root and python3: mounts overlays"]
fn privileged_a_snapshot_has_the_log_of_a_database() {
    let place = Place::new();
    place.dir("project");
    place.ovl(&["create", "one", "--over", "project"]);
    let write = "import os, sqlite3; c = sqlite3.connect('db'); c.execute('pragma journal_mode=wal'); \
                 c.execute('create table t (v)'); c.execute('insert into t values (7)'); c.commit(); os._exit(0)";
    place.ovl(&["run", "one", "--", "python3", "-c", write]);
    place.ovl(&["snapshot", "one", "s"]);
    place.ovl(&["mount", "one"]);
    place.ovl(&["snapshot", "one", "live"]);
    for state in ["s", "live"] {
        place.ovl(&["export", &format!("one@{state}"), "--to", state]);
        assert_eq!(place.sh(state, "ls"), "db\ndb-shm\ndb-wal\n");
        let read = "python3 -c \"import sqlite3; print(sqlite3.connect('db').execute('select v from t').fetchall())\"";
        assert_eq!(place.sh(state, read), "[(7,)]\n");
    }
}

#[test]
#[ignore = "needs root and dpkg: mounts overlays"]
fn privileged_a_package_is_upgraded_in_a_copy_only() {
    let place = Place::new();
    place.dir("project/var/lib/dpkg/updates");
    place
        .sh("project", "touch var/lib/dpkg/status var/lib/dpkg/available; mkdir var/lib/dpkg/info");
    let build = |version: u32| {
        let lines = format!(
            "mkdir -p p{version}/DEBIAN p{version}/opt/demo; echo {version} > p{version}/opt/demo/changed; \
             echo same > p{version}/opt/demo/same; printf 'Package: demo\\nVersion: {version}\\nArchitecture: all\\n\
             Maintainer: Me <me@example.com>\\nDescription: a demo\\n' > p{version}/DEBIAN/control; \
             dpkg-deb --build p{version} {version}.deb > /dev/null"
        );
        place.sh("", &lines);
    };
    build(1);
    build(2);
    let install = |version: u32| {
        let path = place.path(&format!("{version}.deb"));
        format!("dpkg --root=\"$PWD\" --log=/dev/null -i {} > /dev/null", path.display())
    };
    place.sh("project", &install(1));
    place.ovl(&["create", "one", "--over", "project"]);
    place.run("one", &install(2));
    let version = "dpkg-query --admindir=var/lib/dpkg -W -f '${Version}\\n' demo; cat opt/demo/changed opt/demo/same";
    assert_eq!(place.run("one", version), "2\n2\nsame\n");
    assert_eq!(place.sh("project", version), "1\n1\nsame\n");
    let changes = place.ovl(&["changes", "one"]);
    assert!(changes.contains("C /opt/demo/changed\n"), "{changes}");
    place.ovl(&["apply", "one"]);
    assert_eq!(place.sh("project", version), "2\n2\nsame\n");
    assert_eq!(place.ovl(&["changes", "one"]), "");
}
