//! Client certificates that Python's `cryptography` has made, and whom they are mapped to.

use base64::{Engine, engine::general_purpose::STANDARD};
use expect_test::expect;
use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Made {
    name: String,
    der: String,
    read: Option<Read>,
}

#[derive(Deserialize)]
struct Read {
    common_names: Vec<String>,
    dns_names: Vec<String>,
    uris: Vec<String>,
    emails: Vec<String>,
    serial: String,
    fingerprint_sha256: String,
    not_after: u64,
}

fn made() -> Vec<(Made, Vec<u8>)> {
    let made: Vec<Made> = serde_json::from_str(&data("certificates.json")).expect("JSON");
    made.into_iter()
        .map(|made| {
            let der = STANDARD.decode(&made.der).expect("base64");
            (made, der)
        })
        .collect()
}

fn identity(name: &str) -> CertificateIdentity {
    let (_, der) = made().into_iter().find(|(made, _)| made.name == name).expect("it is there");
    CertificateIdentity::from_der(&der).expect("it can be read")
}

#[test]
fn certificates_are_read_as_another_implementation_reads_them() {
    let made = made();
    assert_eq!(made.len(), 11);
    for (made, der) in made {
        let result = CertificateIdentity::from_der(&der);
        let Some(expected) = made.read else {
            let said = message(result);
            assert_eq!(
                said, "the client certificate cannot be read: a control character is in one of its names",
                "{}",
                made.name
            );
            continue;
        };
        let found = result.unwrap_or_else(|error| panic!("{}: {error}", made.name));
        // Of two, and of one in UTF-16, none is taken.
        let one =
            (expected.common_names.len() == 1 && !made.name.contains("BMP")).then(|| expected.common_names[0].clone());
        assert_eq!(found.common_name, one, "{}", made.name);
        assert_eq!(found.dns_names, expected.dns_names, "{}", made.name);
        assert_eq!(found.uris, expected.uris, "{}", made.name);
        assert_eq!(found.emails, expected.emails, "{}", made.name);
        assert_eq!(found.serial.trim_start_matches('0'), expected.serial, "{}", made.name);
        assert_eq!(found.fingerprint_sha256, expected.fingerprint_sha256, "{}", made.name);
        assert_eq!(found.not_after, expected.not_after, "{}", made.name);
    }
}

