//! Tokens of `PyJWT` and `jwcrypto`, and hostile ones put together with Python's `cryptography`:
//! `scripts/make-jwt-vectors`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Cases {
    now: u64,
    right: Vec<Case>,
    wrong: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    config: String,
    token: String,
    refused: Option<String>,
}

fn cases() -> Cases {
    let cases: Cases = serde_json::from_str(&data("tokens.json")).expect("the vectors are JSON");
    assert_eq!(cases.now, NOW);
    cases
}

struct Verifiers(BTreeMap<String, JwtVerifier>);

impl Verifiers {
    fn verify(&mut self, case: &Case) -> Result<Claims, JwtError> {
        let verifier = self.0.entry(case.config.clone()).or_insert_with(|| verifier(&case.config));
        verifier.verify(&case.token, NOW)
    }
}

#[test]
fn tokens_of_other_implementations_are_let_in() {
    let mut verifiers = Verifiers(BTreeMap::new());
    let cases = cases().right;
    assert_eq!(cases.len(), 27, "the vectors are not all there");
    for case in &cases {
        let claims = verifiers.verify(case).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let has_key_id = !case.name.contains("without kid") && case.config != "secret" && case.config != "certificate";
        assert_eq!(claims.signer.key_id.is_some(), has_key_id, "{}", case.name);
        let expected = Claims {
            issuer: ISSUER.to_owned(),
            subject: "6f1c3c1e-4f0e-4d59-9d0e-1f4b1f0b6a01".to_owned(),
            tenant: Some("acme".to_owned()),
            roles: ["admin", "developer", "service"].map(str::to_owned).into(),
            attributes: [("clearance", "3"), ("department", "claims")]
                .map(|(a, b)| (a.to_owned(), b.to_owned()))
                .into(),
            expires_at: NOW + 3600,
            refused_from: NOW + 3660,
            not_before: Some(if case.name.contains("nbf") { NOW + 60 } else { NOW - 60 }),
            token_id: Some("b1946ac92492".to_owned()),
            signer: claims.signer.clone(),
        };
        assert_eq!(claims, expected, "{}", case.name);
    }
}

#[test]
fn hostile_tokens_are_refused_for_the_right_reason() {
    let mut verifiers = Verifiers(BTreeMap::new());
    let cases = cases().wrong;
    assert_eq!(cases.len(), 247, "the vectors are not all there");
    let mut wrong = Vec::new();
    for case in &cases {
        let code = verifiers.verify(case).map_err(|error| error.code());
        if code.as_ref().err().copied() != case.refused.as_deref() {
            wrong.push(format!("{}: {code:?} instead of {:?}", case.name, case.refused));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_code_is_met_and_no_refusal_repeats_the_token() {
    let mut verifiers = Verifiers(BTreeMap::new());
    let mut codes = BTreeSet::new();
    for case in &cases().wrong {
        let error = verifiers.verify(case).expect_err("it is hostile");
        codes.insert(error.code());
        let said = format!("{error} {error:?}");
        for part in case.token.split('.').filter(|part| part.len() > 8) {
            assert!(!said.contains(part), "{}: {said}", case.name);
        }
        for secret in ["evil.example", "UNION SELECT", "other", "llm-admins", "logout+jwt"] {
            assert!(!said.contains(secret) || secret == "other" && said.contains("another"), "{}: {said}", case.name);
        }
    }
    expect_test::expect![[r#"
        {
            "token_algorithm_not_allowed",
            "token_bad_signature",
            "token_claim_invalid",
            "token_claim_missing",
            "token_expired",
            "token_header_refused",
            "token_lifetime_too_long",
            "token_malformed",
            "token_not_yet_valid",
            "token_too_large",
            "token_unknown_issuer",
            "token_unknown_key",
            "token_wrong_audience",
            "token_wrong_type",
        }
    "#]]
    .assert_debug_eq(&codes);
}

#[test]
fn time_alone_ends_a_token() {
    let verifier = verifier("public");
    let token = &cases().right[0].token;
    let (starts_at, ends_at, leeway) = (NOW - 60, NOW + 3600, 60);
    let check = |now| verifier.verify(token, now).map(|_| "valid").map_err(|error| error.code());
    let cases = [
        (0, Err("token_not_yet_valid")),
        (starts_at - leeway - 1, Err("token_not_yet_valid")),
        (starts_at - leeway, Ok("valid")),
        (ends_at, Ok("valid")),
        (ends_at + leeway - 1, Ok("valid")),
        (ends_at + leeway, Err("token_expired")),
        (u64::MAX, Err("token_expired")),
    ];
    for (now, expected) in cases {
        assert_eq!(check(now), expected, "at {now}");
    }
}
