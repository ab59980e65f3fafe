//! The examples of the standards.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use tempfile::TempDir;

use super::*;

/// RFC 7515 A.1.1, A.2.1 and A.3.1 sign the same claims, those of RFC 7519 §3.1.
const CLAIMS: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
/// A second before they expire.
const THEN: u64 = 1_300_819_379;

const A1_HEADER: &str = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9";
const A1_SECRET: &str = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
const A1_SIGNATURE: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

const A2_HEADER: &str = "eyJhbGciOiJSUzI1NiJ9";
const A2_KEY: &str = r#"{"keys":[{"kty":"RSA","e":"AQAB","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"}]}"#;
const A2_SIGNATURE: &str = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";

const A3_HEADER: &str = "eyJhbGciOiJFUzI1NiJ9";
const A3_KEY: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
const A3_SIGNATURE: &str = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";

/// RFC 7515 A.4.1, which signs the word "Payload" with P-521.
const A4: &str = "eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA.AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn";
/// RFC 7515 A.5 and RFC 7519 §6.1.
const A5_HEADER: &str = "eyJhbGciOiJub25lIn0";

/// RFC 8037 A.4, which signs a sentence with the key of A.2.
const ED25519_SIGNED: &str = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
const ED25519_SIGNATURE: &str =
    "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
const ED25519_KEY: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

fn bytes(encoded: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(encoded).expect("it is in the standard")
}

/// One that believes `joe`, with keys in a file of these bytes.
fn verifier_with(directory: &TempDir, keys: &[u8], setting: &str) -> JwtVerifier {
    let path = directory.path().join("keys");
    std::fs::write(&path, keys).expect("it is written");
    let setting = setting.replace("PATH", &format!("{path:?}"));
    let config = config(&format!("issuer = \"joe\"\naudiences = [\"joe's friends\"]\n{setting}"));
    JwtVerifier::open(config, None).expect("the keys are right")
}

/// The examples name no audience, so a signature that is right leads to that and one that is not does not.
#[test]
fn rfc_7515_a1_to_a3_and_rfc_7519_3_1() {
    let directory = TempDir::new().expect("a directory");
    let cases = [
        ("A.1 HS256", A1_HEADER, A1_SIGNATURE, bytes(A1_SECRET), "keys.secret_file = PATH\nalgorithms = [\"HS256\"]"),
        ("A.2 RS256", A2_HEADER, A2_SIGNATURE, A2_KEY.into(), "keys.file = PATH"),
        ("A.3 ES256", A3_HEADER, A3_SIGNATURE, A3_KEY.into(), "keys.file = PATH"),
    ];
    for (name, header, signature, keys, setting) in cases {
        let verifier = verifier_with(&directory, &keys, setting);
        let verify = |signature: &str| verifier.verify(&format!("{header}.{CLAIMS}.{signature}"), THEN);
        assert_eq!(verify(signature), Err(JwtError::MissingClaim { claim: "aud".to_owned() }), "{name}");
        let mut wrong = bytes(signature);
        wrong[7] ^= 1;
        assert_eq!(verify(&URL_SAFE_NO_PAD.encode(wrong)), Err(JwtError::BadSignature), "{name}");
    }
}

#[test]
fn rfc_7515_a4_and_a5_have_algorithms_that_are_not_there() {
    let directory = TempDir::new().expect("a directory");
    let verifier = verifier_with(&directory, A3_KEY.as_bytes(), "keys.file = PATH");
    for token in [A4.to_owned(), format!("{A5_HEADER}.{CLAIMS}.")] {
        assert_eq!(verifier.verify(&token, THEN), Err(JwtError::AlgorithmNotAllowed));
    }
}

#[test]
fn rfc_8037_a4() {
    let keys = KeySet::parse(ED25519_KEY.as_bytes(), "RFC 8037 A.2").expect("a key");
    let by = SignedBy { algorithm: Algorithm::EdDsa, key_id: None };
    let verify = |signed: &str| keys.verify(by, signed.as_bytes(), &bytes(ED25519_SIGNATURE)).map(drop);
    assert_eq!(verify(ED25519_SIGNED), Ok(()));
    assert_eq!(verify(&ED25519_SIGNED.to_ascii_lowercase()), Err(JwtError::BadSignature));
}
