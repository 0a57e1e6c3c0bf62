use super::*;
use crate::layers::{Layers, NamedState, WorkspaceBase};

fn keys(count: usize) -> Vec<LayerKey> {
    (0..count).map(|_| Layers::new_key().unwrap()).collect()
}

/// A record with these snapshots, each with the first layers of `all`.
fn record(all: &[LayerKey], states: &[(&str, usize)], current: usize) -> WorkspaceRecord {
    let now = Timestamp::now();
    let named = |(name, count): &(&str, usize)| NamedState {
        name: name.parse().unwrap(),
        layers: all[..*count].to_vec(),
        taken: now,
    };
    WorkspaceRecord {
        format: WorkspaceRecord::FORMAT,
        base: WorkspaceBase::Directory("/".into()),
        created: now,
        since: now,
        below: all[..current].to_vec(),
        current: all[..current].to_vec(),
        states: states.iter().map(named).collect(),
        sealing: None,
        failed: None,
        pre_copy_up: Vec::new(),
    }
}

/// Each state as `name<parent bytes marks`. Each layer has one byte.
fn shown(record: &WorkspaceRecord, written: Option<u64>) -> Vec<String> {
    let states = of(record, written, &mut |_| Ok(1), &HashMap::new()).unwrap();
    let name = |state: &ListedState| state.name.as_ref().map_or("-", StateName::as_str).to_owned();
    let parent = |at: usize| format!("<{}", name(&states[at]));
    let line = |state: &ListedState| {
        let marks = [(state.is_current, '*'), (state.is_present, '!'), (state.is_alias, '=')];
        let marks: String = marks.iter().filter(|(is, _)| *is).map(|(_, mark)| mark).collect();
        let parent = state.parent.map_or(String::new(), parent);
        format!("{}{parent} {} {marks}", name(state), state.bytes).trim_end().to_owned()
    };
    states.iter().map(line).collect()
}

#[test]
fn a_present_state_with_a_name_is_not_listed_again() {
    let all = keys(2);
    let one = record(&all, &[("postinit", 0), ("one", 1), ("same", 1), ("two", 2)], 1);
    let expected = ["postinit 0", "one<postinit 1 *!", "same<one 0 *!=", "two<same 1"];
    assert_eq!(shown(&one, None), expected);
}

#[test]
fn the_current_state_without_a_name_is_below_what_stands_on_it() {
    let all = keys(3);
    let one = record(&all, &[("postinit", 0), ("three", 3)], 1);
    assert_eq!(shown(&one, None), ["postinit 0", "three<- 2", "-<postinit 1 *!"]);
    // Never named.
    assert_eq!(shown(&record(&all, &[], 0), None), ["- 0 *!"]);
    // A name that it gets again is newer than what stands on it.
    let again = record(&all, &[("three", 3), ("one", 1)], 1);
    assert_eq!(shown(&again, None), ["three<one 2", "one 1 *!"]);
}

#[test]
fn what_was_written_since_is_a_state_on_the_one_below_it() {
    let all = keys(3);
    let named = record(&all, &[("postinit", 0), ("one", 1)], 1);
    assert_eq!(shown(&named, Some(7)), ["postinit 0", "one<postinit 1 *", "-<one 7 !"]);
    let unnamed = record(&all, &[("postinit", 0)], 1);
    let expected = ["postinit 0", "-<postinit 1 *", "-<- 7 !"];
    assert_eq!(shown(&unnamed, Some(7)), expected);
    // A fork of a workspace with changes stands on a layer above the current state.
    let mut fork = record(&all, &[("postinit", 0)], 0);
    fork.below = all[..2].to_vec();
    assert_eq!(shown(&fork, None), ["postinit 0 *", "-<postinit 2 !"]);
    assert_eq!(shown(&fork, Some(7)), ["postinit 0 *", "-<postinit 9 !"]);
    // A snapshot of a mounted workspace is a copy, beside the upper.
    let mut mounted = record(&all, &[("postinit", 0), ("copy", 1)], 1);
    mounted.below = Vec::new();
    assert_eq!(shown(&mounted, Some(7)), ["postinit 0", "copy<postinit 1 *", "-<postinit 7 !"]);
}

#[test]
fn what_a_failed_step_has_left_is_on_the_state_before_it() {
    let all = keys(3);
    let mut one = record(&all, &[("postinit", 0)], 1);
    one.failed = Some(all[..2].to_vec());
    assert_eq!(shown(&one, None), ["postinit 0", "-<postinit 1 *!", "failed<- 1"]);
    // The series went on with another command.
    one.below = vec![all[0], all[2]];
    one.current.clone_from(&one.below);
    assert_eq!(shown(&one, None), ["postinit 0", "-<postinit 2 *!", "failed<postinit 1"]);
    one.below.pop();
    one.current.pop();
    let commands = HashMap::from([(all[0], vec!["make".to_owned()])]);
    let states = of(&one, None, &mut |_| Ok(1), &commands).unwrap();
    let steps = |at: usize| states[at].layers.iter().map(|it| it.step.clone()).collect::<Vec<_>>();
    assert_eq!([steps(1), steps(2)], [vec![Some(vec!["make".to_owned()])], vec![None]]);
    assert_eq!(states[2].taken, None);
}
