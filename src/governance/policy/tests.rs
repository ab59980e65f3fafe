use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use expect_test::{Expect, expect};

use super::*;

const MODEL: Resource =
    Resource::Model { name: "tiny", digest: "sha256:00", trust: Trust { locked: false, signer: None } };

fn asker(roles: &[&str]) -> Asker {
    Asker {
        id: "tmk_x".to_owned(),
        name: "app".to_owned(),
        tenant: "acme".to_owned(),
        source: "key".to_owned(),
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
        attributes: [("team".to_owned(), "red".to_owned())].into(),
    }
}

/// What an action is done with; every one that the schema allows.
fn resources(action: Action) -> Vec<Resource<'static>> {
    match action {
        Action::Infer | Action::Tokenize | Action::ReadModel => vec![MODEL],
        Action::GrantRole => ["admin", "auditor", "service"].map(Resource::Role).into(),
        Action::GrantAttribute => vec![Resource::Attribute { name: "team", value: "red" }],
        Action::UseTool => vec![Resource::Tool("roll"), Resource::Tool("transfer_to_Bob")],
        Action::SearchCollection | Action::ChangeCollection => vec![Resource::Collection("handbook")],
        Action::ReadStored
        | Action::WriteStored
        | Action::DeleteStored
        | Action::ReadStatus
        | Action::ReadAdministration
        | Action::ChangeAdministration => action.kinds().iter().map(|kind| Resource::Kind(kind)).collect(),
    }
}

fn decide(policies: &Policies, asker: &Asker, action: Action, resource: Resource) -> Decision {
    let circumstances = Circumstances { route: "/v1/x".to_owned(), ..Circumstances::default() };
    let question = Question { asker, action, resource, circumstances: &circumstances };
    policies.decide(&question).expect("the schema knows it")
}

