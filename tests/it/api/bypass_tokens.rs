//! Ways around the door with tokens of issuers, which pretend to be what they are not.

use serde_json::json;

use super::{
    bypass::{CHAT, all_are_answered, all_are_refused, post},
    server::Running,
    tokens::{self, Issuer, now},
};

#[tokio::test]
async fn tokens_that_pretend() {
    let (issuer, directory) = (Issuer::new(), tempfile::tempdir().expect("a directory"));
    let (harness, _) = tokens::governed(&issuer, directory.path());
    let running = Running::start(harness).await;
    let key_set = issuer.key_set().to_string();
    let hidden_path = directory.path().join("keys.json");
    let kid = hidden_path.to_str().expect("UTF-8");
    let mut requests = Vec::new();
    for token in [
        issuer.token_with(json!({ "alg": "none" }), json!({})),
        issuer.token_with(json!({ "alg": "None", "kid": "one" }), json!({})),
        issuer.token_with(json!({ "alg": "nOnE", "kid": "one" }), json!({})),
        issuer.token_with(json!({ "alg": ["ES256"], "kid": "one" }), json!({})),
        issuer.token_with(json!({ "alg": "HS256", "kid": "one" }), json!({})),
        issuer.token_with(json!({ "alg": "ES384", "kid": "one" }), json!({})),
        issuer.token_with(json!({ "alg": "ES256 ", "kid": "one" }), json!({})),
        issuer.token_with(json!({ "alg": "", "kid": "one" }), json!({})),
        issuer.token_with(json!({ "kid": "one" }), json!({})),
        issuer.token_with(json!({ "alg": "ES256", "kid": ["one"] }), json!({})),
        issuer.token_with(json!({ "alg": "ES256", "kid": "one " }), json!({})),
        issuer.token_with(json!({ "alg": "ES256", "kid": "ONE" }), json!({})),
        issuer.token_with(json!({ "alg": "ES256", "kid": "one", "b64": false }), json!({})),
        issuer.token_with(json!({ "alg": "ES256", "kid": "one", "zip": "DEF" }), json!({})),
        issuer.token_with(json!({ "alg": "ES256", "kid": "one", "typ": "logout+jwt" }), json!({})),
        issuer.token_with(json!({ "alg": "ES256", "kid": kid }), json!({})),
        issuer.token_with(json!({ "alg": "ES256", "kid": "../../../../dev/null" }), json!({})),
        issuer.token_with(json!({ "alg": "ES256", "kid": "' OR 1=1 --" }), json!({})),
        issuer.token_with(json!({ "alg": "ES256", "kid": "one\u{0}" }), json!({})),
        issuer.token_with(json!({ "alg": "ES256", "kid": "one", "crit": ["exp"] }), json!({})),
        issuer.token_with(json!({ "alg": "ES256", "kid": "one", "jwk": key_set }), json!({})),
        issuer.token_with(json!({ "alg": "ES256", "kid": "one", "jku": "http://127.0.0.1/keys" }), json!({})),
        issuer.token_with(json!({ "alg": "ES256", "kid": "one", "x5u": "http://127.0.0.1/keys" }), json!({})),
        issuer.token(json!({ "aud": "another" })),
        issuer.token(json!({ "aud": ["another"] })),
        issuer.token(json!({ "aud": "Tramontane" })),
        issuer.token(json!({ "aud": null })),
        issuer.token(json!({ "exp": 1 })),
        issuer.token(json!({ "exp": now() - 90 })),
        issuer.token(json!({ "iat": now() + 90 })),
        issuer.token(json!({ "exp": now() + 200_000 })),
        issuer.token(json!({ "exp": null })),
        issuer.token(json!({ "exp": "9999999999" })),
        issuer.token(json!({ "exp": 1e300 })),
        issuer.token(json!({ "nbf": 9_999_999_999_u64 })),
        issuer.token(json!({ "iss": "https://id.example.org/" })),
        issuer.token(json!({ "iss": ["https://id.example.org"] })),
        issuer.token(json!({ "sub": "" })),
        issuer.token(json!({ "sub": ["somebody"] })),
        issuer.token(json!({ "tenant": ["acme"] })),
        issuer.token(json!({ "more": "a".repeat(9000) })),
        issuer.token(json!({ "tenant": "default\u{0}" })),
        Issuer::new().token(json!({})),
        issuer.token(json!({})) + "=",
        issuer.token(json!({})) + ".",
        issuer.token(json!({})).replace('.', ".."),
    ] {
        requests.push(post(CHAT, &format!("Connection: close\r\nAuthorization: Bearer {token}\r\n")));
    }
    let good = issuer.token(json!({}));
    requests.push(post(&format!("{CHAT}?access_token={good}&token={good}"), "Connection: close\r\n"));
    requests.push(post(CHAT, &format!("Connection: close\r\nCookie: token={good}\r\nX-Id-Token: {good}\r\n")));
    requests.push(post(CHAT, &format!("Connection: close\r\nAuthorization: Bearer {good}, Bearer {good}\r\n")));
    for group in requests.chunks(16) {
        all_are_refused(&running, group.to_vec()).await;
    }
    // A token that is right is believed, in each form that it may have.
    let controls = [
        good,
        issuer.token(json!({ "aud": ["another", "tramontane"] })),
        issuer.token(json!({ "exp": now() - 30 })),
        issuer.token(json!({ "nbf": now() + 30 })),
        issuer.token(json!({ "more": "a".repeat(3000) })),
        issuer.token_with(json!({ "alg": "ES256" }), json!({})),
        issuer.token_with(json!({ "alg": "ES256", "kid": "one", "typ": "application/at+JWT" }), json!({})),
    ];
    for scheme in ["Bearer", "bearer"] {
        let with = |token: &String| post(CHAT, &format!("Connection: close\r\nAuthorization: {scheme} {token}\r\n"));
        all_are_answered(&running, 1, controls.iter().map(with).collect()).await;
    }
}
