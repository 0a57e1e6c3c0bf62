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
fn without_a_file_it_is_https_to_the_registry_itself() {
    let hosts = Hosts::default();
    assert_eq!(asked(&hosts, "r.io:5000"), ["https://r.io:5000/ rpw"]);
    assert_eq!(asked(&hosts, "localhost"), ["https://localhost/ rpw"]);
    assert_eq!(asked(&hosts, "docker.io"), ["https://registry-1.docker.io/ rpw"]);
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
            "https://a.example:8443/cache rw",
            "https://b.example/v2 rp",
            "http://r.io:5000/ rpw",
        ]
    );
    assert_eq!(
        asked(&hosts, "other.io"),
        ["https://other.io/ rpw"],
        "one file speaks for one registry"
    );
}

#[test]
fn a_file_without_a_server_ends_at_the_registry_itself() {
    let hosts = load(&[("docker.io", "[host.\"http://m.example\"]")]).unwrap();
    assert_eq!(
        asked(&hosts, "docker.io"),
        ["http://m.example/ rp", "https://registry-1.docker.io/ rpw"]
    );
}

#[test]
fn both_spellings_of_a_port_name_one_registry() {
    let text = "server = \"http://10.0.0.7:5000\"";
    for name in ["10.0.0.7:5000", "10.0.0.7_5000_"] {
        let hosts = load(&[(name, text)]).unwrap();
        assert_eq!(asked(&hosts, "10.0.0.7:5000"), ["http://10.0.0.7:5000/ rpw"], "{name}");
    }
    let hosts = load(&[("r.io:5000", text), ("r.io_5000_", text)]).unwrap();
    let why = hosts.unusable("r.io:5000").unwrap();
    assert!(why.contains("that another folder names too"), "{why}");
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
        ("rewrite = 1", "rewrite must be a table of regular expressions"),
        ("rewrite = { \"(\" = \"a\" }", "rewrite must be a table of regular expressions"),
        ("rewrite = { \"a\" = 1 }", "rewrite must be a table of regular expressions"),
        ("ca = \"/absent.crt\"", "cannot read /absent.crt"),
        ("ca = \"hosts.toml\"", "ca names files that cannot be used: no certificate in it"),
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
        ("server = 1", "server must be a text"),
        ("server = \"ftp://m.io\"", "must begin with https://"),
        ("server = \"https://u:p@m.io\"", "must not hold a user name"),
        ("server = \"https://m.io/?a=b\"", "must not hold a query"),
        ("server = \"https://\"", "must be a URL"),
        ("\n\nserver = ", "line 3"),
    ] {
        let hosts = load(&[("r.io", text), ("s.io", "")]).unwrap();
        let why = hosts.unusable("r.io").expect(text);
        assert!(why.contains(words), "{text}: {why}");
        assert_eq!(asked(&hosts, "r.io"), [""; 0], "nobody is asked otherwise than was meant");
        assert_eq!(hosts.unusable("s.io"), None, "a file costs its own registry alone");
        assert_eq!(asked(&hosts, "s.io"), ["https://s.io/ rpw"]);
    }
}

#[test]
fn a_key_that_is_not_known_has_no_effect() {
    let text =
        "mirror = 1\n[host.\"https://m.io\"]\ncapabilities = [\"pull\", \"referrers\"]\nx = 1";
    let hosts = load(&[("r.io", text)]).unwrap();
    assert_eq!(asked(&hosts, "r.io"), ["https://m.io/ p", "https://r.io/ rpw"]);
    let hosts = load(&[("r.io", "server = \"\"")]).unwrap();
    assert_eq!(asked(&hosts, "r.io"), ["https://r.io/ rpw"], "as without a server");
}

#[test]
fn a_folder_that_no_reference_reaches_is_skipped() {
    let hosts = load(&[("registry", ""), ("r.io:0", ""), ("a b.io", ""), ("r.io", "")]).unwrap();
    assert_eq!(hosts.registries.keys().collect::<Vec<_>>(), ["r.io"]);
    assert!(Hosts::load(Path::new("/absent")).is_err());
}

#[test]
fn a_default_that_cannot_be_used_costs_every_registry_without_a_folder() {
    let hosts = load(&[("_default", "server = 1"), ("r.io", "")]).unwrap();
    assert_eq!(asked(&hosts, "r.io"), ["https://r.io/ rpw"]);
    assert!(hosts.unusable("s.io").unwrap().contains("_default/hosts.toml: server"));
    assert!(hosts.endpoints("s.io").is_empty() && !hosts.names(&"https://s.io".parse().unwrap()));
}

