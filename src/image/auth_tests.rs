//! Tests of challenges as registries write them, token requests and the token cache.

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
fn the_bearer_challenge_is_found_among_other_challenges() {
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
fn other_challenges_are_basic_unknown_or_malformed() {
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
fn a_token_request_carries_a_password_or_an_identity_token() {
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
fn a_token_is_cached_for_its_server_repository_permission_and_credential_and_never_shown() {
    let token = Token::read(br#"{"token":"hush","expires_in":300}"#).unwrap();
    assert_eq!(token.header, "Bearer hush");
    let tokens = Tokens::default();
    let key = |url, repository, access| {
        Key::new(&Url::parse(url).unwrap(), repository, Grant::Pull, access)
    };
    let owner = Access::Credential([1; 32]);
    let owned = key("https://r.io/x", "a", owner.clone());
    tokens.put(owned, token);
    assert!(tokens.get(&key("https://r.io/y", "a", owner.clone())).is_some());
    for other in [
        key("https://r.io", "b", owner.clone()),
        key("https://r.io:8443", "a", owner.clone()),
        key("http://r.io", "a", owner),
        key("https://r.io/x", "a", Access::Anonymous),
        key("https://r.io/x", "a", Access::Credential([2; 32])),
    ] {
        assert!(tokens.get(&other).is_none(), "{other:?}");
    }
    for grant in [Grant::Push, Grant::Mount("b"), Grant::Delete] {
        let access = Access::Credential([1; 32]);
        let other = Key::new(&Url::parse("https://r.io/x").unwrap(), "a", grant, access);
        assert!(tokens.get(&other).is_none(), "a pull token is not valid for {grant:?}");
    }
    assert!(!format!("{tokens:?}").contains("hush"), "{tokens:?}");
}

#[test]
fn responses_without_a_usable_token_are_rejected_and_not_quoted() {
    assert!(Token::read(br#"{"access_token":"x"}"#).is_ok());
    for response in [&b"<html>hush"[..], b"{}", br#"{"token":"hush\n"}"#, br#"{"token":1}"#] {
        let error = Token::read(response).unwrap_err();
        assert!(!error.to_string().contains("hush"), "{error}");
    }
}

#[test]
fn a_token_request_has_the_scopes_of_its_permission() {
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
        let url = realm.request("a", grant, None).url;
        let requested: Vec<_> = url.query_pairs().map(|(_, scope)| scope.into_owned()).collect();
        assert_eq!(requested, scopes, "{grant:?}");
    }
    let identity = Secret::IdentityToken("t".to_owned());
    let form = bare().request("a", mount, Some(&identity)).form.unwrap();
    let scope = "scope=repository%3Aa%3Apull%2Cpush+repository%3Ab%3Apull&";
    assert!(form.contains(scope), "{form}");
}

#[test]
fn token_responses_are_parsed_in_every_format_of_the_services() {
    let lifetime = |response: &str| {
        let token = Token::read(response.as_bytes()).unwrap_or_else(|e| panic!("{response}: {e}"));
        assert_eq!(token.header, "Bearer t", "{response}");
        (token.until + MARGIN - Instant::now()).as_secs_f64().round() as u64
    };
    for (response, seconds) in [
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
        assert_eq!(lifetime(response), seconds, "{response}");
    }
    for response in
        ["{}", r#"{"token":""}"#, r#"{"token":"","access_token":null}"#, r#"{"token":7}"#]
    {
        assert!(Token::read(response.as_bytes()).is_err(), "{response}");
    }
}

/// A user who names an image chooses the server that issues tokens, and so their number and length.
#[test]
fn cached_tokens_are_limited_and_the_first_to_expire_are_removed_first() {
    let key = |n: usize| {
        let url = Url::parse(&format!("https://r{n}.io")).unwrap();
        Key::new(&url, "a", Grant::Pull, Access::Anonymous)
    };
    let token = |n: usize, length: usize| Token {
        header: header("Bearer", &"x".repeat(length)).unwrap(),
        until: Instant::now() + Duration::from_secs(1000 + n as u64),
    };
    for (length, count) in [(1, TOKENS_MAX), (60 << 10, TOKEN_BYTES_MAX / (60 << 10))] {
        let tokens = Tokens::default();
        (0..=count).for_each(|n| tokens.put(key(n), token(n, length)));
        assert!(tokens.get(&key(0)).is_none() && tokens.get(&key(count)).is_some(), "{length}");
        assert!(tokens.0.lock().len() <= count, "{length}");
    }
}
