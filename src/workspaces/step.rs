//! Steps: commands whose results are layers. The same command on the same state is not run again.
//!
//! The key of a step is the SHA-256 of a text with everything that its result depends on:
//!
//! ```text
//! ovl step 1                        the format of the key
//! layer KEY …                       the layers below, bottom first
//! config TEXT …                     environment, user and working directory of the image
//! arg, env, workdir, user, net      of the command
//! bind TARGET                       each bind, and below it
//! f MODE SHA256 PATH | d MODE PATH | l TARGET PATH     in the order of the paths; owners and times do not count
//! ```
//!
//! Each line ends with a NUL, because names can have any other byte.

use std::{
    collections::HashSet,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileTypeExt as _, PermissionsExt as _},
    },
    path::Path,
};

use globset::{Glob, GlobSet, GlobSetBuilder};

use super::{
    container::Bind,
    error::WorkspaceError,
    lock::Workspace,
    name::POSTINIT,
    run::{RunError, RunOptions},
};
use crate::{
    digest::Digester,
    layers::{LayerKey, StepKey},
    sys::durable::at,
};

/// A step that ended.
#[derive(Debug)]
pub struct Stepped {
    /// Its key.
    pub key: StepKey,
    /// The layer on which the workspace stands now. `None` after a failure, and if the command had no overlay to write to.
    pub layer: Option<LayerKey>,
    /// How it ended.
    pub how: How,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// An earlier result was used.
    Reused,
    /// The command was run, and its result kept.
    Ran,
    /// The command failed with this exit code. What it has left is the state `failed`.
    Failed(u8),
}

/// Why a step was not run.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The workspace has changes, which would be a part of the result and not of the key.
    HasChanges(String),
    /// It is a copy, whose directory goes on living.
    Copy(String),
    /// An option drops the result.
    Dropped(&'static str),
    /// A pattern is not valid.
    Pattern {
        /// The pattern.
        pattern: String,
        /// The reason.
        why: String,
    },
    /// A pattern matches no file.
    NoMatch(String),
    /// An input cannot be read.
    Input(io::Error),
    /// The command was not run.
    Run(#[from] RunError),
}

impl From<WorkspaceError> for StepError {
    fn from(error: WorkspaceError) -> Self {
        Self::Run(error.into())
    }
}

impl Workspace<'_> {
    /// Runs a command whose result is a layer, or uses the layer of an earlier run.
    ///
    /// # Errors
    /// [`StepError`]: nothing was run.
    pub fn step(
        mut self,
        mut options: RunOptions,
        inputs: &[String],
    ) -> Result<Stepped, StepError> {
        if self.record.directory().is_some() {
            return Err(StepError::Copy(self.name.to_string()));
        }
        for (is_used, option) in
            [(options.transient, "--transient"), (options.read_only, "--read-only")]
        {
            if is_used {
                return Err(StepError::Dropped(option));
            }
        }
        self.require_unmounted("run a step in")?;
        if self.has_written()? {
            return Err(StepError::HasChanges(self.name.to_string()));
        }
        // An empty upper would be below the key.
        self.drop_upper()?;
        options.binds.iter_mut().for_each(|bind| bind.read_only = true);
        let all = self.all;
        let mut inputs = Inputs::new(inputs)?;
        let step = self.step_key(&options, &mut inputs).map_err(StepError::Input)?;
        inputs.require_matches()?;
        let words = options.argv.iter().map(|word| word.to_string_lossy().into_owned());
        let command: Vec<String> = words.collect();
        let _running = all.store.steps.lock(&step).map_err(WorkspaceError::from)?;
        if let Some(layer) =
            all.store.steps.get(&step, command.clone()).map_err(WorkspaceError::from)?
            && let Some(_lease) =
                all.store.leases.take_if_present(&[layer]).map_err(WorkspaceError::from)?
        {
            self.stand_on(layer)?;
            return Ok(Stepped { key: step, layer: Some(layer), how: How::Reused });
        }
        // With the lock: the result has the changes of this command only.
        let code = self.run_locked(options)?.code;
        if code != 0 {
            self.keep_failed()?;
            return Ok(Stepped { key: step, layer: None, how: How::Failed(code) });
        }
        let layer = self.keep_layer()?;
        if let Some(layer) = layer {
            all.store.steps.put(&step, layer, command).map_err(WorkspaceError::from)?;
        }
        Ok(Stepped { key: step, layer, how: How::Ran })
    }

    /// Runs the command by which a new workspace is completed, and names the result `postinit`. If it fails, what it has left
    /// is the state `failed`. Returns its exit code.
    ///
    /// # Errors
    /// [`RunError`]: nothing was run.
    pub fn init(mut self, command: &str, no_postinit: bool) -> Result<u8, RunError> {
        let argv = ["/bin/sh", "-c", command].map(OsString::from).to_vec();
        let code = self.run_locked(RunOptions { argv, ..RunOptions::default() })?.code;
        match code {
            0 if no_postinit => {}
            0 => {
                let name = POSTINIT.parse().map_err(io::Error::other);
                self.snapshot(&name.map_err(WorkspaceError::from)?)?;
            }
            _ => self.keep_failed()?,
        }
        Ok(code)
    }

    fn step_key(&self, options: &RunOptions, inputs: &mut Inputs) -> io::Result<StepKey> {
        let mut key = KeyText(Digester::default());
        key.line(&["ovl step 1".as_ref()]);
        for layer in self.record.image_layers().iter().chain(&self.record.below) {
            key.line(&["layer".as_ref(), layer.to_string().as_ref()]);
        }
        // Images with the same layers can have different ones.
        let config = self.image_config();
        for text in config.env.iter().chain([&config.user, &config.working_dir]) {
            key.line(&["config".as_ref(), text.as_ref()]);
        }
        for word in &options.argv {
            key.line(&["arg".as_ref(), word]);
        }
        for (name, value) in &options.env {
            key.line(&["env".as_ref(), name, value]);
        }
        let workdir = options.workdir.as_deref().unwrap_or(Path::new(""));
        key.line(&["workdir".as_ref(), workdir.as_os_str()]);
        key.line(&["user".as_ref(), options.user.as_deref().unwrap_or("").as_ref()]);
        key.line(&["net".as_ref(), if options.no_net { "none" } else { "host" }.as_ref()]);
        for bind in &options.binds {
            key.line(&["bind".as_ref(), bind.target.as_os_str()]);
            key.tree(bind, inputs)?;
        }
        Ok(StepKey::new(key.0.finish()))
    }
}

