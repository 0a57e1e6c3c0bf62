//! Tests of the hosts directory: the servers of each registry, and the errors.

use tempfile::TempDir;

use super::*;
use crate::image::Reference;

fn dir(files: &[(&str, &str)]) -> TempDir {
    let dir = TempDir::new().unwrap();
    for (name, text) in files {
        fs::create_dir_all(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join(FILE), text).unwrap();
    }
    dir
}

fn load(files: &[(&str, &str)]) -> Result<Hosts, HostsError> {
    Hosts::load(dir(files).path())
}

/// Every endpoint of `registry` as `url` plus its capabilities: r(esolve), p(ull), w(rite).
fn servers(hosts: &Hosts, registry: &str) -> Vec<String> {
    let may = |e: &Endpoint| {
        let settings = &e.settings;
        format!(
            "{}{}{}",
            if settings.resolve { "r" } else { "" },
            if settings.pull { "p" } else { "" },
            if settings.push { "w" } else { "" }
        )
    };
    let endpoints = hosts.endpoints(registry);
    endpoints.iter().map(|e| format!("{} {}", e.url(), may(e))).collect()
}

#[test]
fn a_registry_without_a_file_is_contacted_itself_by_https() {
    let hosts = Hosts::default();
    assert_eq!(servers(&hosts, "r.io:5000"), ["https://r.io:5000/ rpw"]);
    assert_eq!(servers(&hosts, "localhost"), ["https://localhost/ rpw"]);
    assert_eq!(servers(&hosts, "docker.io"), ["https://registry-1.docker.io/ rpw"]);
}

#[test]
fn mirrors_are_in_the_order_of_the_file_and_the_server_is_last() {
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
        servers(&hosts, "r.io:5000"),
        [
            "http://z.example/ p",
            "https://a.example:8443/cache rw",
            "https://b.example/v2 rp",
            "http://r.io:5000/ rpw",
        ]
    );
    assert_eq!(
        servers(&hosts, "other.io"),
        ["https://other.io/ rpw"],
        "a file is for one registry"
    );
}

#[test]
fn the_last_server_of_a_file_without_one_is_the_registry_itself() {
    let hosts = load(&[("docker.io", "[host.\"http://m.example\"]")]).unwrap();
    assert_eq!(
        servers(&hosts, "docker.io"),
        ["http://m.example/ rp", "https://registry-1.docker.io/ rpw"]
    );
}

#[test]
fn both_spellings_of_a_port_name_one_registry() {
    let text = "server = \"http://10.0.0.7:5000\"";
    for name in ["10.0.0.7:5000", "10.0.0.7_5000_"] {
        let hosts = load(&[(name, text)]).unwrap();
        assert_eq!(servers(&hosts, "10.0.0.7:5000"), ["http://10.0.0.7:5000/ rpw"], "{name}");
    }
    let hosts = load(&[("r.io:5000", text), ("r.io_5000_", text)]).unwrap();
    let why = hosts.unusable("r.io:5000").unwrap();
    assert!(why.contains("is the second directory of its registry"), "{why}");
}

