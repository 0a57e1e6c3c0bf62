//! The probes of [`KernelFeatures::probe`](super::KernelFeatures::probe): small overlays in a scratch directory, one for each
//! feature.
//!
//! A successful mount is no proof: overlay turns off most features that the disk cannot support, and says so in the
//! kernel's log only. So each probe checks the effect of the feature. Deliberately absent: attaching a mount. The
//! probes reach their mounts by descriptor.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::feature::Feature;
use crate::{
    overlay_xattr::METACOPY,
    sys::{
        durable, fs_probe,
        mounts::{
            Attrs, Backing, Detached, Mounts, Param, Request, mount_image, mount_image_by,
            sample_image, tmpfs,
        },
    },
};

type Outcome = Result<(), String>;

/// The scratch directory of the probes.
#[derive(Debug)]
pub(super) struct ProbeDir(PathBuf);

impl ProbeDir {
    pub(super) fn new(scratch: &Path) -> io::Result<Self> {
        let dir = scratch.join(format!("features-{}", std::process::id()));
        fs::create_dir_all(scratch)?;
        durable::remove_tree(&dir)?;
        durable::create_dir(&dir, 0o700)?;
        Ok(Self(dir))
    }

    pub(super) fn remove(&self) -> io::Result<()> {
        durable::remove_tree(&self.0)
    }

    pub(super) fn dir(&self, name: &str) -> Result<PathBuf, String> {
        let dir = self.0.join(name);
        fs::create_dir_all(&dir).map_err(message)?;
        Ok(dir)
    }

    /// Probes every feature except the mount APIs themselves.
    pub(super) fn outcomes(&self, mounts: &dyn Mounts) -> Vec<(Feature, Outcome)> {
        let probe = |feature| {
            let outcome = match feature {
                Feature::Overlay => self.writable(mounts, "overlay"),
                Feature::EntryTypes => self.disk(feature, fs_probe::entry_types),
                Feature::Whiteouts => self.disk(feature, fs_probe::whiteouts),
                Feature::TrustedAttributes => self.disk(feature, fs_probe::trusted_xattrs),
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
                    .and_then(|image| mount_image(mounts, &image).map(|_| ()).map_err(message)),
                Feature::ErofsFile => self
                    .image_by(mounts, Backing::File)
                    .or_else(|why| self.image_by(mounts, Backing::DirectFile).map_err(|_| why)),
                Feature::ErofsDirect => self.image_by(mounts, Backing::DirectFile),
            };
            Some((feature, outcome))
        };
        Feature::ALL.into_iter().filter_map(probe).collect()
    }

    /// Probes an overlay with a detached layer.
    pub(super) fn detached_layers(&self, mounts: &dyn Mounts) -> Outcome {
        let layer = mounts.create(&tmpfs("ovl-csi-probe", Some(4096), None)).map_err(message)?;
        Probe::new(&self.dir("detached")?)?.mount(mounts, layer, &[]).map(|_| ())
    }

    /// Probes an overlay that takes a new file.
    pub(super) fn writable(&self, mounts: &dyn Mounts, name: &str) -> Outcome {
        let probe = Probe::new(&self.dir(name)?)?;
        let layer = mounts.open_dir(&probe.lower).map_err(message)?;
        let overlay = probe.mount(mounts, layer, &[])?;
        if !mounts.writable(&overlay).map_err(message)? {
            return Err("the kernel mounted the overlay read-only".to_owned());
        }
        fs::write(overlay.path().join("new"), "").map_err(message)
    }

    fn disk(&self, feature: Feature, probe: impl Fn(&Path) -> io::Result<bool>) -> Outcome {
        match probe(&self.dir(feature.name())?) {
            Ok(true) => Ok(()),
            Ok(false) => Err("the file system does not support it".to_owned()),
            Err(error) => Err(message(error)),
        }
    }

