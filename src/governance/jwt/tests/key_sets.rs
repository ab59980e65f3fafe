//! Key sets: what is used, what is skipped, and what is none.

use expect_test::expect;

use super::*;

fn parse(text: &str) -> Result<KeySet, SourceError> {
    KeySet::parse(text.as_bytes(), "keys")
}

/// What is said of each.
fn told(texts: &[String]) -> String {
    let tell = |text: &String| match parse(text) {
        Ok(set) => format!("{} keys; skipped {}", set.len(), set.skipped().len()),
        Err(error) => error.to_string(),
    };
    texts.iter().map(tell).collect::<Vec<_>>().join("\n")
}

const P256: &str = r#""kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0""#;

#[test]
fn keys_that_are_not_for_us_are_skipped_and_told() {
    let set = parse(&data("jwks.json")).expect("it has keys");
    assert_eq!(set.len(), 5);
    let told: Vec<String> = set.skipped().iter().map(SkippedKey::to_string).collect();
    expect![[r#"
        key 0 ("rsa-enc"): its `use` is not sig
        key 1 ("rsa-1024"): an RSA key must have 2048 to 8192 bits
        key 2 ("p521"): its `kty` or `crv` is none that is known
        key 3 ("es-as-rs"): its `alg` is not for its `kty`
        key 4 ("secret"): a secret does not belong into a key set: name a secret_file
        key 5 ("future"): its `kty` or `crv` is none that is known
        key 6 ("padded"): a number of it is not base64url without padding
        key 7 ("half"): its coordinates do not have the curve's length
        key 8 ("private"): it is a private key, which nobody else may have
        key 9 ("signs"): its `key_ops` have no verify"#]]
    .assert_eq(&told.join("\n"));
}

#[test]
fn what_is_no_key_set_is_an_error() {
    let many = vec![format!("{{{P256}}}"); 101].join(",");
    let texts = [
        String::new(),
        "hello".to_owned(),
        "{}".to_owned(),
        r#"{"keys":{}}"#.to_owned(),
        r#"{"keys":[],"keys":[]}"#.to_owned(),
        r#"{"keys":[]}"#.to_owned(),
        r#"{"keys":[1,{}]}"#.to_owned(),
        format!(r#"{{"keys":[{{{P256},"kid":7}}]}}"#),
        format!(r#"{{"keys":[{{{P256},"alg":"none"}}]}}"#),
        " ".repeat(MOST_KEY_SET_BYTES + 1),
        format!(r#"{{"keys":[{many}]}}"#),
        format!("\n {{\"keys\":[{{{P256}}}]}}\n"),
    ];
    expect![[r#"
        keys: it is neither a JWK set nor PEM with a public key
        keys: it is neither a JWK set nor PEM with a public key
        keys: it has no list `keys`, so it is no JWK set
        keys: it has no list `keys`, so it is no JWK set
        keys: it is not a JSON object in which each name is there once
        keys has no key that could be used
        keys has no key that could be used; key 0: it is not an object; key 1: its `kty` or `crv` is none that is known
        keys has no key that could be used; key 0: its `kid` is not text
        keys has no key that could be used; key 0: its `alg` is none that is known
        keys: a key set may have 256 KiB
        keys: a key set may have 100 keys
        1 keys; skipped 0"#]]
    .assert_eq(&told(&texts));
}

#[test]
fn rsa_keys_must_be_keys() {
    let rsa = |n: &str, e: &str| format!(r#"{{"keys":[{{"kty":"RSA","n":"{n}","e":"{e}"}}]}}"#);
    let n = format!("{}w", "_".repeat(341)); // 2048 ones
    let even = format!("{}g", "_".repeat(341));
    let texts = [
        rsa(&n, "AQAB"),
        rsa(&n, "AAAAAAEAAQ"),
        rsa(&n, "AQ"),
        rsa(&n, "AQAA"),
        rsa(&n, ""),
        rsa(&n, "AQAAAAE"),
        rsa(&even, "AQAB"),
        rsa("", "AQAB"),
        rsa(&"_".repeat(340), "AQAB"),
        rsa(&"_".repeat(1368), "AQAB"),
    ];
    expect![[r#"
        1 keys; skipped 0
        1 keys; skipped 0
        keys has no key that could be used; key 0: its modulus or exponent is none of RSA's
        keys has no key that could be used; key 0: its modulus or exponent is none of RSA's
        keys has no key that could be used; key 0: its modulus or exponent is none of RSA's
        keys has no key that could be used; key 0: its modulus or exponent is none of RSA's
        keys has no key that could be used; key 0: its modulus or exponent is none of RSA's
        keys has no key that could be used; key 0: an RSA key must have 2048 to 8192 bits
        keys has no key that could be used; key 0: an RSA key must have 2048 to 8192 bits
        keys has no key that could be used; key 0: an RSA key must have 2048 to 8192 bits"#]]
    .assert_eq(&told(&texts));
}

#[test]
fn pem_has_public_keys_only() {
    let texts = [
        data("public.pem"),
        data("signer.pem"),
        data("signer.pem").replace("CERTIFICATE", "RSA PRIVATE KEY"),
        data("signer.pem").replace("CERTIFICATE", "X509 CRL"),
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n".to_owned(),
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(),
        "-----BEGIN PUBLIC KEY-----\nAAAA\n".to_owned(),
    ];
    expect![[r#"
        5 keys; skipped 0
        1 keys; skipped 0
        keys has no key that could be used; key 0: it is a private key, which nobody else may have
        keys has no key that could be used; key 0: it is neither a public key nor a certificate
        keys has no key that could be used; key 0: it is not a public key in DER
        keys has no key that could be used; key 0: it is not a certificate in DER
        keys: it is neither a JWK set nor PEM"#]]
    .assert_eq(&told(&texts));
}

/// A caller without a key must not have the server try all.
#[test]
fn a_token_without_a_key_id_is_tried_with_few_keys() {
    let sets: Vec<String> = (1..=5)
        .map(|count| {
            let keys: Vec<String> = (0..count).map(|index| format!(r#"{{{P256},"kid":"{index}"}}"#)).collect();
            format!(r#"{{"keys":[{}]}}"#, keys.join(","))
        })
        .collect();
    for (set, expected) in sets.iter().zip([
        JwtError::BadSignature,
        JwtError::BadSignature,
        JwtError::BadSignature,
        JwtError::BadSignature,
        JwtError::UnknownKey,
    ]) {
        let set = parse(set).expect("keys");
        assert_eq!(set.verify(SignedBy { algorithm: Algorithm::Es256, key_id: None }, b"", &[1; 64]), Err(expected));
        assert_eq!(
            set.verify(SignedBy { algorithm: Algorithm::Es256, key_id: Some("0") }, b"", &[1; 64]),
            Err(JwtError::BadSignature)
        );
    }
}

/// No curve has the point (1, 1): what is signed with it verifies nothing and is no crash.
#[test]
fn a_point_off_the_curve_verifies_nothing() {
    let one = format!("{}E", "A".repeat(42)); // 32 bytes, the last of which is 1
    let set = parse(&format!(r#"{{"keys":[{{"kty":"EC","crv":"P-256","x":"{one}","y":"{one}"}}]}}"#))
        .expect("its form is right");
    let by = SignedBy { algorithm: Algorithm::Es256, key_id: None };
    for signature in [[0; 64], [1; 64]] {
        assert_eq!(set.verify(by, b"anything", &signature), Err(JwtError::BadSignature));
    }
}
