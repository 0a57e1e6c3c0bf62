//! Tests of references: the names that users write, and that every reference parses to itself again.

use proptest::prelude::*;
use url::Url;

use super::*;

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn names_of_users_become_canonical_references() {
    let pinned = format!("@sha256:{HEX}");
    for (text, canonical) in [
        ("alpine", "docker.io/library/alpine:latest".to_owned()),
        ("alpine:3.22", "docker.io/library/alpine:3.22".to_owned()),
        ("team/tool", "docker.io/team/tool:latest".to_owned()),
        ("docker.io/alpine", "docker.io/library/alpine:latest".to_owned()),
        ("index.docker.io/alpine", "docker.io/library/alpine:latest".to_owned()),
        ("localhost/a", "localhost/a:latest".to_owned()),
        ("localhost:5000", "docker.io/library/localhost:5000".to_owned()),
        ("localhost:5000/a", "localhost:5000/a:latest".to_owned()),
        ("Registry.Example/a", "registry.example/a:latest".to_owned()),
        ("10.0.0.7:5000/a/b__c/d--e.f:X_1", "10.0.0.7:5000/a/b__c/d--e.f:X_1".to_owned()),
        ("[fd00::7]:5000/a", "[fd00::7]:5000/a:latest".to_owned()),
        ("[fd00::7]/a:1", "[fd00::7]/a:1".to_owned()),
        (&format!("alpine{pinned}"), format!("docker.io/library/alpine{pinned}")),
        (&format!("r.io/a:1{pinned}"), format!("r.io/a:1{pinned}")),
        (&format!("a:{}", "t".repeat(128)), format!("docker.io/library/a:{}", "t".repeat(128))),
    ] {
        assert_eq!(text.parse::<Reference>().expect(text).to_string(), canonical, "{text}");
    }
}

#[test]
fn a_reference_is_split_into_its_parts() {
    let r: Reference = format!("r.io:8443/a/b:1@sha256:{HEX}").parse().unwrap();
    assert_eq!((r.registry(), r.repository(), r.tag()), ("r.io:8443", "a/b", Some("1")));
    assert_eq!(r.digest(), Some(&ManifestDigest::of(b"")));
    let pinned: Reference = format!("a@sha256:{HEX}").parse().unwrap();
    assert_eq!(pinned.tag(), None, "a digest needs no tag");
}

#[test]
fn an_invalid_reference_is_rejected_with_the_rule_that_it_breaks() {
    for (text, words) in [
        ("", "is empty"),
        ("https://r.io/a", "without https://"),
        ("Alpine", "lower-case; \"Alpine\""),
        ("FOO/bar", "lower-case; \"FOO\""),
        ("a//b", "part \"\""),
        ("/a", "part \"\""),
        ("a/", "part \"\""),
        ("r.io/", "part \"\""),
        ("a___b", "part \"a___b\""),
        ("a..b/c/d", "registry \"a..b\""),
        ("a/b..c", "part \"b..c\""),
        ("a/../b", "part \"..\""),
        ("a/b c", "part \"b c\""),
        ("a/b\n", "part \"b\\n\""),
        ("a/b%2f", "part \"b%2f\""),
        ("a/b?x=1", "part \"b?x=1\""),
        ("é", "part \"é\""),
        ("a:", "tag \"\""),
        ("a:.b", "tag \".b\""),
        ("a:b/c", "registry \"a:b\""),
        ("a:1:2", "part \"a:1\""),
        (&format!("a:{}", "t".repeat(129)), "128"),
        ("a@", "is not a digest"),
        ("a@sha512:00", "is not a digest"),
        (&format!("a@sha256:{HEX}@sha256:{HEX}"), "is not a digest"),
        ("a:1@sha256:XYZ", "is not a digest"),
        ("r.io:0/a", "registry \"r.io:0\""),
        ("r.io:65536/a", "65535"),
        ("r.io:+1/a", "registry"),
        ("r.io:/a", "registry"),
        ("user:pw@r.io/a", "is not a digest"),
        ("-r.io/a", "registry \"-r.io\""),
        ("r_x.io/a", "registry"),
        ("127.1/a", "registry \"127.1\""),
        ("0x7f.0.0.0x1/a", "registry"),
        ("2130706433:80/a", "registry"),
        ("[::1/a", "registry"),
        ("[fe80::1%25eth0]:1/a", "registry"),
        ("[1:2:3]/a", "registry"),
        ("[127.0.0.1]/a", "registry"),
        ("r.io:05000/a", "registry"),
        ("[::1]@x/a", "is not a digest"),
        ("xn--a.io/a", "registry"),
        (HEX, "image id"),
        (&format!("r.io/{}", "a".repeat(251)), "255"),
    ] {
        let error = text.parse::<Reference>().expect_err(text).to_string();
        assert!(error.contains(words), "{text}: {error}");
    }
}

