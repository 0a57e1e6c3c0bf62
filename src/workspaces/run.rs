//! Runs a command in a workspace.
//!
//! The overlay of the workspace is attached in the mount namespace of the command only, so it ends with the last command
//! that uses it, also after a kill. A second command joins the overlay of the first. The lock of the workspace is released
//! when the mount tables show the overlay, before the command starts.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    container::{
        self, Account, Attach, Bind, Container, ContainerError, Exit, Net, Root, Stdio, UserError,
        account, account_of_owner, directory_in, mount_points, skeleton,
    },
    error::WorkspaceError,
    image_config::ImageConfig,
    lock::Workspace,
    open::Workspaces,
    view::{OpenStack, plain_lower},
};
use crate::{
    layers::{LayerKey, Lease, StateName},
    overlay::{self, Lower, Options, Plan, Spec, Stack, UpperAndWork},
    sys::{attributes, durable, freezer::OwnGroup, mounts::Detached},
};

/// The `PATH` of a tree whose image has none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command for a workspace.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// The command. Empty: that of the image.
    pub argv: Vec<OsString>,
    /// Whether the command is a shell: that of the environment if it is in the workspace, else `/bin/sh`.
    pub shell: bool,
    /// Variables in addition to those of the image, or of the caller for a copy.
    pub env: Vec<(OsString, OsString)>,
    /// The working directory.
    pub workdir: Option<PathBuf>,
    /// `USER[:GROUP]`, by name or number.
    pub user: Option<String>,
    /// Whether the command has no network but `lo`.
    pub no_net: bool,
    /// Directories and files of the host.
    pub binds: Vec<Bind>,
    /// Directories whose changes are dropped at the end.
    pub overlays: Vec<PathBuf>,
    /// Where a copy is mounted, if not at its directory.
    pub at: Option<PathBuf>,
    /// Whether all changes are dropped at the end.
    pub transient: bool,
    /// A snapshot that the command starts from. Its changes are dropped at the end.
    pub state: Option<StateName>,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Standard input and output.
    pub stdio: Stdio,
    /// When the command and all its processes are killed.
    pub timeout: Option<Duration>,
}

