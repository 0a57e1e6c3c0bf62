//! `ovl apply`: carries the changes of a workspace into a directory.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};

use super::{
    args::StoreArgs,
    changes::{change_value, shown},
    place::path_inside,
};
use crate::{
    cli::{
        failure::Failure,
        output::{Format, say},
    },
    layers::WorkspaceName,
    workspaces::{
        Applied, ApplyError, ApplyFailure, ApplyOptions, Conflict, OnConflict, Refusals, Special,
    },
};

/// Carry the changes of a workspace into the directory that it was made over
#[derive(Debug, Args)]
#[command(
    after_help = "What `ovl changes` lists is carried. If a path was also changed in the directory since the workspace was
created, or since the last apply, nothing is written and all such paths are listed. With -o json they are in the result,
and the exit code is 1.

Examples:
  ovl apply box --dry-run        what would be written
  ovl apply box                  write it
  ovl apply box src Makefile     only these paths, and the new directories above them; the rest stays in `ovl changes`
  ovl apply box --theirs         where both have changed a file, the directory keeps its own"
)]
pub(in crate::cli) struct ApplyArgs {
    /// The workspace
    pub(super) name: WorkspaceName,
    /// Only these paths, and what is below them [default: all changes]
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Carry them into this directory [default: the one that the workspace was made over]
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// Check everything and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Where both have changed a path, take that of the workspace
    #[arg(long, conflicts_with = "theirs")]
    ours: bool,
    /// Where both have changed a path, keep that of the directory
    #[arg(long)]
    theirs: bool,
    /// Carry what is below `.git` too
    #[arg(long)]
    git: bool,
    /// Carry set-user-id and set-group-id files, capabilities, devices, and links that lead out of the directory too
    #[arg(long)]
    special: bool,
    /// Write through all names of a file that has several, instead of replacing this one
    #[arg(long)]
    in_place: bool,
    /// The format of the result. With json and yaml it has the conflicts, too
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    store: StoreArgs,
}

pub(super) fn run(args: &ApplyArgs) -> Result<(), Failure> {
    let all = args.store.open()?;
    let to = args
        .to
        .as_ref()
        .map(|to| to.canonicalize().with_context(|| format!("cannot apply to {}", to.display())));
    let to = to.transpose()?;
    let options = ApplyOptions {
        dry_run: args.dry_run,
        on_conflict: match (args.ours, args.theirs) {
            (true, _) => OnConflict::Ours,
            (_, true) => OnConflict::Theirs,
            _ => OnConflict::Refuse,
        },
        git: args.git,
        special: args.special,
        in_place: args.in_place,
    };
    let mut workspace = all.lock(&args.name, args.store.on_locked())?;
    let directory = workspace.record().directory();
    let paths = args.paths.iter().map(|path| path_inside(path, directory));
    let paths = paths.collect::<Result<Vec<_>, Failure>>()?;
    let applied = workspace.apply(to.as_deref(), &paths, options);
    let dir = to.as_deref().or(workspace.record().directory()).unwrap_or(Path::new(""));
    let applied = match applied {
        Ok(applied) => applied,
        Err(ApplyFailure::Workspace(error)) => return Err(error.into()),
        Err(
            error @ (ApplyFailure::NoDirectory(_)
            | ApplyFailure::Nowhere(_)
            | ApplyFailure::Within { .. }),
        ) => {
            return Err(Failure::Unusable(error.explained().into()));
        }
        Err(error @ ApplyFailure::Apply(_)) => {
            if let ApplyFailure::Apply(ApplyError::Refused(refusals)) = &error {
                let nothing = value(args, dir, &Applied::default(), refusals);
                args.output.print(&nothing, String::new)?;
            }
            return Err(Failure::Failed(error.explained().into()));
        }
    };
    for kept in &applied.kept {
        say(&format!("kept: {}: {}", shown(&kept.path), kept.reason));
    }
    for path in &applied.lost_links {
        say(&format!(
            "note: {} had other names, which keep the former content (--in-place writes through all of them)",
            shown(path)
        ));
    }
    if !applied.left_out.is_empty() {
        say(&format!(
            "note: {} paths below .git were left out (--git carries them)",
            applied.left_out.len()
        ));
    }
    let text = || applied.carried.iter().map(|one| format!("{}\n", shown(&one.path))).collect();
    Ok(args.output.print(&value(args, dir, &applied, &Refusals::default()), text)?)
}

fn value(args: &ApplyArgs, dir: &Path, applied: &Applied, refusals: &Refusals) -> Value {
    let conflict = |conflict: &Conflict| {
        let Conflict { path, reason } = conflict;
        json!({ "path": shown(path), "reason": reason.word(), "why": reason.to_string() })
    };
    let special = |special: &Special| {
        let Special { path, reason } = special;
        json!({ "path": shown(path), "reason": reason.word(), "why": reason.to_string() })
    };
    let paths = |paths: &[Vec<u8>]| paths.iter().map(|path| shown(path)).collect::<Vec<_>>();
    json!({
        "name": args.name,
        "directory": dir,
        "dryRun": args.dry_run,
        "applied": applied.carried.iter().map(change_value).collect::<Vec<_>>(),
        "kept": applied.kept.iter().map(conflict).collect::<Vec<_>>(),
        "leftOut": paths(&applied.left_out),
        "lostLinks": paths(&applied.lost_links),
        "conflicts": refusals.conflicts.iter().map(conflict).collect::<Vec<_>>(),
        "special": refusals.special.iter().map(special).collect::<Vec<_>>(),
    })
}
