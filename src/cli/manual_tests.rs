//! Tests of the manual pages.

use clap::CommandFactory as _;

use super::{Cli, manual::pages};

#[test]
fn every_command_has_a_page_with_the_sections_that_users_look_for() {
    let pages = pages(Cli::command()).unwrap();
    for name in ["ovl.1", "ovl-create.1", "ovl-run.1", "ovl-check.1", "ovl-node-snapshot.1"] {
        let page = String::from_utf8(pages[name].clone()).unwrap();
        for section in ["SYNOPSIS", "OPTIONS", "EXIT STATUS", "ENVIRONMENT", "FILES"] {
            let head = [format!(".SH {section}\n"), format!(".SH \"{section}\"\n")];
            assert!(head.iter().any(|head| page.contains(head)), "{name}: {section}: {page}");
        }
    }
    let run = String::from_utf8(pages["ovl-run.1"].clone()).unwrap();
    // An example is not filled into a paragraph.
    assert!(run.contains(".nf\n  ovl run box \\-\\- make test"), "{run}");
    assert!(run.contains("127") && run.contains("OVL_ROOT"), "{run}");
    assert!(!pages.contains_key("ovl-crd.1") && !pages.contains_key("ovl-kubectl.1"));
}

#[test]
fn every_command_of_workspaces_has_examples() {
    let mut root = Cli::command();
    root.build();
    for command in root.get_subcommands().filter(|command| !command.is_hide_set()) {
        let is_of_workspaces = command.get_arguments().any(|one| one.get_id() == "no_wait");
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(!is_of_workspaces || help.contains("Examples:\n"), "{}", command.get_name());
    }
}
