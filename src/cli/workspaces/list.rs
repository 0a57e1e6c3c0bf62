//! `ovl list`: workspaces and their snapshots.

use std::fmt::Write as _;

use clap::Args;
use serde_json::{Value, json};

use super::args::StoreArgs;
use crate::{
    cli::{failure::Failure, output::Format},
    format, kubectl,
    layers::{WorkspaceBase, WorkspaceName},
    workspaces::{Listed, ListedState},
};

/// List workspaces, or the snapshots of one
#[derive(Debug, Args)]
#[command(
    after_help = "A snapshot with * is current: `clean` goes back to it. Several names can mean one state.

Examples:
  ovl list                       all workspaces
  ovl list box                   the snapshots of one
  ovl list -o json               for programs"
)]
pub(in crate::cli) struct ListArgs {
    /// The workspace whose snapshots are listed
    pub(super) name: Option<WorkspaceName>,
    /// The format of the list
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    store: StoreArgs,
}

pub(super) fn run(args: &ListArgs) -> Result<(), Failure> {
    let listed = args.store.open()?.list(args.name.as_ref())?;
    let text = || match args.name {
        None => table(&listed),
        Some(_) => listed.iter().map(tree).collect(),
    };
    Ok(args.output.print(&value(&listed, args.name.is_some()), text)?)
}

fn table(listed: &[Listed]) -> String {
    let head = ["NAME", "MADE OF", "SNAPSHOTS", "CURRENT", "OWN", "SHARED", "MOUNTED"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(listed.iter().map(|one| {
        let current = one.states.iter().filter(|state| state.is_current);
        let current: Vec<_> = current.map(|state| state.name.as_str()).collect();
        vec![
            one.name.to_string(),
            made_of(&one.base),
            one.states.len().to_string(),
            current.join(", "),
            format::bytes(one.own_bytes),
            format::bytes(one.shared_bytes),
            mounted(one),
        ]
    }));
    kubectl::plain_table(&rows)
}

fn made_of(base: &WorkspaceBase) -> String {
    match base {
        WorkspaceBase::Images { names, .. } => names.join(", "),
        WorkspaceBase::Directory(path) => path.display().to_string(),
    }
}

fn mounted(one: &Listed) -> String {
    let mut places: Vec<_> = one.mounted.iter().map(|path| path.display().to_string()).collect();
    if !one.running.is_empty() {
        let pids: Vec<_> = one.running.iter().map(u32::to_string).collect();
        places.push(format!("in processes {}", pids.join(", ")));
    }
    places.join(", ")
}

fn tree(one: &Listed) -> String {
    let mut text = format!("{} ({})\n", one.name, made_of(&one.base));
    branch(&mut text, &one.states, &[None], "");
    text
}

fn branch(text: &mut String, states: &[ListedState], parents: &[Option<usize>], indent: &str) {
    let children = states.iter().enumerate();
    let children =
        children.filter(|(_, state)| parents.contains(&state.parent) && !is_shown(state, parents));
    let children: Vec<_> = children.collect();
    for (number, (at, state)) in children.iter().enumerate() {
        let is_last = number + 1 == children.len();
        let (line, below) = if is_last { ("└── ", "    ") } else { ("├── ", "│   ") };
        let mark = if state.is_current { " *" } else { "" };
        let same = aliases(states, *at);
        let names: Vec<_> = same.iter().map(|at| states[*at].name.as_str()).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{indent}{line}{}{mark}  {}  {}",
            names.join(", "),
            format::bytes(state.bytes),
            state.taken.strftime("%Y-%m-%d %H:%M")
        );
        let same: Vec<_> = same.into_iter().map(Some).collect();
        branch(text, states, &same, &format!("{indent}{below}"));
    }
}

/// Whether a state is on the line of its parent, because it is the same.
fn is_shown(state: &ListedState, parents: &[Option<usize>]) -> bool {
    state.is_alias && parents != [None]
}

/// The state and those that are the same with other names.
fn aliases(states: &[ListedState], at: usize) -> Vec<usize> {
    let mut same = vec![at];
    for (number, state) in states.iter().enumerate() {
        if state.is_alias && state.parent.is_some_and(|parent| same.contains(&parent)) {
            same.push(number);
        }
    }
    same
}

fn value(listed: &[Listed], one: bool) -> Value {
    let all: Vec<Value> = listed.iter().map(workspace_value).collect();
    match (one, all.into_iter().next()) {
        (true, first) => first.unwrap_or(Value::Null),
        (false, _) => listed.iter().map(workspace_value).collect(),
    }
}

fn workspace_value(one: &Listed) -> Value {
    let state = |state: &ListedState| {
        json!({
            "name": state.name,
            "taken": state.taken,
            "current": state.is_current,
            "parent": state.parent.map(|at| &one.states[at].name),
            "bytes": state.bytes,
        })
    };
    let (images, over) = match &one.base {
        WorkspaceBase::Images { names, .. } => (Some(names), None),
        WorkspaceBase::Directory(path) => (None, Some(path)),
    };
    json!({
        "name": one.name,
        "images": images,
        "over": over,
        "created": one.created,
        "mounted": one.mounted,
        "processes": one.running,
        "ownBytes": one.own_bytes,
        "sharedBytes": one.shared_bytes,
        "snapshots": one.states.iter().map(state).collect::<Vec<_>>(),
    })
}
