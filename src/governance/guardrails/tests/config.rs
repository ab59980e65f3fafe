//! What a configuration may say, and what applies to whom.

use std::sync::Arc;

use expect_test::{Expect, expect};

use super::{
    super::{Classifier, ClassifierFailure, Guardrails, GuardrailsConfig},
    compile,
};

const HEAD: &str = "[[guardrail]]\nname = \"g\"\n";

fn refused(config: &str, expected: Expect) {
    expected.assert_eq(&compile(&format!("{HEAD}{config}")).unwrap_err().to_string());
}

#[test]
fn what_means_nothing_is_refused_by_name_and_value() {
    let redact = "stage = \"both\"\naction = \"redact\"\n";
    let block = "stage = \"both\"\naction = \"block\"\n";
    refused(
        redact,
        expect![[
            r#"guardrail[0].detect = "[]": expected something to look for: detect, words, patterns, max_chars or classifier"#
        ]],
    );
    refused(
        &format!("{block}words = [\"a\", \"  \"]"),
        expect![[r#"guardrail[0].words[1] = "  ": expected 1 to 256 characters"#]],
    );
    refused(
        &format!("{block}words = [\"a\"]\nthreshold = 1.5"),
        expect![[r#"guardrail[0].threshold = "1.5": expected a number from 0 to 1"#]],
    );
    refused(
        &format!("{block}words = [\"a\"]\nthreshold = nan"),
        expect![[r#"guardrail[0].threshold = "NaN": expected a number from 0 to 1"#]],
    );
    refused(
        &format!("{block}words = [\"a\"]\nmode = \"reversible\""),
        expect![[r#"guardrail[0].mode = "reversible": expected action = "redact" with it"#]],
    );
    refused(
        "stage = \"output\"\naction = \"redact\"\nwords = [\"a\"]\nmode = \"reversible\"",
        expect![[
            r#"guardrail[0].mode = "reversible": expected "irreversible" where stage = "output": nothing restores an answer"#
        ]],
    );
    refused(
        &format!("{redact}max_chars = 10"),
        expect![[
            r#"guardrail[0].max_chars = "10": expected action = "flag" or "block" with it: what is too long has no replacement"#
        ]],
    );
    refused(&format!("{block}max_chars = 0"), expect![[r#"guardrail[0].max_chars = "0": expected at least 1"#]]);
    refused(
        &format!("{block}max_chars = 9\nwhole_words = true"),
        expect![[r#"guardrail[0].whole_words = "true": expected words or patterns with it"#]],
    );
    refused(
        &format!("{block}patterns = [\"a\"]\ncase_sensitive = true"),
        expect![[r#"guardrail[0].case_sensitive = "true": expected words with it; patterns say (?i)"#]],
    );
    refused(
        &format!("{block}words = [\"a\"]\ntenants = []"),
        expect![[r#"guardrail[0].tenants = "[]": expected at least one name, or no such key for all"#]],
    );
    refused(
        &format!("{block}words = [\"a\"]\n[[guardrail]]\nname = \"g\"\n{block}words = [\"b\"]"),
        expect![[r#"guardrail[1].name = "g": expected a name that no other guardrail has"#]],
    );
    refused(
        &format!("{block}classifier = {{ label = \"toxic\" }}"),
        expect![[r#"guardrail[0].classifier.label: this server has no classifier to ask for "toxic""#]],
    );
}

#[test]
fn patterns_are_refused_with_the_reason() {
    let check = |pattern: &str, expected: Expect| {
        refused(&format!("stage = \"both\"\naction = \"flag\"\npatterns = ['ok', '{pattern}']"), expected);
    };
    check("a*", expect![[r#"guardrail[0].patterns[1] = "a*": it matches where there is nothing"#]]);
    check(
        r"\bword",
        expect![[
            r#"guardrail[0].patterns[1] = "\\bword": `^`, `$` and `\b` are not supported; `whole_words` says where matches begin and end"#
        ]],
    );
    check(
        r"\w{1000}{1000}",
        expect![[r#"guardrail[0].patterns[1] = "\\w{1000}{1000}": it is too large: fewer or smaller counts"#]],
    );
    let unclosed =
        compile(&format!("{HEAD}stage = \"both\"\naction = \"flag\"\npatterns = ['(a']")).unwrap_err().to_string();
    assert!(unclosed.contains("patterns[0]") && unclosed.contains("unclosed group"), "{unclosed}");
    let backreference = compile(&format!("{HEAD}stage = \"both\"\naction = \"flag\"\npatterns = ['(a)\\1']"));
    assert!(backreference.unwrap_err().to_string().contains("backreferences are not supported"));
}

#[test]
fn a_detector_that_is_not_known_is_named() {
    let error =
        compile(&format!("{HEAD}stage = \"both\"\naction = \"flag\"\ndetect = [\"iban\", \"ibann\"]")).unwrap_err();
    assert!(
        error.to_string().starts_with(r#"guardrail[0].detect[1] = "ibann": expected one of all, personal_data"#),
        "{error}"
    );
}

#[test]
fn unknown_keys_are_errors() {
    for config in [
        "[[guardrail]]\nname = \"g\"\nstage = \"both\"\naction = \"flag\"\nwords = [\"a\"]\nregexes = []",
        "[[guardrails]]\nname = \"g\"",
        "[[guardrail]]\nname = \"g\"\nstage = \"both\"\naction = \"deny\"",
        "[[guardrail]]\nname = \"g\"\nstage = \"both\"\naction = \"flag\"\nclassifier = { label = \"a\", model = \"b\" }",
    ] {
        assert!(toml::from_str::<GuardrailsConfig>(config).is_err(), "{config}");
    }
}

#[test]
fn filters_select() {
    let guardrails = compile(
        r#"
        [[guardrail]]
        name = "everyone"
        stage = "both"
        detect = ["iban"]
        action = "flag"

        [[guardrail]]
        name = "acme's chats"
        stage = "output"
        tenants = ["acme", "acme-*"]
        routes = ["/v1/chat/*"]
        words = ["x"]
        action = "flag"

        [[guardrail]]
        name = "small models"
        stage = "input"
        models = ["mistral-small"]
        words = ["x"]
        action = "flag"
        "#,
    )
    .unwrap();
    let check = |tenant: &str, model: &str, route: &str, expected: &[&str]| {
        let active = guardrails.select(tenant, model, route);
        assert_eq!(active.names().iter().map(|name| &**name).collect::<Vec<_>>(), expected);
    };
    check("acme", "m", "/v1/chat/completions", &["everyone", "acme's chats"]);
    check("acme-eu", "mistral-small", "/v1/chat/completions", &["everyone", "acme's chats", "small models"]);
    check("acmee", "m", "/v1/chat/completions", &["everyone"]);
    check("acme", "m", "/v1/embeddings", &["everyone"]);
    check("", "mistral-small-2", "", &["everyone"]);
    // Stages: what is said only of answers does not concern inputs.
    let active = guardrails.select("acme", "m", "/v1/chat/completions");
    assert!(active.check_input(&["x"]).findings.is_empty());
    let nothing = Guardrails::new(GuardrailsConfig::default(), None).unwrap().select("acme", "m", "/");
    assert!(!nothing.checks_input() && !nothing.checks_output());
    assert_eq!(nothing.check_input(&["DE89 3704 0044 0532 0130 00"]).texts, ["DE89 3704 0044 0532 0130 00"]);
}

struct Labels;

impl Classifier for Labels {
    fn labels(&self) -> Vec<String> {
        vec!["toxic".to_owned()]
    }

    fn score(&self, _: &str, _: &str) -> Result<f32, ClassifierFailure> {
        Err(ClassifierFailure)
    }
}

#[test]
fn a_label_has_to_be_one_that_the_classifier_knows() {
    let config: GuardrailsConfig = toml::from_str(
        "[[guardrail]]\nname = \"g\"\nstage = \"input\"\naction = \"block\"\nclassifier = { label = \"rude\" }",
    )
    .unwrap();
    let error = Guardrails::new(config, Some(Arc::new(Labels))).unwrap_err();
    expect![[r#"guardrail[0].classifier.label = "rude": expected one of toxic"#]].assert_eq(&error.to_string());
}

#[test]
fn a_configuration_survives_being_written_and_read() {
    let config: GuardrailsConfig = toml::from_str(
        "[[guardrail]]\nname = \"g\"\nstage = \"input\"\naction = \"redact\"\nmode = \"reversible\"\ndetect = [\"all\"]\nmodels = [\"m*\"]",
    )
    .unwrap();
    assert_eq!(toml::from_str::<GuardrailsConfig>(&toml::to_string(&config).unwrap()).unwrap(), config);
}

/// Every kind of automaton at once: the detectors' four, two of expressions, four of words.
#[test]
fn all_kinds_of_rules_work_together() {
    let mut config =
        "[[guardrail]]\nname = \"d\"\nstage = \"input\"\naction = \"flag\"\ndetect = [\"all\"]\n".to_owned();
    for (index, (whole, case)) in [(true, true), (true, false), (false, true), (false, false)].into_iter().enumerate() {
        config += &format!(
            "[[guardrail]]\nname = \"{index}\"\nstage = \"input\"\naction = \"flag\"\nwords = [\"w{index}\"]\n\
             patterns = [\"p{index}\"]\nwhole_words = {whole}\ncase_sensitive = {case}\n"
        );
    }
    let active = compile(&config).unwrap().select("t", "m", "/");
    let outcome = active.check_input(&["w0 w1 w2 w3 p0 p1 p2 p3 W0 W1 xW2x xW3x ada@example.org 192.0.2.1"]);
    let found: Vec<usize> = outcome.findings.iter().map(|finding| finding.range.start).collect();
    assert_eq!(found, [0, 3, 6, 9, 12, 15, 18, 21, 27, 36, 40, 56]);
}
