//! Checking and redacting what is sent.

use super::{
    super::{Action, Finding, Vault},
    active,
};

const REVERSIBLE: &str = r#"
    [[guardrail]]
    name = "data"
    stage = "input"
    detect = ["personal_data"]
    action = "redact"
    mode = "reversible"
    "#;

#[test]
fn the_same_value_has_the_same_placeholder() {
    let outcome = active(REVERSIBLE).check_input(&[
        "From ada@example.org to bob@example.org.",
        "Nothing here.",
        "ada@example.org again; IBAN DE89 3704 0044 0532 0130 00 and DE89370400440532013000.",
    ]);
    assert_eq!(
        outcome.texts,
        [
            "From [EMAIL_1] to [EMAIL_2].",
            "Nothing here.",
            "[EMAIL_1] again; IBAN [IBAN_1] and [IBAN_2].", // written in another way, so that it is restored as it was
        ]
    );
    let places: Vec<(usize, usize)> = outcome.findings.iter().map(|found| (found.text, found.range.start)).collect();
    assert_eq!(places, [(0, 5), (0, 24), (2, 0), (2, 28), (2, 60)]);
    assert_eq!(outcome.vault.restore("Re: [EMAIL_2], [EMAIL_3], [IBAN_1"), "Re: bob@example.org, [EMAIL_3], [IBAN_1");
}

#[test]
fn a_placeholder_is_never_one_that_is_there_already() {
    let active = active(REVERSIBLE);
    let texts = ["[EMAIL_1] and [EMAIL_3] [[EMAIL_4]", "a@example.org, b@example.org, c@example.org"];
    let outcome = active.check_input(&texts);
    assert_eq!(outcome.texts, [texts[0], "[EMAIL_2], [EMAIL_5], [EMAIL_6]"]);
    for (redacted, text) in outcome.texts.iter().zip(texts) {
        assert_eq!(outcome.vault.restore(redacted), text);
    }
}

#[test]
fn ranges_are_of_characters_whatever_is_around() {
    let active = active(REVERSIBLE);
    for (before, after) in [("é中🙂 ", " 🙂é"), ("„", "“"), ("", ""), ("\u{a0}", "\n"), ("🙂", "🙂")] {
        let text = format!("{before}jürgen@müller.example{after}");
        let outcome = active.check_input(&[&text]);
        assert_eq!(&text[outcome.findings[0].range.clone()], "jürgen@müller.example");
        assert_eq!(outcome.texts[0], format!("{before}[EMAIL_1]{after}"));
    }
}

#[test]
fn the_strongest_then_the_longest_wins() {
    let config = |actions: [&str; 3]| {
        let [short, long, other] = actions;
        format!(
            r#"
            [[guardrail]]
            name = "short"
            stage = "input"
            words = ["kranich"]
            action = "{short}"
            [[guardrail]]
            name = "long"
            stage = "input"
            words = ["projekt kranich"]
            action = "{long}"
            [[guardrail]]
            name = "other"
            stage = "input"
            words = ["kranich start"]
            action = "{other}"
            "#
        )
    };
    let check = |actions, text: Option<&str>, expected: &[(&str, &str)]| {
        let sent = "Das Projekt  KRANICH startet. Projekt Kranich start!";
        let outcome = active(&config(actions)).check_input(&[sent]);
        let of = |found: &Finding| (found.guardrail.to_string(), sent[found.range.clone()].to_owned());
        let found: Vec<(String, String)> = outcome.findings.iter().map(of).collect();
        let expected: Vec<(String, String)> =
            expected.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        assert_eq!((outcome.texts.first().map(|text| &**text), found), (text, expected));
        assert_eq!(outcome.blocked.is_some(), text.is_none());
    };
    let sent = "Das Projekt  KRANICH startet. Projekt Kranich start!";
    check(["flag", "flag", "flag"], Some(sent), &[("long", "Projekt  KRANICH"), ("long", "Projekt Kranich")]);
    check(
        ["redact", "flag", "flag"],
        Some("Das Projekt  [WORD] startet. Projekt [WORD] start!"),
        &[("short", "KRANICH"), ("short", "Kranich")],
    );
    // All that is to be redacted goes, also where it overlaps.
    check(
        ["flag", "redact", "redact"],
        Some("Das [WORD] startet. [WORD]!"),
        &[("long", "Projekt  KRANICH"), ("long", "Projekt Kranich start")],
    );
    check(["redact", "redact", "block"], None, &[("long", "Projekt  KRANICH"), ("other", "Kranich start")]);
}

