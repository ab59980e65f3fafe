//! Texts that nobody has thought of.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use proptest::prelude::*;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

/// An issuer who signs what it is asked to.
struct Signer {
    key: EcdsaKeyPair,
    random: SystemRandom,
    verifier: JwtVerifier,
}

impl Signer {
    fn new() -> Self {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).expect("a key");
        let point = key.public_key().as_ref();
        let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
        let set = json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "k", "x": x, "y": y}]});
        let directory = TempDir::new().expect("a directory");
        let path = directory.path().join("jwks.json");
        std::fs::write(&path, set.to_string()).expect("it is written");
        let verifier = JwtVerifier::open(common(&format!("keys.file = {path:?}")), None).expect("the key is right");
        Self { key, random, verifier }
    }

    fn sign(&self, header: &[u8], payload: &[u8]) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = self.key.sign(&self.random, signed.as_bytes()).expect("it is signed");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn claims() -> Value {
    json!({"iss": ISSUER, "sub": "someone", "aud": "tramontane", "exp": NOW + 60, "org": {"tenant": "acme"}})
}

const HEADER: &[u8] = br#"{"alg":"ES256","kid":"k"}"#;

/// Every byte, and for each all letters of base64url, the dot, and some that belong to neither.
#[test]
fn a_token_with_any_one_byte_changed_is_refused() {
    const LETTERS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/ \n\0~";
    let signer = Signer::new();
    let token = signer.sign(HEADER, claims().to_string().as_bytes());
    assert!(signer.verifier.verify(&token, NOW).is_ok());
    for position in 0..token.len() {
        for letter in LETTERS.chars().filter(|letter| !token[position..].starts_with(*letter)) {
            let changed = format!("{}{letter}{}", &token[..position], &token[position + 1..]);
            assert!(signer.verifier.verify(&changed, NOW).is_err(), "{letter:?} at {position} of {token}");
        }
        let shorter = format!("{}{}", &token[..position], &token[position + 1..]);
        assert!(signer.verifier.verify(&shorter, NOW).is_err(), "without the letter at {position} of {token}");
        assert!(signer.verifier.verify(&token[..position], NOW).is_err(), "the first {position} letters of {token}");
    }
}

/// JSON of any kind, not only objects.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[a-z]{1,5}", inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn arbitrary_text_is_refused(text in "(?s).{0,200}") {
        prop_assert!(verifier("public").verify(&text, NOW).is_err());
    }

    #[test]
    fn arbitrary_parts_are_refused(header in any::<Vec<u8>>(), payload in any::<Vec<u8>>(), signature in any::<Vec<u8>>()) {
        let parts = [header, payload, signature].map(|part| URL_SAFE_NO_PAD.encode(part));
        prop_assert!(verifier("public").verify(&parts.join("."), NOW).is_err());
    }

    #[test]
    fn arbitrary_claims_decide_as_the_rules_say(
        name in prop::sample::select(vec!["iss", "sub", "aud", "exp", "nbf", "iat", "jti", "org", "realm_access", "dept", "x"]),
        value in any_json(),
        now in prop_oneof![Just(NOW), any::<u64>()],
    ) {
        let signer = Signer::new();
        let mut claims = claims();
        claims[name] = value.clone();
        let result = signer.verifier.verify(&signer.sign(HEADER, claims.to_string().as_bytes()), now);
        // None of the values drawn is one of ours, and what is not read cannot matter.
        match name {
            "iss" => prop_assert_eq!(result, Err(JwtError::UnknownIssuer)),
            "aud" | "org" => prop_assert!(result.is_err()),
            "x" if now == NOW => prop_assert!(result.is_ok()),
            _ => if let Ok(claims) = result {
                prop_assert!(now < claims.expires_at + 60);
                prop_assert!(claims.roles.iter().eq(["service"]));
            },
        }
    }

    #[test]
    fn arbitrary_headers_let_nothing_in_but_what_is_signed_with_es256(
        name in prop::sample::select(vec!["alg", "kid", "typ", "crit", "jwk", "x5t"]),
        value in any_json(),
    ) {
        let signer = Signer::new();
        let header = json!({"alg": "ES256", "kid": "k", (name): value}).to_string();
        let result = signer.verifier.verify(&signer.sign(header.as_bytes(), claims().to_string().as_bytes()), NOW);
        prop_assert_eq!(result.is_ok(), name == "x5t");
    }

    #[test]
    fn arbitrary_bytes_are_no_key_set_and_no_certificate(bytes in any::<Vec<u8>>()) {
        prop_assert!(KeySet::parse(&bytes, "proptest").is_err());
        prop_assert!(CertificateIdentity::from_der(&bytes).is_err());
    }

    #[test]
    fn damaged_key_sets_do_not_panic(position in any::<prop::sample::Index>(), byte: u8, name in prop::sample::select(vec!["jwks.json", "public.pem", "signer.pem"])) {
        let mut text = data(name).into_bytes();
        let position = position.index(text.len());
        text[position] = byte;
        let _ = KeySet::parse(&text, name);
    }
}