#[test]
fn the_longest_name_is_accepted() {
    assert!(format!("r.io/{}", "a".repeat(250)).parse::<Reference>().is_ok());
}

#[test]
fn a_reference_is_a_string_in_records() {
    let r: Reference = "r.io/a".parse().unwrap();
    let json = serde_json::to_string(&r).unwrap();
    assert_eq!(json, r#""r.io/a:latest""#);
    assert_eq!(serde_json::from_str::<Reference>(&json).unwrap(), r);
    assert!(serde_json::from_str::<Reference>(r#""A""#).is_err());
}

proptest! {
    #[test]
    fn a_displayed_reference_parses_to_itself(
        registry in proptest::option::of("[a-z0-9][a-z0-9-]{0,5}[a-z]\\.(io|example)(:[1-9][0-9]{0,3})?"),
        path in "[a-z0-9]{1,5}((_|__|-{1,3})[a-z0-9]{1,5}){0,2}(/[a-z0-9]{1,4}(\\.[a-z0-9]{1,3})?){0,3}",
        tag in proptest::option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}"),
        digest in proptest::option::of(any::<[u8; 4]>()),
    ) {
        let mut text = registry.map(|r| r + "/").unwrap_or_default() + &path;
        if let Some(tag) = tag { text += &format!(":{tag}"); }
        if let Some(seed) = digest { text += &format!("@{}", ManifestDigest::of(&seed)); }
        let once: Reference = text.parse().unwrap();
        prop_assert_eq!(once.to_string().parse::<Reference>().unwrap(), once);
    }

    #[test]
    fn no_printable_text_escapes_the_path_of_its_url(text in "[ -~]{0,40}") {
        if let Ok(r) = text.parse::<Reference>() {
            prop_assert_eq!(r.to_string().parse::<Reference>().unwrap(), r.clone());
            let path = format!("/v2/{}/manifests/{}", r.repository(), r.tag().unwrap_or("x"));
            let url = Url::parse(&format!("https://{}{path}", r.registry())).unwrap();
            prop_assert_eq!(url.path(), path);
        }
    }
}

#[test]
fn every_name_of_a_registry_becomes_the_same_registry() {
    for (registry, canonical) in [
        ("docker.io:443", "docker.io"),
        ("index.docker.io", "docker.io"),
        ("Index.docker.io:443", "docker.io"),
        ("registry-1.docker.io", "docker.io"),
        ("registry-1.docker.io:443", "docker.io"),
        ("registry-1.docker.io:5000", "registry-1.docker.io:5000"),
        ("registry-2.docker.io", "registry-2.docker.io"),
        ("[0:0:0:0:0:0:0:1]:5000", "[::1]:5000"),
        ("[0:0::1]", "[::1]"),
        ("[FD00:0::A]:5000", "[fd00::a]:5000"),
        ("[::ffff:127.0.0.1]:80", "[::ffff:7f00:1]:80"),
    ] {
        let reference: Reference = format!("{registry}/a/b:1").parse().expect(registry);
        assert_eq!(reference.to_string(), format!("{canonical}/a/b:1"));
        assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference);
    }
}
