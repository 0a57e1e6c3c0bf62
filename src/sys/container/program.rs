//! Turns a forked process into a program.

use std::{
    ffi::{CString, OsStr, OsString},
    fs::File,
    io,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::Path,
};

use nix::{errno::Errno, unistd::execve};
use rustix::{
    fs::{Mode, fchown, fstatfs},
    process::umask,
    stdio::{dup2_stdin, dup2_stdout, stderr, stdin, stdout},
    thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

/// The file system of pipes without a name (include/uapi/linux/magic.h of the kernel).
const PIPEFS_MAGIC: i64 = 0x5049_5045;

/// Why a program was not started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecError {
    /// There is no such program, or its interpreter is missing.
    Absent,
    /// It exists and cannot be executed.
    Refused(Errno),
}

/// Changes the user of this process, which has one thread. From root to another user, it loses its capabilities
/// (capabilities(7)). Programs with the set-user-id bit can still gain them.
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    let groups: Vec<_> = groups.iter().map(|group| Gid::from_raw(*group)).collect();
    set_thread_groups(&groups)?;
    let gid = Gid::from_raw(gid);
    set_thread_res_gid(gid, gid, gid)?;
    let uid = Uid::from_raw(uid);
    Ok(set_thread_res_uid(uid, uid, uid)?)
}

/// Gives the user `uid` the pipes among the standard descriptors, which belong to the user who made them. Otherwise a
/// program of this user could write to its standard output, but not open `/dev/stdout`.
pub fn own_standard_pipes(uid: u32) -> io::Result<()> {
    for fd in [stdin(), stdout(), stderr()] {
        // A named pipe is a file of the host, and not of this kind.
        if fstatfs(fd)?.f_type == PIPEFS_MAGIC {
            fchown(fd, Some(Uid::from_raw(uid)), None)?;
        }
    }
    Ok(())
}

/// Sets the mode bits that new files do not get.
pub fn set_umask(mask: u32) {
    umask(Mode::from_raw_mode(mask));
}

/// Makes `file` the standard input.
pub fn set_stdin(file: &File) -> io::Result<()> {
    Ok(dup2_stdin(file)?)
}

/// Makes the standard error the standard output, too.
pub fn set_stdout_to_stderr() -> io::Result<()> {
    Ok(dup2_stdout(stderr())?)
}

/// Replaces this process with the program `argv[0]`. A name without `/` is searched in the directories of `path`. A file
/// without a format that the kernel knows is not given to a shell.
///
/// Returns only if that fails.
pub fn exec(argv: &[OsString], env: &[(OsString, OsString)], path: &OsStr) -> ExecError {
    let strings =
        |all: Vec<Vec<u8>>| all.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>();
    let assignments =
        env.iter().map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat());
    let args = strings(argv.iter().map(|arg| arg.clone().into_vec()).collect());
    let (Ok(args), Ok(env)) = (args, strings(assignments.collect())) else {
        // A string with a zero byte.
        return ExecError::Refused(Errno::EINVAL);
    };
    let Some(name) = argv.first().filter(|name| !name.is_empty()) else { return ExecError::Absent };
    if name.as_bytes().contains(&b'/') {
        return error_of(exec_at(Path::new(name), &args, &env));
    }
    let mut refused = None;
    for dir in path.as_bytes().split(|byte| *byte == b':') {
        // An empty part is the working directory, as in execvp(3).
        let dir = if dir.is_empty() { Path::new(".") } else { Path::new(OsStr::from_bytes(dir)) };
        match error_of(exec_at(&dir.join(name), &args, &env)) {
            ExecError::Absent => {}
            // Another directory may have one that can be executed.
            error @ ExecError::Refused(Errno::EACCES) => refused = Some(error),
            error => return error,
        }
    }
    refused.unwrap_or(ExecError::Absent)
}

fn exec_at(program: &Path, args: &[CString], env: &[CString]) -> Errno {
    match CString::new(program.as_os_str().as_bytes()) {
        Ok(program) => execve(&program, args, env).err().unwrap_or(Errno::UnknownErrno),
        Err(_) => Errno::EINVAL,
    }
}

fn error_of(errno: Errno) -> ExecError {
    match errno {
        Errno::ENOENT | Errno::ENOTDIR => ExecError::Absent,
        errno => ExecError::Refused(errno),
    }
}
