//! The hosts folder: what each spelling leads to, and what is refused with which words.

use tempfile::TempDir;

use super::*;

fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = TempDir::new().unwrap();
    for (name, text) in files {
        fs::create_dir_all(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join(FILE), text).unwrap();
    }
    dir
}

fn load(files: &[(&str, &str)]) -> Result<Hosts, HostsError> {
    Hosts::load(folder(files).path())
}

/// Every endpoint of `registry` as `url` plus what it may do.
fn asked(hosts: &Hosts, registry: &str) -> Vec<String> {
    let may = |e: &Endpoint| {
        format!("{}{}", if e.resolve { "r" } else { "" }, if e.pull { "p" } else { "" })
    };
    let endpoints = hosts.endpoints(registry);
    endpoints.iter().map(|e| format!("{} {}", e.url(), may(e))).collect()
}

#[test]
fn without_a_file_it_is_https_to_the_registry_itself() {
    let hosts = Hosts::default();
    assert_eq!(asked(&hosts, "r.io:5000"), ["https://r.io:5000/ rp"]);
    assert_eq!(asked(&hosts, "localhost"), ["https://localhost/ rp"]);
    assert_eq!(asked(&hosts, "docker.io"), ["https://registry-1.docker.io/ rp"]);
}

#[test]
fn mirrors_come_in_the_files_order_and_the_server_last() {
    let text = r#"
server = "http://r.io:5000"
[host."http://z.example"]
capabilities = ["pull"]
[host."https://a.example:8443/cache"]
capabilities = ["resolve", "push"]
[host."b.example/v2"]
"#;
    let hosts = load(&[("r.io:5000", text)]).unwrap();
    assert_eq!(
        asked(&hosts, "r.io:5000"),
        [
            "http://z.example/ p",
            "https://a.example:8443/cache r",
            "https://b.example/ rp",
            "http://r.io:5000/ rp",
        ]
    );
    assert_eq!(
        asked(&hosts, "other.io"),
        ["https://other.io/ rp"],
        "one file speaks for one registry"
    );
}

#[test]
fn a_file_without_a_server_ends_at_the_registry_itself() {
    let hosts = load(&[("docker.io", "[host.\"http://m.example\"]")]).unwrap();
    assert_eq!(
        asked(&hosts, "docker.io"),
        ["http://m.example/ rp", "https://registry-1.docker.io/ rp"]
    );
}

#[test]
fn both_spellings_of_a_port_name_one_registry() {
    let text = "server = \"http://10.0.0.7:5000\"";
    for name in ["10.0.0.7:5000", "10.0.0.7_5000_"] {
        let hosts = load(&[(name, text)]).unwrap();
        assert_eq!(asked(&hosts, "10.0.0.7:5000"), ["http://10.0.0.7:5000/ rp"], "{name}");
    }
    let error = load(&[("r.io:5000", text), ("r.io_5000_", text)]).unwrap_err();
    assert!(matches!(error, HostsError::Twice { .. }), "{error}");
}

#[test]
fn what_a_config_map_mount_brings_is_skipped() {
    let dir = folder(&[("..2026_01_01", "junk"), ("r.io", "")]);
    fs::write(dir.path().join("README"), "").unwrap();
    std::os::unix::fs::symlink("r.io", dir.path().join("s.io")).unwrap();
    let hosts = Hosts::load(dir.path()).unwrap();
    assert_eq!(
        hosts.registries.keys().collect::<Vec<_>>(),
        ["r.io", "s.io"],
        "symlinks are followed"
    );
}

#[test]
fn a_refusal_names_the_file_and_the_key() {
    for (text, words) in [
        ("ca = \"/x.crt\"", "r.io/hosts.toml: the key ca is not supported yet"),
        (
            "[host.\"https://m.io\"]\nskip_verify = true",
            "host.\"https://m.io\".skip_verify is not supported yet",
        ),
        ("[host.\"https://m.io\"]\nca = \"x\"", ".ca is not supported yet"),
        ("[host.\"https://m.io\"]\nclient = \"x\"", ".client is not supported yet"),
        ("[host.\"https://m.io\"]\noverride_path = true", ".override_path is not supported yet"),
        ("[host.\"https://m.io\".header]\nx = \"y\"", ".header is not supported yet"),
        ("[host.\"https://m.io\"]\ncapabilities = [\"pul\"]", "must be a list of \"pull\""),
        ("[host.\"https://m.io\"]\ncapabilities = \"pull\"", "must be a list"),
        ("[host.\"https://m.io\"]\ncapabilities = [1]", "must be a list"),
        ("[host]\n\"https://m.io\" = 1", "must be a table"),
        ("host = 1", "host must be a table"),
        ("server = 1", "server must be a text"),
        ("server = \"ftp://m.io\"", "must begin with https://"),
        ("server = \"https://u:p@m.io\"", "must not hold a user name"),
        ("server = \"https://m.io/?a=b\"", "must not hold a query"),
        ("server = \"https://\"", "must be a URL"),
        ("\n\nserver = ", "line 3"),
    ] {
        let error = load(&[("r.io", text)]).expect_err(text).to_string();
        assert!(error.contains(words), "{text}: {error}");
    }
}

#[test]
fn a_folder_that_no_reference_reaches_is_refused() {
    for name in ["_default", "registry", "r.io:0", "a b.io"] {
        let error = load(&[(name, "")]).unwrap_err();
        assert!(matches!(error, HostsError::Folder { .. }), "{name}: {error}");
    }
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("r.io")).unwrap();
    let error = Hosts::load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("r.io/hosts.toml"), "a folder without its file: {error}");
    assert!(Hosts::load(&dir.path().join("absent")).is_err());
}

#[test]
fn content_urls_keep_the_prefix_and_tell_a_mirror_whose_it_is() {
    let hosts = load(&[("r.io", "[host.\"https://m.io/cache/v2/\"]")]).unwrap();
    let image: Reference = "r.io/a/b:1".parse().unwrap();
    let endpoints = hosts.endpoints("r.io");
    let urls: Vec<_> =
        endpoints.iter().map(|e| e.content(&image, "manifests", "1").to_string()).collect();
    assert_eq!(
        urls,
        ["https://m.io/cache/v2/a/b/manifests/1?ns=r.io", "https://r.io/v2/a/b/manifests/1"]
    );
}
