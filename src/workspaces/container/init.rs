//! Process 1 of a container, and the start of the command.
//!
//! Both are forks of a process with one thread, so they may run any code. They end without running destructors of what
//! they borrow from their parent.

use std::{
    env,
    ffi::{OsStr, OsString},
    fmt::Display,
    io::{self, PipeReader, PipeWriter, Read as _, Write as _},
    os::fd::AsFd as _,
};

use super::{
    prepare::{Prepared, Step},
    report::{AFTER_COMMAND, Report, What, failed},
    spec::{Container, Net, Root},
    supervise::{READY, START},
};
use crate::sys::{
    container::{
        Child, ExecError, Interest, Kind, Pty, Signals, attach, become_user, bring_loopback_up,
        close_descriptors, die_with_parent, enter_root, exec, find_target, fork,
        own_standard_pipes, poll, reap, separate, set_hostname, set_stdin, set_stdout_to_stderr,
        set_umask,
    },
    mounts::{Attrs, LinuxMounts, Mounts as _, Request},
};

/// The exit code of process 1 if `ovl` has ended, or if nothing was run. Only the report counts then.
const FAILED: u8 = 125;

/// The `PATH` of programs in an environment without one.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What process 1 gets from the process that forked it.
pub(super) struct Init<'a> {
    pub(super) container: &'a Container,
    pub(super) prepared: &'a Prepared,
    pub(super) signals: &'a Signals,
    /// The caller writes [`START`] and the numbers of signals. It ends when the caller does.
    pub(super) requests: &'a PipeReader,
    pub(super) reports: &'a PipeWriter,
}

