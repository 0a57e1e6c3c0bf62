//! Tests of the arguments of `ovl node`.

use std::io::Write as _;

use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    args: NodeArgs,
}

fn args(given: &[&str]) -> NodeArgs {
    Cli::parse_from(["ovl", "--node-name", "n"].iter().chain(given)).args
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

#[test]
fn the_defaults_are_those_of_the_documentation() {
    let args = args(&[]);
    let (config, settings) = (args.config().unwrap(), args.settings().unwrap());
    assert_eq!(config.endpoint.to_string(), "unix:///var/lib/kubelet/plugins/ovl.csi.dev/csi.sock");
    assert_eq!((config.metrics, config.defaults), (None, csi::Defaults::default()));
    assert_eq!(args.root(), Path::new("/var/lib/ovl-csi/ovl.csi.dev"));
    assert_eq!((settings.disk_high, settings.disk_low), (85, 75));
    assert_eq!(args.disk().unwrap(), DiskLimits { min_free: 5, captures: 50, captures_each: 25 });
    assert_eq!(settings.trust_for, Duration::from_secs(3600));
    assert!(settings.policy.allows("any", &"r.io/a".parse().unwrap()));
}

#[test]
fn the_arguments_become_settings() {
    let policy = file(
        "refusedImages = ['r.io/b*']\n[allowedImages]\ndefault = []\n[allowedImages.namespaces]\nci = ['r.io/*']",
    );
    let args = args(&[
        "--default-size=10Gi",
        "--default-inodes=100k",
        "--default-volatile=true",
        "--metrics-address=0.0.0.0:9809",
        "--disk-high-percent=90",
        "--disk-low-percent=50",
        "--trust-credentials-for=0s",
        "--policy-file",
        policy.path().to_str().unwrap(),
    ]);
    let (config, settings) = (args.config().unwrap(), args.settings().unwrap());
    let defaults = csi::Defaults { size: Some(10 << 30), inodes: Some(100_000), volatile: true };
    assert_eq!(config.defaults, defaults);
    assert_eq!(config.metrics.unwrap().port(), 9809);
    assert_eq!((settings.disk_high, settings.disk_low), (90, 50));
    assert_eq!(settings.trust_for, Duration::ZERO);
    let image = "r.io/a:1".parse().unwrap();
    assert!(settings.policy.allows("ci", &image) && !settings.policy.allows("any", &image));
    assert!(!settings.policy.allows("ci", &"r.io/b:1".parse().unwrap()));
}

#[test]
fn an_extra_ca_must_be_a_certificate() {
    let (ca, text) = (file(include_str!("../../image/fixtures/ca.crt")), file("no PEM"));
    for (file, words) in [
        (ca.path().to_str().unwrap(), ""),
        (text.path().to_str().unwrap(), "the file has no certificate"),
        ("/nowhere", "--extra-ca-file /nowhere: No such file"),
    ] {
        let done = args(&["--extra-ca-file", file]).registries();
        let shown = done.err().map(|error| format!("{error:#}")).unwrap_or_default();
        assert_eq!(shown.is_empty(), words.is_empty(), "{file}: {shown}");
        assert!(shown.contains(words), "{file}: {shown}");
    }
}

#[test]
fn an_argument_that_cannot_be_used_is_named_in_the_error() {
    let (policy, typed) = (file("[allowedImages]\ndefault = ['a[']"), file("[allowedimages]"));
    let (policy, typed) = (policy.path().to_str().unwrap(), typed.path().to_str().unwrap());
    for (given, message) in [
        (["--disk-low-percent", "85"], "--disk-low-percent 85 is not below"),
        (["--policy-file", policy], "\"a[\" is not a pattern"),
        (["--policy-file", typed], "unknown field `allowedimages`"),
        (["--policy-file", "/nowhere"], "--policy-file /nowhere: No such file"),
        (["--credentials-file", typed], ": not a usable .dockerconfigjson"),
        (["--credentials-file", "/nowhere"], "--credentials-file /nowhere: No such file"),
    ] {
        let error = format!("{:#}", args(&given).settings().unwrap_err());
        assert!(error.contains(message), "{message:?} is not in {error:?}");
    }
}
