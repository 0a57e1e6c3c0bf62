//! Random commands on real workspaces, against a reference model that keeps whole trees in memory.
//!
//! A kill is simulated where it matters: between the record of a snapshot and the renames of its upper.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use proptest::{prelude::*, test_runner::TestRunner};

use super::{
    OnLocked,
    testing::{Files, Machine, state, workspace},
};
use crate::layers::Layers;

const NAMES: [&str; 3] = ["w0", "w1", "w2"];
const STATES: [&str; 3] = ["s0", "s1", "s2"];

/// One command. The numbers select names.
#[derive(Debug, Clone)]
enum Op {
    Write {
        workspace: usize,
        file: usize,
        text: u8,
    },
    Delete {
        workspace: usize,
        file: usize,
    },
    Snapshot {
        workspace: usize,
        state: usize,
    },
    /// A snapshot of which only the record was written.
    KilledSnapshot {
        workspace: usize,
        state: usize,
    },
    /// A snapshot of the mounted workspace.
    LiveSnapshot {
        workspace: usize,
        state: usize,
    },
    Rollback {
        workspace: usize,
        state: usize,
    },
    Clean {
        workspace: usize,
    },
    Remove {
        workspace: usize,
        state: usize,
    },
    Fork {
        workspace: usize,
        to: usize,
    },
    From {
        workspace: usize,
        state: Option<usize>,
        to: usize,
    },
    Rename {
        workspace: usize,
        to: usize,
    },
    Scrub {
        workspace: usize,
    },
    Collect,
}

fn op() -> impl Strategy<Value = Op> {
    let (w, s, f) = (0..NAMES.len(), 0..STATES.len(), 0..3_usize);
    prop_oneof![
        6 => (w.clone(), f.clone(), any::<u8>())
            .prop_map(|(workspace, file, text)| Op::Write { workspace, file, text }),
        2 => (w.clone(), f).prop_map(|(workspace, file)| Op::Delete { workspace, file }),
        5 => (w.clone(), s.clone()).prop_map(|(workspace, state)| Op::Snapshot { workspace, state }),
        1 => (w.clone(), s.clone())
            .prop_map(|(workspace, state)| Op::KilledSnapshot { workspace, state }),
        2 => (w.clone(), s.clone())
            .prop_map(|(workspace, state)| Op::LiveSnapshot { workspace, state }),
        4 => (w.clone(), s.clone()).prop_map(|(workspace, state)| Op::Rollback { workspace, state }),
        2 => w.clone().prop_map(|workspace| Op::Clean { workspace }),
        3 => (w.clone(), s.clone()).prop_map(|(workspace, state)| Op::Remove { workspace, state }),
        3 => (w.clone(), w.clone()).prop_map(|(workspace, to)| Op::Fork { workspace, to }),
        2 => (w.clone(), proptest::option::of(s), w.clone())
            .prop_map(|(workspace, state, to)| Op::From { workspace, state, to }),
        1 => (w.clone(), w.clone()).prop_map(|(workspace, to)| Op::Rename { workspace, to }),
        1 => w.prop_map(|workspace| Op::Scrub { workspace }),
        1 => Just(Op::Collect),
    ]
}

/// A state: its number, and the files in it. Two names are the same state if their numbers are equal.
type State = (u32, Files);

/// A workspace, as the model knows it.
#[derive(Debug, Clone)]
struct Model {
    /// What is seen now.
    present: Files,
    /// The state that the upper stands on.
    below: State,
    /// The names at the top of the upper. An upper without any becomes no state.
    upper: BTreeSet<&'static str>,
    current: State,
    states: BTreeMap<String, State>,
}

impl Model {
    fn new(state: State) -> Self {
        let states = BTreeMap::from([("postinit".to_owned(), state.clone())]);
        let present = state.1.clone();
        Self { present, below: state.clone(), upper: BTreeSet::new(), current: state, states }
    }

    /// Makes the upper a state, if something was written in it.
    fn seal(&mut self, next: &mut u32) {
        if !self.upper.is_empty() {
            self.seal_any(next);
        }
    }

    /// Makes the upper a state.
    fn seal_any(&mut self, next: &mut u32) {
        *next += 1;
        self.below = (*next, self.present.clone());
        self.upper.clear();
    }

    fn write(&mut self, file: &'static str, text: String) {
        self.present.insert(file.to_owned(), text);
        self.upper.insert(top(file));
    }

