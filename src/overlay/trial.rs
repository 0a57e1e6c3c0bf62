//! Small overlays in a scratch folder, each to see one feature work.
//!
//! A mount that came about is not proof: overlay drops most features that the disk cannot carry, with a word to the kernel's log
//! only. So each trial looks for what the feature does. Deliberately absent: attaching anything; what is mounted is reached
//! through its descriptor.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::features::{Feature, told};
use crate::sys::{
    durable,
    mounts::{
        Attrs, Backing, Detached, Mounts, Param, Request, mount_image, mount_image_by,
        sample_image, tmpfs,
    },
    trials,
};

type Outcome = Result<(), String>;

/// A folder for trials.
#[derive(Debug)]
pub(super) struct Bench(PathBuf);

impl Bench {
    pub(super) fn new(scratch: &Path) -> io::Result<Self> {
        let folder = scratch.join(format!("features-{}", std::process::id()));
        fs::create_dir_all(scratch)?;
        durable::remove_tree(&folder)?;
        durable::create_dir(&folder, 0o700)?;
        Ok(Self(folder))
    }

    pub(super) fn remove(&self) -> io::Result<()> {
        durable::remove_tree(&self.0)
    }

    pub(super) fn folder(&self, name: &str) -> Result<PathBuf, String> {
        let folder = self.0.join(name);
        fs::create_dir_all(&folder).map_err(told)?;
        Ok(folder)
    }

    /// Every feature but the ways themselves.
    pub(super) fn outcomes(&self, mounts: &dyn Mounts) -> Vec<(Feature, Outcome)> {
        let try_out = |feature| {
            let outcome = match feature {
                Feature::Overlay => self.writable(mounts, "overlay"),
                Feature::EntryTypes => self.disk(feature, trials::entry_types),
                Feature::Whiteouts => self.disk(feature, trials::whiteouts),
                Feature::TrustedAttributes => self.disk(feature, trials::trusted_attributes),
                Feature::SingleLayers | Feature::DetachedLayers => return None,
                Feature::Volatile => self.volatile(mounts),
                Feature::Metacopy => self.metacopy(mounts),
                Feature::RedirectDir => self.redirect_dir(mounts),
                Feature::Index => self.index(mounts, feature, &["index=on"]),
                Feature::NfsExport => self.index(mounts, feature, &["index=on", "nfs_export=on"]),
                Feature::Xino => self.xino(mounts),
                Feature::NullUuid => self.over(mounts, feature, &["uuid=null"]).map(|_| ()),
                Feature::MappedLayers => self.mapped(mounts),
                Feature::Erofs => self
                    .image()
                    .and_then(|image| mount_image(mounts, &image).map(|_| ()).map_err(told)),
                Feature::ErofsFile => self
                    .image_by(mounts, Backing::File)
                    .or_else(|why| self.image_by(mounts, Backing::DirectFile).map_err(|_| why)),
                Feature::ErofsDirect => self.image_by(mounts, Backing::DirectFile),
            };
            Some((feature, outcome))
        };
        Feature::ALL.into_iter().filter_map(try_out).collect()
    }

    /// An overlay of a layer that is attached nowhere.
    pub(super) fn detached_layers(&self, mounts: &dyn Mounts) -> Outcome {
        let layer = mounts.create(&tmpfs("ovl-csi-trial", Some(4096), None)).map_err(told)?;
        Trial::new(&self.folder("detached")?)?.mount(mounts, layer, &[]).map(|_| ())
    }

    /// An overlay that takes a file.
    pub(super) fn writable(&self, mounts: &dyn Mounts, name: &str) -> Outcome {
        let trial = Trial::new(&self.folder(name)?)?;
        let layer = mounts.open_dir(&trial.lower).map_err(told)?;
        let overlay = trial.mount(mounts, layer, &[])?;
        if !mounts.writable(&overlay).map_err(told)? {
            return Err("the overlay came up read-only".to_owned());
        }
        fs::write(overlay.path().join("new"), "").map_err(told)
    }

    fn disk(&self, feature: Feature, trial: impl Fn(&Path) -> io::Result<bool>) -> Outcome {
        match trial(&self.folder(feature.name())?) {
            Ok(true) => Ok(()),
            Ok(false) => Err("the file system lacks it".to_owned()),
            Err(error) => Err(told(error)),
        }
    }

