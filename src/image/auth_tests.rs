//! Challenges as registries write them, requests for tokens, and what is kept.

use super::*;

fn read(values: &[&str]) -> Result<Option<Challenge>, Problem> {
    let values = values.iter().map(|v| (WWW_AUTHENTICATE, v.parse().unwrap()));
    Challenge::read(&values.collect())
}

fn realm(values: &[&str]) -> Realm {
    match read(values) {
        Ok(Some(Challenge::Bearer(realm))) => realm,
        other => panic!("{values:?}: {other:?}"),
    }
}

#[test]
fn the_bearer_challenge_is_found_wherever_it_stands() {
    let bearer = r#"Bearer realm="https://auth.io/t?a=b",service="r, \"x\"",error=invalid"#;
    let basic = r#"Basic realm="Bearer realm=evil""#;
    for values in [
        &[bearer][..],
        &[basic, bearer],
        &[&format!("{basic}, {bearer}")],
        &[&format!("Negotiate abc==, {bearer}")],
        &[&bearer.replace("Bearer", "bearer").replace("realm=", "Realm = ")],
    ] {
        let realm = realm(values);
        assert_eq!(realm.url.as_str(), "https://auth.io/t?a=b", "{values:?}");
        assert_eq!(realm.service.as_deref(), Some(r#"r, "x""#), "{values:?}");
        assert_eq!(
            realm.request("a/b", Grant::Pull, None).url.query(),
            Some("a=b&scope=repository%3Aa%2Fb%3Apull&service=r%2C+%22x%22")
        );
    }
    let own = realm(&[r#"Bearer realm="https://a.io",scope="aws""#]);
    let query = own.request("a", Grant::Pull, None).url;
    assert_eq!(query.query(), Some("scope=aws"), "the registry's own scope is used");
}

#[test]
fn anything_else_is_another_challenge_or_none() {
    for (values, found) in [
        (&["Basic realm=\"x\""][..], Ok(Some(Challenge::Basic))),
        (&["basic"], Ok(Some(Challenge::Basic))),
        (&[], Ok(None)),
        (&["Negotiate"], Ok(None)),
        (&["=,=,\"\\"], Ok(None)),
        (&["Bearer"], Err(NO_REALM)),
        (&["Bearer realm=\"/token\""], Err(NO_REALM)),
        (&["Bearer realm=\""], Err(NO_REALM)),
    ] {
        assert_eq!(read(values), found, "{values:?}");
    }
}

#[test]
fn a_secret_goes_into_the_request_by_its_kind() {
    let realm = realm(&[r#"Bearer realm="https://auth.io/t?a=b",service="s""#]);
    let password = Secret::Password { username: "u".to_owned(), password: "p:q".to_owned() };
    let request = realm.request("a", Grant::Pull, Some(&password));
    assert_eq!(request.authorization.unwrap(), "Basic dTpwOnE=");
    assert_eq!((request.form, request.url.as_str().contains("p%3Aq")), (None, false));

    let identity = Secret::IdentityToken("hush&".to_owned());
    let request = realm.request("a", Grant::Pull, Some(&identity));
    assert_eq!((request.url.as_str(), request.authorization), ("https://auth.io/t?a=b", None));
    let form = "grant_type=refresh_token&client_id=ovl-csi&scope=repository%3Aa%3Apull\
                &refresh_token=hush%26&service=s";
    assert_eq!(request.form.as_deref(), Some(form));
}

#[test]
fn a_token_is_kept_for_its_server_repository_and_owner_and_never_shown() {
    let token = Token::read(br#"{"token":"hush","expires_in":300}"#).unwrap();
    assert_eq!(token.header, "Bearer hush");
    let tokens = Tokens::default();
    let key = |url, repository, access| {
        Key::new(&Url::parse(url).unwrap(), repository, Grant::Pull, access)
    };
    let (nobody, somebody) = (Access::Anonymous, Access::Credential([1; 32]));
    let owned = key("https://r.io/x", "a", somebody.clone());
    tokens.put(owned, token);
    assert!(tokens.get(&key("https://r.io/y", "a", somebody.clone())).is_some());
    for other in [
        key("https://r.io", "b", somebody.clone()),
        key("https://r.io:8443", "a", somebody.clone()),
        key("http://r.io", "a", somebody),
        key("https://r.io/x", "a", nobody),
        key("https://r.io/x", "a", Access::Credential([2; 32])),
    ] {
        assert!(tokens.get(&other).is_none(), "{other:?}");
    }
    for grant in [Grant::Push, Grant::Mount("b"), Grant::Delete] {
        let access = Access::Credential([1; 32]);
        let other = Key::new(&Url::parse("https://r.io/x").unwrap(), "a", grant, access);
        assert!(tokens.get(&other).is_none(), "a token to pull is none to {grant:?}");
    }
    assert!(!format!("{tokens:?}").contains("hush"), "{tokens:?}");
}

#[test]
fn answers_without_a_usable_token_are_refused_without_quoting_them() {
    assert!(Token::read(br#"{"access_token":"x"}"#).is_ok());
    for answer in [&b"<html>hush"[..], b"{}", br#"{"token":"hush\n"}"#, br#"{"token":1}"#] {
        let error = Token::read(answer).unwrap_err();
        assert!(!error.to_string().contains("hush"), "{error}");
    }
}

#[test]
fn a_token_is_asked_for_what_it_is_to_be_good_for() {
    let scoped =
        |scope: &str| realm(&[&format!("Bearer realm=\"https://a.io\",scope=\"{scope}\"")]);
    let bare = || realm(&[r#"Bearer realm="https://a.io""#]);
    let (mount, both) = (Grant::Mount("b"), ["repository:a:pull,push", "repository:b:pull"]);
    for (realm, grant, scopes) in [
        (bare(), Grant::Push, &both[..1]),
        (bare(), mount, &both),
        (bare(), Grant::Delete, &["repository:a:delete"]),
        (scoped("repository:a:*"), Grant::Delete, &["repository:a:*"]),
        (scoped("repository:a:pull"), Grant::Push, &both[..1]),
        (scoped("repository:a:pull"), mount, &both),
        (scoped("repository:a:pull,push repository:b:pull"), mount, &both),
        (scoped("repository:a:*"), Grant::Push, &[both[0], "repository:a:*"]),
        (scoped("aws"), mount, &["aws"]),
    ] {
        let asked = realm.request("a", grant, None).url;
        let asked: Vec<_> = asked.query_pairs().map(|(_, scope)| scope.into_owned()).collect();
        assert_eq!(asked, scopes, "{grant:?}");
    }
    let identity = Secret::IdentityToken("t".to_owned());
    let form = bare().request("a", mount, Some(&identity)).form.unwrap();
    let scope = "scope=repository%3Aa%3Apull%2Cpush+repository%3Ab%3Apull&";
    assert!(form.contains(scope), "{form}");
}

#[test]
fn a_token_is_read_as_services_write_it() {
    let lifetime = |answer: &str| {
        let token = Token::read(answer.as_bytes()).unwrap_or_else(|e| panic!("{answer}: {e}"));
        assert_eq!(token.header, "Bearer t", "{answer}");
        (token.until + MARGIN - Instant::now()).as_secs_f64().round() as u64
    };
    for (answer, seconds) in [
        (r#"{"token":"","access_token":"t","expires_in":300}"#, 300),
        (r#"{"token":null,"access_token":"t","expires_in":"300"}"#, 300),
        (r#"{"token":"t","access_token":"","expires_in":300.7}"#, 300),
        (r#"{"token":"t","expires_in":3e2}"#, 300),
        (r#"{"token":"t","expires_in":null}"#, 60),
        (r#"{"token":"t","expires_in":"soon"}"#, 60),
        (r#"{"token":"t","expires_in":-1}"#, 60),
        (r#"{"token":"t","expires_in":1e99}"#, 86_400),
        (r#"{"token":"t"}"#, 60),
    ] {
        assert_eq!(lifetime(answer), seconds, "{answer}");
    }
    for answer in ["{}", r#"{"token":""}"#, r#"{"token":"","access_token":null}"#, r#"{"token":7}"#]
    {
        assert!(Token::read(answer.as_bytes()).is_err(), "{answer}");
    }
}

/// Whoever names an image chooses the server that gives tokens: their number and their length.
#[test]
fn tokens_are_bounded_and_those_that_run_out_first_go_first() {
    let key = |n: usize| {
        let url = Url::parse(&format!("https://r{n}.io")).unwrap();
        Key::new(&url, "a", Grant::Pull, Access::Anonymous)
    };
    let token = |n: usize, length: usize| Token {
        header: header("Bearer", &"x".repeat(length)).unwrap(),
        until: Instant::now() + Duration::from_secs(1000 + n as u64),
    };
    for (length, count) in [(1, HELD_MAX), (60 << 10, HELD_BYTES_MAX / (60 << 10))] {
        let tokens = Tokens::default();
        (0..=count).for_each(|n| tokens.put(key(n), token(n, length)));
        assert!(tokens.get(&key(0)).is_none() && tokens.get(&key(count)).is_some(), "{length}");
        assert!(tokens.0.lock().unwrap().len() <= count, "{length}");
    }
}