/// Why a command was not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The workspace cannot be mounted.
    Workspace(#[from] WorkspaceError),
    /// There is no such user.
    User(#[from] UserError),
    /// The container cannot be started.
    Container(#[from] ContainerError),
    /// There is no command.
    NoCommand(String),
    /// An option is for the other kind of workspace.
    Unusable(&'static str),
}

/// What must live as long as the command runs.
#[derive(Debug, Default)]
struct Held {
    _leases: Vec<Lease>,
    dirs: Vec<PathBuf>,
}

impl Drop for Held {
    fn drop(&mut self) {
        for dir in &self.dirs {
            // What remains is removed by the next command.
            let _ = durable::remove_tree_unsynced(dir);
        }
    }
}

impl Workspace<'_> {
    /// Runs a command, and waits until it has ended.
    ///
    /// # Errors
    /// [`RunError`]: nothing was run.
    pub fn run(mut self, options: RunOptions) -> Result<Exit, RunError> {
        let (container, _held) = self.container(options)?;
        // From then on the mount tables show the overlay, and another command can join it.
        Ok(container::run(container, move || drop(self))?)
    }

    /// Runs a command, and keeps the lock of the workspace meanwhile.
    ///
    /// # Errors
    /// [`RunError`]: nothing was run.
    pub(super) fn run_locked(&mut self, options: RunOptions) -> Result<Exit, RunError> {
        let (container, _held) = self.container(options)?;
        Ok(container::run(container, || {})?)
    }

    fn container(&mut self, options: RunOptions) -> Result<(Container, Held), RunError> {
        let mut held = Held::default();
        let net = if options.no_net { Net::None } else { Net::Host };
        let is_tree = self.record.directory().is_none();
        if is_tree && options.at.is_some() {
            return Err(RunError::Unusable(
                "--at is for a workspace that was made over a directory",
            ));
        }
        let extra = match is_tree {
            true => Some(self.skeleton(net, &options.binds)?),
            false => None,
        };
        let is_dropped = options.transient || options.state.is_some();
        let merged = match is_dropped {
            true => self.dropped_overlay(options.state.as_ref(), extra, &mut held)?,
            false => self.overlay(extra)?,
        };
        let mut mounts = Vec::new();
        for path in &options.overlays {
            mounts.push(self.private_overlay(&merged, path, &mut held)?);
        }
        let config = self.image_config();
        let (root, user, default_dir) = match self.record.directory() {
            None => tree(merged, &options, &config)?,
            Some(directory) => copy(merged, directory, &options)?,
        };
        let env = self.environment(&options, &config, &user);
        let argv = self.argv(&options, config, &root, &env, &user)?;
        let container = Container {
            root,
            read_only: options.read_only,
            mounts,
            binds: options.binds,
            argv,
            env,
            // A relative one is below the default one.
            workdir: match options.workdir {
                Some(dir) => default_dir.join(dir),
                None => default_dir,
            },
            user: user.user,
            net,
            hostname: is_tree
                .then(|| self.name.as_str().chars().take(64).collect::<String>().into()),
            stdio: options.stdio,
            timeout: options.timeout,
            cgroup: OwnGroup::make(self.name.as_str())
                .inspect_err(|error| tracing::info!(%error, "the command has no cgroup of its own, and cannot be frozen"))
                .ok(),
        };
        Ok((container, held))
    }

    /// The layer with the mount points of a container, for the bottom of the stack.
    fn skeleton(&self, net: Net, binds: &[Bind]) -> Result<Lower, RunError> {
        let points = mount_points(net, binds).map_err(WorkspaceError::from)?;
        Ok(plain_lower("mount points", skeleton(&*self.all.mounts, &points)?))
    }

    fn environment(
        &self,
        options: &RunOptions,
        config: &ImageConfig,
        user: &Account,
    ) -> Vec<(OsString, OsString)> {
        let mut env: Vec<(OsString, OsString)> = match self.record.directory() {
            Some(directory) => {
                let mut env: Vec<_> = std::env::vars_os().collect();
                set_default(&mut env, PNPM_STORE, pnpm_store(directory));
                if user.user.uid != 0 {
                    // The caller's are those of root.
                    env.retain(|(name, _)| {
                        !["HOME", "USER", "LOGNAME"].iter().any(|of| name == of)
                    });
                    set_default(&mut env, "USER", user.name.clone().map(Into::into));
                    set_default(&mut env, "LOGNAME", user.name.clone().map(Into::into));
                }
                env
            }
            None => {
                let pairs = config.env.iter().filter_map(|pair| pair.split_once('='));
                pairs.map(|(name, value)| (name.into(), value.into())).collect()
            }
        };
        set_default(&mut env, "PATH", Some(DEFAULT_PATH.into()));
        for (name, value) in &options.env {
            env.retain(|(known, _)| known != name);
            env.push((name.clone(), value.clone()));
        }
        env
    }

    fn argv(
        &self,
        options: &RunOptions,
        config: ImageConfig,
        root: &Root,
        env: &[(OsString, OsString)],
        user: &Account,
    ) -> Result<Vec<OsString>, RunError> {
        if options.shell {
            let wanted = env.iter().find(|(name, _)| name == "SHELL").map(|(_, value)| value);
            let wanted = std::env::var_os("SHELL").or(wanted.cloned()).map(PathBuf::from);
            let shell = container::shell(root, wanted.as_deref().or(user.shell.as_deref()));
            return Ok(vec![shell.into()]);
        }
        if !options.argv.is_empty() {
            return Ok(options.argv.clone());
        }
        let words: Vec<OsString> =
            config.entrypoint.into_iter().chain(config.cmd).map(Into::into).collect();
        match words.is_empty() {
            true => Err(RunError::NoCommand(self.name.to_string())),
            false => Ok(words),
        }
    }

    /// An overlay of a state whose changes are dropped: of a snapshot, or of the present state.
    fn dropped_overlay(
        &mut self,
        state: Option<&StateName>,
        extra: Option<Lower>,
        held: &mut Held,
    ) -> Result<Detached, WorkspaceError> {
        let layers: Vec<LayerKey> = match state {
            Some(state) => self.layers_of(state)?,
            None => {
                let (layers, lease) = self.present_layers()?;
                held._leases.extend(lease);
                layers
            }
        };
        let OpenStack { lowers, lease } = self.all.open_stack(&self.name, &self.record, &layers)?;
        held._leases.push(lease);
        let top = lowers.last().map(|top| top.dir.clone());
        let lowers = extra.into_iter().chain(lowers).collect();
        self.all.dropped(lowers, top.as_deref(), self.options(), held)
    }

    /// An overlay over one directory of the workspace, whose changes are dropped.
    fn private_overlay(
        &self,
        merged: &Detached,
        path: &Path,
        held: &mut Held,
    ) -> Result<Attach, WorkspaceError> {
        let inside = match self.record.directory() {
            None => Some(path),
            Some(directory) => path.strip_prefix(directory).ok(),
        };
        let (lower, target) = match inside {
            Some(inside) => {
                let lower = directory_in(merged, inside);
                (lower.map_err(durable::at("make an overlay over", path))?, path.to_owned())
            }
            // Beside a copy is the tree of the host.
            None => {
                let path =
                    path.canonicalize().map_err(durable::at("make an overlay over", path))?;
                (self.all.mounts.open_dir(&path)?, path)
            }
        };
        let lower = plain_lower("directory", lower);
        let top = lower.dir.clone();
        // Its lower is an overlay, which has no file handles for these.
        let options = Options { metacopy: false, redirect_dir: false, ..self.options() };
        let mount = self.all.dropped(vec![lower], Some(&top), options, held).map_err(|source| {
            let (path, source) = (target.clone(), Box::new(source));
            WorkspaceError::OverlayOver { path, source }
        })?;
        Ok(Attach { mount, target })
    }
}

impl Workspaces {
    /// A volatile overlay with an upper in the staging directory, where everything is removed when this process ends.
    fn dropped(
        &self,
        lowers: Vec<Lower>,
        top: Option<&Detached>,
        options: Options,
        held: &mut Held,
    ) -> Result<Detached, WorkspaceError> {
        let dir = self.store.staging.new_path();
        held.dirs.push(dir.clone());
        let pair = UpperAndWork::new(dir.join("upper"), dir.join("work"));
        for dir in [&*dir, pair.upper(), pair.work()] {
            durable::create_dir_unsynced(dir, 0o755)?;
        }
        if let Some(top) = top {
            attributes::copy(top, pair.upper())?;
        }
        let options = Options { volatile: true, ..options };
        let spec = Spec {
            name: "ovl-transient".to_owned(),
            stack: Stack::new(lowers)?,
            upper: Some(pair),
            owner: None,
            options,
        };
        let plan = Plan::new(spec)?.on(&self.features)?;
        Ok(overlay::mount(&*self.mounts, &plan)?)
    }
}

/// A tree, its user, and its working directory.
fn tree(
    merged: Detached,
    options: &RunOptions,
    config: &ImageConfig,
) -> Result<(Root, Account, PathBuf), RunError> {
    let root = Root::Tree(merged);
    let of_image = Some(&*config.user).filter(|user| !user.is_empty());
    let user = account(&root, options.user.as_deref().or(of_image).unwrap_or("0"))?;
    let dir = Some(&*config.working_dir).filter(|dir| !dir.is_empty());
    Ok((root, user, dir.unwrap_or("/").into()))
}

/// The tree of the host with a copy in it, its user, and its working directory.
fn copy(
    merged: Detached,
    directory: &Path,
    options: &RunOptions,
) -> Result<(Root, Account, PathBuf), RunError> {
    let owner = fs::metadata(directory)
        .map_err(durable::at("look at", directory))
        .map_err(WorkspaceError::from)?;
    let target = options.at.clone().unwrap_or_else(|| directory.to_owned());
    let root = Root::Host(vec![Attach { mount: merged, target: target.clone() }]);
    let user = match &options.user {
        Some(text) => account(&root, text)?,
        None => account_of_owner(&root, owner.uid(), owner.gid())?,
    };
    Ok((root, user, target))
}

/// The variable by which pnpm finds its store. A copy is another file system for it, so it would make a new one.
const PNPM_STORE: &str = "npm_config_store_dir";

/// The store of pnpm from which the packages of a directory came, as its file of installed modules says.
fn pnpm_store(directory: &Path) -> Option<OsString> {
    let text = fs::read_to_string(directory.join("node_modules/.modules.yaml")).ok()?;
    // Older versions write YAML, later ones JSON.
    let line = text.lines().find(|line| line.contains("storeDir"))?;
    let (_, value) = line.split_once(':')?;
    let path = Path::new(value.trim().trim_matches(|c| matches!(c, '"' | '\'' | ',')));
    // The last part is the version of the store's format, which pnpm adds itself.
    let is_version = path.file_name().is_some_and(|name| {
        let name = name.as_encoded_bytes();
        name.first() == Some(&b'v') && name[1..].iter().all(u8::is_ascii_digit)
    });
    let store = if is_version { path.parent()? } else { path };
    store.is_absolute().then(|| store.into())
}

/// Adds a variable that is not there.
fn set_default(env: &mut Vec<(OsString, OsString)>, name: &str, value: Option<OsString>) {
    if let Some(value) = value
        && !env.iter().any(|(known, _)| known == OsStr::new(name))
    {
        env.push((name.into(), value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::test_dir::TestDir;

    #[test]
    fn the_store_of_pnpm_is_read_from_its_file_in_both_formats() {
        let scratch = TestDir::new();
        scratch.dir("node_modules");
        assert_eq!(pnpm_store(scratch.path()), None);
        for text in
            ["a: 1\nstoreDir: /home/me/store/v3\n", "{\n  \"storeDir\": \"/home/me/store/v10\",\n}"]
        {
            scratch.file("node_modules/.modules.yaml", text);
            assert_eq!(pnpm_store(scratch.path()), Some("/home/me/store".into()), "{text}");
        }
    }
}