#[test]
fn words_and_patterns() {
    let check = |keys: &str, text: &str, expected: &[&str]| {
        let config = format!("[[guardrail]]\nname = \"g\"\nstage = \"input\"\naction = \"flag\"\n{keys}");
        let outcome = active(&config).check_input(&[text]);
        let found: Vec<&str> = outcome.findings.iter().map(|found| &text[found.range.clone()]).collect();
        assert_eq!(found, expected, "{keys}");
    };
    check(r#"words = ["über", "straße"]"#, "ÜBER über überall STRASSE STRAßE", &["ÜBER", "über", "STRAßE"]);
    check("words = [\"ass\"]", "class ass assets, ass_1 ass.", &["ass", "ass"]);
    check("words = [\"ass\"]\nwhole_words = false", "class ASS", &["ass", "ASS"]);
    check("words = [\"Ass\"]\ncase_sensitive = true", "ass Ass", &["Ass"]);
    check(r#"words = ["secret plan", "plan b"]"#, "secret\n\tplan b", &["secret\n\tplan"]);
    check(r#"patterns = ["PRJ-[0-9]{3,6}"]"#, "PRJ-1234, XPRJ-123 PRJ-1234567 PRJ-123x", &["PRJ-1234"]);
    check("patterns = [\"PRJ-[0-9]{3,6}\"]\nwhole_words = false", "XPRJ-1234567", &["PRJ-123456"]);
    check("patterns = ['\\p{Greek}+']", "alpha αβγ", &["αβγ"]);
    check("patterns = ['a(?s:.)*z']", &format!("a{}z", "b".repeat(254)), &[&format!("a{}z", "b".repeat(254))]);
    check("patterns = ['a(?s:.)*z']", &format!("a{}z", "b".repeat(255)), &[]); // 257 characters
}

#[test]
fn a_threshold_leaves_out_what_is_not_sure() {
    let check = |threshold: f32, text: &str, expected: usize| {
        let config = format!(
            "[[guardrail]]\nname = \"g\"\nstage = \"input\"\naction = \"flag\"\ndetect = [\"nl_bsn\"]\nthreshold = {threshold:?}"
        );
        assert_eq!(active(&config).check_input(&[text]).findings.len(), expected);
    };
    check(0.5, "BSN 111222333", 1);
    check(0.5, "number 111222333", 0);
    check(0.25, "number 111222333", 1);
    check(0.0, "number 111222334", 0);
}

#[test]
fn of_the_same_rule_the_strongest_guardrail_counts_where_it_is_sure_enough() {
    let config = r#"
        [[guardrail]]
        name = "weak"
        stage = "input"
        detect = ["nl_bsn"]
        action = "flag"
        threshold = 0.2
        [[guardrail]]
        name = "strong"
        stage = "input"
        detect = ["national_id"]
        action = "redact"
        threshold = 0.9
        "#;
    let outcome = active(config).check_input(&["BSN 111222333", "no. 111222333"]);
    assert_eq!(outcome.texts, ["BSN [NATIONAL_ID]", "no. 111222333"]);
    let actions: Vec<Action> = outcome.findings.iter().map(|found| found.action).collect();
    assert_eq!(actions, [Action::Redact, Action::Flag]);
}

#[test]
fn lengths_are_of_each_text() {
    let config = "[[guardrail]]\nname = \"g\"\nstage = \"input\"\naction = \"block\"\nmax_chars = 5";
    let active = active(config);
    assert!(active.check_input(&["ééééé", "12345"]).blocked.is_none());
    let outcome = active.check_input(&["1", "éééééé"]);
    assert_eq!((outcome.findings[0].text, outcome.findings[0].range.clone()), (1, 10..12));
    assert_eq!(&*outcome.blocked.unwrap().detector, "max_chars");
}

/// Names, kinds and places are all that is ever printed.
#[test]
fn nothing_that_was_checked_is_printed() {
    let config = format!(
        "{REVERSIBLE}\n[[guardrail]]\nname = \"w\"\nstage = \"both\"\nwords = [\"zanzibar\"]\naction = \"flag\""
    );
    let active = active(&config);
    let outcome = active.check_input(&["ada@example.org in Zanzibar"]);
    let mut printed = format!("{outcome:?} {:?} {active:?}", outcome.vault);
    printed += &serde_json::to_string(&outcome.findings).unwrap();
    let mut output = active.output(outcome.vault);
    let released = output.push("[EMAIL_1] in Zanzibar, bob@exam");
    assert!(released.text.contains("ada@example.org in Zanzibar"));
    printed += &format!("{released:?} {output:?} {:?}", output.push("ple.org"));
    printed += &format!("{:?}", output.finish());
    for text in ["ada@", "bob@", "example.org", "anzibar"] {
        assert!(!printed.contains(text), "{text} in {printed}");
    }
}

#[test]
fn an_empty_vault_restores_nothing() {
    assert_eq!(Vault::default().restore("[EMAIL_1] ["), "[EMAIL_1] [");
}
