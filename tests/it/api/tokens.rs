//! Tokens of issuers, through the whole server: signed here, so that they are valid now.

use std::{fs, path::Path, time::SystemTime};

use axum::{
    body::Body,
    http::{Request, header::AUTHORIZATION},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use serde_json::{Value, json};
use tramontane::governance::{Actor, Governance, GovernanceError, Issuers, Refusal, Role};

use super::{
    support::{Answer, Harness, Script, command_line, new_key, says, send, soon},
    tenancy::Bearer,
};

pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs()
}

/// An issuer with one key.
pub(super) struct Issuer {
    key: EcdsaKeyPair,
    random: SystemRandom,
}

impl Issuer {
    pub(super) fn new() -> Self {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random);
        Self { key: key.expect("a key"), random }
    }

    pub(super) fn key_set(&self) -> Value {
        let point = self.key.public_key().as_ref(); // 4, x, y
        let [x, y] = [1, 33].map(|at| URL_SAFE_NO_PAD.encode(&point[at..at + 32]));
        json!({ "keys": [{ "kty": "EC", "crv": "P-256", "kid": "one", "alg": "ES256", "use": "sig", "x": x, "y": y }] })
    }

    pub(super) fn token(&self, more: Value) -> String {
        self.token_with(json!({ "alg": "ES256", "kid": "one", "typ": "JWT" }), more)
    }

    pub(super) fn token_with(&self, header: Value, more: Value) -> String {
        let now = now();
        let mut claims = json!({
            "iss": "https://id.example.org", "aud": "tramontane", "sub": "somebody", "iat": now, "exp": now + 600,
            "groups": ["llm-developers"], "tenant": "acme",
        });
        for (name, value) in more.as_object().expect("an object") {
            claims[name] = value.clone();
        }
        let signed = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
        let signature = self.key.sign(&self.random, signed.as_bytes()).expect("a signature");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

const IDENTITIES: &str = r#"
[[issuer]]
issuer = "https://id.example.org"
audiences = ["tramontane"]
keys = { file = "KEYS" }
[issuer.claims]
tenant = "tenant"
roles = "groups"
[issuer.role_map]
llm-developers = "developer"
llm-auditors = "auditor"
"#;

pub(super) fn governed(issuer: &Issuer, directory: &Path) -> (Harness, Governance) {
    governed_saying(says("Hi"), &issuer.key_set(), directory)
}

pub(super) fn governed_saying(script: Script, key_set: &Value, directory: &Path) -> (Harness, Governance) {
    let keys = directory.join("keys.json");
    fs::write(&keys, key_set.to_string()).expect("it can be written");
    let file = directory.join("identities.toml");
    fs::write(&file, IDENTITIES.replace("KEYS", keys.to_str().expect("UTF-8"))).expect("it can be written");
    let issuers = Issuers::open(&file, None).expect("they are right");
    let governance = Governance::in_memory().expect("memory").with_issuers(issuers);
    command_line(&governance).create_tenant("acme", None, 1).expect("it is made");
    (Harness::governed(script, governance.clone()), governance)
}

async fn ask(harness: &Harness, method: &str, path: &str, token: &str) -> Answer {
    let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    let request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    let body = json!({ "model": "tiny", "messages": [{ "role": "user", "content": "Hello" }] }).to_string();
    send(harness.app(), request.body(Body::from(body)).expect("a valid request")).await
}

async fn chat(harness: &Harness, token: &str) -> Answer {
    ask(harness, "POST", "/v1/chat/completions", token).await
}

#[tokio::test]
async fn an_issuers_word_is_taken() {
    let (issuer, directory) = (Issuer::new(), tempfile::tempdir().expect("a directory"));
    let (harness, _) = governed(&issuer, directory.path());
    assert_eq!(ask(&harness, "GET", "/v1/models", "").await.status, 401, "an issuer is a source of identities");
    let answer = chat(&harness, &issuer.token(json!({}))).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let auditor = issuer.token(json!({ "groups": "llm-auditors" }));
    assert_eq!(chat(&harness, &auditor).await.error(), r#"403 null "permission_denied""#);
    assert_eq!(ask(&harness, "GET", "/v1/models", &auditor).await.status, 200);
    let late = issuer.token(json!({ "iat": now() - 600, "exp": now() - 10 }));
    assert_eq!(chat(&harness, &late).await.status, 200, "clocks differ by a minute");
    let nobody = issuer.token(json!({ "groups": ["developer", "admin"] }));
    assert_eq!(chat(&harness, &nobody).await.status, 403, "only what is mapped is a role");
}

#[tokio::test]
async fn what_is_wrong_with_a_token_is_told_by_a_code() {
    let (issuer, directory) = (Issuer::new(), tempfile::tempdir().expect("a directory"));
    let (harness, _) = governed(&issuer, directory.path());
    let unsigned = |token: String, header: Value| {
        let (_, rest) = token.split_once('.').expect("three parts");
        format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header.to_string()))
    };
    let good = || issuer.token(json!({}));
    let without_signature = format!("{}.", good().rsplit_once('.').expect("three parts").0);
    for (token, code) in [
        (issuer.token(json!({ "exp": 1_000_000_000 })), "token_expired"),
        (issuer.token(json!({ "nbf": 4_000_000_000_u64 })), "token_not_yet_valid"),
        (issuer.token(json!({ "aud": "another" })), "token_wrong_audience"),
        (issuer.token(json!({ "iss": "https://evil.example.org" })), "token_unknown_issuer"),
        (issuer.token(json!({ "tenant": "nobody" })), "token_unknown_tenant"),
        (issuer.token(json!({ "tenant": "../acme" })), "token_unknown_tenant"),
        (Issuer::new().token(json!({})), "token_bad_signature"),
        (unsigned(good(), json!({ "alg": "none" })), "token_algorithm_not_allowed"),
        (unsigned(good(), json!({ "alg": "HS256", "kid": "one" })), "token_algorithm_not_allowed"),
        (unsigned(good(), json!({ "alg": "ES256", "kid": "../../etc/passwd" })), "token_unknown_key"),
        (unsigned(good(), json!({ "alg": "ES256", "jwk": {} })), "token_header_refused"),
        (without_signature, "token_bad_signature"),
        ("a.b.c".to_owned(), "token_malformed"),
    ] {
        let answer = chat(&harness, &token).await;
        assert_eq!(answer.error(), format!("401 null \"{code}\""), "{}", answer.body);
        assert!(!answer.body.contains(&token));
    }
}

