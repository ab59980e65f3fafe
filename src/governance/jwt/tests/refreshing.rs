//! Keys that change while the server runs.

use std::{
    collections::HashMap,
    io,
    sync::{Mutex, mpsc},
};

use tempfile::TempDir;

use super::*;

const KEYS_URL: &str = "https://id.example.org/keys";
const DISCOVERY_URL: &str = "https://id.example.org/realms/acme/.well-known/openid-configuration";

/// What is at which address, and what was asked for.
#[derive(Clone, Default)]
struct Web {
    pages: Arc<Mutex<HashMap<String, String>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Web {
    fn put(&self, url: &str, page: impl Into<String>) {
        self.pages.lock().expect("not poisoned").insert(url.to_owned(), page.into());
    }

    fn take_down(&self, url: &str) {
        self.pages.lock().expect("not poisoned").remove(url);
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().expect("not poisoned"))
    }

    fn fetch(&self) -> Option<Fetch> {
        let web = self.clone();
        Some(Box::new(move |url| {
            web.asked.lock().expect("not poisoned").push(url.to_owned());
            let page = web.pages.lock().expect("not poisoned").get(url).cloned();
            page.map(String::into_bytes).ok_or_else(|| io::Error::other("status 503"))
        }))
    }

    fn verifier(&self, url: &str) -> JwtVerifier {
        JwtVerifier::open(common(&format!("keys.url = {url:?}")), self.fetch()).expect("the settings are right")
    }
}

/// The set of the vectors with the key `p256` only, under this id.
fn set_with_id(id: &str) -> String {
    let mut set: serde_json::Value = serde_json::from_str(&data("jwks.json")).expect("JSON");
    let keys = set["keys"].as_array_mut().expect("a list");
    keys.retain(|key| key["kid"] == "p256");
    keys[0]["kid"] = id.into();
    set.to_string()
}

/// One that is signed with the key `p256`.
fn token() -> String {
    let cases: serde_json::Value = serde_json::from_str(&data("tokens.json")).expect("JSON");
    let right = cases["right"].as_array().expect("a list");
    let found = right.iter().find(|case| case["name"] == "PyJWT ES256").expect("it is there");
    found["token"].as_str().expect("text").to_owned()
}

fn replaced(keys: usize) -> Refreshed {
    Refreshed::Replaced { keys, skipped: Vec::new() }
}

#[test]
fn an_address_is_read_at_the_first_refresh_and_then_by_the_interval() {
    let web = Web::default();
    let verifier = web.verifier(KEYS_URL);
    assert_eq!(verifier.verify(&token(), NOW), Err(JwtError::NoKeys));
    assert!(web.asked().is_empty(), "opening fetches nothing");

    web.put(KEYS_URL, set_with_id("p256"));
    assert_eq!(verifier.refresh(Occasion::Interval, NOW).expect("it is up"), replaced(1));
    assert!(verifier.verify(&token(), NOW).is_ok());
    assert_eq!(verifier.refresh(Occasion::Interval, NOW + 3599).expect("no reading"), Refreshed::NotDue);
    assert_eq!(verifier.refresh(Occasion::Interval, NOW + 3600).expect("it is up"), Refreshed::Unchanged);
    assert_eq!(web.asked(), [KEYS_URL, KEYS_URL]);
}

#[test]
fn an_unknown_key_has_an_address_read_once_a_minute() {
    let web = Web::default();
    web.put(KEYS_URL, set_with_id("old"));
    let verifier = web.verifier(KEYS_URL);
    verifier.refresh(Occasion::Interval, NOW - 60).expect("it is up");
    web.asked();

    for _ in 0..100 {
        assert_eq!(verifier.verify_or_refresh(&token(), NOW), Err(JwtError::UnknownKey));
    }
    assert_eq!(web.asked().len(), 1);
    web.put(KEYS_URL, set_with_id("p256"));
    assert_eq!(verifier.verify_or_refresh(&token(), NOW + 59), Err(JwtError::UnknownKey));
    assert!(verifier.verify_or_refresh(&token(), NOW + 60).is_ok());
    assert!(verifier.verify(&token(), NOW + 60).is_ok());
    assert_eq!(web.asked().len(), 1);
}

/// Neither may a stranger have the issuer asked with a token that could not be right with any key.
#[test]
fn tokens_that_no_key_could_help_have_nothing_read() {
    let web = Web::default();
    web.put(KEYS_URL, set_with_id("p256"));
    let verifier = web.verifier(KEYS_URL);
    verifier.refresh(Occasion::Interval, 0).expect("it is up");
    web.asked();
    let good = token();
    let cases = [
        "not a token".to_owned(),
        good[..good.len() - 4].to_owned(),
        good.replacen("ey", "ez", 1),
        // Another issuer's, with a key id that nobody has; and one of no algorithm.
        "eyJhbGciOiJFUzI1NiIsImtpZCI6InUifQ.eyJpc3MiOiJ4In0.AAAA".to_owned(),
        "eyJhbGciOiJub25lIiwia2lkIjoidSJ9.eyJpc3MiOiJ4In0.".to_owned(),
    ];
    for token in cases {
        assert!(verifier.verify_or_refresh(&token, NOW).is_err(), "{token}");
    }
    assert!(web.asked().is_empty());
}