#[test]
fn what_each_role_may_do() {
    let policies = Policies::built_in().expect("they are right");
    let mut table = String::new();
    for role in ["admin", "operator", "auditor", "developer", "service", "anonymous", "boss"] {
        let asker = asker(&[role]);
        let mut may = Vec::new();
        for action in Action::ALL {
            let allowed = |resource: &Resource| decide(&policies, &asker, action, *resource).allowed;
            let all = resources(action);
            let found: Vec<_> = all.iter().filter(|resource| allowed(resource)).collect();
            match found[..] {
                [] => {}
                _ if found.len() == all.len() => may.push(action.name().to_owned()),
                _ => {
                    let kind = |resource: &&Resource<'static>| match resource {
                        Resource::Kind(kind) => *kind,
                        other => panic!("{role} may {} with {other:?}", action.name()),
                    };
                    let kinds: Vec<&str> = found.iter().map(kind).collect();
                    may.push(format!("{}:{}", action.name(), kinds.join(",")));
                }
            }
        }
        table += &format!("{role}: {}\n", may.join(" "));
    }
    expect![[r#"
        admin: infer tokenize readModel useTool searchCollection changeCollection readStored writeStored deleteStored readStatus readAdministration changeAdministration grantRole grantAttribute
        operator: readModel readStatus readAdministration:policies,guardrails,quotas,usage,status changeAdministration:policies,guardrails,quotas
        auditor: readModel readStored readStatus readAdministration
        developer: infer tokenize readModel useTool readStored writeStored deleteStored readStatus
        service: infer tokenize readModel useTool readStored writeStored deleteStored
        anonymous: 
        boss: 
    "#]]
    .assert_eq(&table);
}

#[test]
fn roles_add_up_and_nobody_has_none() {
    let policies = Policies::built_in().expect("they are right");
    let both = asker(&["operator", "service"]);
    assert!(decide(&policies, &both, Action::Infer, MODEL).allowed);
    assert!(decide(&policies, &both, Action::ReadAdministration, Resource::Kind("status")).allowed);
    let nobody = decide(&policies, &asker(&[]), Action::Infer, MODEL);
    assert_eq!(nobody, Decision { allowed: false, policies: Vec::new(), errors: Vec::new() });
    // A name that looks like Cedar's own is a name.
    let tricky = asker(&[r#"x" || true || "admin"#, "Tramontane::Role::\"admin\"", "ADMIN"]);
    assert!(!decide(&policies, &tricky, Action::Infer, MODEL).allowed);
}

/// Policies of these files, in a directory of their own.
fn load(files: &[(&str, &str)]) -> Result<Policies, PolicyError> {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, text) in files {
        fs::write(directory.path().join(name), text).expect("it can be written");
    }
    Policies::open(directory.path())
}

#[test]
fn an_operators_own_policies_apply_in_place_of_the_built_in_ones() {
    let policies = load(&[
        (
            "a.cedar",
            r#"
            @id("red")
            permit (principal, action == Tramontane::Action::"infer", resource)
            when { principal.hasTag("team") && principal.getTag("team") == "red" };
            @id("purpose")
            forbid (principal, action == Tramontane::Action::"infer", resource)
            when { context has dataClassification && context.dataClassification == "personal" }
            unless { context has purpose };"#,
        ),
        ("b.cedar", r#"permit (principal, action, resource) when { principal.tenant == "other" };"#),
        ("notes.txt", "permit everything"),
    ]);
    let policies = policies.expect("they are right");
    assert_eq!(policies.names(), ["red", "purpose", "b.cedar#1"]);
    let asker = asker(&["admin"]);
    let ask = |classification: Option<&str>, purpose: Option<&str>| {
        let circumstances = Circumstances {
            route: "/v1/chat/completions".to_owned(),
            purpose: purpose.map(str::to_owned),
            data_classification: classification.map(str::to_owned),
            consent: None,
        };
        let question =
            Question { asker: &asker, action: Action::Infer, resource: MODEL, circumstances: &circumstances };
        let decision = policies.decide(&question).expect("the schema knows it");
        (decision.allowed, decision.policies.join(","))
    };
    assert_eq!(ask(None, None), (true, "red".to_owned()));
    assert_eq!(ask(Some("personal"), None), (false, "purpose".to_owned()));
    assert_eq!(ask(Some("personal"), Some("support")), (true, "red".to_owned()));
    assert!(
        !decide(&policies, &asker, Action::ReadStatus, Resource::Kind("server")).allowed,
        "no built-in one is left"
    );
}

fn check_refused(files: &[(&str, &str)], expected: Expect) {
    expected.assert_eq(&load(files).err().expect("it is wrong").to_string());
}

#[test]
fn what_is_wrong_with_policies_is_told_with_its_place() {
    check_refused(
        &[("a.cedar", "permit (principal, action, resource);\n  permit (principal, action, resource")],
        expect!["a.cedar, line 2, column 38: unexpected end of input"],
    );
    check_refused(
        &[("a.cedar", "@id(\"x\") permit (principal, action, resource) when { principal.age > 3 };")],
        expect![[r#"for policy `x`, attribute `age` on entity type `Tramontane::Principal` not found"#]],
    );
    check_refused(
        &[("a.cedar", "@id(\"x\") permit (principal, action == Tramontane::Action::\"fly\", resource);")],
        expect![[r#"for policy `x`, unrecognized action `Tramontane::Action::"fly"`"#]],
    );
    check_refused(
        &[(
            "a.cedar",
            "@id(\"x\") permit (principal, action == Tramontane::Action::\"infer\", resource) when { context.purpose == \"p\" };",
        )],
        expect![[
            r#"for policy `x`, unable to guarantee safety of access to optional attribute `purpose` in context for Tramontane::Action::"infer""#
        ]],
    );
    let policy = "@id(\"x\") permit (principal, action, resource);";
    check_refused(
        &[("a.cedar", policy), ("b.cedar", policy)],
        expect![[r#"b.cedar: there is a policy with @id("x") already"#]],
    );
    check_refused(
        &[("a.cedar", "permit (principal == ?principal, action, resource);")],
        expect!["a.cedar has a template (?principal or ?resource), which would never apply"],
    );
    let empty = load(&[("a.txt", policy)]).err().expect("it is wrong").to_string();
    assert!(empty.ends_with("has no file whose name ends with .cedar"), "{empty}");
}

#[test]
fn a_policy_that_fails_denies() {
    // Validation leaves few ways to fail; an overflow is one.
    let policies = load(&[(
        "a.cedar",
        r#"@id("all") permit (principal, action, resource);
           @id("overflows") forbid (principal, action, resource) when { 9223372036854775807 + 1 == 0 };"#,
    )]);
    let decision = decide(&policies.expect("they are right"), &asker(&["admin"]), Action::Infer, MODEL);
    assert!(!decision.allowed, "Cedar itself would leave the second out and permit");
    assert_eq!(decision.errors.len(), 1);
    assert!(decision.errors[0].contains("overflows"), "{:?}", decision.errors);
}

#[test]
fn a_wrong_set_never_replaces_a_right_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("a.cedar");
    fs::write(&file, "@id(\"one\") permit (principal, action, resource);").expect("it can be written");
    let policies = Policies::open(directory.path()).expect("they are right");
    let before = policies.digest();
    fs::write(&file, "permit (").expect("it can be written");
    assert!(policies.reload().is_err());
    assert_eq!((policies.digest(), policies.names()), (before.clone(), vec!["one".to_owned()]));
    fs::write(&file, "@id(\"two\") permit (principal, action, resource);").expect("it can be written");
    policies.reload().expect("they are right");
    assert_eq!(policies.names(), ["two"]);
    assert_ne!(policies.digest(), before);
}

/// One set permits by "one", the other forbids by "two": nothing in between is ever decided.
#[test]
fn a_decision_is_made_by_one_set() {
    let directory = tempfile::tempdir().expect("a directory");
    let files = [("one", "permit"), ("two", "forbid")]
        .map(|(id, effect)| format!("@id(\"{id}\") {effect} (principal, action, resource);"));
    let (file, next) = (directory.path().join("a.cedar"), directory.path().join("next"));
    fs::write(&file, &files[0]).expect("it can be written");
    let policies = Policies::open(directory.path()).expect("they are right");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let asker = asker(&["admin"]);
                while !over.load(Ordering::Relaxed) {
                    let decision = decide(&policies, &asker, Action::Infer, MODEL);
                    assert_eq!(decision.policies, [if decision.allowed { "one" } else { "two" }]);
                }
            });
        }
        for round in 0..40 {
            fs::write(&next, &files[round % 2]).expect("it can be written");
            fs::rename(&next, &file).expect("it can be moved");
            policies.reload().expect("they are right");
        }
        over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn cases_say_what_is_expected() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("cases.toml");
    let check = |text: &str| {
        fs::write(&file, text).expect("it can be written");
        check_cases(&Policies::built_in().expect("they are right"), &file)
    };
    let (count, failures) = check(
        r#"
        [[case]]
        name = "developers ask"
        roles = ["developer"]
        action = "infer"
        model = "tiny"
        expect = "allow"
        policy = "developer"

        [[case]]
        name = "auditors ask"
        roles = ["auditor"]
        action = "infer"
        model = "tiny"
        expect = "allow"

        [[case]]
        name = "admins are developers"
        roles = ["admin"]
        action = "readAdministration"
        kind = "keys"
        expect = "allow"
        policy = "developer"

        [[case]]
        name = "admins give roles"
        roles = ["admin"]
        action = "grantRole"
        grant_role = "auditor"
        expect = "allow"

        [[case]]
        name = "auditors give attributes"
        roles = ["auditor"]
        action = "grantAttribute"
        grant_attribute = "team=red"
        expect = "deny"
        "#,
    )
    .expect("they can be read");
    assert_eq!(count, 5);
    let told: Vec<String> = failures.iter().map(|failure| format!("{}: {}", failure.name, failure.reason)).collect();
    assert_eq!(
        told,
        ["auditors ask: denied by no policy", "admins are developers: allowed by admin, not by developer"]
    );
    for (text, expected) in [
        (
            "[[case]]\nname = \"x\"\naction = \"fly\"\nkind = \"keys\"\nexpect = \"deny\"\n",
            "action = \"fly\": expected one of infer",
        ),
        (
            "[[case]]\nname = \"x\"\naction = \"infer\"\nexpect = \"deny\"\n",
            "expected one of model, tool, collection, kind, grant_role or grant_attribute",
        ),
        ("[[case]]\nname = \"x\"\naction = \"infer\"\nmodel = \"m\"\nexpect = \"maybe\"\n", "maybe"),
        ("[[case]]\nname = \"x\"\naction = \"infer\"\nmodle = \"m\"\nexpect = \"deny\"\n", "modle"),
        // Nothing that the schema would refuse is decided.
        ("[[case]]\nname = \"x\"\naction = \"infer\"\nkind = \"keys\"\nexpect = \"deny\"\n", "case \"x\""),
    ] {
        let error = check(text).expect_err("it is wrong").to_string();
        assert!(error.contains(expected) && error.contains("cases.toml"), "{error}");
    }
}

#[test]
fn policies_can_refuse_models_that_nobody_vouches_for() {
    let directory = tempfile::tempdir().expect("a directory");
    let sample = include_str!("../../../deploy/policies/signed-models.cedar");
    fs::write(directory.path().join("signed-models.cedar"), sample).expect("writable");
    fs::write(directory.path().join("default.cedar"), DEFAULT_POLICIES).expect("writable");
    let policies = Policies::open(directory.path()).expect("they are right");
    let infer = |locked: bool, signer: Option<&str>| {
        let resource = Resource::Model { name: "tiny", digest: "00", trust: Trust { locked, signer } };
        let decision = decide(&policies, &asker(&["developer"]), Action::Infer, resource);
        format!("{}: {}", decision.allowed, decision.policies.join(", "))
    };
    expect!["false: unlocked-model, unsigned-model"].assert_eq(&infer(false, None));
    expect!["false: unsigned-model"].assert_eq(&infer(true, None));
    expect!["false: unlocked-model"].assert_eq(&infer(false, Some("sha256:00")));
    expect!["true: developer"].assert_eq(&infer(true, Some("sha256:00")));
}