#[test]
fn a_folder_of_certificates_alone_is_dockers() {
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
    let reach = |registry: &str| {
        let endpoints = hosts.endpoints(registry);
        let [one] = endpoints.as_slice() else { panic!("{:?}", hosts.unusable(registry)) };
        let reach = &hosts.reaches()[one.settings.reach];
        (one.url().to_string(), reach.ca.len(), reach.client.is_some())
    };
    assert_eq!(reach("r.io"), ("https://r.io/".to_owned(), 1, false));
    assert_eq!(reach("s.io"), ("https://s.io/".to_owned(), 0, true));
    assert_eq!(reach("v.io"), ("https://v.io/".to_owned(), 0, false));
    assert!(hosts.unusable("t.io").unwrap().contains("client.key"));
    assert!(hosts.unusable("u.io").unwrap().contains("*.crt names files that cannot be used"));
}

#[test]
fn a_mirror_may_have_other_names_for_repositories() {
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
fn the_default_folder_is_for_those_without_one() {
    let text = "skip_verify = true\n[host.\"http://cache.io\"]";
    let hosts = load(&[("_default", text), ("r.io", "")]).unwrap();
    assert_eq!(asked(&hosts, "s.io"), ["http://cache.io/ rp", "https://s.io/ rpw"]);
    assert_eq!(asked(&hosts, "r.io"), ["https://r.io/ rpw"]);
    let reach = |endpoint: &Endpoint| &hosts.reaches()[endpoint.settings.reach];
    let skips = hosts.endpoints("s.io").iter().map(|e| reach(e).skip_verify).collect::<Vec<_>>();
    assert_eq!(skips, [false, true], "a mirror has its own settings");
    assert!(hosts.names(&"http://cache.io/x".parse().unwrap()));
    assert!(!hosts.names(&"https://s.io/".parse().unwrap()), "nobody wrote that");
    let fixed = load(&[("_default", "server = \"http://all.io\"")]).unwrap();
    assert_eq!(asked(&fixed, "s.io"), ["http://all.io/ rpw"]);
}

#[test]
fn settings_are_read_and_never_shown() {
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
        .map(|e| (&hosts.reaches()[e.settings.reach], e.settings.header.len()))
        .map(|(reach, headers)| (reach.skip_verify, reach.dial.map(|d| d.as_millis()), headers))
        .collect();
    assert_eq!(found, [(true, Some(500), 0), (false, None, 0), (false, Some(90_000), 3)]);
    assert!(!format!("{hosts:?}").contains("hush"), "{hosts:?}");
    assert_eq!(hosts.reach(&"https://m.io/token".parse().unwrap()), endpoints[0].settings.reach);
    assert_eq!(hosts.reach(&"https://elsewhere.io/".parse().unwrap()), 0);
}

#[test]
fn only_the_registry_itself_is_its_own() {
    let text = "server = \"http://10.0.0.7:5000\"\n[host.\"http://m.io\"]\n[host.\"https://r.io\"]";
    let hosts = load(&[("r.io", text)]).unwrap();
    let own: Vec<_> = hosts.endpoints("r.io").iter().map(|endpoint| endpoint.own).collect();
    assert_eq!(own, [false, true, true]);
    let hub = load(&[("docker.io", "[host.\"https://registry-1.docker.io\"]")]).unwrap();
    assert!(hub.endpoints("docker.io").iter().all(|endpoint| endpoint.own));
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
    let hosts = load(&[("r.io", "[host.\"https://m.io/api/r\"]\noverride_path = true")]).unwrap();
    let url = hosts.endpoints("r.io")[0].content(&image, "blobs", "x");
    assert_eq!(url.as_str(), "https://m.io/api/r/a/b/blobs/x?ns=r.io");
}

#[test]
fn a_server_takes_pushes_unless_its_file_says_otherwise() {
    let text = "capabilities = [\"pull\"]\n[host.\"https://m.io\"]\ncapabilities = [\"push\"]";
    let hosts = load(&[("r.io", text)]).unwrap();
    assert_eq!(asked(&hosts, "r.io"), ["https://m.io/ w", "https://r.io/ p"]);
}
