//! `ovl create`: a new workspace.

use std::{
    path::{Path, PathBuf},
    sync::Mutex,
};

use anyhow::{Context as _, anyhow};
use clap::Args;
use tokio::runtime::{Builder, Runtime};

use super::{args::StoreArgs, run::failure};
use crate::{
    cli::{
        failure::Failure,
        output::{Progress, say},
    },
    error::Explained,
    format,
    http_proxy::HttpProxies,
    image::{Hosts, Keyring, Registries},
    layers::WorkspaceName,
    workspaces::{CreateOptions, Fetching, NameAt, OnLocked, Source, Stacked, Workspaces},
};

/// Create a workspace: of images, over a directory, or from another workspace
#[derive(Debug, Args)]
#[command(
    after_help = "A tree is made of images. An IMAGE is a reference such as debian:13, oci:PATH[:TAG],
oci-archive:PATH[:TAG], docker-archive:PATH[:NAME], tar:PATH, rootfs:PATH (a directory that is copied), or the
ChainID of layers of the store (`ovl layer ls`).

A copy is made over one directory, which is used in place and not copied. Only this directory is in the copy,
without what is mounted below it.

Examples:
  ovl create box debian:13                  a tree of an image
  ovl create try --over ~/project           a copy of a checkout
  ovl create next --from try@good           from a snapshot of another workspace"
)]
pub(in crate::cli) struct CreateArgs {
    /// The name of the workspace
    pub(super) name: WorkspaceName,
    /// The images, bottom first
    #[arg(value_name = "IMAGE")]
    images: Vec<Source>,
    /// Make a copy of this directory
    #[arg(long, value_name = "DIR")]
    over: Vec<PathBuf>,
    /// Start from the state of another workspace, or from a snapshot of it
    #[arg(long, value_name = "NAME[@SNAPSHOT]")]
    from: Option<NameAt>,
    /// Copy these files up at each mount, such as 'var/lib/rpm/*'; can be repeated
    #[arg(long, value_name = "GLOB")]
    pre_copy_up: Vec<String>,
    /// Run this line with /bin/sh in the new workspace, before its first state is named `postinit`
    #[arg(long, value_name = "CMD")]
    init: Option<String>,
    /// Do not name the first state `postinit`
    #[arg(long)]
    no_postinit: bool,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    store: StoreArgs,
}

/// How registries are reached.
#[derive(Debug, Default, Args)]
pub(super) struct RegistryArgs {
    /// Credentials for registries, as `docker login` writes them [default: $REGISTRY_AUTH_FILE, else
    /// ~/.docker/config.json]
    #[arg(long, env = "REGISTRY_AUTH_FILE", value_name = "FILE")]
    auth_file: Option<PathBuf>,
    /// The directory of the registries' hosts.toml, as of containerd
    #[arg(long, value_name = "DIR")]
    hosts_dir: Option<PathBuf>,
}

/// Creates the workspace. Returns the exit code of `--init`.
pub(super) fn run(args: &CreateArgs) -> Result<u8, Failure> {
    create(args)?;
    let Some(command) = &args.init else { return Ok(0) };
    let all = args.store.open()?;
    let workspace = all.lock(&args.name, OnLocked::Wait)?;
    let code = workspace.init(command, args.no_postinit).map_err(failure)?;
    if code != 0 {
        let name = &args.name;
        let failed = Explained::new(format!("the --init command failed with exit code {code}"));
        let failed = failed.fix(format!(
            "look at what it has left with `ovl changes {name}@failed`, and remove the workspace with `ovl scrub {name}`"
        ));
        return Err(Failure::Code(failed.into(), code));
    }
    Ok(0)
}