/// The text of a key, of which only the digest is kept.
struct KeyText(Digester);

impl KeyText {
    fn line(&mut self, words: &[&OsStr]) {
        for (number, word) in words.iter().enumerate() {
            if number > 0 {
                // A word can have a space. Its length says where it ends.
                self.0.update(format!(" {} ", word.len()).as_bytes());
            }
            self.0.update(word.as_bytes());
        }
        self.0.update(&[0]);
    }

    /// The files of a bind that match the patterns, or all without a pattern.
    fn tree(&mut self, bind: &Bind, inputs: &mut Inputs) -> io::Result<()> {
        let mut paths = vec![bind.source.clone()];
        while let Some(path) = paths.pop() {
            let inside = path.strip_prefix(&bind.source).unwrap_or(&path).to_owned();
            let found = fs::symlink_metadata(&path).map_err(at("look at", &path))?;
            let mode = format!("{:o}", found.permissions().mode() & 0o7777);
            let kind = found.file_type();
            if kind.is_dir() {
                let mut entries = Vec::new();
                for entry in fs::read_dir(&path).map_err(at("list", &path))? {
                    entries.push(entry.map_err(at("list", &path))?.path());
                }
                // The last one is taken first.
                entries.sort_by(|one, other| other.cmp(one));
                paths.extend(entries);
                if inputs.is_empty() {
                    self.line(&["d".as_ref(), mode.as_ref(), inside.as_os_str()]);
                }
                continue;
            }
            if !inputs.is_empty() && !inputs.match_and_note(&inside) {
                continue;
            }
            if kind.is_symlink() {
                let target = fs::read_link(&path).map_err(at("read", &path))?;
                self.line(&["l".as_ref(), target.as_os_str(), inside.as_os_str()]);
            } else if kind.is_file() {
                let digest = digest_of(&path).map_err(at("read", &path))?;
                self.line(&["f".as_ref(), mode.as_ref(), digest.as_ref(), inside.as_os_str()]);
            } else if !kind.is_socket() {
                self.line(&["o".as_ref(), mode.as_ref(), inside.as_os_str()]);
            }
        }
        Ok(())
    }
}

fn digest_of(path: &Path) -> io::Result<String> {
    let mut digester = Digester::default();
    digester.update_from(File::open(path)?)?;
    Ok(digester.finish().to_string())
}

/// The patterns of `--input`, and which of them a file has matched.
struct Inputs {
    texts: Vec<String>,
    patterns: GlobSet,
    matched: HashSet<usize>,
}

impl Inputs {
    fn new(texts: &[String]) -> Result<Self, StepError> {
        let mut patterns = GlobSetBuilder::new();
        let failed =
            |pattern: &str, why: String| StepError::Pattern { pattern: pattern.to_owned(), why };
        for text in texts {
            patterns.add(Glob::new(text).map_err(|e| failed(text, e.to_string()))?);
        }
        let patterns = patterns.build().map_err(|e| failed(&texts.join(" "), e.to_string()))?;
        Ok(Self { texts: texts.to_vec(), patterns, matched: HashSet::new() })
    }

    fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    fn match_and_note(&mut self, path: &Path) -> bool {
        let matches = self.patterns.matches(path);
        self.matched.extend(&matches);
        !matches.is_empty()
    }

    /// A pattern with a mistake would take all files out of the key.
    fn require_matches(&self) -> Result<(), StepError> {
        let mut texts = self.texts.iter().enumerate();
        match texts.find(|(number, _)| !self.matched.contains(number)) {
            None => Ok(()),
            Some((_, text)) => Err(StepError::NoMatch(text.clone())),
        }
    }
}