#[test]
fn keys_stay_when_their_address_is_down_or_has_rubbish() {
    let web = Web::default();
    web.put(KEYS_URL, set_with_id("p256"));
    let verifier = web.verifier(KEYS_URL);
    verifier.refresh(Occasion::Interval, NOW).expect("it is up");
    let mut now = NOW + 3600;
    let rubbish = ["<html>", r#"{"keys":[]}"#, r#"{"error":"overloaded"}"#, ""];
    for page in rubbish.map(Some).into_iter().chain([None]) {
        match page {
            Some(page) => web.put(KEYS_URL, page),
            None => web.take_down(KEYS_URL),
        }
        let said = message(verifier.refresh(Occasion::Interval, now));
        assert!(said.contains(KEYS_URL), "{said}");
        assert!(verifier.verify(&token(), NOW).is_ok(), "{page:?}");
        // After a failure it is tried again before the interval is over, but not at once.
        assert_eq!(verifier.refresh(Occasion::Interval, now + 59).expect("no reading"), Refreshed::NotDue);
        now += 60;
    }
    web.put(KEYS_URL, set_with_id("new"));
    assert_eq!(verifier.refresh(Occasion::Interval, now).expect("it is up"), replaced(1));
    assert_eq!(verifier.verify(&token(), NOW), Err(JwtError::UnknownKey), "a key that is withdrawn is refused");
}

#[test]
fn a_clock_that_is_set_back_does_not_stop_the_reading() {
    let web = Web::default();
    web.put(KEYS_URL, set_with_id("p256"));
    let verifier = web.verifier(KEYS_URL);
    for now in [NOW, 0, u64::MAX, NOW] {
        verifier.refresh(Occasion::Interval, now).expect("it is up");
    }
    assert_eq!(web.asked().len(), 4);
}

#[test]
fn the_issuers_metadata_say_where_the_keys_are() {
    let web = Web::default();
    let metadata = |issuer: &str, keys: &str| format!(r#"{{"issuer":{issuer:?},"jwks_uri":{keys:?},"other":1}}"#);
    web.put(DISCOVERY_URL, metadata(ISSUER, KEYS_URL));
    web.put(KEYS_URL, set_with_id("p256"));
    let verifier = web.verifier(DISCOVERY_URL);
    assert_eq!(verifier.refresh(Occasion::Interval, NOW).expect("both are up"), replaced(1));
    assert_eq!(web.asked(), [DISCOVERY_URL, KEYS_URL]);
    assert!(verifier.verify(&token(), NOW).is_ok());

    let wrong = [
        (metadata("https://evil.example", KEYS_URL), "its `issuer` is not the configured one"),
        (metadata(ISSUER, "http://id.example.org/keys"), "jwks_uri = \"http://id.example.org/keys\""),
        (metadata(ISSUER, "https://keys.example.org/keys"), "https://keys.example.org/keys, which is another host"),
        (metadata(ISSUER, "https://id.example.org:8443/keys"), "which is another host or not https"),
        (metadata(ISSUER, "http://localhost/keys"), "which is another host or not https"),
        (metadata(ISSUER, "file:///etc/passwd"), "jwks_uri = \"file:///etc/passwd\""),
        (format!(r#"{{"issuer":{ISSUER:?}}}"#), "it has no `jwks_uri`"),
        (format!(r#"{{"issuer":"x","issuer":{ISSUER:?},"jwks_uri":{KEYS_URL:?}}}"#), "each name is there once"),
        (metadata(ISSUER, KEYS_URL) + &" ".repeat(MOST_KEY_SET_BYTES), "it has more than 256 KiB"),
    ];
    for (index, (page, expected)) in wrong.into_iter().enumerate() {
        web.put(DISCOVERY_URL, page);
        let said = message(verifier.refresh(Occasion::Interval, NOW + 3600 * (index as u64 + 1)));
        assert!(said.contains(expected), "{said}");
        assert_eq!(web.asked(), [DISCOVERY_URL]);
        assert!(verifier.verify(&token(), NOW).is_ok());
    }
}

#[test]
fn keys_are_at_another_host_only_if_the_file_names_it() {
    let web = Web::default();
    let keys_url = "https://Keys.example.org/keys";
    web.put(DISCOVERY_URL, format!(r#"{{"issuer":{ISSUER:?},"jwks_uri":{keys_url:?}}}"#));
    web.put(keys_url, set_with_id("p256"));
    let refreshed = |hosts: &str| {
        let config = common(&format!("keys.url = {DISCOVERY_URL:?}\nkeys.hosts = [{hosts}]"));
        let verifier = JwtVerifier::open(config, web.fetch()).expect("the settings are right");
        verifier.refresh(Occasion::Interval, NOW)
    };
    assert_eq!(refreshed(r#""other.example.org", "keys.example.org""#).expect("it is named"), replaced(1));
    assert!(message(refreshed(r#""example.org", "keys.example.org:8443""#)).contains("name the host in keys.hosts"));
    assert_eq!(web.asked().iter().filter(|url| *url == keys_url).count(), 1);
}

#[test]
fn nobody_waits_for_another_who_reads() {
    let (entered, has_entered) = mpsc::channel();
    let (go, may_go) = mpsc::channel::<()>();
    let may_go = Mutex::new(may_go);
    let fetch: Fetch = Box::new(move |_| {
        entered.send(()).expect("the test waits");
        may_go.lock().expect("not poisoned").recv().expect("the test says when");
        Ok(set_with_id("p256").into_bytes())
    });
    let verifier = JwtVerifier::open(common(&format!("keys.url = {KEYS_URL:?}")), Some(fetch)).expect("right");
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| verifier.verify_or_refresh(&token(), NOW));
        has_entered.recv().expect("it is read");
        assert_eq!(verifier.refresh(Occasion::Interval, NOW + 9999).expect("no reading"), Refreshed::NotDue);
        assert_eq!(verifier.verify_or_refresh(&token(), NOW), Err(JwtError::NoKeys));
        go.send(()).expect("it waits");
        assert!(reading.join().expect("no panic").is_ok());
    });
}

#[test]
fn a_file_that_changes_is_read_again_and_a_bad_one_is_not_used() {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("jwks.json");
    let write = |text: &str| std::fs::write(&path, text).expect("it is written");
    let open = || JwtVerifier::open(common(&format!("keys.file = {path:?}")), None);

    assert!(message(open()).starts_with("cannot read "), "there is none yet");
    write("{}");
    assert!(message(open()).ends_with("it has no list `keys`, so it is no JWK set"));
    write(&set_with_id("old"));
    let verifier = open().expect("it is right");
    assert_eq!(verifier.refresh(Occasion::Interval, NOW).expect("it is right"), Refreshed::Unchanged);
    assert_eq!(verifier.verify(&token(), NOW), Err(JwtError::UnknownKey));

    write("{ half of a fi");
    assert!(verifier.refresh(Occasion::Interval, NOW + 5).is_err());
    write(&set_with_id("p256"));
    assert_eq!(verifier.refresh(Occasion::Interval, NOW + 6).expect("it is right"), replaced(1));
    assert!(verifier.verify(&token(), NOW).is_ok());
    std::fs::remove_file(&path).expect("it is removed");
    assert!(message(verifier.refresh(Occasion::Interval, NOW + 11)).starts_with("cannot read "));
    assert!(verifier.verify(&token(), NOW).is_ok());
    // Of the same length as the last good one, and so soon that the clock of a file system may not tell them apart.
    write(&set_with_id("p265"));
    assert!(verifier.verify_or_refresh(&token(), NOW + 12).is_ok(), "its key is known, so nothing is read");
    assert_eq!(verifier.refresh(Occasion::Interval, NOW + 12).expect("it is right"), replaced(1));
    assert_eq!(verifier.verify(&token(), NOW), Err(JwtError::UnknownKey));
    write(&set_with_id("p256"));
    assert!(verifier.verify_or_refresh(&token(), NOW + 13).is_ok());
}

#[test]
fn an_address_without_a_way_to_read_it_is_an_error() {
    let result = JwtVerifier::open(common(&format!("keys.url = {KEYS_URL:?}")), None);
    assert_eq!(message(result), format!("the keys are at {KEYS_URL}, and nothing may be fetched"));
}

#[test]
fn a_file_of_keys_has_nothing_fetched() {
    let web = Web::default();
    let settings = common(&format!("keys.file = {:?}", data_path("jwks.json")));
    let verifier = JwtVerifier::open(settings, web.fetch()).expect("it is right");
    verifier.refresh(Occasion::Interval, NOW).expect("it is right");
    assert!(verifier.verify_or_refresh(&token(), NOW).is_ok());
    assert!(web.asked().is_empty());
}

/// Nobody is told that his key is withdrawn before the issuer's keys are known.
#[test]
fn a_key_is_withdrawn_once_the_keys_are_known_and_it_is_not_among_them() {
    let web = Web::default();
    web.put(KEYS_URL, set_with_id("p256"));
    let verifier = web.verifier(KEYS_URL);
    verifier.refresh(Occasion::Interval, NOW).expect("it is up");
    let signer = verifier.verify(&token(), NOW).expect("it is right").signer;
    let anew = web.verifier(KEYS_URL);
    let changes = anew.key_changes().expect("it has an address");
    assert!(!verifier.has_withdrawn(&signer) && !anew.has_withdrawn(&signer));
    web.put(KEYS_URL, set_with_id("other"));
    anew.refresh(Occasion::Interval, NOW).expect("it is up");
    assert!(anew.has_withdrawn(&signer) && changes.has_changed().expect("it is there"));
    // Where there is no way to any, the key is none of them.
    assert!(super::verifier("secret").has_withdrawn(&signer));
    assert!(!super::verifier("public").has_withdrawn(&signer));
}
