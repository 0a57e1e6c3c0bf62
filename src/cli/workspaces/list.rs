//! `ovl list`: workspaces and their snapshots.

use std::fmt::Write as _;

use clap::Args;
use serde_json::{Value, json};

use super::args::StoreArgs;
use crate::{
    cli::{
        failure::Failure,
        output::{Format, counted},
    },
    format, kubectl,
    layers::{WorkspaceBase, WorkspaceName},
    workspaces::{Listed, ListedLayer, ListedState},
};

/// What stands for a state without a name.
const NO_NAME: &str = "(no name)";
/// What stands for the present state, if it has no name.
const PRESENT: &str = "(present)";
/// The most characters of a step's command.
const LONGEST_COMMAND: usize = 80;

/// List workspaces, or the states of one
#[derive(Debug, Args)]
#[command(
    after_help = "A snapshot with * is current: `clean` goes back to it. Several names can mean one state. `(present)` is what the
workspace holds now, if no snapshot is the same. Below a state are its steps.

Examples:
  ovl list                       all workspaces
  ovl list box                   the states of one
  ovl list -o json               for programs"
)]
pub(in crate::cli) struct ListArgs {
    /// The workspace whose states are listed
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
        let named = one.states.iter().filter_map(|state| Some((state.name.as_ref()?, state)));
        let current = named.clone().filter(|(_, state)| state.is_current);
        let mut current: Vec<_> = current.map(|(name, _)| name.as_str()).collect();
        if current.is_empty() {
            current.push(NO_NAME);
        }
        vec![
            one.name.to_string(),
            one.base.to_string(),
            named.count().to_string(),
            current.join(", "),
            format::bytes(one.own_bytes),
            format::bytes(one.shared_bytes),
            mounted(one),
        ]
    }));
    kubectl::plain_table(&rows)
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
    let mut text = format!("{} ({})\n", one.name, one.base);
    branch(&mut text, &one.states, &[None], "");
    text
}

fn branch(text: &mut String, states: &[ListedState], parents: &[Option<usize>], indent: &str) {
    let children = children(states, parents);
    for (number, at) in children.iter().enumerate() {
        let is_last = number + 1 == children.len();
        let (line, below) = if is_last { ("└── ", "    ") } else { ("├── ", "│   ") };
        let same = aliases(states, *at);
        let parents: Vec<_> = same.iter().copied().map(Some).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{indent}{line}{}", state_line(states, &same));
        let indent = format!("{indent}{below}");
        let bar = if self::children(states, &parents).is_empty() { "  " } else { "│ " };
        for layer in &states[*at].layers {
            if let Some(command) = &layer.step {
                let _ = writeln!(text, "{indent}{bar}{}", step_line(layer.bytes, command));
            }
        }
        branch(text, states, &parents, &indent);
    }
}

/// The states with one of these parents that get a line of their own.
fn children(states: &[ListedState], parents: &[Option<usize>]) -> Vec<usize> {
    let is_child = |state: &ListedState| parents.contains(&state.parent) && !state.is_alias;
    (0..states.len()).filter(|at| is_child(&states[*at])).collect()
}

/// The line of states that are the same.
fn state_line(states: &[ListedState], same: &[usize]) -> String {
    let state = &states[same[0]];
    let name = |at: &usize| match &states[*at].name {
        Some(name) => name.as_str(),
        None if states[*at].is_present => PRESENT,
        None => NO_NAME,
    };
    let names: Vec<_> = same.iter().map(name).collect();
    let mark = if state.is_current { " *" } else { "" };
    let mut columns = vec![format!("{}{mark}", names.join(", ")), format::bytes(state.bytes)];
    columns.extend(state.taken.map(|taken| taken.strftime("%Y-%m-%d %H:%M").to_string()));
    let steps = state.layers.iter().filter(|layer| layer.step.is_some()).count() as u64;
    let layers = state.layers.len() as u64;
    match (steps, layers) {
        (0, 0 | 1) => {}
        (0, _) => columns.push(counted(layers, "layer")),
        _ if steps == layers => columns.push(counted(steps, "step")),
        _ => columns.push(format!("{} of {}", counted(steps, "step"), counted(layers, "layer"))),
    }
    columns.join("  ")
}

fn step_line(bytes: u64, command: &[String]) -> String {
    let mut words: String = command.iter().map(|word| quoted(word) + " ").collect();
    words.pop();
    if let Some((at, _)) = words.char_indices().nth(LONGEST_COMMAND) {
        words.truncate(at);
        words.push('…');
    }
    let words = if words.is_empty() { "(the command was not recorded)" } else { &words };
    format!("step  {}  {words}", format::bytes(bytes))
}

