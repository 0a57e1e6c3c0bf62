//! A command with a terminal of its own. The test has the keyboard and the screen of the caller's terminal.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::{AsFd as _, OwnedFd},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use rustix::{
    fs::{Mode, OFlags, open},
    pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt},
    termios::{Termios, Winsize, tcgetattr, tcsetwinsize},
};
use serde_json::{Value, json};

use super::{
    Test,
    world::{World, until},
};

pub const TESTS: &[Test] = &[
    ("privileged_a_command_has_a_terminal_of_the_same_size", a_terminal),
    ("privileged_keys_go_to_the_command_and_the_mode_is_restored", keys),
    ("privileged_job_control_works_in_a_terminal", job_control),
    ("privileged_the_mode_is_restored_after_a_signal_and_after_an_error", restored),
    ("privileged_the_end_of_the_input_ends_a_command_with_a_terminal", end_of_input),
    ("privileged_a_terminal_without_input_is_not_in_raw_mode", without_input),
    ("privileged_a_copy_can_have_a_terminal", terminal_of_a_copy),
    ("privileged_more_input_and_output_than_fits_is_copied", much),
];

/// The caller's terminal, and the process that runs a container on it.
struct Caller {
    keyboard: File,
    inner: OwnedFd,
    screen: Arc<Mutex<String>>,
    child: Child,
    before: Termios,
}

impl Caller {
    fn start(world: &World, argv: &[&str], more: Value) -> Self {
        let mut spec = json!({ "argv": argv, "terminal": true, "interactive": true });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let outer =
            open("/dev/ptmx", OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty());
        let outer = outer.unwrap();
        unlockpt(&outer).unwrap();
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let inner = ioctl_tiocgptpeer(&outer, flags).unwrap();
        resize(&outer, 33, 99);
        let container = world.command(spec);
        let mut command = Command::new("setsid");
        // It becomes the controlling terminal, so that the kernel sends SIGWINCH.
        command.args(["--ctty", "--wait"]).arg(container.get_program()).args(container.get_args());
        command.stdin(inner.try_clone().unwrap());
        command.stdout(inner.try_clone().unwrap()).stderr(inner.try_clone().unwrap());
        let before = tcgetattr(&inner).unwrap();
        let child = command.env("TERM", "dumb").spawn().unwrap();
        let screen = Arc::new(Mutex::new(String::new()));
        let (mut from, to) = (File::from(outer.try_clone().unwrap()), screen.clone());
        // It ends with the terminal.
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                to.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        Self { keyboard: outer.into(), inner, screen, child, before }
    }

    fn text(&self) -> String {
        self.screen.lock().unwrap().replace('\r', "")
    }

