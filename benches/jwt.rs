//! What a request with a JSON Web Token pays for it: the whole of `verify`, for each algorithm, and what it costs to refuse
//! a token without looking at a key. Run with `cargo bench --bench jwt`.

#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::{fs, hint::black_box, path::Path};

use criterion::{Criterion, criterion_group, criterion_main};
use serde_json::Value;
use tramontane::governance::jwt::{JwtConfig, JwtVerifier};

/// What the tokens of the vectors are valid at.
const NOW: u64 = 1_800_000_000;

fn benchmarks(criterion: &mut Criterion) {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/jwt");
    let config: JwtConfig = toml::from_str(&format!(
        r#"
        issuer = "https://id.example.org/realms/acme"
        audiences = ["tramontane"]
        keys = {{ file = {:?}, secret_file = {:?} }}
        algorithms = ["RS256", "PS256", "ES256", "ES384", "EdDSA", "HS256"]
        claims = {{ tenant = "org.tenant", roles = "realm_access.roles", attributes = {{ department = "dept" }} }}
        role_map = {{ llm-admins = "admin", llm-developers = "developer" }}
        "#,
        data.join("jwks.json"),
        data.join("secret.txt"),
    ))
    .expect("the settings are right");
    let verifier = JwtVerifier::open(config, None).expect("the files are right");
    let vectors = fs::read_to_string(data.join("tokens.json")).expect("the vectors are in the repository");
    let vectors: Value = serde_json::from_str(&vectors).expect("they are JSON");
    let token = |list: &str, name: &str| {
        let cases = vectors[list].as_array().expect("a list");
        let case = cases.iter().find(|case| case["name"] == name).expect("it is there");
        case["token"].as_str().expect("text").to_owned()
    };

    let mut group = criterion.benchmark_group("verify");
    for algorithm in ["RS256", "PS256", "ES256", "ES384", "EdDSA", "HS256"] {
        let token = token("right", &format!("PyJWT {algorithm}"));
        assert!(verifier.verify(&token, NOW).is_ok());
        group.bench_function(algorithm, |bencher| bencher.iter(|| verifier.verify(black_box(&token), NOW)));
    }
    for name in ["alg 'none', no signature", "kid 'unknown'", "another issuer's token with another key"] {
        let token = token("wrong", name);
        assert!(verifier.verify(&token, NOW).is_err());
        group.bench_function(format!("refused: {name}"), |bencher| {
            bencher.iter(|| verifier.verify(black_box(&token), NOW).is_err());
        });
    }
    group.finish();
}

criterion_group!(benches, benchmarks);
criterion_main!(benches);
