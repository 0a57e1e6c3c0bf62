//! What a command sees and may do, and how it ends.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
    path::Path,
    process::{Command, Stdio},
};

use serde_json::json;

use super::{
    Test,
    world::{World, until},
};

pub const TESTS: &[Test] = &[
    ("privileged_a_tree_is_the_root_and_nothing_is_made_in_it", a_tree_is_the_root),
    ("privileged_a_tree_has_minimal_devices", minimal_devices),
    ("privileged_an_empty_tree_can_be_entered", an_empty_tree),
    ("privileged_the_namespaces_are_its_own", own_namespaces),
    ("privileged_without_a_network_there_is_only_lo", no_network),
    ("privileged_with_the_network_of_the_host_its_files_are_visible", network_files),
    ("privileged_a_copy_is_seen_at_its_path_and_the_host_beside_it", a_copy),
    ("privileged_a_user_has_its_ids_groups_and_home", users),
    ("privileged_the_exit_code_is_that_of_the_command", exit_codes),
    ("privileged_a_program_that_cannot_be_run_is_126_or_127", not_run),
    ("privileged_binds_are_at_their_targets", binds),
    ("privileged_mounts_go_in_and_not_out", propagation),
    ("privileged_a_missing_mount_point_is_named", missing_mount_points),
    ("privileged_no_mount_point_leads_out_of_the_tree", hostile_mount_points),
    ("privileged_a_read_only_tree_refuses_writes", read_only),
    ("privileged_an_overlay_over_one_directory_keeps_it_unchanged", overlays),
    ("privileged_standard_input_is_inherited_only_on_request", standard_input),
    ("privileged_the_output_can_go_to_the_standard_error", output_on_stderr),
    ("privileged_descriptors_of_the_caller_do_not_get_into_a_tree", descriptors),
];

fn a_tree_is_the_root() {
    let world = World::new();
    let seen = world.sh("ls /; pwd; cat /data/file; readlink /proc/1/root", json!({}));
    assert_eq!(seen, "bin\ndata\ndev\netc\nhome\nproc\nrun\nsys\ntmp\n/\nlower\n/\n");
    assert_eq!(world.written(), Vec::<String>::new());
    // Only what the command writes is in the upper.
    let script = "echo x > /tmp/new; echo y > /run/run; echo z > /dev/shm/shm; umask";
    assert_eq!(world.sh(script, json!({})), "0022\n");
    assert_eq!(world.written(), ["tmp", "tmp/new"]);
    // The mounts are these, each once.
    let targets = world.sh(
        "while read _ _ _ _ target _; do echo $target; done < /proc/self/mountinfo",
        json!({ "no_net": true }),
    );
    let mut targets: Vec<_> = targets.lines().collect();
    targets.sort_unstable();
    assert_eq!(targets, ["/", "/dev", "/dev/pts", "/dev/shm", "/proc", "/run", "/sys"]);
}

fn minimal_devices() {
    let world = World::new();
    let seen = world.sh("ls /dev", json!({}));
    let names: Vec<_> = seen.split_whitespace().collect();
    let expected = [
        "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
        "urandom", "zero",
    ];
    assert_eq!(names, expected);
    let script = "echo x > /dev/null && head -c 3 /dev/zero | wc -c && ! echo x > /dev/full && \
                  head -c 2 /dev/urandom | wc -c && echo out > /dev/stdout && ls /dev/pts && \
                  stat -c %a /dev/null /dev/shm /run /dev/pts/ptmx";
    for user in ["root", "ada"] {
        let seen = world.sh(&format!("{{ {script}; }} 2>/dev/null"), json!({ "user": user }));
        assert_eq!(seen, "3\n2\nout\nptmx\n666\n1777\n755\n666\n", "{user}");
    }
    let refused = world.output(&["sh", "-c", "echo x > /sys/kernel/profiling"], json!({}));
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(error.contains("Read-only file system"), "{error}");
}

fn an_empty_tree() {
    let world = World::empty();
    let busybox = json!({ "binds": ["/bin/busybox:/made/up/busybox:ro"] });
    let output = world.output(&["/made/up/busybox", "ls", "/", "/made"], busybox);
    let seen = String::from_utf8(output.stdout).unwrap();
    assert_eq!(seen, "/:\ndev\netc\nmade\nproc\nrun\nsys\n\n/made:\nup\n");
    assert_eq!(world.written(), Vec::<String>::new());
}