    fn wait_for(&self, text: &str) {
        let start = std::time::Instant::now();
        while !self.text().contains(text) {
            assert!(
                start.elapsed() < super::world::TIMEOUT,
                "{text:?} is not in {:?}",
                self.text()
            );
            thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    fn type_in(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    fn code(&mut self) -> i32 {
        let screen = self.screen.clone();
        until(&format!("the end of {:?}", screen.lock().unwrap()), || {
            self.child.try_wait().unwrap().is_some()
        });
        self.child.wait().unwrap().code().unwrap()
    }

    fn is_restored(&self) -> bool {
        let (now, before) = (tcgetattr(&self.inner).unwrap(), &self.before);
        now.local_modes == before.local_modes
            && now.input_modes == before.input_modes
            && now.output_modes == before.output_modes
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn resize(terminal: &OwnedFd, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal.as_fd(), size).unwrap();
}

fn a_terminal() {
    let world = World::new();
    let script = "tty; stat -c %u /dev/pts/0; stty size; echo $TERM; test -t 0 && test -t 1 && test -t 2 && echo all; \
                  trap 'stty size; exit 4' WINCH; while true; do sleep 0.05; done";
    for (user, uid) in [("root", "0"), ("ada", "1000")] {
        let mut caller = Caller::start(&world, &["sh", "-c", script], json!({ "user": user }));
        caller.wait_for(&format!("/dev/pts/0\n{uid}\n33 99\ndumb\nall\n"));
        resize(&caller.inner, 44, 123);
        assert_eq!(caller.code(), 4);
        caller.wait_for("44 123\n");
    }
}

fn keys() {
    let world = World::new();
    let script = "trap 'echo interrupted' INT; echo ready; until read line; do :; done; echo \"<$line>\"; exit 6";
    let mut caller = Caller::start(&world, &["sh", "-c", script], json!({}));
    caller.wait_for("ready");
    assert!(!caller.is_restored());
    caller.type_in("\x03");
    caller.wait_for("interrupted");
    caller.type_in("some words\r");
    assert_eq!(caller.code(), 6);
    caller.wait_for("<some words>");
    assert!(caller.is_restored());
}

fn job_control() {
    let world = World::new();
    let mut caller = Caller::start(&world, &["sh", "-i"], json!({ "env": ["PS1=$ "] }));
    caller.wait_for("$ ");
    caller.type_in("sleep 4321567\r");
    until("it is in the foreground", || !world.processes("4321567").is_empty());
    caller.type_in("\x1a");
    caller.wait_for("Stopped");
    caller.type_in("fg\r");
    caller.wait_for("fg\nsleep 4321567\n");
    caller.type_in("\x03");
    caller.type_in("echo code=$?\r");
    caller.wait_for("code=130\n");
    assert!(!caller.text().contains("job control"), "{}", caller.text());
    caller.type_in("\x04");
    assert_eq!(caller.code(), 0);
    assert!(caller.is_restored());
}

fn restored() {
    let world = World::new();
    let mut caller = Caller::start(&world, &["sh", "-c", "echo ready; exec sleep 1000"], json!({}));
    caller.wait_for("ready");
    assert!(!caller.is_restored());
    let pid = caller.child.id().to_string();
    assert!(Command::new("kill").args(["-s", "TERM", &pid]).status().unwrap().success());
    assert_eq!(caller.code(), 143);
    assert!(caller.is_restored());
    let mut caller = Caller::start(&world, &["missing"], json!({}));
    assert_eq!(caller.code(), 127);
    caller.wait_for("cannot run missing");
    assert!(caller.is_restored());
}

fn end_of_input() {
    let world = World::new();
    for (input, expected) in
        [("a line\n", "a line\r\na line\r\n"), ("no newline", "no newlineno newline")]
    {
        let spec = json!({ "argv": ["cat"], "terminal": true, "interactive": true });
        let mut command = world.command(spec);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        // The terminal echoes its input.
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
        assert!(output.status.success());
    }
}

fn without_input() {
    let world = World::new();
    let script = "tty; echo ready; exec sleep 1000";
    let mut caller = Caller::start(&world, &["sh", "-c", script], json!({ "interactive": false }));
    caller.wait_for("/dev/pts/0\nready");
    assert!(caller.is_restored());
    // The key is a signal to `ovl`, which passes it on.
    caller.type_in("\x03");
    assert_eq!(caller.code(), 130);
}

fn terminal_of_a_copy() {
    let world = World::new();
    let copy = json!({ "copy_at": world.path("lower") });
    let script = "/bin/busybox tty; /bin/busybox ls -1 /dev/pts; exit 3";
    let mut caller = Caller::start(&world, &["/bin/busybox", "sh", "-c", script], copy);
    assert_eq!(caller.code(), 3);
    caller.wait_for("/dev/pts/0\n0\nptmx\n");
    assert!(caller.is_restored());
}

/// The terminal's buffers have 4 KiB. The command reads nothing before it has written all.
fn much() {
    let world = World::new();
    let script = "stty raw -echo; echo ready; dd if=/dev/zero bs=1000 count=300 2>/dev/null; \
                  head -c 100000 | wc -c";
    let spec = json!({ "argv": ["sh", "-c", script], "terminal": true, "interactive": true });
    let mut command = world.command(spec);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // Until then the terminal takes lines, which are shorter.
    let mut ready = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    assert_eq!(&ready, b"ready\n");
    let mut input = child.stdin.take().unwrap();
    let writer = thread::spawn(move || input.write_all(&[b'x'; 100_000]));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).replace('\0', "");
    assert_eq!(text, "100000\n");
    let zeros = output.stdout.iter().filter(|byte| **byte == 0).count();
    assert_eq!(zeros, 300_000);
}