    fn delete(&mut self, file: &'static str) {
        if self.present.remove(file).is_none() {
            return;
        }
        if self.below.1.contains_key(file) || top(file) != file {
            // A whiteout, or the directory of the file.
            self.upper.insert(top(file));
        } else {
            self.upper.remove(file);
        }
    }

    fn go_back(&mut self, state: State) {
        self.present = state.1.clone();
        self.upper.clear();
        (self.below, self.current) = (state.clone(), state);
    }

    fn current(&self) -> BTreeSet<String> {
        let current = self.states.iter().filter(|(_, state)| state.0 == self.current.0);
        current.map(|(name, _)| name.clone()).collect()
    }
}

/// All workspaces of the model.
#[derive(Debug, Default)]
struct Models {
    all: BTreeMap<usize, Model>,
    next: u32,
}

fn original() -> Files {
    [("a", "one"), ("sub/b", "two")].map(|(path, text)| (path.into(), text.into())).into()
}

/// The first part of a path.
fn top(path: &'static str) -> &'static str {
    path.split('/').next().unwrap_or(path)
}

const FILES: [&str; 3] = ["a", "c", "sub/d"];

/// Carries a command out on both, and compares whether it succeeded.
#[allow(clippy::too_many_lines, reason = "one arm for each command")]
fn apply(machine: &Machine, models: &mut Models, op: &Op) {
    let all = &machine.all;
    let lock = |at: &usize| all.lock(&workspace(NAMES[*at]), OnLocked::Fail).ok();
    let Models { all: known, next } = models;
    match op {
        Op::Write { workspace, file, text } => {
            let (Some(mut real), Some(model)) = (lock(workspace), known.get_mut(workspace)) else {
                return;
            };
            real.write(FILES[*file], &text.to_string());
            model.write(FILES[*file], text.to_string());
        }
        Op::Delete { workspace, file } => {
            let (Some(mut real), Some(model)) = (lock(workspace), known.get_mut(workspace)) else {
                return;
            };
            real.change(|at| drop(fs::remove_file(at.join(FILES[*file]))));
            model.delete(FILES[*file]);
        }
        Op::Snapshot { workspace, state: name } => {
            let (Some(mut real), Some(model)) = (lock(workspace), known.get_mut(workspace)) else {
                return;
            };
            let done = real.snapshot(&state(STATES[*name]));
            assert_eq!(done.is_ok(), !model.states.contains_key(STATES[*name]));
            if done.is_ok() {
                model.seal(next);
                model.current = model.below.clone();
                model.states.insert(STATES[*name].to_owned(), model.below.clone());
            }
        }
        Op::KilledSnapshot { workspace, state: name } => {
            let (Some(mut real), Some(model)) = (lock(workspace), known.get_mut(workspace)) else {
                return;
            };
            if !real.has_upper() || model.states.contains_key(STATES[*name]) {
                return;
            }
            let key = Layers::new_key().unwrap();
            real.record.below.push(key);
            real.record.sealing = Some(key);
            real.record.current.clone_from(&real.record.below);
            let layers = real.record.below.clone();
            real.record.name_state(state(STATES[*name]), layers);
            real.save().unwrap();
            // The next command completes it. What only the former state needed stays until the next collection.
            drop(real);
            drop(lock(workspace).unwrap());
            all.collect(None, false).unwrap();
            model.seal_any(next);
            model.current = model.below.clone();
            model.states.insert(STATES[*name].to_owned(), model.below.clone());
        }
        Op::LiveSnapshot { workspace, state: name } => {
            let (Some(mut real), Some(model)) = (lock(workspace), known.get_mut(workspace)) else {
                return;
            };
            real.mount(None).unwrap();
            let done = real.snapshot(&state(STATES[*name]));
            assert_eq!(done.is_ok(), !model.states.contains_key(STATES[*name]));
            if done.is_ok() {
                *next += 1;
                model.current = (*next, model.present.clone());
                model.states.insert(STATES[*name].to_owned(), model.current.clone());
            }
            real.umount().unwrap();
        }
        Op::Rollback { workspace, state: name } => {
            let (Some(mut real), Some(model)) = (lock(workspace), known.get_mut(workspace)) else {
                return;
            };
            let done = real.rollback(&state(STATES[*name]));
            let wanted = model.states.get(STATES[*name]).cloned();
            assert_eq!(done.is_ok(), wanted.is_some());
            if let Some(wanted) = wanted {
                model.go_back(wanted);
            }
        }
        Op::Clean { workspace } => {
            let (Some(mut real), Some(model)) = (lock(workspace), known.get_mut(workspace)) else {
                return;
            };
            real.clean().unwrap();
            model.go_back(model.current.clone());
        }
        Op::Remove { workspace, state: name } => {
            let (Some(mut real), Some(model)) = (lock(workspace), known.get_mut(workspace)) else {
                return;
            };
            let done = real.remove(&state(STATES[*name]));
            assert_eq!(done.is_ok(), model.states.remove(STATES[*name]).is_some());
        }
        Op::Fork { workspace: at, to } => {
            let done = all.fork(&workspace(NAMES[*at]), &[workspace(NAMES[*to])], OnLocked::Fail);
            assert_eq!(done.is_ok(), known.contains_key(at) && !known.contains_key(to));
            if done.is_ok() {
                let source = known.get_mut(at).unwrap();
                source.seal(next);
                let fork = source.clone();
                known.insert(*to, fork);
            }
        }
        Op::From { workspace: at, state: name, to } => {
            let text = match name {
                Some(name) => format!("{}@{}", NAMES[*at], STATES[*name]),
                None => NAMES[*at].to_owned(),
            };
            let (to_name, from) = (workspace(NAMES[*to]), text.parse().unwrap());
            let done = all.create_from(&to_name, &from, &Default::default(), OnLocked::Fail);
            let source = known.get(at).filter(|_| !known.contains_key(to));
            let has = source.is_some_and(|source| {
                name.is_none_or(|name| source.states.contains_key(STATES[name]))
            });
            assert_eq!(done.is_ok(), has);
            if done.is_ok() {
                let source = known.get_mut(at).unwrap();
                let state = match name {
                    Some(name) => source.states[STATES[*name]].clone(),
                    None => {
                        source.seal(next);
                        source.below.clone()
                    }
                };
                known.insert(*to, Model::new(state));
            }
        }
        Op::Rename { workspace: at, to } => {
            let Some(real) = lock(at) else { return };
            let done = real.rename(&workspace(NAMES[*to]));
            assert_eq!(done.is_ok(), !known.contains_key(to));
            if done.is_ok() {
                let model = known.remove(at).unwrap();
                known.insert(*to, model);
            }
        }
        Op::Scrub { workspace } => {
            let Some(real) = lock(workspace) else { return };
            real.scrub().unwrap();
            known.remove(workspace);
        }
        Op::Collect => drop(all.collect(None, false).unwrap()),
    }
}

/// Compares every workspace with the model, and the store's layers with what the records name.
fn check(machine: &Machine, models: &Models) {
    let listed = machine.all.list(None).unwrap();
    let names: Vec<_> = listed.iter().map(|one| one.name.as_str()).collect();
    let known: Vec<_> = models.all.keys().map(|at| NAMES[*at]).collect();
    assert_eq!(names, known);
    for (at, model) in &models.all {
        let real = machine.lock(NAMES[*at]);
        assert_eq!(real.files(), model.present, "{}", NAMES[*at]);
        let current: BTreeSet<_> = real.current().into_iter().collect();
        assert_eq!(current, model.current());
        for (name, (_, files)) in &model.states {
            let layers = real.layers_of(&state(name)).unwrap();
            let (tree, _lease) = real.state_view(&layers).unwrap();
            assert_eq!(super::testing::files(&tree.path()), *files, "{}@{name}", NAMES[*at]);
        }
    }
    assert_eq!(machine.all.store.verify().unwrap(), []);
    let needed: BTreeSet<String> = models
        .all
        .keys()
        .flat_map(|at| {
            let real = machine.lock(NAMES[*at]);
            real.record().layers().map(|key| key.dir_name()).collect::<Vec<_>>()
        })
        .collect();
    let layers = fs::read_dir(machine.all.root().join("layers")).unwrap();
    let there: BTreeSet<String> =
        layers.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(there, needed, "layers without a record, or records without layers");
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_random_commands_do_what_a_model_does() {
    let mut runner = TestRunner::new(ProptestConfig { cases: 16, ..ProptestConfig::default() });
    let ops = proptest::collection::vec(op(), 1..40);
    runner
        .run(&ops, |ops| {
            let machine = Machine::new();
            let mut models = Models::default();
            drop(machine.copy(NAMES[0]));
            models.all.insert(0, Model::new((0, original())));
            for op in &ops {
                apply(&machine, &mut models, op);
                check(&machine, &models);
            }
            Ok(())
        })
        .unwrap();
}
