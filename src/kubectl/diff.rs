//! `kubectl ovl diff`: lists the files that a snapshot or a running pod has changed. A node compares, so the user needs no
//! access to the registry.

use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    args::{Format, Output, TimeoutArgs, object_name, value, volume_name},
    failure::Failure,
    pod, print,
    progress::Progress,
    session::Session,
    snapshot::random,
};
use crate::{
    cluster::overlay_diff::{
        DiffChange, DiffEntry, DiffFileType, OverlayDiff, OverlayDiffResult, OverlayDiffResultSpec,
        OverlayDiffSpec, PodVolumeRef,
    },
    error::Class,
    format,
};

/// The pause between two reads.
const PAUSE: Duration = Duration::from_millis(300);

/// The last lines of `diff --help`.
const LETTERS: &str = "\
Each line begins with
  A  added
  C  changed; what differs follows the path
  D  deleted; a deleted directory is one line

Examples:
  kubectl ovl diff ws-2             what ws-2 has changed since its volume started
  kubectl ovl diff ws-1 ws-2        what differs in ws-2 from ws-1
  kubectl ovl diff dev-0/ws         what pod dev-0 has changed in its volume ws so far
  kubectl ovl diff ws-1 dev-0/ws    the same, compared with ws-1";

/// List the files that a snapshot or a running pod has changed.
///
/// Compares with BASE, or with the state from which the volume started: another snapshot, or the images. The node that
/// has the volume or the snapshot compares, also snapshots that are in no registry. A pod is not frozen meanwhile.
///
/// Compares type, size, content, mode, owner and extended attributes, but not times. Lists at most 1,000 files.
///
/// Needs the right to create OverlayDiffs and to read OverlayDiffResults, which the ClusterRole edit has. For a snapshot it
/// needs the right to read the VolumeSnapshot, and for a pod the right to run `kubectl exec`.
#[derive(Debug, Args)]
#[command(
    after_help = LETTERS,
    override_usage = "kubectl ovl diff [OPTIONS] [BASE] NAME\n       kubectl ovl diff [OPTIONS] [BASE] POD/VOLUME"
)]
pub(super) struct DiffArgs {
    /// A snapshot, or the volume of a running pod as POD/VOLUME. If there are two, the first is the snapshot to compare
    /// with
    #[arg(value_name = "NAME", required = true, num_args = 1..=2)]
    targets: Vec<String>,
    #[command(flatten)]
    timeout_args: TimeoutArgs,
    #[command(flatten)]
    output: Output,
}

/// What a user names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Snapshot(String),
    Volume { pod: String, volume: String },
}

fn target(text: &str) -> Result<Target, String> {
    match text.split_once('/') {
        None => object_name(text).map(Target::Snapshot),
        Some((pod, volume)) => {
            Ok(Target::Volume { pod: object_name(pod)?, volume: volume_name(volume)? })
        }
    }
}

pub(super) async fn run(session: &Session, args: &DiffArgs) -> Result<(), Failure> {
    let (base, target) = args.targets()?;
    if let Some(base) = &base {
        session.snapshot(base).await?;
    }
    let (mut snapshot, mut mounted) = (None, None);
    match target {
        Target::Snapshot(name) => {
            session.snapshot(&name).await?;
            snapshot = Some(name);
        }
        Target::Volume { pod: name, volume } => {
            let found = session.pod(&name).await?;
            session.volume(&found, Some(&volume))?;
            if pod::has_ended(&found) {
                return Err(anyhow!("pod {name} has ended, and its volumes are gone").into());
            }
            mounted = Some(PodVolumeRef { name, volume });
        }
    }
    let spec = OverlayDiffSpec {
        driver: session.driver.clone(),
        volume_snapshot_name: snapshot,
        pod: mounted,
        base_volume_snapshot_name: base,
    };
    let result = session.compared(spec.clone(), args.timeout_args.timeout).await?;
    if let Some(error) = result.error {
        return Err(anyhow!(print::clean(&error)).into());
    }
    let OverlayDiffSpec { volume_snapshot_name, pod, base_volume_snapshot_name, .. } = spec;
    let whole = json!({
        "snapshot": volume_snapshot_name,
        "pod": pod,
        "base": base_volume_snapshot_name,
        "changes": result.changes,
        "added": result.added,
        "changed": result.changed,
        "removed": result.removed,
        "omitted": result.omitted(),
    });
    args.output.output.print(&whole, || text(&result))?;
    if args.output.output == Format::Text {
        summary(&result).iter().for_each(|line| print::note(line));
    }
    Ok(())
}

impl DiffArgs {
    /// The snapshot to compare with, if there is one, and what is compared.
    pub(super) fn targets(&self) -> Result<(Option<String>, Target), Failure> {
        let (base, target) = match &self.targets[..] {
            [base, name] => (Some(value("[BASE]", base, self::target)?), name),
            [name, ..] => (None, name),
            [] => return Err(Failure::Usage(anyhow!("name a snapshot, or POD/VOLUME"))),
        };
        let target = value("<NAME>", target, self::target)?;
        match base {
            None => Ok((None, target)),
            Some(Target::Snapshot(base)) => Ok((Some(base), target)),
            Some(Target::Volume { .. }) => Err(Failure::Usage(anyhow!(
                "the first of two names must be a snapshot: kubectl ovl diff BASE POD/VOLUME"
            ))),
        }
    }
}

