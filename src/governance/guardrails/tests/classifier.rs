//! What a classifier judges: an input as a whole, an answer in passages.

use std::sync::{Arc, Mutex};

use super::super::{BlockCause, Classifier, ClassifierFailure, Guardrails, GuardrailsConfig, Vault};

/// Says "rude" of what has a word in it, and remembers what it was asked.
#[derive(Default)]
struct Word {
    asked: Mutex<Vec<String>>,
}

impl Classifier for Word {
    fn labels(&self) -> Vec<String> {
        vec!["rude".to_owned()]
    }

    fn score(&self, _: &str, text: &str) -> Result<f32, ClassifierFailure> {
        self.asked.lock().unwrap().push(text.to_owned());
        match text {
            _ if text.contains("unplugged") => Err(ClassifierFailure),
            _ if text.contains("unknown") => Ok(f32::NAN),
            _ => Ok(if text.contains("blockhead") { 0.9 } else { 0.1 }),
        }
    }
}

fn guardrails(stage: &str, action: &str) -> (Arc<Word>, Guardrails) {
    let config = format!(
        "[[guardrail]]\nname = \"g\"\nstage = \"{stage}\"\naction = \"{action}\"\nclassifier = {{ label = \"rude\" }}"
    );
    let config: GuardrailsConfig = toml::from_str(&config).unwrap();
    let word = Arc::new(Word::default());
    let classifier: Arc<dyn Classifier> = Arc::clone(&word) as Arc<dyn Classifier>;
    (word, Guardrails::new(config, Some(classifier)).unwrap())
}

#[test]
fn an_input_is_judged_as_a_whole() {
    let (word, guardrails) = guardrails("input", "block");
    let active = guardrails.select("t", "m", "/");
    assert!(active.check_input(&["Good day.", ""]).blocked.is_none());
    assert_eq!(*word.asked.lock().unwrap(), ["Good day."]);
    let outcome = active.check_input(&["Good day.", "You blockhead."]);
    assert_eq!((outcome.findings[0].text, outcome.findings[0].range.clone()), (1, 0..14));
    assert_eq!(outcome.blocked.unwrap().cause, BlockCause::Finding);
}

#[test]
fn what_cannot_be_judged_is_blocked() {
    for action in ["flag", "redact", "block"] {
        let (_, guardrails) = guardrails("both", action);
        let active = guardrails.select("t", "m", "/");
        for text in ["unplugged", "unknown"] {
            assert_eq!(active.check_input(&[text]).blocked.unwrap().cause, BlockCause::ClassifierFailed);
            let mut output = active.output(Vault::default());
            assert_eq!(output.push(text).text, "");
            assert_eq!(output.finish().blocked.unwrap().cause, BlockCause::ClassifierFailed);
        }
    }
}

#[test]
fn an_answer_is_judged_in_passages_that_do_not_depend_on_its_pieces() {
    let sentence = "This is a sentence of an answer which goes on for a while, so that it is long enough. ";
    let answer = format!(
        "{sentence}Short. Another one, you blockhead, of which one would rather not read a word more.\n{sentence}"
    );
    let passages = ["Short. Another one, you blockhead, of which one would rather not read a word more.\n", sentence];
    for size in [1, 2, 7, 50, 1000] {
        let (word, guardrails) = guardrails("output", "redact");
        let mut output = guardrails.select("t", "m", "/").output(Vault::default());
        let mut text = String::new();
        for piece in answer.as_bytes().chunks(size) {
            text += &output.push(std::str::from_utf8(piece).unwrap()).text;
            assert!(!text.contains("Short"), "it left before it was judged");
        }
        text += &output.finish().text;
        assert_eq!(text, format!("{sentence}[TEXT]{sentence}"));
        assert_eq!(*word.asked.lock().unwrap(), [sentence, passages[0], passages[1]]);
    }
}

/// What an answer goes on from is no part of it: a passage that ends there is nobody's concern.
#[test]
fn passages_of_what_an_answer_goes_on_from_are_not_judged() {
    let sentence = "This is a sentence of an answer which goes on for a while, so that it is long enough. ";
    let (begun, rest) = ("This one begins with a blockhead, ", "and it is long enough too, before it ends like this. ");
    let (word, guardrails) = guardrails("output", "redact");
    let mut output = guardrails.select("t", "m", "/").output(Vault::default()).behind(&(sentence.repeat(3) + begun));
    assert!(word.asked.lock().unwrap().is_empty());
    let text = output.push(rest).text + &output.finish().text;
    assert_eq!(*word.asked.lock().unwrap(), [begun.to_owned() + rest]);
    assert_eq!(text, "[TEXT]");
}