#[test]
fn files_and_hidden_directories_of_a_config_map_mount_are_skipped() {
    let dir = dir(&[("..2026_01_01", "junk"), ("r.io", "")]);
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
fn an_invalid_file_is_rejected_with_the_key_and_does_not_affect_other_registries() {
    for (text, words) in [
        ("rewrite = 1", "rewrite must be a table of regular expressions"),
        ("rewrite = { \"(\" = \"a\" }", "rewrite must be a table of regular expressions"),
        ("rewrite = { \"a\" = 1 }", "rewrite must be a table of regular expressions"),
        ("ca = \"/absent.crt\"", "cannot read /absent.crt"),
        ("ca = \"hosts.toml\"", "ca names files that cannot be used: the file has no certificate"),
        ("ca = 1", "ca must be the name of a PEM file"),
        ("client = [\"a\", \"b\"]", "several client certificates are not supported"),
        ("client = [[\"a\", \"b\"], [\"c\", \"d\"]]", "several client certificates"),
        ("client = [[]]", "client must be"),
        ("client = \"hosts.toml\"", "client names files that cannot be used: "),
        ("skip_verify = \"yes\"", "skip_verify must be true or false"),
        ("[host.\"https://m.io\"]\noverride_path = 1", ".override_path must be true or false"),
        ("dial_timeout = \"soon\"", "dial_timeout must be a time such as"),
        ("dial_timeout = \"-1s\"", "dial_timeout must be a time such as"),
        ("[header]\n\"a b\" = \"y\"", "header must be a table"),
        ("[header]\nx = \"a\\n\"", "header must be a table"),
        ("[host.\"https://m.io\"]\ncapabilities = [\"pul\"]", "must be a list of \"pull\""),
        ("[host.\"https://m.io\"]\ncapabilities = \"pull\"", "must be a list"),
        ("[host.\"https://m.io\"]\ncapabilities = [1]", "must be a list"),
        ("[host]\n\"https://m.io\" = 1", "must be a table"),
        ("host = 1", "host must be a table"),
        ("server = 1", "server must be a string"),
        ("server = \"ftp://m.io\"", "must start with https://"),
        ("server = \"https://u:p@m.io\"", "must not contain a user name"),
        ("server = \"https://m.io/?a=b\"", "must not contain a query"),
        ("server = \"https://\"", "must be a URL"),
        ("\n\nserver = ", "line 3"),
    ] {
        let hosts = load(&[("r.io", text), ("s.io", "")]).unwrap();
        let why = hosts.unusable("r.io").expect(text);
        assert!(why.contains(words), "{text}: {why}");
        assert_eq!(servers(&hosts, "r.io"), [""; 0], "no server is contacted with other settings");
        assert_eq!(hosts.unusable("s.io"), None, "an invalid file affects only its own registry");
        assert_eq!(servers(&hosts, "s.io"), ["https://s.io/ rpw"]);
    }
}

#[test]
fn an_unknown_key_has_no_effect() {
    let text =
        "mirror = 1\n[host.\"https://m.io\"]\ncapabilities = [\"pull\", \"referrers\"]\nx = 1";
    let hosts = load(&[("r.io", text)]).unwrap();
    assert_eq!(servers(&hosts, "r.io"), ["https://m.io/ p", "https://r.io/ rpw"]);
    let hosts = load(&[("r.io", "server = \"\"")]).unwrap();
    assert_eq!(servers(&hosts, "r.io"), ["https://r.io/ rpw"], "as without a server");
}

#[test]
fn a_directory_that_is_not_named_after_a_registry_is_skipped() {
    let hosts = load(&[("registry", ""), ("r.io:0", ""), ("a b.io", ""), ("r.io", "")]).unwrap();
    assert_eq!(hosts.registries.keys().collect::<Vec<_>>(), ["r.io"]);
    assert!(Hosts::load(Path::new("/absent")).is_err());
}

#[test]
fn an_invalid_default_affects_every_registry_without_a_directory() {
    let hosts = load(&[("_default", "server = 1"), ("r.io", "")]).unwrap();
    assert_eq!(servers(&hosts, "r.io"), ["https://r.io/ rpw"]);
    assert!(hosts.unusable("s.io").unwrap().contains("_default/hosts.toml: server"));
    assert!(hosts.endpoints("s.io").is_empty() && !hosts.names(&"https://s.io".parse().unwrap()));
}

#[test]
fn a_directory_with_only_certificates_is_read_like_dockers() {
    let dir = TempDir::new().unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/image/fixtures");
    let put = |registry: &str, name: &str, from: &str| {
        fs::create_dir_all(dir.path().join(registry)).unwrap();
        fs::copy(fixtures.join(from), dir.path().join(registry).join(name)).unwrap();
    };
    put("r.io", "ca.crt", "ca.crt");
    put("s.io", "client.cert", "client.crt");
    put("s.io", "client.key", "client.key");
    put("t.io", "client.cert", "client.crt");
    put("u.io", "ca.crt", "client.key");
    fs::create_dir(dir.path().join("v.io")).unwrap();
    let hosts = Hosts::load(dir.path()).unwrap();
    let settings = |registry: &str| {
        let endpoints = hosts.endpoints(registry);
        let [one] = endpoints.as_slice() else { panic!("{:?}", hosts.unusable(registry)) };
        let tls = &hosts.tls_settings()[one.settings.tls];
        (one.url().to_string(), tls.ca.len(), tls.client.is_some())
    };
    assert_eq!(settings("r.io"), ("https://r.io/".to_owned(), 1, false));
    assert_eq!(settings("s.io"), ("https://s.io/".to_owned(), 0, true));
    assert_eq!(settings("v.io"), ("https://v.io/".to_owned(), 0, false));
    assert!(hosts.unusable("t.io").unwrap().contains("client.key"));
    assert!(hosts.unusable("u.io").unwrap().contains("*.crt names files that cannot be used"));
}

#[test]
fn a_mirror_may_rewrite_repository_names() {
    let text = r#"
[host."https://m.io"]
rewrite = { "^library/(.*)" = "hub/$1", "^lib" = "never" }
"#;
    let hosts = load(&[("r.io", text)]).unwrap();
    let urls = |image: &str| -> Vec<_> {
        let image: Reference = image.parse().unwrap();
        let urls = hosts.endpoints("r.io").into_iter().map(|e| e.content(&image, "blobs", "x"));
        urls.map(|url| url.to_string()).collect()
    };
    assert_eq!(
        urls("r.io/library/a"),
        ["https://m.io/v2/hub/a/blobs/x?ns=r.io", "https://r.io/v2/library/a/blobs/x"]
    );
    assert_eq!(urls("r.io/team/a")[0], "https://m.io/v2/team/a/blobs/x?ns=r.io");
}

#[test]
fn the_default_directory_is_for_registries_without_one() {
    let text = "skip_verify = true\n[host.\"http://cache.io\"]";
    let hosts = load(&[("_default", text), ("r.io", "")]).unwrap();
    assert_eq!(servers(&hosts, "s.io"), ["http://cache.io/ rp", "https://s.io/ rpw"]);
    assert_eq!(servers(&hosts, "r.io"), ["https://r.io/ rpw"]);
    let tls = |endpoint: &Endpoint| &hosts.tls_settings()[endpoint.settings.tls];
    let skips = hosts.endpoints("s.io").iter().map(|e| tls(e).skip_verify).collect::<Vec<_>>();
    assert_eq!(skips, [false, true], "a mirror has its own settings");
    assert!(hosts.names(&"http://cache.io/x".parse().unwrap()));
    assert!(!hosts.names(&"https://s.io/".parse().unwrap()), "no file names it");
    let fixed = load(&[("_default", "server = \"http://all.io\"")]).unwrap();
    assert_eq!(servers(&fixed, "s.io"), ["http://all.io/ rpw"]);
}

#[test]
fn settings_are_parsed_and_header_values_are_never_shown() {
    let text = r#"
dial_timeout = "1m30s"
header = { x-one = "hush", x-two = ["hush", "hush2"] }
[host."https://m.io"]
skip_verify = true
dial_timeout = "500ms"
[host."https://n.io"]
"#;
    let hosts = load(&[("r.io", text)]).unwrap();
    let endpoints = hosts.endpoints("r.io");
    let found: Vec<_> = endpoints
        .iter()
        .map(|e| (&hosts.tls_settings()[e.settings.tls], e.settings.header.len()))
        .map(|(tls, headers)| (tls.skip_verify, tls.dial.map(|d| d.as_millis()), headers))
        .collect();
    assert_eq!(found, [(true, Some(500), 0), (false, None, 0), (false, Some(90_000), 3)]);
    assert!(!format!("{hosts:?}").contains("hush"), "{hosts:?}");
    assert_eq!(hosts.tls_index(&"https://m.io/token".parse().unwrap()), endpoints[0].settings.tls);
    assert_eq!(hosts.tls_index(&"https://elsewhere.io/".parse().unwrap()), 0);
}

#[test]
fn only_the_registry_itself_and_its_server_get_its_credentials() {
    let text = "server = \"http://10.0.0.7:5000\"\n[host.\"http://m.io\"]\n[host.\"https://r.io\"]";
    let hosts = load(&[("r.io", text)]).unwrap();
    let own: Vec<_> = hosts.endpoints("r.io").iter().map(|endpoint| endpoint.own).collect();
    assert_eq!(own, [false, true, true]);
    let hub = load(&[("docker.io", "[host.\"https://registry-1.docker.io\"]")]).unwrap();
    assert!(hub.endpoints("docker.io").iter().all(|endpoint| endpoint.own));
}

#[test]
fn content_urls_keep_the_path_of_a_mirror_and_name_the_registry() {
    let hosts = load(&[("r.io", "[host.\"https://m.io/cache/v2/\"]")]).unwrap();
    let image: Reference = "r.io/a/b:1".parse().unwrap();
    let endpoints = hosts.endpoints("r.io");
    let urls: Vec<_> =
        endpoints.iter().map(|e| e.content(&image, "manifests", "1").to_string()).collect();
    assert_eq!(
        urls,
        ["https://m.io/cache/v2/a/b/manifests/1?ns=r.io", "https://r.io/v2/a/b/manifests/1"]
    );
    let hosts = load(&[("r.io", "[host.\"https://m.io/api/r\"]\noverride_path = true")]).unwrap();
    let url = hosts.endpoints("r.io")[0].content(&image, "blobs", "x");
    assert_eq!(url.as_str(), "https://m.io/api/r/a/b/blobs/x?ns=r.io");
}

#[test]
fn a_server_accepts_pushes_unless_its_file_excludes_them() {
    let text = "capabilities = [\"pull\"]\n[host.\"https://m.io\"]\ncapabilities = [\"push\"]";
    let hosts = load(&[("r.io", text)]).unwrap();
    assert_eq!(servers(&hosts, "r.io"), ["https://m.io/ w", "https://r.io/ p"]);
}