impl Session {
    /// Requests a comparison, and waits for its result. The request is deleted afterwards, and the result with it.
    async fn compared(
        &self,
        spec: OverlayDiffSpec,
        limit: Duration,
    ) -> Result<OverlayDiffResultSpec, Failure> {
        let namespace = &self.namespace;
        let mut request = OverlayDiff::new(&format!("diff-{}", &random()?[..16]), spec);
        request.metadata.namespace = Some(namespace.clone());
        let request = match self.client.create(&request).await {
            Err(error) if error.class() == Class::NotFound => {
                return Err(anyhow!(
                    "the cluster has no kind OverlayDiff (an administrator must upgrade the driver's chart), or there is no namespace {namespace}"
                )
                .into());
            }
            created => created?,
        };
        let result = self.until_compared(&request, limit).await;
        let name = request.metadata.name.as_deref().unwrap_or_default();
        // Without the right to delete it, the controller does so in a few minutes.
        let _ = self.client.delete::<OverlayDiff>(Some(namespace), name, request.uid()).await;
        result
    }

    async fn until_compared(
        &self,
        request: &OverlayDiff,
        limit: Duration,
    ) -> Result<OverlayDiffResultSpec, Failure> {
        let name = request.metadata.name.as_deref().unwrap_or_default();
        let (namespace, start, mut progress) = (&self.namespace, Instant::now(), Progress::new());
        loop {
            let state = match self.client.get::<OverlayDiffResult>(Some(namespace), name).await {
                Ok(Some(result)) => return Ok(result.spec),
                Ok(None) => self.state(name).await?,
                Err(why) if why.class() == Class::Unavailable => why.to_string(),
                Err(why) => return Err(why.into()),
            };
            progress.show(&state);
            if start.elapsed() >= limit {
                let waited = format::span(limit);
                return Err(Failure::TimedOut(anyhow!("no result after {waited} ({state})")));
            }
            sleep(PAUSE).await;
        }
    }

    /// What a request waits for.
    async fn state(&self, name: &str) -> Result<String, Failure> {
        match self.client.get::<OverlayDiff>(Some(&self.namespace), name).await {
            Ok(Some(found)) => Ok(match found.status.and_then(|status| status.node_name) {
                Some(node) => format!("node {node} compares"),
                None => "waiting for the controller of the driver".to_owned(),
            }),
            Ok(None) => {
                Err(anyhow!("OverlayDiff {name} was deleted before it had a result").into())
            }
            Err(why) if why.class() == Class::Unavailable => Ok(why.to_string()),
            Err(why) => Err(why.into()),
        }
    }
}

fn text(result: &OverlayDiffResultSpec) -> String {
    let line = |entry: &DiffEntry| {
        let letter = match entry.change {
            DiffChange::Added => 'A',
            DiffChange::Changed => 'C',
            DiffChange::Removed => 'D',
        };
        let slash = if entry.r#type == DiffFileType::Directory { "/" } else { "" };
        let properties: Vec<_> = entry.properties.iter().map(|one| one.word()).collect();
        let properties = match properties.is_empty() {
            true => String::new(),
            false => format!("  {}", properties.join(", ")),
        };
        format!("{letter} {}{slash}{properties}\n", print::clean(&entry.path))
    };
    result.changes.iter().map(line).collect()
}

/// What the lines do not say.
fn summary(result: &OverlayDiffResultSpec) -> Option<String> {
    let OverlayDiffResultSpec { added, changed, removed, .. } = result;
    match result.omitted() {
        0 if result.changes.is_empty() => Some("there are no differences".to_owned()),
        0 => None,
        omitted => Some(format!(
            "{omitted} more are not listed; there are {added} added, {changed} changed and {removed} deleted in total"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::overlay_diff::DiffProperty;

    #[test]
    fn a_name_with_a_slash_is_the_volume_of_a_pod() {
        assert_eq!(target("ws-1"), Ok(Target::Snapshot("ws-1".into())));
        let volume = Target::Volume { pod: "dev-0".into(), volume: "ws".into() };
        assert_eq!(target("dev-0/ws"), Ok(volume));
        for bad in ["", "/", "a/", "/b", "a/b/c", "A"] {
            assert!(target(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn each_difference_is_a_line_and_what_is_not_listed_is_counted() {
        let entry = |path: &str, change, r#type, properties| DiffEntry {
            path: path.to_owned(),
            change,
            r#type,
            size: None,
            properties,
        };
        let mut result = OverlayDiffResultSpec {
            driver: "d".to_owned(),
            node_name: None,
            error: None,
            changes: vec![
                entry("d", DiffChange::Added, DiffFileType::Directory, vec![]),
                entry(
                    "etc/passwd",
                    DiffChange::Changed,
                    DiffFileType::File,
                    vec![DiffProperty::Content, DiffProperty::Mode],
                ),
                entry("e\u{1b}[2J", DiffChange::Removed, DiffFileType::Symlink, vec![]),
            ],
            added: 1,
            changed: 1,
            removed: 1,
        };
        assert_eq!(text(&result), "A d/\nC etc/passwd  content, mode\nD e\\u{1b}[2J\n");
        assert_eq!(summary(&result), None);
        result.removed = 11;
        let line = "10 more are not listed; there are 1 added, 1 changed and 11 deleted in total";
        assert_eq!(summary(&result).as_deref(), Some(line));
        let none =
            OverlayDiffResultSpec { changes: vec![], added: 0, changed: 0, removed: 0, ..result };
        assert_eq!(summary(&none).as_deref(), Some("there are no differences"));
    }
}