fn own_namespaces() {
    let world = World::new();
    let names = ["mnt", "pid", "uts", "ipc", "net"];
    let script = "for n in mnt pid uts ipc net; do readlink /proc/self/ns/$n; done";
    let of_host: Vec<_> = names
        .iter()
        .map(|name| fs::read_link(format!("/proc/self/ns/{name}")).unwrap())
        .map(|link| link.to_str().unwrap().to_owned())
        .collect();
    for (no_net, shared) in [(false, &["net"][..]), (true, &[])] {
        let seen = world.sh(script, json!({ "no_net": no_net }));
        for ((name, seen), of_host) in names.iter().zip(seen.lines()).zip(&of_host) {
            assert_eq!(seen == of_host, shared.contains(name), "{name}: {seen}");
        }
    }
    assert_eq!(world.sh("echo $$; hostname", json!({ "hostname": "box" })), "2\nbox\n");
    let hostname = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(world.sh("hostname", json!({})), hostname);
}

fn no_network() {
    let world = World::new();
    let script = "wc -l < /proc/net/route; ip -o addr show lo | grep -c 127.0.0.1/8; ls /etc; ls /sys/class/net";
    let seen = world.sh(script, json!({ "no_net": true }));
    // Of the routes there is only the header. Some kernels have more interfaces everywhere.
    assert!(seen.starts_with("1\n1\ngroup\npasswd\n") && seen.contains("\nlo\n"), "{seen}");
}

fn network_files() {
    let world = World::new();
    let host =
        ["resolv.conf", "hosts"].map(|name| fs::read_to_string(format!("/etc/{name}")).unwrap());
    world.write("etc/hosts", "of the tree\n");
    let seen = || world.sh("cat /etc/resolv.conf /etc/hosts", json!({}));
    assert_eq!(seen(), host.concat());
    let refused = world.output(&["sh", "-c", "echo x > /etc/hosts"], json!({}));
    assert!(!refused.status.success(), "{refused:?}");
    // As systemd-resolved makes it: the target is in /run, where nothing is.
    symlink("../run/systemd/resolve/stub-resolv.conf", world.lower("etc/resolv.conf")).unwrap();
    assert_eq!(seen(), host.concat());
    // The target is missing elsewhere: the file is missing, as without the container.
    fs::remove_file(world.lower("etc/resolv.conf")).unwrap();
    symlink("/nowhere/resolv.conf", world.lower("etc/resolv.conf")).unwrap();
    assert_eq!(world.sh("cat /etc/hosts", json!({})), host[1]);
    assert_eq!(world.written(), Vec::<String>::new());
    assert_eq!(fs::read_to_string(world.lower("etc/hosts")).unwrap(), "of the tree\n");
}

fn a_copy() {
    let world = World::new();
    let dir = world.lower("");
    let at = world.path("lower");
    let copy = json!({ "copy_at": at, "workdir": at.join("data"), "inherit_env": true });
    let script = format!(
        "pwd; echo changed > {0}/data/file; cat {0}/data/file; cat {1}; echo $MARK; echo $$; ls /dev | wc -l",
        at.display(),
        world.path("outside").display()
    );
    fs::write(world.path("outside"), "the host\n").unwrap();
    let mut all = json!({ "argv": ["/bin/busybox", "sh", "-c", script] });
    all.as_object_mut().unwrap().extend(copy.as_object().unwrap().clone());
    let output = world.command(all).env("MARK", "inherited").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let devices = fs::read_dir("/dev")
        .unwrap()
        .filter(|entry| !entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with('.'));
    let seen = String::from_utf8(output.stdout).unwrap();
    let expected = format!(
        "{}\nchanged\nthe host\ninherited\n2\n{}\n",
        at.join("data").display(),
        devices.count()
    );
    assert_eq!(seen, expected);
    assert_eq!(fs::read_to_string(dir.join("data/file")).unwrap(), "lower\n");
    assert_eq!(world.written(), ["data", "data/file"]);
    assert_eq!(world.mounts(), Vec::<String>::new());
    let read_only = json!({ "copy_at": at, "read_only": true });
    let script = format!("echo x > {}/tmp/new", at.display());
    let refused = world.output(&["/bin/busybox", "sh", "-c", &script], read_only);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
}

