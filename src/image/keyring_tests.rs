//! Tests of keyrings: matching, error messages, and that secrets are never shown.

use serde_json::{Value, json};

use super::*;

fn keyring(auths: Value) -> Keyring {
    Keyring::from_docker_config(json!({ "auths": auths }).to_string().as_bytes()).unwrap()
}

/// The user names for an image, in the order in which they are tried.
fn users(keyring: &Keyring, image: &str) -> Vec<String> {
    let reference: Reference = image.parse().unwrap();
    let found = keyring.credentials(reference.registry(), reference.repository());
    let user = |c: &&Arc<Credential>| match &c.secret {
        Secret::Password { username, .. } => username.clone(),
        other => panic!("{other:?}"),
    };
    found.iter().map(user).collect()
}

#[test]
fn keys_match_images_by_the_kubelets_rules() {
    for (key, image, matched) in [
        ("r.io", "r.io/a:1", true),
        ("https://r.io", "r.io/a:1", true),
        ("http://r.io/", "r.io/a:1", true),
        ("https://r.io/v1/", "r.io/a:1", true),
        ("r.io/v2", "r.io/a:1", true),
        ("r.io/v2/team", "r.io/team/a", true),
        ("r.io/v3", "r.io/a:1", false),
        ("R.io", "r.io/a", true),
        ("s.io", "r.io/a", false),
        ("r.io:5000", "r.io:5000/a", true),
        ("r.io", "r.io:5000/a", false),
        ("r.io:5000", "r.io/a", false),
        ("r.io:443", "r.io/a", false),
        ("[::1]:5000", "[::1]:5000/a", true),
        ("[::1]", "[::1]/a", true),
        ("*.r.io", "a.r.io/x", true),
        ("*.r.io", "a.b.r.io/x", false),
        ("*.r.io", "r.io/x", false),
        ("*.*.io", "a.r.io/x", true),
        ("*.r.io:5000", "a.r.io:5000/x", true),
        ("eu-*.r.io", "eu-1.r.io/x", true),
        ("eu-?.r.io", "eu-12.r.io/x", false),
        ("eu-[0-9].r.io", "eu-7.r.io/x", true),
        ("eu-[^0-9].r.io", "eu-7.r.io/x", false),
        ("r.io/team", "r.io/team/a", true),
        ("r.io/team/a", "r.io/team/a", true),
        ("r.io/team/a/b", "r.io/team/a", false),
        ("r.io/other", "r.io/team/a", false),
        ("r.io/*", "r.io/team/a", false),
        ("https://index.docker.io/v1/", "alpine", true),
        ("index.docker.io", "docker.io/team/a", true),
        ("docker.io", "alpine", true),
        ("docker.io/library", "alpine", true),
        ("docker.io/team", "alpine", false),
        ("index.docker.io", "r.io/alpine", false),
        ("registry-1.docker.io", "alpine", true),
        ("https://registry-1.docker.io:443/v2/", "alpine", true),
        ("docker.io:443", "index.docker.io/a/b", true),
        ("[0:0::1]:5000", "[::1]:5000/a", true),
        ("*", "r.io/a", false),
        ("", "alpine", false),
        ("[", "r.io/a", false),
    ] {
        let keyring = keyring(json!({ key: { "username": "u", "password": "p" } }));
        let reference = image.parse().unwrap();
        assert_eq!(keyring.accesses(&reference).len(), usize::from(matched), "{key} {image}");
    }
}

#[test]
fn the_longest_path_is_tried_first_and_then_the_others() {
    let entry = |user: &str| json!({ "username": user, "password": "p" });
    let pod = keyring(json!({
        "r.io": entry("host"), "r.io/team/deep": entry("deep"), "*.io": entry("glob"),
        "r.io/team": entry("team"), "s.io": entry("other"),
    }));
    assert_eq!(users(&pod, "r.io/team/deep/x"), ["deep", "team", "host", "glob"]);
    assert_eq!(users(&pod, "r.io/x"), ["host", "glob"]);
    let node = keyring(json!({ "r.io/team/deep": entry("node"), "r.io": entry("host") }));
    assert_eq!(users(&pod.and(&node), "r.io/team/deep"), ["deep", "team", "host", "glob", "node"]);
}