/// A word of a command as a shell reads it, on one line.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "_-./:=@%+,".contains(c);
    match word {
        "" => "''".to_owned(),
        _ if word.chars().all(is_plain) => word.to_owned(),
        _ if word.chars().any(char::is_control) => format!("$'{}'", word.escape_debug()),
        _ => format!("'{}'", word.replace('\'', "'\\''")),
    }
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
    let values = |named: bool| -> Vec<Value> {
        let states = one.states.iter().filter(|state| state.name.is_some() == named);
        states.map(|state| state_value(&one.states, state)).collect()
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
        "snapshots": values(true),
        "unnamed": values(false),
    })
}

/// A state, compared with the next one below it that has a name.
fn state_value(states: &[ListedState], state: &ListedState) -> Value {
    let (mut bytes, mut layers, mut parent) = (state.bytes, Vec::new(), state.parent);
    layers.push(&state.layers);
    while let Some(below) = parent.map(|at| &states[at]).filter(|below| below.name.is_none()) {
        bytes += below.bytes;
        layers.push(&below.layers);
        parent = below.parent;
    }
    let layer =
        |layer: &ListedLayer| json!({ "key": layer.key, "bytes": layer.bytes, "step": layer.step });
    json!({
        "name": state.name,
        "taken": state.taken,
        "current": state.is_current,
        "present": state.is_present,
        "parent": parent.map(|at| &states[at].name),
        "bytes": bytes,
        "layers": layers.into_iter().rev().flatten().map(layer).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::Layers;

    #[test]
    fn a_state_without_a_name_and_the_steps_below_it_are_shown() {
        let layer = |step: Option<&[&str]>| ListedLayer {
            key: Layers::new_key().unwrap(),
            bytes: 4096,
            step: step.map(|words| words.iter().map(ToString::to_string).collect()),
        };
        let state = |name: Option<&str>, parent, is_alias, layers: Vec<ListedLayer>| ListedState {
            name: name.map(|name| name.parse().unwrap()),
            taken: None,
            is_current: name.is_none(),
            is_present: name.is_none(),
            parent,
            is_alias,
            bytes: layers.iter().map(|layer| layer.bytes).sum(),
            layers,
        };
        let long = "x".repeat(100);
        let steps = [&["sh", "-c", "echo 'a b' > /a"][..], &[&long], &[]].map(|it| layer(Some(it)));
        let one = Listed {
            name: "box".parse().unwrap(),
            base: WorkspaceBase::Directory("/src".into()),
            created: jiff::Timestamp::UNIX_EPOCH,
            mounted: Vec::new(),
            running: Vec::new(),
            states: vec![
                state(Some("postinit"), None, false, Vec::new()),
                state(Some("same"), Some(0), true, Vec::new()),
                state(Some("top"), Some(3), false, vec![layer(None), layer(Some(&["a\nb"]))]),
                state(None, Some(1), false, steps.to_vec()),
                state(Some("other"), Some(0), false, vec![layer(None), layer(None)]),
            ],
            own_bytes: 0,
            shared_bytes: 0,
        };
        let expected = "\
box (/src)
└── postinit, same  0 B
    ├── (present) *  12.0 KiB  3 steps
    │   │ step  4.0 KiB  sh -c 'echo '\\''a b'\\'' > /a'
    │   │ step  4.0 KiB  XXX…
    │   │ step  4.0 KiB  (the command was not recorded)
    │   └── top  8.0 KiB  1 step of 2 layers
    │         step  4.0 KiB  $'a\\nb'
    └── other  8.0 KiB  2 layers
";
        assert_eq!(tree(&one), expected.replace("XXX", &"x".repeat(80)));
        let value = workspace_value(&one);
        let top = &value["snapshots"][2];
        assert_eq!((&top["name"], &top["parent"]), (&json!("top"), &json!("same")));
        assert_eq!((&top["bytes"], top["layers"].as_array().unwrap().len()), (&json!(20480), 5));
        assert_eq!(top["layers"][0]["step"], json!(["sh", "-c", "echo 'a b' > /a"]));
        assert_eq!(top["layers"][3]["step"], Value::Null);
        let unnamed = &value["unnamed"];
        assert_eq!(unnamed.as_array().unwrap().len(), 1);
        assert_eq!((&unnamed[0]["name"], &unnamed[0]["present"]), (&Value::Null, &json!(true)));
    }
}