fn users() {
    let world = World::new();
    chown(world.lower("home/ada"), Some(1000), Some(1000)).unwrap();
    let script = "id; echo $HOME; cat /proc/self/status | grep CapEff; touch ~/mine";
    let seen = world.sh(script, json!({ "user": "ada" }));
    let groups = "uid=1000(ada) gid=1000(ada) groups=50(staff)";
    assert_eq!(seen, format!("{groups}\n/home/ada\nCapEff:\t0000000000000000\n"));
    let mine = fs::metadata(world.path("tree/upper/home/ada/mine")).unwrap();
    assert_eq!((mine.uid(), mine.gid()), (1000, 1000));
    let seen = world.sh("id -u; id -g; id -G; echo $HOME", json!({ "user": "1234:staff" }));
    assert_eq!(seen, "1234\n50\n50\n/\n");
    let seen = world
        .sh("id -u; id -G; echo $HOME; echo $PATH", json!({ "env": ["HOME=/h", "PATH=/bin"] }));
    assert_eq!(seen, "0\n0\n/h\n/bin\n");
    let refused = world.output(&["sh", "-c", "echo x > /etc/passwd"], json!({ "user": "ada" }));
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    // Root has the capabilities that the caller has.
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find(|line| line.starts_with("CapEff")).unwrap();
    assert_eq!(world.sh("grep CapEff /proc/self/status", json!({})).trim_end(), own);
}

fn exit_codes() {
    let world = World::new();
    for (script, code) in
        [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -9 $$", 137), ("kill -15 $$", 143)]
    {
        let output = world.output(&["sh", "-c", script], json!({}));
        assert_eq!(output.status.code(), Some(code), "{script}: {output:?}");
    }
    // What the command leaves behind does not delay its end.
    let output = world.output(&["sh", "-c", "sleep 1000 & exit 3"], json!({}));
    assert_eq!(output.status.code(), Some(3));
    // An orphan ends before the command does; only the command counts.
    let output = world.output(&["sh", "-c", "(sleep 0.1 & exit 5); sleep 0.3; exit 4"], json!({}));
    assert_eq!(output.status.code(), Some(4));
    assert_eq!(world.mounts(), Vec::<String>::new());
}

fn not_run() {
    let world = World::new();
    world.write("data/script", "#!/missing/interpreter\n");
    fs::set_permissions(world.lower("data/script"), fs::Permissions::from_mode(0o755)).unwrap();
    world.write("data/text", "no program\n");
    fs::set_permissions(world.lower("data/text"), fs::Permissions::from_mode(0o755)).unwrap();
    for (argv, code, why) in [
        ("missing", 127, "cannot run missing: it is in no directory of PATH (/usr/local/sbin:"),
        ("/missing", 127, "cannot run /missing: it does not exist"),
        ("/data/script", 127, "or the interpreter that it needs does not exist"),
        ("/data/file", 126, "cannot run /data/file: it cannot be executed (EACCES"),
        ("/data", 126, "cannot run /data: it cannot be executed (EACCES"),
        ("/data/text", 126, "cannot run /data/text: it cannot be executed (ENOEXEC"),
    ] {
        let output = world.output(&[argv], json!({}));
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{argv}: {error}");
        assert!(error.contains(why), "{argv}: {error}");
    }
    // A file that cannot be executed does not hide a later one.
    world.write("data/cat", "");
    let output =
        world.output(&["cat", "/data/file"], json!({ "env": ["PATH=/data:/nowhere:/bin"] }));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "lower\n");
    let output = world.output(&["true"], json!({ "workdir": "/missing" }));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("cannot change to the working directory /missing: No such file"),
        "{error}"
    );
    assert_eq!(output.status.code(), Some(99));
}

