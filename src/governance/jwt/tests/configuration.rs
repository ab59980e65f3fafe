//! Settings: what they are when nothing is said, and what is said about those that cannot be.

use expect_test::expect;
use tempfile::TempDir;

use super::*;

const LEAST: &str = "issuer = \"i\"\naudiences = [\"a\"]\nkeys.file = \"k\"\n";

/// Only what the settings say of themselves, without the place in the file.
fn error(toml: &str) -> String {
    toml::from_str::<JwtConfig>(toml).err().map_or("accepted".to_owned(), |error| error.message().to_owned())
}

#[test]
fn little_has_to_be_said() {
    let config = config(LEAST);
    assert_eq!(config.algorithms, [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa]);
    assert_eq!((config.limits.leeway_seconds, config.limits.max_token_bytes), (60, 8192));
    assert_eq!((config.limits.max_lifetime_seconds, config.limits.refresh_seconds), (86_400, 5));
    assert_eq!((config.issuer(), config.tenant(), config.url()), ("i", None, None));
    assert_eq!(config.role_names().count(), 0);
    assert_eq!(config.files().collect::<Vec<_>>(), ["k"]);
}

#[test]
fn what_leaves_the_machine_is_told() {
    let config = config("issuer = \"i\"\naudiences = [\"a\"]\nkeys.url = \"https://id.example.org/keys\"");
    assert_eq!(config.url(), Some("https://id.example.org/keys"));
    assert_eq!((config.files().count(), config.limits.refresh_seconds), (0, 3600));
}

#[test]
fn every_role_that_could_be_given_is_told() {
    let config = common("keys.file = \"k\"");
    assert_eq!(config.role_names().collect::<Vec<_>>(), ["admin", "developer", "service"]);
}

