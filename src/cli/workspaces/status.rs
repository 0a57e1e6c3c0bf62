//! `ovl status`: what a store has, and what it stands on.
//!
//! The first labels and their values are those of `podman info` (containers/storage, the overlay driver's `Status`), so
//! programs that read them there can read them here.

use clap::Args;
use serde_json::{Map, Value, json};

use super::{args::StoreArgs, notes::say_unreadable};
use crate::{
    cli::{
        failure::Failure,
        output::{Format, counted},
    },
    format, kubectl,
    overlay::Feature,
    workspaces::{Status, WorkspaceError, status},
};

/// Show what the store has, and what it stands on
#[derive(Debug, Args)]
#[command(
    after_help = "The first labels are those of the overlay driver of podman, with the values that it has.

The command takes no lock. It also shows the store of a running `ovl node`.

Examples:
  ovl status
  ovl status --root /var/lib/ovl-csi -o json     the store of a node, for programs"
)]
pub(in crate::cli) struct StatusArgs {
    /// The format of the output
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    store: StoreArgs,
}

pub(super) fn run(args: &StatusArgs) -> Result<(), Failure> {
    let reader = args.store.existing()?;
    let status = status(&reader).map_err(WorkspaceError::from)?;
    say_unreadable(&status.unreadable);
    let root = reader.root().display().to_string();
    Ok(args.output.print(&value(&status, &root), || table(&status, &root))?)
}

/// What podman prints of a file system, where that is not our name of it.
fn backing(kind: Option<&'static str>) -> &'static str {
    match kind {
        Some("ext4") => "extfs",
        Some("overlay") => "overlayfs",
        Some(kind) => kind,
        None => "<unknown>",
    }
}

/// The labels of the overlay driver, with `true`, `false`, or `unknown` before the features were probed.
fn driver(status: &Status) -> [(&'static str, &'static str); 6] {
    let has = |feature| match &status.features {
        None => "unknown",
        Some(features) if features.has(feature) => "true",
        Some(_) => "false",
    };
    [
        ("Backing Filesystem", backing(status.disk.kind())),
        ("Supports d_type", has(Feature::EntryTypes)),
        // Layers are always read from uppers, never by comparing two trees.
        ("Native Overlay Diff", "true"),
        ("Using metacopy", has(Feature::Metacopy)),
        ("Supports shifting", has(Feature::MappedLayers)),
        ("Supports volatile", has(Feature::Volatile)),
    ]
}

/// The features that are there, or those that are not.
fn features(status: &Status, there: bool) -> Vec<&'static str> {
    let Some(features) = &status.features else { return Vec::new() };
    let found = Feature::ALL.into_iter().filter(|feature| features.has(*feature) == there);
    found.map(Feature::name).collect()
}

fn table(status: &Status, root: &str) -> String {
    let Status { disk, totals, .. } = status;
    let layers = match totals.not_measured {
        0 => format!("{}, {}", totals.layers, format::bytes(totals.layer_bytes)),
        some => format!(
            "{}, {} without {} of workspaces (`ovl list`)",
            totals.layers,
            format::bytes(totals.layer_bytes),
            counted(some as u64, "layer")
        ),
    };
    let list = |names: &[&str], empty: &str| match names {
        [] => empty.to_owned(),
        names => names.join(", "),
    };
    let (there, missing) = match status.features {
        None => ("not known since the machine was started".to_owned(), String::new()),
        Some(_) => (list(&features(status, true), "none"), list(&features(status, false), "none")),
    };
    let free = format!("{} free of {}", format::bytes(disk.available), format::bytes(disk.total));
    let ours = [
        ("Store", root.to_owned()),
        ("Disk", free),
        ("Images", totals.images.to_string()),
        ("Layers", layers),
        ("Workspaces", totals.workspaces.to_string()),
        ("Snapshots of volumes", totals.snapshots.to_string()),
        ("Features", there),
        ("Missing features", missing),
        ("Overridden checks", list(&status.overridden, "none")),
    ];
    let driver = driver(status).map(|(label, value)| vec![label.to_owned(), value.to_owned()]);
    let ours = ours.into_iter().filter(|(_, value)| !value.is_empty());
    let rows = driver.into_iter().chain(ours.map(|(label, value)| vec![label.to_owned(), value]));
    kubectl::plain_table(&rows.collect::<Vec<_>>())
}

fn value(status: &Status, root: &str) -> Value {
    let Status { disk, totals, .. } = status;
    let driver = driver(status).map(|(label, value)| (label.to_owned(), value.into()));
    let mut all: Map<String, Value> = driver.into_iter().collect();
    let known = status.features.is_some();
    let ours = json!({
        "root": root,
        "bytesTotal": disk.total,
        "bytesFree": disk.available,
        "images": totals.images,
        "layers": totals.layers,
        "layerBytes": totals.layer_bytes,
        "layersNotMeasured": totals.not_measured,
        "workspaces": totals.workspaces,
        "snapshots": totals.snapshots,
        "features": known.then(|| features(status, true)),
        "missingFeatures": known.then(|| features(status, false)),
        "overriddenChecks": known.then_some(&status.overridden),
    });
    all.extend(ours.as_object().cloned().unwrap_or_default());
    all.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_have_the_names_of_podman() {
        let names = [Some("ext4"), Some("xfs"), Some("btrfs"), Some("overlay"), None].map(backing);
        assert_eq!(names, ["extfs", "xfs", "btrfs", "overlayfs", "<unknown>"]);
    }
}