fn binds() {
    let world = World::new();
    fs::create_dir_all(world.path("host/dir")).unwrap();
    fs::write(world.path("host/file"), "of the host\n").unwrap();
    let host = |name: &str, rest: &str| format!("{}{rest}", world.path(name).display());
    let binds = [
        host("host", ":/new/dir"),
        host("host/file", ":/new/file:ro"),
        host("host/file", ":/run/sub/socket"),
        host("host/file", ":/data/file"),
        host("host", ":/var/run/x"),
        // In another bind.
        host("host/file", ":/new/dir/file"),
    ];
    symlink("/run", {
        fs::create_dir(world.lower("var")).unwrap();
        world.lower("var/run")
    })
    .unwrap();
    let script = "cat /new/file /run/sub/socket /data/file /run/x/file /new/dir/file; \
                  echo more > /new/dir/made; ! echo x > /new/file";
    let seen = world.sh(script, json!({ "binds": binds }));
    assert_eq!(seen, "of the host\n".repeat(5));
    assert_eq!(fs::read_to_string(world.path("host/made")).unwrap(), "more\n");
    assert_eq!(world.written(), Vec::<String>::new());
    assert_eq!(fs::read_to_string(world.lower("data/file")).unwrap(), "lower\n");
}

/// A mount of the host. The kernel passes on to others what is mounted in it, as in the root of most machines.
struct Shared<'a>(&'a Path);

impl<'a> Shared<'a> {
    fn new(at: &'a Path) -> Self {
        fs::create_dir(at).unwrap();
        let shared = Self(at);
        for args in [&["-t", "tmpfs", "shared"][..], &["--make-shared"]] {
            assert!(Command::new("mount").args(args).arg(at).status().unwrap().success());
        }
        shared
    }
}

impl Drop for Shared<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["--lazy", "--recursive"]).arg(self.0).output();
    }
}

fn propagation() {
    let world = World::new();
    let disk = world.path("disk");
    let shared = Shared::new(&disk);
    let inner = disk.join("inner");
    for dir in [&disk.join("sub"), &inner] {
        fs::create_dir(dir).unwrap();
    }
    let mounted = Command::new("mount").args(["-t", "tmpfs", "inner"]).arg(&inner).status();
    assert!(mounted.unwrap().success());
    fs::write(inner.join("file"), "").unwrap();
    let on_host = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    // A mount in a bind is not visible outside.
    let bind = format!("{}:/disk", disk.display());
    let script = "mount -t tmpfs inner /disk/sub && grep -c /disk/sub /proc/self/mountinfo";
    assert_eq!(world.sh(script, json!({ "binds": [bind] })), "1\n");
    assert!(!on_host().contains("/disk/sub"));
    // An unmount outside is not refused, and visible in a copy that runs.
    let script = format!(
        "test -e {0}/file && echo ready; while test -e {0}/file; do sleep 0.05; done",
        inner.display()
    );
    let copy = json!({
        "copy_at": world.path("lower"), "argv": ["/bin/busybox", "sh", "-c", script],
    });
    let mut running = world.start("", copy);
    running.wait_for("ready");
    // It is busy in the moment in which the file is looked up.
    until("the unmount", || Command::new("umount").arg(&inner).output().unwrap().status.success());
    assert_eq!(running.code(), 0);
    drop(shared);
    assert!(!on_host().contains(disk.to_str().unwrap()));
}

fn missing_mount_points() {
    let world = World::new();
    // The user removed it: the layer with the mount points does not help.
    fs::remove_file(world.lower("bin/true")).unwrap();
    let _ = world.sh("rm -r /home; echo gone > /home", json!({}));
    let output = world.output(&["ls"], json!({ "binds": ["/etc:/home"] }));
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(99));
    assert!(error.contains("cannot use the mount point /home: not a directory"), "{error}");
    let output = world.output(&["ls"], json!({ "binds": ["/etc:/home/x/y"] }));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("cannot use the mount point /home/x/y"), "{error}");
    assert_eq!(world.written(), ["home"]);
    let at = world.path("gone");
    let output = world.output(&["/bin/busybox", "true"], json!({ "copy_at": at }));
    let error = String::from_utf8(output.stderr).unwrap();
    let expected =
        format!("the mount point {} is missing; make an empty directory there", at.display());
    assert!(error.contains(&expected), "{error}");
}

