//! `ovl fsck`: checks a store.

use std::sync::Mutex;

use clap::Args;
use serde_json::{Value, json};

use super::args::StoreArgs;
use crate::{
    cli::{
        failure::Failure,
        output::{Format, Progress, counted},
    },
    format,
    layers::{Fault, FsckProgress, FsckReport, Subject, Unchecked},
    sys::limits,
    workspaces::{Repaired, WorkspaceError},
};

/// The exit code if a fault remains.
const FAULTS: u8 = 4;

/// Check the layers and records of the store
#[derive(Debug, Args)]
#[command(
    after_help = "It reads every layer and compares it with the digest that was recorded when the layer was added. Layers that
were made of the writable layer of a workspace have none until --record. Images, workspaces, snapshots and steps must name
layers that exist.

Without --repair and --record it only reads, and takes no lock. It also checks the store of a running `ovl node`.

Exit codes: 0 no fault, or all were repaired; 4 faults remain; 1 the check failed.

Examples:
  ovl fsck                  check everything
  ovl fsck --record         also give a digest to the layers that have none
  ovl fsck --repair         move what is damaged to the quarantine of the store; nothing is deleted"
)]
pub(in crate::cli) struct FsckArgs {
    /// Move damaged layers and records to the quarantine of the store. What is in use is not touched
    #[arg(long)]
    repair: bool,
    /// Record the digests of layers that have none
    #[arg(long)]
    record: bool,
    /// The format of the result
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    store: StoreArgs,
}

/// Runs the command. Returns its exit code.
pub(super) fn run(args: &FsckArgs) -> Result<u8, Failure> {
    // First: whether the store can be changed is known before hours of reading.
    let changes = args.repair || args.record;
    let all = if changes { Some(args.store.open()?) } else { None };
    // Each level of directories needs two.
    let _ = limits::raise_open_files();
    let report = match args.store.reader()? {
        None => FsckReport::default(),
        Some(reader) => {
            let line = Mutex::new(Progress::new());
            let report = reader.fsck(&|progress| {
                if let Ok(mut line) = line.lock() {
                    line.show(|| progress_line(progress));
                }
            });
            // It removes the line from the terminal.
            drop(line);
            report.map_err(WorkspaceError::from)?
        }
    };
    let mut done = Done { report, repaired: Vec::new(), recorded: 0 };
    if let Some(all) = all {
        if args.record {
            done.recorded = all.record_contents(&done.report.unchecked)?;
            done.report.unchecked.retain(|one| one.content.is_err());
        }
        if args.repair {
            done.repaired = all.repair(&done.report.faults)?;
        }
    }
    args.output.print(&done.value(), || done.table())?;
    Ok(if done.remain() { FAULTS } else { 0 })
}

/// What was found, and what was done about it.
struct Done {
    report: FsckReport,
    /// One for each fault, or none.
    repaired: Vec<Repaired>,
    recorded: u64,
}

impl Done {
    /// Whether a fault remains.
    fn remain(&self) -> bool {
        self.faults().any(|(_, repaired)| matches!(repaired, None | Some(Repaired::InUse(_))))
    }

    fn faults(&self) -> impl Iterator<Item = (&Fault, Option<&Repaired>)> {
        self.report.faults.iter().enumerate().map(|(number, it)| (it, self.repaired.get(number)))
    }

    fn table(&self) -> String {
        let mut text = String::new();
        for (fault, repaired) in self.faults() {
            text += &format!("fault: {}: {}\n", fault.path.display(), fault.what);
            if !fault.needed_by.is_empty() {
                text += &format!("  needed by: {}\n", fault.needed_by.join(", "));
            }
            text += &match repaired {
                None => format!("  fix: {}\n", fault.fix),
                Some(Repaired::Moved(place)) => format!("  moved to: {}\n", place.display()),
                Some(Repaired::Gone) => "  it is gone now\n".to_owned(),
                Some(Repaired::InUse(why)) => format!("  not moved: {why}\n"),
            };
        }
        for Unchecked { layer, content } in &self.report.unchecked {
            let why = match content {
                Ok(_) => "it has no digest yet; `ovl fsck --record` records one",
                Err(why) => why,
            };
            text += &format!("unchecked: layer {layer}: {why}\n");
        }
        for note in &self.report.notes {
            text += &format!("note: {note}\n");
        }
        let report = &self.report;
        let (layers, bytes) = (counted(report.layers, "layer"), format::bytes(report.bytes));
        let faults = counted(report.faults.len() as u64, "fault");
        let unchecked = report.unchecked.len();
        text += &format!("{layers} of {bytes}: {faults}, {unchecked} unchecked");
        if self.recorded > 0 {
            text += &format!(", {} recorded", counted(self.recorded, "digest"));
        }
        text + "\n"
    }

    fn value(&self) -> Value {
        let faults: Vec<Value> =
            self.faults().map(|(fault, repaired)| fault_value(fault, repaired)).collect();
        let unchecked: Vec<Value> = self.report.unchecked.iter().map(unchecked_value).collect();
        json!({
            "layers": self.report.layers,
            "bytes": self.report.bytes,
            "faults": faults,
            "unchecked": unchecked,
            "recorded": self.recorded,
            "notes": self.report.notes,
        })
    }
}

fn fault_value(fault: &Fault, repaired: Option<&Repaired>) -> Value {
    let layer = match &fault.subject {
        Subject::Layer(key) | Subject::Missing(key) => Some(key),
        Subject::Workspace(_) | Subject::File => None,
    };
    let mut value = json!({
        "path": fault.path,
        "layer": layer,
        "what": fault.what,
        "neededBy": fault.needed_by,
        "fix": fault.fix,
    });
    match repaired {
        Some(Repaired::Moved(place)) => value["movedTo"] = json!(place),
        Some(Repaired::InUse(why)) => value["notMoved"] = json!(why),
        Some(Repaired::Gone) => value["gone"] = json!(true),
        None => {}
    }
    value
}

fn unchecked_value(one: &Unchecked) -> Value {
    let why = one.content.as_ref().err();
    json!({ "layer": one.layer, "why": why })
}

fn progress_line(FsckProgress { layers, all_layers, bytes }: FsckProgress) -> String {
    format!("{layers} of {all_layers} layers, {} read", format::bytes(bytes))
}