    /// Mounts an overlay of a plain directory, with these options.
    fn over(
        &self,
        mounts: &dyn Mounts,
        feature: Feature,
        options: &[&'static str],
    ) -> Result<(Probe, Detached), String> {
        let probe = Probe::new(&self.dir(feature.name())?)?;
        let layer = mounts.open_dir(&probe.lower).map_err(message)?;
        let overlay = probe.mount(mounts, layer, options)?;
        Ok((probe, overlay))
    }

    fn volatile(&self, mounts: &dyn Mounts) -> Outcome {
        let (probe, _overlay) = self.over(mounts, Feature::Volatile, &["volatile"])?;
        outcome(probe.work.join("work/incompat/volatile").exists())
    }

    fn metacopy(&self, mounts: &dyn Mounts) -> Outcome {
        let options = ["redirect_dir=on", "metacopy=on"];
        let (probe, overlay) = self.over(mounts, Feature::Metacopy, &options)?;
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(overlay.path().join("file"), mode).map_err(message)?;
        outcome(fs_probe::has_xattr(&probe.upper.join("file"), METACOPY))
    }

    fn redirect_dir(&self, mounts: &dyn Mounts) -> Outcome {
        let (_, overlay) = self.over(mounts, Feature::RedirectDir, &["redirect_dir=on"])?;
        let path = overlay.path();
        fs::rename(path.join("directory"), path.join("renamed")).map_err(message)
    }

    fn index(&self, mounts: &dyn Mounts, feature: Feature, options: &[&'static str]) -> Outcome {
        let (probe, _overlay) = self.over(mounts, feature, options)?;
        outcome(probe.work.join("index").exists())
    }

    /// The layer is on another file system than the upper: only then the kernel makes the inode numbers unique.
    fn xino(&self, mounts: &dyn Mounts) -> Outcome {
        let probe = Probe::new(&self.dir("xino")?)?;
        let layer = mounts.create(&tmpfs("ovl-csi-probe", None, None)).map_err(message)?;
        fs::write(layer.path().join("file"), "").map_err(message)?;
        let overlay = probe.mount(mounts, layer, &["xino=on"])?;
        let device = |path: &Path| fs::metadata(path).map(|m| m.dev()).map_err(message);
        outcome(device(&overlay.path())? == device(&overlay.path().join("file"))?)
    }

    fn mapped(&self, mounts: &dyn Mounts) -> Outcome {
        let probe = Probe::new(&self.dir("idmap")?)?;
        let layer = mounts.open_dir(&probe.lower).map_err(message)?;
        let mapped = mounts.idmapped(&layer, 1000, 1000).map_err(message)?;
        let overlay = probe.mount(mounts, mapped, &[])?;
        let file = fs::metadata(overlay.path().join("file")).map_err(message)?;
        outcome((file.uid(), file.gid()) == (1000, 1000))
    }

    fn image(&self) -> Result<PathBuf, String> {
        let image = self.0.join("image.erofs");
        fs::write(&image, sample_image([1; 16], "file", "text")).map_err(message)?;
        Ok(image)
    }

    fn image_by(&self, mounts: &dyn Mounts, backing: Backing) -> Outcome {
        mount_image_by(mounts, &self.image()?, backing).map(|_| ()).map_err(message)
    }
}

fn outcome(works: bool) -> Outcome {
    works.then_some(()).ok_or_else(|| "the kernel took the option but left it off".to_owned())
}

pub(super) fn message(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// The lower, upper and work directory of one probe.
struct Probe {
    lower: PathBuf,
    upper: PathBuf,
    work: PathBuf,
}

impl Probe {
    fn new(dir: &Path) -> Result<Self, String> {
        let [lower, upper, work] = ["lower", "upper", "work"].map(|name| dir.join(name));
        for made in [&lower, &upper, &work, &lower.join("directory")] {
            fs::create_dir(made).map_err(message)?;
        }
        fs::write(lower.join("file"), "text").map_err(message)?;
        Ok(Self { lower, upper, work })
    }

    /// Mounts the overlay. All options that are not given are off.
    fn mount(
        &self,
        mounts: &dyn Mounts,
        layer: Detached,
        options: &[&'static str],
    ) -> Result<Detached, String> {
        let dir = |path| Ok::<_, String>(Arc::new(mounts.open_dir(path).map_err(message)?));
        let mut params = vec![
            Param::Tree("lowerdir+", Arc::new(layer)),
            Param::Tree("upperdir", dir(&self.upper)?),
            Param::Tree("workdir", dir(&self.work)?),
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
        let source = "ovl-csi-probe".to_owned();
        let request = Request { fs_type: "overlay", source, params, attrs: Attrs::default() };
        mounts.create(&request).map_err(message)
    }
}
