//! Tokens and certificates that others have made, attacks, and settings that cannot be.

mod certificates;
mod configuration;
mod hostile;
mod key_sets;
mod made_elsewhere;
mod refreshing;
mod rfc;

use std::path::PathBuf;

use super::*;

/// What `iat` of the tokens that others have made is close to.
const NOW: u64 = 1_800_000_000;
const ISSUER: &str = "https://id.example.org/realms/acme";

/// A file that `scripts/make-jwt-vectors` has written.
fn data_path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "data", "jwt", name].iter().collect()
}

fn data(name: &str) -> String {
    std::fs::read_to_string(data_path(name)).expect("the vectors are in the repository")
}

fn config(toml: &str) -> JwtConfig {
    toml::from_str(toml).unwrap_or_else(|error| panic!("{error}\n{toml}"))
}

/// Settings for the tokens that others have made, with these ones about keys.
fn common(keys: &str) -> JwtConfig {
    config(&format!(
        r#"
        issuer = "{ISSUER}"
        audiences = ["tramontane", "https://tramontane.example.org"]
        default_roles = ["service"]
        {keys}
        [claims]
        tenant = "org.tenant"
        roles = "realm_access.roles"
        attributes = {{ department = "dept", clearance = "clearance", badge = ["https://id.example.org/badge"] }}
        [role_map]
        llm-admins = "admin"
        llm-developers = "developer"
        "#
    ))
}

/// A verifier of the tokens that others have made, by the name that they have for it.
fn verifier(name: &str) -> JwtVerifier {
    const ALL: &str = r#""RS256", "PS256", "ES256", "ES384", "EdDSA""#;
    let file = |name| format!("keys.file = {:?}", data_path(name));
    let secret = format!("keys.secret_file = {:?}", data_path("secret.txt"));
    let keys = match name {
        "public" => format!("{}\nalgorithms = [{ALL}]", file("jwks.json")),
        "default" => file("jwks.json"),
        "pem" => format!("{}\nalgorithms = [{ALL}]", file("public.pem")),
        "certificate" => file("signer.pem"),
        "secret" => format!("{secret}\nalgorithms = [\"HS256\", \"HS512\"]"),
        "both" => format!("{}\n{secret}\nalgorithms = [\"HS256\", {ALL}]", file("jwks.json")),
        other => panic!("no verifier {other}"),
    };
    JwtVerifier::open(common(&keys), None).expect("the files are right")
}

fn message<T>(result: Result<T, SourceError>) -> String {
    result.err().expect("it fails").to_string()
}