impl Init<'_> {
    /// Sets up the container, runs the command, and returns its exit code.
    pub(super) fn run(&self) -> u8 {
        match self.start() {
            Ok(Some(command)) => self.until_end(&command).unwrap_or_else(|error| {
                failed("wait for the command")(error).send(self.reports);
                FAILED
            }),
            Ok(None) => FAILED,
            Err(report) => {
                report.send(self.reports);
                FAILED
            }
        }
    }

    /// `None` if the caller has ended.
    fn start(&self) -> Result<Option<Child>, Report> {
        die_with_parent().map_err(failed("request the end of process 1 with its parent"))?;
        let mut first = [0];
        let mut requests = self.requests;
        // The caller lives, or its end of the pipe is closed.
        match requests.read(&mut first) {
            Ok(1) if first[0] == START => {}
            _ => return Ok(None),
        }
        self.set_up()?;
        // If the caller has ended, so does this process.
        let mut reports = self.reports;
        let _ = reports.write_all(&[READY]);
        let Prepared { null, pty, .. } = self.prepared;
        let mut keep = vec![self.requests.as_fd(), self.reports.as_fd(), self.signals.as_fd()];
        keep.push(null.as_fd());
        keep.extend(pty.as_ref().map(Pty::inner));
        // In a copy, the command has those that the caller inherited, for example of a jobserver of make.
        close_descriptors(&keep, !self.container.root.is_tree())
            .map_err(failed("close the descriptors of ovl"))?;
        let command = fork(|| {
            self.become_command().send(self.reports);
            FAILED
        });
        Ok(Some(command.map_err(failed("fork"))?))
    }

    fn set_up(&self) -> Result<(), Report> {
        let Container { root, net, hostname, .. } = self.container;
        separate(*net == Net::None).map_err(failed("make the namespaces"))?;
        if let Some(name) = hostname {
            set_hostname(name).map_err(failed(format!("set the host name {}", name.display())))?;
        }
        if *net == Net::None {
            bring_loopback_up().map_err(failed("set the interface lo up"))?;
        }
        if let Root::Tree(tree) = root {
            enter_root(tree).map_err(failed("enter the tree"))?;
        }
        self.mount_own("proc", "/proc", Attrs::default())?;
        if root.is_tree() {
            self.mount_own("sysfs", "/sys", Attrs { read_only: true, ..Attrs::default() })?;
        }
        for step in &self.prepared.steps {
            self.attach(step)?;
        }
        env::set_current_dir("/").map_err(failed("change to /"))
    }

    /// Mounts a file system that shows the namespaces of this process.
    fn mount_own(&self, fs_type: &'static str, target: &str, attrs: Attrs) -> Result<(), Report> {
        let attrs = Attrs { nosuid: true, nodev: true, noexec: true, ..attrs };
        let request = Request { fs_type, source: fs_type.to_owned(), params: Vec::new(), attrs };
        let mount = LinuxMounts.create(&request).map_err(failed(format!("mount {target}")))?;
        let found = find_target(target.as_ref(), Kind::Directory, &[]);
        let found = found.map_err(|e| missing(target, Kind::Directory, e))?;
        attach(&mount, &found).map_err(failed(format!("mount {target}")))
    }

    fn attach(&self, step: &Step) -> Result<(), Report> {
        let target = step.target.display();
        let found = match find_target(&step.target, step.kind, &self.prepared.own) {
            Err(e) if step.is_optional && e.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => found.map_err(|e| missing(&target, step.kind, e))?,
        };
        let mount = self.prepared.mount(step, self.container);
        attach(mount, &found).map_err(failed(format!("mount {target}")))
    }

    /// Waits for the command and for orphans, and passes signals on.
    fn until_end(&self, command: &Child) -> io::Result<u8> {
        loop {
            let wanted = [self.signals.as_fd(), self.requests.as_fd()];
            let [has_signal, has_request] = poll(wanted.map(|fd| (fd, Interest::Read)), None)?;
            if has_signal {
                // Only SIGCHLD matters. The others come from the terminal, and the command gets them too.
                while self.signals.take()?.is_some() {}
                while let Some((pid, code)) = reap()? {
                    if pid == command.id() {
                        return Ok(code);
                    }
                }
            }
            if has_request {
                let mut signals = [0; 16];
                let mut requests = self.requests;
                let count = requests.read(&mut signals)?;
                if count == 0 {
                    return Ok(FAILED);
                }
                for number in &signals[..count] {
                    // The command was not waited for, so its id is not used again.
                    let _ = command.signal((*number).into());
                }
            }
        }
    }

    /// Becomes the program. Returns only if that fails.
    fn become_command(&self) -> Report {
        let Container { argv, .. } = self.container;
        match self.prepare_command() {
            Ok(()) => {}
            Err(report) => return report,
        }
        let env = self.environment();
        let path = env.iter().find(|(name, _)| name == "PATH");
        let path = path.map_or(OsStr::new(DEFAULT_PATH), |(_, path)| path);
        let name = argv.first().map(|name| name.display().to_string()).unwrap_or_default();
        match exec(argv, &env, path) {
            ExecError::Absent if name.contains('/') => Report {
                what: What::Absent,
                text: format!(
                    "{name}{AFTER_COMMAND}it does not exist, or the interpreter that it needs does not exist"
                ),
            },
            ExecError::Absent => Report {
                what: What::Absent,
                text: format!(
                    "{name}{AFTER_COMMAND}it is in no directory of PATH ({})",
                    path.display()
                ),
            },
            ExecError::Refused(errno) => Report {
                what: What::NotExecutable,
                text: format!("{name}{AFTER_COMMAND}it cannot be executed ({errno})"),
            },
        }
    }

    fn prepare_command(&self) -> Result<(), Report> {
        let Container { root, user, workdir, stdio, .. } = self.container;
        match &self.prepared.pty {
            Some(pty) => pty.become_terminal(user.uid).map_err(failed("set the terminal"))?,
            None if !stdio.interactive => {
                set_stdin(&self.prepared.null).map_err(failed("set the standard input"))?;
            }
            None => {}
        }
        if stdio.output_on_stderr && self.prepared.pty.is_none() {
            set_stdout_to_stderr().map_err(failed("set the standard output"))?;
        }
        own_standard_pipes(user.uid).map_err(failed("change the owner of a pipe"))?;
        if root.is_tree() {
            // In a copy, the command has that of the caller.
            set_umask(0o022);
        }
        become_user(user.uid, user.gid, &user.groups)
            .map_err(failed(format!("become the user {}:{}", user.uid, user.gid)))?;
        env::set_current_dir(workdir)
            .map_err(failed(format!("change to the working directory {}", workdir.display())))?;
        self.signals.unblock_for_program().map_err(failed("unblock signals"))
    }

    fn environment(&self) -> Vec<(OsString, OsString)> {
        let Container { user, .. } = self.container;
        let mut env = self.container.env.clone();
        if !env.iter().any(|(name, _)| name == "HOME") {
            env.push(("HOME".into(), user.home.clone().into()));
        }
        if self.prepared.pty.is_some() && !env.iter().any(|(name, _)| name == "TERM") {
            env.push(("TERM".into(), env::var_os("TERM").unwrap_or_else(|| "xterm".into())));
        }
        env
    }
}

fn missing(target: impl Display, kind: Kind, error: io::Error) -> Report {
    let text = match error.kind() {
        io::ErrorKind::NotFound => {
            let what = match kind {
                Kind::Directory => "directory",
                Kind::File => "file",
            };
            format!("the mount point {target} is missing; make an empty {what} there")
        }
        _ => format!("cannot use the mount point {target}: {error}"),
    };
    Report { what: What::SetUp, text }
}