#[test]
fn settings_that_cannot_be_are_told_by_name_and_value() {
    let without_keys = "issuer = \"i\"\naudiences = [\"a\"]";
    let instead_of_keys = |keys: &str| format!("{without_keys}\n{keys}");
    let and = |more: &str| format!("{LEAST}{more}");
    let cases = [
        String::new(),
        "issuer = \"i\"".to_owned(),
        and("issuers = []"),
        LEAST.replace("\"i\"", "\"\""),
        LEAST.replace("[\"a\"]", "[]"),
        LEAST.replace("[\"a\"]", "[\"a\", \"\"]"),
        without_keys.to_owned(),
        instead_of_keys("keys = { file = \"k\", url = \"https://h/k\" }"),
        instead_of_keys("keys = { path = \"k\" }"),
        instead_of_keys("keys = { url = \"https://h/k\", hosts = [\"h\"] }"),
        instead_of_keys("keys = { url = \"https://h/.well-known/openid-configuration\", hosts = [\"https://h\"] }"),
        instead_of_keys("keys = {}"),
        instead_of_keys("keys.secret_file = \"s\""),
        and("algorithms = []"),
        and("algorithms = [\"none\"]"),
        and("algorithms = [\"HS256\", \"RS256\"]"),
        and("keys.secret_file = \"s\""),
        and("keys.secret_file = \"s\"\nalgorithms = [\"HS256\"]"),
        and("tenant = \"\""),
        and("tenant = \"t\"\nclaims.tenant = \"t\""),
        and("claims.roles = \"r\""),
        and("role_map.r = \"admin\""),
        and("claims.role = \"r\""),
        and("claims.tenant = \"a..b\""),
        and("claims.tenant = []"),
        and("leeway_seconds = 301"),
        and("leeway_seconds = -1"),
        and("max_token_bytes = 65537"),
        and("max_lifetime_seconds = 0"),
        and("refresh_seconds = 0"),
        instead_of_keys("keys.url = \"https://h/k\"\nrefresh_seconds = 59"),
    ];
    let told: Vec<String> = cases.iter().map(|toml| error(toml)).collect();
    expect![[r#"
        missing field `issuer`
        missing field `audiences`
        unknown field `issuers`, expected one of `issuer`, `audiences`, `keys`, `algorithms`, `tenant`, `claims`, `role_map`, `default_roles`, `leeway_seconds`, `max_token_bytes`, `max_lifetime_seconds`, `refresh_seconds`
        issuer = "": expected the `iss` of the tokens
        audiences = "": expected at least one `aud` that means this server, and none that is empty
        audiences = "a, ": expected at least one `aud` that means this server, and none that is empty
        missing field `keys`
        keys = "k, https://h/k": expected either file or url
        unknown field `path`, expected one of `file`, `url`, `hosts`, `secret_file`
        keys.hosts = "h": expected nothing, unless keys.url is a discovery document
        keys.hosts = "https://h": expected names of hosts, such as keys.example.org, or with a port
        keys = "": expected file, url or secret_file
        algorithms = "RS256, ES256, EdDSA": expected keys.file or keys.url for them
        algorithms = "": expected at least one
        unknown variant `none`, expected one of `HS256`, `HS384`, `HS512`, `RS256`, `RS384`, `RS512`, `PS256`, `PS384`, `PS512`, `ES256`, `ES384`, `Ed25519`, `EdDSA`
        algorithms = "HS256, RS256": expected keys.secret_file for those that begin with HS
        keys.secret_file = "s": expected nothing, unless HS256, HS384 or HS512 is in algorithms
        keys = "k": expected keys.secret_file alone, as all algorithms begin with HS
        tenant = "": expected the tenant of all tokens
        tenant = "t": expected nothing, as claims.tenant says where it is
        claims.roles = "r": expected a role_map, which says what its values mean
        role_map = "r": expected claims.roles, which says where its values are
        unknown field `role`, expected one of `tenant`, `roles`, `attributes`
        claims = "a..b": expected names with dots between, or a list of names, none of which is empty
        claims = "": expected names with dots between, or a list of names, none of which is empty
        leeway_seconds = "301": expected 0 to 300
        invalid value: integer `-1`, expected u64
        max_token_bytes = "65537": expected 256 to 65536
        max_lifetime_seconds = "0": expected 1 to 31536000
        refresh_seconds = "0": expected 1 to 86400, and 60 or more where keys are fetched
        refresh_seconds = "59": expected 1 to 86400, and 60 or more where keys are fetched"#]].assert_eq(&told.join("\n"));
}

#[test]
fn keys_come_over_https_or_from_this_machine() {
    let is_accepted = |url: &str| error(&LEAST.replace("file = \"k\"", &format!("url = {url:?}"))) == "accepted";
    for url in [
        "https://id.example.org/keys?x=1",
        "https://192.0.2.1:8443/",
        "http://localhost/keys",
        "http://127.0.0.1:8080/keys",
        "http://[::1]:8080/keys",
        "http://[::1]/keys",
    ] {
        assert!(is_accepted(url), "{url}");
    }
    for url in [
        "",
        "https://",
        "http://id.example.org/keys",
        "http://localhost.evil.example/keys",
        "http://localhost:80@evil.example/keys",
        "http://localhost@evil.example/keys",
        "http://127.0.0.1.evil.example/",
        "http://localhost:/keys",
        "http://[::1].evil.example/",
        "http://[::1]@evil.example/",
        "http://evil.example#localhost",
        "http://evil.example?localhost",
        "HTTP://localhost/",
        "file:///etc/passwd",
        "ftp://localhost/",
        "//id.example.org/keys",
        "https://id.example.org/a b",
        "https://id.example.org/\r\nHost: x",
    ] {
        assert!(!is_accepted(url), "{url}");
    }
}

#[test]
fn a_secret_is_long_enough_for_its_hash() {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("secret");
    let open = |bytes: usize, end: &str, algorithm: &str| {
        std::fs::write(&path, format!("{}{end}", "s".repeat(bytes))).expect("it is written");
        let settings =
            format!("issuer = \"i\"\naudiences = [\"a\"]\nkeys.secret_file = {path:?}\nalgorithms = [{algorithm:?}]");
        JwtVerifier::open(config(&settings), None).map(drop)
    };
    for (algorithm, bytes) in [("HS256", 32), ("HS384", 48), ("HS512", 64)] {
        assert!(open(bytes, "", algorithm).is_ok() && open(bytes, "\r\n", algorithm).is_ok(), "{algorithm}");
        let said = message(open(bytes - 1, "\n", algorithm));
        assert!(said.ends_with("a secret must have 32 bytes for HS256, 48 for HS384, 64 for HS512"), "{said}");
    }
    assert!(message(open(1025, "", "HS256")).ends_with("a secret may have 1024 bytes"));
    assert!(message(open(0, "\n", "HS256")).contains("a secret must have 32 bytes"));
}

#[test]
fn claims_are_found_where_the_settings_say() {
    let payload = json::object(br#"{"a":{"b":{"c":1}},"a.b":2,"list":["one","two"]}"#);
    let payload = payload.expect("an object");
    let path = |toml: &str| {
        let config = config(&format!("{LEAST}claims.attributes.x = {toml}"));
        config.claims.attributes["x"].clone()
    };
    let find = |toml: &str| path(toml).find(&payload).map(ToString::to_string);
    let cases = [
        ("\"a.b.c\"", Some("1")),
        ("[\"a\", \"b\", \"c\"]", Some("1")),
        ("[\"a.b\"]", Some("2")),
        ("\"a.b.c.d\"", None),
        ("\"b\"", None),
        ("\"list.0\"", None),
    ];
    for (toml, expected) in cases {
        assert_eq!(find(toml).as_deref(), expected, "{toml}");
    }
}

/// Settings, what the token says besides what it must, and tenant and roles that this makes.
#[test]
fn tenant_and_roles_are_what_the_settings_make_of_the_claims() {
    let groups = "claims.roles = \"groups\"\nrole_map = { a = \"admin\", \"b c\" = \"auditor\", d = \"admin\" }\n";
    let scope = "claims.roles = \"x.scope\"\nrole_map = { a = \"admin\", \"b c\" = \"auditor\", c = \"service\" }\n";
    let by = SignedBy { algorithm: Algorithm::Es256, key_id: None };
    let signer = Signer::new(by, "");
    let cases = [
        ("", "{}", None, ""),
        ("tenant = \"t\"", r#"{"tenant":"other"}"#, Some("t"), ""),
        ("claims.tenant = \"tenant\"", r#"{"tenant":"other"}"#, Some("other"), ""),
        ("default_roles = [\"service\"]", r#"{"roles":["admin"],"role":"admin"}"#, None, "service"),
        (groups, r#"{}"#, None, ""),
        (groups, r#"{"groups":[]}"#, None, ""),
        (groups, r#"{"groups":["admin","auditor","A","a "]}"#, None, ""),
        (groups, r#"{"groups":["a","b c","x"]}"#, None, "admin auditor"),
        (groups, r#"{"groups":["a","d","a"]}"#, None, "admin"),
        (groups, r#"{"groups":"b c"}"#, None, "auditor"),
        (groups, r#"{"groups":"a d"}"#, None, ""),
        (scope, r#"{"x":{"scope":"b c"}}"#, None, "service"),
        (scope, r#"{"x":{"scope":"c  a openid"}}"#, None, "admin service"),
        (scope, r#"{"scope":"a"}"#, None, ""),
    ];
    for (setting, said, tenant, roles) in cases {
        let config = config(&format!("{LEAST}{setting}"));
        let mut payload = json::object(br#"{"iss":"i","aud":"a","sub":"s","exp":1800000060}"#).expect("an object");
        payload.extend(json::object(said.as_bytes()).expect("an object"));
        let claims = claims::read(&payload, signer.clone(), &config, NOW).expect("the claims are right");
        assert_eq!(claims.tenant.as_deref(), tenant, "{setting} {said}");
        assert_eq!(claims.roles.into_iter().collect::<Vec<_>>().join(" "), roles, "{setting} {said}");
    }
}