#[test]
fn every_form_of_a_secret_is_parsed() {
    let secret = |entry: Value| {
        let keyring = keyring(json!({ "r.io": entry }));
        keyring.0.first().map(|credential| credential.secret.clone())
    };
    let password = |username: &str, password: &str| {
        let (username, password) = (username.to_owned(), password.to_owned());
        Some(Secret::Password { username, password })
    };
    let user_pass = |auth: &str| json!({ "auth": auth, "username": "x", "password": "y" });
    assert_eq!(
        secret(user_pass("dTpwOnE=")),
        password("u", "p:q"),
        "auth wins, the first colon splits"
    );
    assert_eq!(secret(user_pass("dTpwOnE")), password("u", "p:q"), "without padding");
    assert_eq!(
        secret(json!({ "username": "u", "password": "p", "email": "e" })),
        password("u", "p")
    );
    assert_eq!(
        secret(json!({ "auth": "dTo=", "identitytoken": "t" })),
        Some(Secret::IdentityToken("t".to_owned()))
    );
    assert_eq!(
        secret(json!({ "registrytoken": "t" })),
        Some(Secret::RegistryToken("t".to_owned()))
    );
    assert_eq!(secret(json!({})), None, "an empty entry is ignored");
}

#[test]
fn an_invalid_docker_config_is_rejected_and_never_quoted() {
    for (text, words) in [
        ("", "line 1 column 0"),
        ("hush", "line 1 column"),
        (r#"{"auths": "hush"}"#, "line 1 column"),
        (r#"{"auths": {"hush.io": {"auth": 7}}}"#, "line 1 column"),
        ("{}", "has no `auths`"),
        (r#"{"auths": {"hush.io": {"auth": "hush!"}}}"#, "not the base64 of user:password"),
        (r#"{"auths": {"hush.io": {"auth": "aHVzaA=="}}}"#, "not the base64 of user:password"),
        (r#"{"auths": {"hush.io": {"auth": "/zo6"}}}"#, "not the base64 of user:password"),
        (r#"{"auths": {"hush.io": {"username": "hush:", "password": "x"}}}"#, "has a colon"),
        (r#"{"credsStore": "hush"}"#, "such programs are never run"),
        (r#"{"auths": {"hush.io": {}}, "credHelpers": {"hush.io": "hush"}}"#, "never run"),
        (&format!("{{\"auths\": \"{}\"}}", " ".repeat(1 << 20)), "larger than 1 MiB"),
    ] {
        let error = Keyring::from_docker_config(text.as_bytes()).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(shown.contains(words), "{text:.80}: {shown}");
        assert!(!shown.contains("hush"), "{shown}");
        assert_eq!(error.class(), Class::Invalid);
    }
}

#[test]
fn a_credential_helper_is_ignored_if_there_are_credentials() {
    let text =
        r#"{"auths": {"r.io": {"auth": "dTpw"}}, "credsStore": "x", "credHelpers": {"s.io": "y"}}"#;
    let keyring = Keyring::from_docker_config(text.as_bytes()).unwrap();
    let accesses = |image: &str| keyring.accesses(&image.parse().unwrap()).len();
    assert_eq!((accesses("r.io/a"), accesses("s.io/a")), (1, 0));
}

#[test]
fn equal_secrets_have_equal_fingerprints_and_are_never_shown() {
    let image = "r.io/a".parse().unwrap();
    let proof = |user: &str, password: &str| {
        let entry = json!({ "username": user, "password": password });
        let keyring = keyring(json!({ "r.io": entry }));
        let shown = format!("{keyring:?} {:?} {:?}", keyring.accesses(&image), keyring.0[0].secret);
        assert!(!shown.contains("hush"), "{shown}");
        keyring.accesses(&image).remove(0)
    };
    assert_eq!(proof("u", "hush"), proof("u", "hush"));
    assert_ne!(proof("u", "hush"), proof("u", "hush2"));
    assert_ne!(proof("uh", "ush"), proof("u", "hush"), "the boundary between the parts counts");
    let twice = keyring(json!({ "r.io": { "auth": "dTpw" }, "*.io": { "auth": "dTpw" } }));
    assert_eq!(twice.accesses(&image).len(), 1, "one secret is tried once");
}
