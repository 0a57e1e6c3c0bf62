//! Our protocol files compared with the published ones, which come from their Go modules.
//!
//! Deliberately absent: the published files themselves, here and anywhere in the sources.

use std::path::Path;

use anyhow::Result;

use super::{Bench, cargo};
use crate::driver;
use crate::tally::Tally;
use crate::tools::golang::module_dir;
use crate::versions;

/// Runs the comparing test on both.
pub fn run(bench: &Bench<'_>, log: &Path) -> Result<Tally> {
    let spec = "github.com/container-storage-interface/spec";
    let spec = module_dir(bench.h, spec, versions::CSI_SPEC)?.join("csi.proto");
    let kubelet = module_dir(bench.h, "k8s.io/kubelet", versions::KUBELET)?;
    let kubelet = kubelet.join("pkg/apis/pluginregistration/v1/api.proto");
    let test = driver::cargo(bench.h, bench.repo).args(["test", "--test", "proto"]);
    let test = test.env("OVL_CSI_PROTO", spec).env("OVL_KUBELET_PROTO", kubelet);
    cargo::tests(test, &["--ignored"], log)
}