fn create(args: &CreateArgs) -> Result<(), Failure> {
    let options = CreateOptions {
        pre_copy_up: args.pre_copy_up.clone(),
        // After the command of --init.
        no_postinit: args.no_postinit || args.init.is_some(),
    };
    let unusable =
        |why: &str, fix: &str| Err(Failure::Unusable(Explained::because(why).fix(fix).into()));
    match (&args.images[..], &args.over[..], &args.from) {
        ([], [], None) => unusable(
            "a workspace is made of something",
            "name an image, or use --over DIR or --from NAME",
        ),
        ([], [dir], None) => {
            let created = args.store.open()?.create_copy(&args.name, dir, &options)?;
            for path in created.not_included {
                say(&format!(
                    "note: {} is a mount point, so its content is not in the copy",
                    path.display()
                ));
            }
            Ok(())
        }
        ([], [], Some(from)) => {
            let on = args.store.on_locked();
            Ok(args.store.open()?.create_from(&args.name, from, &options, on)?)
        }
        (images, [], None) => create_tree(args, images, &options),
        ([], [_, _, ..], None) => {
            unusable("a copy is made over exactly one directory", "create one workspace for each")
        }
        (_, _, Some(_)) => unusable(
            "--from starts from another workspace and takes no image and no directory",
            "use --from alone",
        ),
        (_, _, None) => unusable(
            "a workspace is made of images or over a directory, not both",
            "use --over DIR alone; or rootfs:DIR, which copies a directory into a tree",
        ),
    }
}

fn create_tree(
    args: &CreateArgs,
    images: &[Source],
    options: &CreateOptions,
) -> Result<(), Failure> {
    let mut all = args.store.open()?;
    let stacked = args.registry.add_sources(&mut all, images)?;
    let names = images.iter().map(ToString::to_string).collect();
    Ok(all.create_tree(&args.name, names, stacked, options)?)
}

/// What a command needs to reach registries.
pub(super) struct Connection {
    pub(super) registries: Registries,
    pub(super) keyring: Keyring,
    pub(super) runtime: Runtime,
}

impl RegistryArgs {
    /// Brings the layers of images to the store. Shows on a terminal how far they are.
    pub(super) fn add_sources(
        &self,
        all: &mut Workspaces,
        images: &[Source],
    ) -> Result<Stacked, Failure> {
        let Connection { registries, keyring, runtime } = self.connection()?;
        let progress = Mutex::new(Progress::new());
        all.set_on_fetching(move |at| {
            if let Ok(mut progress) = progress.lock() {
                progress.show(|| fetching(at));
            }
        });
        // It blocks this thread only, and the runtime has threads of its own for the network.
        let added = runtime.block_on(all.add_sources(images, &registries, &keyring));
        // It removes the line from the terminal.
        all.set_on_fetching(|_| {});
        Ok(added?)
    }

    pub(super) fn connection(&self) -> Result<Connection, Failure> {
        let proxies = HttpProxies::from_env().map_err(|e| Failure::Unusable(e.into()))?;
        let hosts = match &self.hosts_dir {
            Some(dir) => Hosts::load(dir).context("--hosts-dir")?,
            None => Hosts::default(),
        };
        let hosts = hosts.with_proxies(proxies, Vec::new());
        let registries = Registries::new(hosts).map_err(|e| anyhow!(e))?;
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.context("cannot start the runtime")?;
        let keyring = keyring(self.auth_file.as_deref())?;
        Ok(Connection { registries, keyring, runtime })
    }
}

/// How far a layer is fetched.
fn fetching(at: &Fetching) -> String {
    let Fetching { image, layer, layers, done, size } = at;
    format!("{image}: layer {layer} of {layers}, {}", format::part(*done, *size))
}

/// The credentials for registries.
fn keyring(file: Option<&Path>) -> Result<Keyring, Failure> {
    let path = match (file, std::env::var_os("HOME")) {
        (Some(file), _) => file.to_owned(),
        (None, Some(home)) => Path::new(&home).join(".docker/config.json"),
        (None, None) => return Ok(Keyring::default()),
    };
    match std::fs::read(&path) {
        Err(e) if file.is_none() && e.kind() == std::io::ErrorKind::NotFound => {
            Ok(Keyring::default())
        }
        text => {
            let about = || format!("cannot use the credentials in {}", path.display());
            let text = text.with_context(about)?;
            Ok(Keyring::from_docker_config(&text).with_context(about)?)
        }
    }
}