#[tokio::test]
async fn a_key_that_the_issuer_adds_is_found_when_it_is_needed() {
    let (issuer, next) = (Issuer::new(), Issuer::new());
    let directory = tempfile::tempdir().expect("a directory");
    let (harness, _) = governed(&issuer, directory.path());
    let token = || next.token_with(json!({ "alg": "ES256", "kid": "two" }), json!({}));
    assert_eq!(chat(&harness, &token()).await.error(), r#"401 null "token_unknown_key""#);
    let mut keys = issuer.key_set();
    let mut added = next.key_set()["keys"][0].take();
    added["kid"] = "two".into();
    keys["keys"].as_array_mut().expect("a list").push(added);
    fs::write(directory.path().join("keys.json"), keys.to_string()).expect("it can be written");
    // It has looked for the key just now, and looks once a second at most.
    soon("the key is found", async || (chat(&harness, &token()).await.status == 200).then_some(())).await;
}

#[test]
fn files_of_identities_that_are_wrong() {
    let directory = tempfile::tempdir().expect("a directory");
    let keys = directory.path().join("keys.json");
    fs::write(&keys, Issuer::new().key_set().to_string()).expect("it can be written");
    let right = IDENTITIES.replace("KEYS", keys.to_str().expect("UTF-8"));
    let refused = |text: &str| {
        let file = directory.path().join("identities.toml");
        fs::write(&file, text).expect("it can be written");
        Issuers::open(&file, None).err().expect("it is wrong").to_string()
    };
    for (text, expected) in [
        (right.replace("\"developer\"", "\"boss\""), "role = \"boss\": expected admin"),
        (right.clone() + &right, "issuer = \"https://id.example.org\": it is there twice"),
        (right.replace("audiences", "audience"), "audience"),
        (right.replace("keys.json", "nothing.json"), "nothing.json"),
        (
            right.replace(&format!("file = \"{}\"", keys.display()), "url = \"https://id.example.org/keys\""),
            "in offline mode keys can only come from a file",
        ),
    ] {
        let error = refused(&text);
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn a_token_ends_with_its_tenant() {
    let (issuer, directory) = (Issuer::new(), tempfile::tempdir().expect("a directory"));
    let (harness, governance) = governed(&issuer, directory.path());
    let token = issuer.token(json!({}));
    assert_eq!(chat(&harness, &token).await.status, 200);
    let now = now();
    let bearer = governance.authenticate(&token, now).expect("it is believed");
    command_line(&governance).delete_tenant("acme", now).expect("it is there");
    assert_eq!(bearer.until_over().await, Refusal::UnknownTenant, "what it is being answered ends");
    assert_eq!(chat(&harness, &token).await.error(), r#"401 null "token_unknown_tenant""#);
    command_line(&governance).create_tenant("acme", None, now).expect("it is made");
    assert_eq!(chat(&harness, &token).await.status, 200, "it is another tenant of that name");
}

/// Replaces text in the file of identities, which is read again.
pub(super) fn change(governance: &Governance, directory: &Path, from: &str, to: &str) -> Result<(), GovernanceError> {
    let file = directory.join("identities.toml");
    let text = fs::read_to_string(&file).expect("it is there");
    assert!(text.contains(from), "{from} in {text}");
    fs::write(&file, text.replace(from, to)).expect("it can be written");
    governance.administered_by(&Actor::Signal).reload_identities(1)
}

#[tokio::test]
async fn tokens_are_what_the_file_makes_of_them_now() {
    let (issuer, directory) = (Issuer::new(), tempfile::tempdir().expect("a directory"));
    let (harness, governance) = governed(&issuer, directory.path());
    let token = issuer.token(json!({}));
    let now = now();
    let change = |from: &str, to: &str| change(&governance, directory.path(), from, to);
    let bearer = governance.authenticate(&token, now).expect("it is believed");
    change("roles = \"groups\"", "roles = \"groups\"").expect("nothing is another");
    assert_eq!(chat(&harness, &token).await.status, 200);
    change("\"developer\"", "\"auditor\"").expect("it is right");
    assert_eq!(bearer.until_over().await, Refusal::Withdrawn, "what it is being answered ends");
    assert_eq!(chat(&harness, &token).await.error(), r#"403 null "permission_denied""#);
    let bearer = governance.authenticate(&token, now).expect("it is believed");
    // Whoever is wrong about what he writes changes nothing, nor does he have the server ask elsewhere.
    change("\"auditor\"", "\"boss\"").expect_err("there is no such role");
    assert_eq!(chat(&harness, &token).await.error(), r#"403 null "permission_denied""#);
    change("\"boss\"", "\"developer\"").expect("it is right");
    assert_eq!(chat(&harness, &token).await.status, 200);
    change("https://id.example.org", "https://id.example.com").expect("it is right");
    assert_eq!(bearer.until_over().await.to_string(), chat_refusal(&harness, &token).await);
    change("https://id.example.com", "https://id.example.org").expect("it is right");
    assert_eq!(chat(&harness, &token).await.status, 200);
    let keys = format!("file = \"{}\"", directory.path().join("keys.json").display());
    let fetched = change(&keys, "url = \"https://id.example.org/keys\"").expect_err("nobody may fetch it");
    assert!(fetched.to_string().contains("keys.url"), "{fetched}");
}

async fn chat_refusal(harness: &Harness, token: &str) -> String {
    let answer = chat(harness, token).await;
    assert_eq!(answer.error(), r#"401 null "token_unknown_issuer""#);
    let message = answer.json()["error"]["message"].as_str().expect("a message").to_owned();
    message.trim_start_matches("Access is denied: ").trim_end_matches('.').to_owned()
}

#[test]
fn another_address_of_keys_waits_for_a_new_start() {
    let (issuer, directory) = (Issuer::new(), tempfile::tempdir().expect("a directory"));
    let (keys, file) = (directory.path().join("keys.json"), directory.path().join("identities.toml"));
    fs::write(&keys, issuer.key_set().to_string()).expect("it can be written");
    fs::write(&file, IDENTITIES.replace("KEYS", keys.to_str().expect("UTF-8"))).expect("it can be written");
    let issuers = Issuers::open(&file, Some(|_| panic!("nothing is fetched"))).expect("they are right");
    let governance = Governance::in_memory().expect("memory").with_issuers(issuers);
    let from = format!("file = \"{}\"", keys.display());
    let refused = change(&governance, directory.path(), &from, "url = \"https://id.example.org/keys\"");
    let refused = refused.expect_err("it would leave the machine").to_string();
    assert!(
        refused.contains("keys.url = \"https://id.example.org/keys\"") && refused.contains("new start"),
        "{refused}"
    );
}

/// Work for later is not done with roles that its bearer would not be given now.
#[tokio::test]
async fn what_a_token_has_asked_for_ends_with_what_was_said_of_its_issuer() {
    let (issuer, directory) = (Issuer::new(), tempfile::tempdir().expect("a directory"));
    let (harness, governance) = governed(&issuer, directory.path());
    let asks = Bearer::with(&harness, issuer.token(json!({ "tenant": "default" })));
    let looks = Bearer::with(&harness, new_key(&governance, "looks", "default", Role::Developer).secret);
    let body = json!({ "model": "tiny", "input": "Hello", "background": true });
    let queued = [asks.post("/v1/responses", body.clone()).await, looks.post("/v1/responses", body).await];
    change(&governance, directory.path(), "\"developer\"", "\"auditor\"").expect("it is right");
    let _worker = harness.background();
    let mut ended = Vec::new();
    for response in &queued {
        let path = format!("/v1/responses/{}", response["id"].as_str().expect("an id"));
        let is_over = |it: &Value| it["status"] != "queued" && it["status"] != "in_progress";
        ended.push(soon("it ends", async || Some(looks.get(&path).await).filter(is_over)).await);
    }
    assert_eq!((&ended[0]["status"], &ended[1]["status"]), (&json!("failed"), &json!("completed")), "{ended:?}");
    let message = ended[0]["error"]["message"].as_str().expect("a message");
    assert!(message.contains("was changed since it was shown"), "{message}");
}
