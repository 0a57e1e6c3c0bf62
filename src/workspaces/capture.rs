//! Captures the state of a mounted workspace: copies the upper into a layer.
//!
//! The last round copies what changed since the one before. During this round the programs are frozen, if `ovl run` started
//! all that can write. Otherwise the capture is live: each file is copied at a moment of its own.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    copied::{Copied, FREEZE_TIMEOUT, Moment, NotFrozen},
    error::WorkspaceError,
    freeze::Freeze,
    lock::Workspace,
    programs::Programs,
};
use crate::{
    changeset::Limits,
    layers::{LayerKey, Lease, Reservation, SnapshotId},
    sys::{
        clone::{CloneError, Round, TreeClone},
        freezer::Group,
    },
};

/// The most rounds before the last one. The first takes the longest, and each further one copies what changed during the
/// one before.
const MAX_ROUNDS: usize = 5;

/// The freeze follows a round that took less than this fraction (1/10) of the longest freeze.
const SHORT_ROUND_DIVISOR: u32 = 10;

/// The namespace by which the store counts captures. A store that commands share has no limit for it.
const NAMESPACE: &str = "workspaces";

/// A layer with a copy of an upper.
#[derive(Debug)]
pub(super) struct Captured {
    /// The key of the layer.
    pub(super) key: LayerKey,
    /// How it was copied.
    pub(super) copied: Copied,
    /// Keeps the layer until a record names it.
    pub(super) lease: Lease,
}

/// A copy in progress.
struct Copy<'a> {
    workspace: &'a Workspace<'a>,
    clone: TreeClone,
    reservation: &'a Reservation,
}

impl Workspace<'_> {
    /// Copies the upper of the mounted workspace into a layer, and reports how.
    ///
    /// # Errors
    /// The copy needs more space than there is, or an entry cannot be copied.
    pub(super) fn capture(&self) -> Result<Captured, WorkspaceError> {
        // What the mount shows of the directory below is the present state from here on.
        drop(self.clone_live()?);
        let store = &self.all.store;
        let id = SnapshotId::unique("workspace")?;
        let reservation = Arc::new(store.disk.reserve_capture(NAMESPACE, 0)?);
        let staged = store.layers.stage_snapshot(&id)?;
        let lease = store.leases.take(&[staged.key()])?;
        let (bounds, scratch) = (Limits::default().bounds(), store.disk.scratch());
        let pair = self.upper_and_work();
        let clone =
            TreeClone::new(pair.upper(), &staged.tree(), &staged.aside(), bounds, &scratch)?;
        let clone = clone.with_budget(store.budget.share(), Box::new(reservation.clone()));
        let mut copy = Copy { workspace: self, clone, reservation: &reservation };
        let moment = copy.run()?;
        let (contents, dirty) = (copy.clone.contents(), copy.clone.dirty());
        drop(copy);
        let key = staged.key();
        staged.commit(contents.into(), dirty)?;
        let copied = Copied { moment, torn: contents.torn };
        tracing::debug!(?copied, "the changes were copied");
        (self.all.on_copied)(&copied);
        Ok(Captured { key, copied, lease })
    }
}

impl Copy<'_> {
    /// Copies everything. Returns which moment the copy shows.
    fn run(&mut self) -> Result<Moment, WorkspaceError> {
        // Early, because a mounted workspace is never frozen.
        let is_live = matches!(self.workspace.programs()?, Err(NotFrozen::Mounted(_)));
        for _ in 0..MAX_ROUNDS {
            if self.round(Round::PreCopy)? < FREEZE_TIMEOUT / SHORT_ROUND_DIVISOR || is_live {
                break;
            }
        }
        let groups = match self.workspace.programs()? {
            Ok(Programs::In(groups)) => groups,
            Ok(Programs::Ended) => {
                self.round(Round::Live)?;
                return Ok(Moment::Ended);
            }
            Err(why) => return self.live(why),
        };
        // What is dirty would otherwise be written while the programs are frozen.
        if !self.sync()? {
            self.catch_up(Round::PreCopy, &|| true)?;
        }
        match self.frozen_round(&groups)? {
            Ok(time) => Ok(Moment::Frozen(time)),
            Err(why) => self.live(why),
        }
    }

    /// The last round of a copy without a freeze.
    fn live(&mut self, why: NotFrozen) -> Result<Moment, WorkspaceError> {
        self.round(Round::Live)?;
        Ok(Moment::Live(why))
    }

    /// The round during which the programs are frozen. Returns for how long they were.
    fn frozen_round(
        &mut self,
        groups: &[Group],
    ) -> Result<Result<Duration, NotFrozen>, WorkspaceError> {
        let refused = |error: io::Error| match error.kind() {
            io::ErrorKind::TimedOut => NotFrozen::Late,
            _ => NotFrozen::Refused(error.to_string()),
        };
        let freeze = match Freeze::start(&self.workspace.dir, groups) {
            Ok(freeze) => freeze,
            Err(error) => return Ok(Err(refused(error))),
        };
        // A process that left its cgroup before the freeze is outside now.
        let copied = match self.workspace.check_namespaces(groups)? {
            Err(why) => Ok(Err(why)),
            Ok(()) => self.copy_frozen(&freeze),
        };
        let frozen = freeze.end();
        if let Err(why) = copied? {
            return Ok(Err(why));
        }
        // Another process may have entered meanwhile.
        let still = self.workspace.check_all_in(groups)?;
        Ok(match frozen {
            Err(error) => Err(refused(error)),
            Ok(frozen) if frozen.complete => still.map(|()| frozen.duration),
            Ok(frozen) if frozen.thawed_by_others => {
                Err(NotFrozen::Refused("another program thawed them during the copy".to_owned()))
            }
            Ok(_) => Err(NotFrozen::Late),
        })
    }

    fn copy_frozen(&mut self, freeze: &Freeze) -> Result<Result<(), NotFrozen>, WorkspaceError> {
        match self.clone.catch_up(Round::Frozen, &|| !freeze.is_late()) {
            Err(CloneError::Stopped) => Ok(Err(NotFrozen::Late)),
            copied => copied.map(Ok).map_err(|source| self.failed(source)),
        }
    }

    /// One round while programs run. Returns how long it took.
    fn round(&mut self, what: Round) -> Result<Duration, WorkspaceError> {
        let start = Instant::now();
        self.sync()?;
        self.catch_up(what, &|| true)?;
        let took = start.elapsed();
        self.clone.free_replaced().map_err(|source| self.failed(source))?;
        self.reservation.reduce_to(self.clone.contents().bytes);
        Ok(took)
    }

    fn sync(&mut self) -> Result<bool, WorkspaceError> {
        self.clone.sync().map_err(|source| self.failed(source))
    }

    fn catch_up(&mut self, what: Round, go_on: &dyn Fn() -> bool) -> Result<(), WorkspaceError> {
        self.clone.catch_up(what, go_on).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: CloneError) -> WorkspaceError {
        WorkspaceError::Copy { name: self.workspace.name.clone(), source }
    }
}