#[test]
fn a_subject_is_written_as_in_rfc_4514() {
    expect![[r#"CN=billing,O=Acme\, Inc."#]].assert_eq(&identity("all kinds of names").subject);
    assert_eq!(identity("no names").subject, "");
}

#[test]
fn damaged_certificates_do_not_panic() {
    for (made, der) in made() {
        for length in 0..der.len() {
            assert!(CertificateIdentity::from_der(&der[..length]).is_err(), "{} cut to {length}", made.name);
        }
        for position in 0..der.len() {
            let mut damaged = der.clone();
            damaged[position] ^= 0x55;
            let _ = CertificateIdentity::from_der(&damaged);
        }
        let longer = [der.as_slice(), &[0]].concat();
        assert!(CertificateIdentity::from_der(&longer).is_err(), "{}", made.name);
    }
    assert!(message(CertificateIdentity::from_der(&[0x30; 65_537])).ends_with("it has more than 64 KiB"));
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    clients: CertificateMap,
}

fn read_map(toml: &str) -> Result<CertificateMap, String> {
    toml::from_str::<File>(toml).map(|file| file.clients).map_err(|error| error.message().to_owned())
}

/// A map with an entry for each of these, named by what it matches.
fn map(matches: &[&str]) -> CertificateMap {
    let entry = |what: &&str| format!("[[clients]]\nmatch = {{ {what} }}\nname = '{}'\n", what.replace('\'', ""));
    read_map(&matches.iter().map(entry).collect::<String>()).expect("the map is right")
}

fn with_uris(uris: &[&str]) -> CertificateIdentity {
    let uris = uris.iter().map(|uri| (*uri).to_owned()).collect();
    CertificateIdentity { uris, dns_names: Vec::new(), emails: Vec::new(), common_name: None, ..identity("no names") }
}

#[test]
fn an_entry_says_who_somebody_is() {
    let map = read_map(
        r#"
        [[clients]]
        match = { uri = "spiffe://acme.example/ns/prod/sa/billing" }
        name = "billing"
        tenant = "acme"
        roles = ["service", "developer"]
        attributes = { team = "finance" }
        "#,
    )
    .expect("the map is right");
    assert_eq!((map.len(), map.is_empty()), (1, false));
    assert_eq!(map.role_names().collect::<Vec<_>>(), ["developer", "service"]);
    let expected = MappedIdentity {
        name: "billing".to_owned(),
        tenant: Some("acme".to_owned()),
        roles: ["service", "developer"].map(str::to_owned).into(),
        attributes: [("team".to_owned(), "finance".to_owned())].into(),
    };
    assert_eq!(map.find(&identity("workload")), Some(&expected));
    assert_eq!(map.find(&identity("no names")), None);
    assert_eq!(CertificateMap::default().find(&identity("workload")), None);
}

#[test]
fn what_a_certificate_says_is_matched_exactly() {
    let all = identity("all kinds of names");
    let fingerprint = format!("fingerprint = '{}'", all.fingerprint_sha256);
    let with_colons: Vec<&str> = (0..64).step_by(2).map(|at| &all.fingerprint_sha256[at..at + 2]).collect();
    let with_colons = format!("fingerprint = '{}'", with_colons.join(":").to_uppercase());
    let hits = [
        fingerprint.as_str(),
        with_colons.as_str(),
        "uri = 'https://acme.example/b'",
        "dns = 'billing.acme.example'",
        "dns = 'B.ACME.example'",
        "email = 'Ops@acme.EXAMPLE'",
        "common_name = 'billing'",
    ];
    for what in hits {
        assert!(map(&[what]).find(&all).is_some(), "{what}");
    }
    let misses = [
        "uri = 'https://acme.example/'",
        "uri = 'https://acme.example/b/'",
        "uri = 'HTTPS://acme.example/b'",
        "dns = 'acme.example'",
        "dns = 'x.billing.acme.example'",
        "dns = 'billing.acme.example.'",
        "email = 'ops@acme.example'",
        "email = 'acme.example'",
        "common_name = 'Billing'",
        "common_name = 'billing '",
        "common_name = 'inner'",
        "common_name = 'billing.acme.example'",
        "dns = 'billing'",
        "uri = 'billing'",
    ];
    for what in misses {
        assert!(map(&[what]).find(&all).is_none(), "{what}");
    }
    assert!(map(&["common_name = 'admin'", "common_name = 'billing'"]).find(&identity("two common names")).is_none());
}

#[test]
fn a_star_stands_for_a_path_within_a_trust_domain() {
    let map = map(&[
        "uri = 'spiffe://acme.example/*'",
        "uri = 'spiffe://acme.example/ns/prod/*'",
        "uri = 'spiffe://acme.example/ns/prod/sa/billing'",
        "uri = 'spiffe://b-2_c.example/*'",
    ]);
    let find =
        |uris: &[&str]| map.find(&with_uris(uris)).map(|found| found.name.trim_start_matches("uri = ").to_owned());
    let cases = [
        ("spiffe://acme.example/ns/prod/sa/billing", Some("spiffe://acme.example/ns/prod/sa/billing")),
        ("spiffe://acme.example/ns/prod/sa/other", Some("spiffe://acme.example/ns/prod/*")),
        ("spiffe://acme.example/ns/prod", Some("spiffe://acme.example/*")),
        ("spiffe://acme.example/ns/production", Some("spiffe://acme.example/*")),
        ("spiffe://b-2_c.example/x", Some("spiffe://b-2_c.example/*")),
        ("spiffe://acme.example/", None),
        ("spiffe://acme.example", None),
        ("spiffe://acme.example.evil.example/ns/prod/sa/x", None),
        ("spiffe://evil.example/ns/prod/sa/x", None),
        ("spiffe://Acme.example/ns/prod/sa/x", None),
        ("SPIFFE://acme.example/ns/prod/sa/x", None),
        ("https://acme.example/ns/prod/sa/x", None),
        ("spiffe://acme.example/ns/prod/../x", None),
        ("spiffe://acme.example/ns/prod/./x", None),
        ("spiffe://acme.example/ns/prod//x", None),
        ("spiffe://acme.example/ns/prod/x/", None),
        ("spiffe://acme.example/ns/prod/%2e%2e/x", None),
        ("spiffe://acme.example/ns/prod/x?y", None),
        ("spiffe://acme.example/ns/prod/x#y", None),
        ("spiffe://acme.example/ns/prod/b\u{fc}ro", None),
    ];
    for (uri, expected) in cases {
        assert_eq!(find(&[uri]).as_deref(), expected, "{uri}");
    }
    assert_eq!(find(&["spiffe://acme.example/a", "spiffe://acme.example/b"]), None, "two URIs are no SPIFFE id");
    let long = format!("spiffe://acme.example/{}", "a".repeat(2048));
    assert_eq!(find(&[&long]), None);
}

#[test]
fn entries_that_cannot_be_are_told() {
    let error = |what: &str, name: &str| {
        let entry = format!("[[clients]]\nmatch = {{ {what} }}\nname = \"{name}\"\n");
        read_map(&entry).err().unwrap_or("accepted".to_owned())
    };
    for (what, field) in [
        ("uri = 'spiffe://*'", "match.uri"),
        ("uri = 'spiffe://acme.example*'", "match.uri"),
        ("uri = 'spiffe://*.example/*'", "match.uri"),
        ("uri = 'spiffe://acme.example/a*'", "match.uri"),
        ("uri = 'spiffe://acme.example/*/b'", "match.uri"),
        ("uri = 'spiffe://acme.example/a/../*'", "match.uri"),
        ("uri = 'spiffe://acme.example//*'", "match.uri"),
        ("uri = 'https://acme.example/*'", "match.uri"),
        ("uri = '*'", "match.uri"),
        ("uri = ''", "match.uri"),
        ("dns = '*.acme.example'", "match.dns"),
        ("email = '*@acme.example'", "match.email"),
        ("common_name = 'a*'", "match.common_name"),
        ("common_name = \"a\\u0000b\"", "match.common_name"),
        ("fingerprint = 'abc'", "match.fingerprint"),
        ("fingerprint = 'zz'", "match.fingerprint"),
    ] {
        let said = error(what, "n");
        assert!(said.starts_with(&format!("{field} = ")), "{what}: {said}");
    }
    expect![[r#"name = "": expected a name for people"#]].assert_eq(&error("dns = 'a'", ""));
    expect!["unknown variant `ip`, expected one of `uri`, `dns`, `email`, `common_name`, `fingerprint`"]
        .assert_eq(&error("ip = '192.0.2.1'", "n"));
    for twice in ["dns = 'a'", "uri = 'spiffe://a/*'"] {
        let entry = format!("[[clients]]\nmatch = {{ {twice} }}\nname = \"n\"\n");
        let said = read_map(&entry.repeat(2)).expect_err("it is there twice");
        assert!(said.ends_with("expected something that no other entry has"), "{said}");
    }
    assert!(read_map("[[clients]]\nmatch = { dns = 'a' }\nname = 'n'\nrole = 'admin'").is_err());
    assert!(read_map("[[clients]]\nmatch = { dns = 'a', uri = 'b' }\nname = 'n'").is_err());
}
