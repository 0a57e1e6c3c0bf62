//! What we speak compared with what is published: our protocol files with those in their Go modules, and
//! pushes and pulls with the registries that others run.
//!
//! Deliberately absent: the published files themselves, here and anywhere in the sources.

use std::path::Path;

use anyhow::Result;

use super::{Bench, cargo};
use crate::driver;
use crate::tally::Tally;
use crate::tools::{self, golang::module_dir};
use crate::versions;

/// Runs the comparing tests.
pub fn run(bench: &Bench<'_>, log: &Path) -> Result<Tally> {
    let spec = "github.com/container-storage-interface/spec";
    let spec = module_dir(bench.h, spec, versions::CSI_SPEC)?.join("csi.proto");
    let kubelet = module_dir(bench.h, "k8s.io/kubelet", versions::KUBELET)?;
    let kubelet = kubelet.join("pkg/apis/pluginregistration/v1/api.proto");
    let test = driver::cargo(bench.h, bench.repo).args(["test", "--test", "proto"]);
    let test = test.env("OVL_CSI_PROTO", spec).env("OVL_KUBELET_PROTO", kubelet);
    let push = driver::cargo(bench.h, bench.repo).args(["test", "--lib"]);
    let push = push.env("OVL_REGISTRY", tools::registry().ensure(bench.h)?.join("registry"));
    let push = push.env("OVL_REGISTRY_2", tools::registry_2::ensure(bench.h)?);
    let push = push.env("OVL_CRANE", tools::crane().ensure(bench.h)?.join("crane"));
    let mut tally = cargo::tests(test, &["--ignored"], log)?;
    let log = log.with_extension("registry.log");
    tally.add(cargo::tests(push, &["--ignored", "image::published_tests"], &log)?);
    Ok(tally)
}
