//! The process that runs one container.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use ovl::{
    sys::{
        freezer::OwnGroup,
        mounts::{Attrs, Detached, LinuxMounts, Mounts as _, Param, Request},
    },
    workspaces::container::{
        self, Attach, Bind, Container, Net, Root, Stdio, account, directory_in, mount_points,
        skeleton,
    },
};
use serde_json::Value;

fn run_spec(spec: &Value) -> ExitCode {
    let text = |name: &str| spec[name].as_str().map(str::to_owned);
    let is = |name: &str| spec[name].as_bool().unwrap_or(false);
    let list = |name: &str| -> Vec<String> {
        let items = spec[name].as_array().into_iter().flatten();
        items.map(|item| item.as_str().unwrap().to_owned()).collect()
    };
    let binds: Vec<_> = list("binds").iter().map(|bind| Bind::parse(bind).unwrap()).collect();
    let net = if is("no_net") { Net::None } else { Net::Host };
    let scratch = PathBuf::from(text("scratch").unwrap());
    let lower = LinuxMounts.open_dir(&PathBuf::from(text("lower").unwrap())).unwrap();
    let root = match text("copy_at") {
        None => {
            let points = mount_points(net, &binds).unwrap();
            let bottom = skeleton(&LinuxMounts, &points).unwrap();
            Root::Tree(overlay(vec![lower, bottom], &scratch.join("tree")))
        }
        Some(at) => {
            let mount = overlay(vec![lower], &scratch.join("tree"));
            Root::Host(vec![Attach { mount, target: at.into() }])
        }
    };
    let overlay_over = |path: String| {
        let Root::Tree(tree) = &root else { panic!("only in a tree") };
        let lower = directory_in(tree, Path::new(&path)).unwrap();
        let mount = overlay(vec![lower], &scratch.join("private"));
        Attach { mount, target: path.into() }
    };
    let mounts = list("overlays").into_iter().map(overlay_over).collect();
    let user = account(&root, &text("user").unwrap_or("0".to_owned())).unwrap().user;
    let mut env: Vec<(OsString, OsString)> = list("env")
        .iter()
        .map(|pair| pair.split_once('=').unwrap())
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    if is("inherit_env") {
        env.extend(env::vars_os());
    }
    let container = Container {
        root,
        read_only: is("read_only"),
        mounts,
        binds,
        argv: list("argv").into_iter().map(OsString::from).collect(),
        env,
        workdir: text("workdir").unwrap_or("/".to_owned()).into(),
        user,
        net,
        hostname: text("hostname").map(OsString::from),
        timeout: spec["timeout_ms"].as_u64().map(Duration::from_millis),
        stdio: Stdio {
            interactive: is("interactive"),
            terminal: is("terminal"),
            output_on_stderr: is("stderr"),
        },
        cgroup: text("cgroup").map(|name| OwnGroup::make(&name).unwrap()),
    };
    match container::run(container, || {}) {
        Ok(exit) => {
            assert!(exit.not_in_cgroup.is_none(), "{exit:?}");
            exit.code.into()
        }
        Err(error) => {
            eprintln!("error: {error}");
            error.exit_code().unwrap_or(99).into()
        }
    }
}

/// Runs the container that a text describes in JSON. Prints the error if there is one.
pub fn run(spec: &str) -> ExitCode {
    run_spec(&serde_json::from_str(spec).expect("JSON"))
}

/// An overlay that writes to `upper` in `dir`. Layers top first.
fn overlay(layers: Vec<Detached>, dir: &Path) -> Detached {
    let open = |name: &str| {
        std::fs::create_dir_all(dir.join(name)).unwrap();
        Arc::new(LinuxMounts.open_dir(&dir.join(name)).unwrap())
    };
    let mut params: Vec<_> =
        layers.into_iter().map(|layer| Param::Tree("lowerdir+", Arc::new(layer))).collect();
    params.push(Param::Tree("upperdir", open("upper")));
    params.push(Param::Tree("workdir", open("work")));
    let request =
        Request { fs_type: "overlay", source: "test".to_owned(), params, attrs: Attrs::default() };
    LinuxMounts.create(&request).unwrap()
}
