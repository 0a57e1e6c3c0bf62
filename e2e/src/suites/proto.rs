//! Compares our protocols with the published ones: our protocol files with those in their Go
//! modules, and pushes and pulls with published registries.
//!
//! Deliberately absent: copies of the published files.

use std::path::Path;

use anyhow::Result;

use super::cargo;
use super::context::SuiteContext;
use crate::driver;
use crate::report::Report;
use crate::toolchain::golang::module_dir;
use crate::toolchain::{programs, registry_2, versions};

/// Runs the tests that compare.
pub fn run(ctx: &SuiteContext<'_>, log: &Path) -> Result<Report> {
    let spec = "github.com/container-storage-interface/spec";
    let spec = module_dir(ctx.h, spec, versions::CSI_SPEC)?.join("csi.proto");
    let kubelet = module_dir(ctx.h, "k8s.io/kubelet", versions::KUBELET)?;
    let kubelet = kubelet.join("pkg/apis/pluginregistration/v1/api.proto");
    // The workspace, as the other suites: one package alone has other features of its dependencies,
    // so cargo would compile them again.
    let cargo = || driver::cargo(ctx.h, ctx.repo).args(["test", "--workspace"]);
    let test = cargo().args(["--test", "proto"]);
    let test = test.env("OVL_CSI_PROTO", spec).env("OVL_KUBELET_PROTO", kubelet);
    let push = cargo().arg("--lib");
    let push = push.env("OVL_REGISTRY", programs::registry().ensure(ctx.h)?.join("registry"));
    let push = push.env("OVL_REGISTRY_2", registry_2::ensure(ctx.h)?);
    let push = push.env("OVL_CRANE", programs::crane().ensure(ctx.h)?.join("crane"));
    let mut report = cargo::tests(test, &["--ignored"], log)?;
    let log = log.with_extension("registry.log");
    report.add(cargo::tests(push, &["--ignored", "image::published_tests"], &log)?);
    Ok(report)
}