    /// An overlay of a plain folder, with these options.
    fn over(
        &self,
        mounts: &dyn Mounts,
        feature: Feature,
        options: &[&'static str],
    ) -> Result<(Trial, Detached), String> {
        let trial = Trial::new(&self.folder(feature.name())?)?;
        let layer = mounts.open_dir(&trial.lower).map_err(told)?;
        let overlay = trial.mount(mounts, layer, options)?;
        Ok((trial, overlay))
    }

    fn volatile(&self, mounts: &dyn Mounts) -> Outcome {
        let (trial, _overlay) = self.over(mounts, Feature::Volatile, &["volatile"])?;
        seen(trial.work.join("work/incompat/volatile").exists())
    }

    fn metacopy(&self, mounts: &dyn Mounts) -> Outcome {
        let options = ["redirect_dir=on", "metacopy=on"];
        let (trial, overlay) = self.over(mounts, Feature::Metacopy, &options)?;
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(overlay.path().join("file"), mode).map_err(told)?;
        seen(trials::has_attribute(&trial.upper.join("file"), "trusted.overlay.metacopy"))
    }

    fn redirect_dir(&self, mounts: &dyn Mounts) -> Outcome {
        let (_, overlay) = self.over(mounts, Feature::RedirectDir, &["redirect_dir=on"])?;
        let path = overlay.path();
        fs::rename(path.join("folder"), path.join("renamed")).map_err(told)
    }

    fn index(&self, mounts: &dyn Mounts, feature: Feature, options: &[&'static str]) -> Outcome {
        let (trial, _overlay) = self.over(mounts, feature, options)?;
        seen(trial.work.join("index").exists())
    }

    /// Only layers of another file system than the upper's show whether numbers are made unique.
    fn xino(&self, mounts: &dyn Mounts) -> Outcome {
        let trial = Trial::new(&self.folder("xino")?)?;
        let layer = mounts.create(&tmpfs("ovl-csi-trial", None, None)).map_err(told)?;
        fs::write(layer.path().join("file"), "").map_err(told)?;
        let overlay = trial.mount(mounts, layer, &["xino=on"])?;
        let device = |path: &Path| fs::metadata(path).map(|m| m.dev()).map_err(told);
        seen(device(&overlay.path())? == device(&overlay.path().join("file"))?)
    }

    fn mapped(&self, mounts: &dyn Mounts) -> Outcome {
        let trial = Trial::new(&self.folder("idmap")?)?;
        let layer = mounts.open_dir(&trial.lower).map_err(told)?;
        let mapped = mounts.idmapped(&layer, 1000, 1000).map_err(told)?;
        let overlay = trial.mount(mounts, mapped, &[])?;
        let file = fs::metadata(overlay.path().join("file")).map_err(told)?;
        seen((file.uid(), file.gid()) == (1000, 1000))
    }

    fn image(&self) -> Result<PathBuf, String> {
        let image = self.0.join("image.erofs");
        fs::write(&image, sample_image([1; 16], "file", "text")).map_err(told)?;
        Ok(image)
    }

    fn image_by(&self, mounts: &dyn Mounts, backing: Backing) -> Outcome {
        mount_image_by(mounts, &self.image()?, backing).map(|_| ()).map_err(told)
    }
}

fn seen(works: bool) -> Outcome {
    works.then_some(()).ok_or_else(|| "the kernel took the option and left it off".to_owned())
}

/// One overlay's folders.
struct Trial {
    lower: PathBuf,
    upper: PathBuf,
    work: PathBuf,
}

impl Trial {
    fn new(folder: &Path) -> Result<Self, String> {
        let [lower, upper, work] = ["lower", "upper", "work"].map(|name| folder.join(name));
        for made in [&lower, &upper, &work, &lower.join("folder")] {
            fs::create_dir(made).map_err(told)?;
        }
        fs::write(lower.join("file"), "text").map_err(told)?;
        Ok(Self { lower, upper, work })
    }

    /// Everything that is not asked for is off.
    fn mount(
        &self,
        mounts: &dyn Mounts,
        layer: Detached,
        options: &[&'static str],
    ) -> Result<Detached, String> {
        let folder = |path| Ok::<_, String>(Arc::new(mounts.open_dir(path).map_err(told)?));
        let mut params = vec![
            Param::Tree("lowerdir+", Arc::new(layer)),
            Param::Tree("upperdir", folder(&self.upper)?),
            Param::Tree("workdir", folder(&self.work)?),
        ];
        for key in ["redirect_dir", "metacopy", "index", "nfs_export", "xino"] {
            if !options.iter().any(|option| option.split('=').next() == Some(key)) {
                params.push(Param::Text(key, "off".to_owned()));
            }
        }
        params.extend(options.iter().map(|option| match option.split_once('=') {
            Some((key, value)) => Param::Text(key, value.to_owned()),
            None => Param::Flag(option),
        }));
        let source = "ovl-csi-trial".to_owned();
        let request = Request { fs_type: "overlay", source, params, attrs: Attrs::default() };
        mounts.create(&request).map_err(told)
    }
}