fn hostile_mount_points() {
    let world = World::new();
    let outside = world.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("hosts"), "outside\n").unwrap();
    fs::remove_dir_all(world.lower("etc")).unwrap();
    symlink(&outside, world.lower("etc")).unwrap();
    symlink("../../../../../../..", world.lower("run")).unwrap();
    let output = world.output(&["ls", "/"], json!({ "user": "0", "no_net": true }));
    // `/run` leads to the root of the tree, on which nothing of the host is.
    assert!(outside.join("hosts").exists());
    assert!(!String::from_utf8_lossy(&output.stdout).contains("work"), "{output:?}");
    fs::remove_file(world.lower("run")).unwrap();
    let output = world.output(&["ls", "/etc/"], json!({}));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && !error.contains("hosts"), "{output:?}");
    assert_eq!(fs::read_to_string(outside.join("hosts")).unwrap(), "outside\n");
}

fn read_only() {
    let world = World::new();
    let script = "! echo x > /tmp/new && ! echo x > /data/file && echo x > /run/new && echo x > /dev/shm/new";
    world.sh(&format!("{{ {script}; }} 2>/dev/null"), json!({ "read_only": true }));
    assert_eq!(world.written(), Vec::<String>::new());
}

fn overlays() {
    let world = World::new();
    let script = "cat /data/file; echo private > /data/file; echo x > /data/new; cat /data/file; echo x > /tmp/new";
    let seen = world.sh(script, json!({ "overlays": ["/data"] }));
    assert_eq!(seen, "lower\nprivate\n");
    assert_eq!(world.written(), ["tmp", "tmp/new"]);
    // The files of the host are on top of it.
    let host = fs::read_to_string("/etc/resolv.conf").unwrap();
    assert_eq!(world.sh("cat /etc/resolv.conf", json!({ "overlays": ["/etc"] })), host);
    // Writes are possible there also on a read-only tree.
    let seen = world.sh(
        "cat /data/new; echo y > /data/new; cat /data/new",
        json!({ "overlays": ["/data"], "read_only": true }),
    );
    assert_eq!(seen, "x\ny\n");
}

fn standard_input() {
    let world = World::new();
    fs::write(world.path("input"), "input\n").unwrap();
    for (interactive, expected) in [(true, "input\n"), (false, "")] {
        let spec = json!({ "argv": ["cat"], "interactive": interactive });
        let input = fs::File::open(world.path("input")).unwrap();
        let output = world.command(spec).stdin(Stdio::from(input)).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    }
}

fn output_on_stderr() {
    let world = World::new();
    for (terminal, end) in [(false, "\n"), (true, "\r\n")] {
        let spec = json!({ "stderr": true, "terminal": terminal });
        let output = world.output(&["sh", "-c", "echo out"], spec);
        assert_eq!(
            (&output.stdout[..], &output.stderr[..]),
            (&b""[..], format!("out{end}").as_bytes())
        );
    }
}

fn descriptors() {
    let world = World::new();
    let command = |spec| {
        let mut command = Command::new("sh");
        let inner = world.command(spec);
        // A descriptor that a program inherits, as of a jobserver.
        command.args(["-c", "exec 7< /etc/passwd; exec \"$@\"", "sh"]);
        command.arg(inner.get_program()).args(inner.get_args());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let script = "ls /proc/self/fd /proc/1/fd | grep -v :";
    let seen = command(json!({ "argv": ["sh", "-c", script] }));
    assert!(!seen.lines().any(|line| line == "7"), "{seen}");
    let links = "for fd in /proc/1/fd/*; do readlink $fd; done";
    let seen = command(json!({ "argv": ["sh", "-c", links] }));
    let mut odd = seen.lines().filter(|link| {
        !["pipe:", "anon_inode:[signalfd]", "/dev/null", "socket:"]
            .iter()
            .any(|known| link.starts_with(known))
    });
    assert_eq!(odd.next(), None, "{seen}");
    let copy = json!({
        "argv": ["/bin/busybox", "head", "-n1", "/proc/self/fd/7"], "copy_at": world.path("lower"),
    });
    assert!(command(copy).starts_with("root:"));
}
