//! The result of `ovl check`.

use std::path::PathBuf;

use serde::Serialize;

/// The result of all checks.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    pub(super) verdict: Verdict,
    pub(super) usable: bool,
    pub(super) root: PathBuf,
    pub(super) kernel: String,
    /// `uname -v`
    pub(super) kernel_version: String,
    pub(super) machine: String,
    pub(super) distribution: Option<String>,
    /// The type of the file system of the store.
    pub(super) file_system: &'static str,
    /// The mount API by which layers are given to this kernel: `detached`, `attached` or `classic`. `None` if only root can
    /// find it out.
    pub(super) mount_api: Option<&'static str>,
    pub(super) checks: Vec<Check>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Verdict {
    Usable,
    NotUsable,
    /// Nothing is known that is missing, and only root can find out the rest.
    Unknown,
}

#[derive(Debug, Serialize)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) ok: bool,
    /// False if only root can find it out.
    pub(super) known: bool,
    pub(super) required: bool,
    pub(super) ignored: bool,
    /// A feature that is turned off and that no volume needs.
    #[serde(skip)]
    pub(super) off: bool,
    /// What was found, or why the check failed.
    pub(super) detail: String,
    /// What to do about a failed check.
    pub(super) fix: Option<&'static str>,
}

impl Check {
    pub(super) fn new(
        name: &'static str,
        found: Result<String, String>,
        fix: &'static str,
    ) -> Self {
        let ok = found.is_ok();
        let (Ok(detail) | Err(detail)) = found;
        let fix = (!ok).then_some(fix);
        Self { name, ok, known: true, required: false, ignored: false, off: false, detail, fix }
    }

    /// A check that only root can make.
    pub(super) fn unknown(name: &'static str) -> Self {
        let why = Err("only root can find it out".to_owned());
        Self {
            known: false,
            ..Self::new(name, why, "run it as root, in Kubernetes in a privileged container")
        }
    }

    pub(super) fn required(self) -> Self {
        Self { required: true, ..self }
    }

    /// Whether the directory cannot hold a store because of it.
    pub(super) fn fails(&self) -> bool {
        self.required && self.known && !self.ok && !self.ignored
    }
}
