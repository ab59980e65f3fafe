//! From a configuration to guardrails that can be selected: everything is checked here, once.

use std::{collections::HashSet, sync::Arc};

use super::{
    Guardrails,
    automaton::{ExpressionError, RuleId},
    classify::Classifier,
    config::{GuardrailConfig, GuardrailsConfig, Mode},
    detectors,
    error::GuardrailsError,
    finding::{Action, Stage},
    plan::Use,
    rules::{Collection, LONGEST_MATCH_CHARS},
};

const MOST_GUARDRAILS: usize = 256;
const MOST_WORDS: usize = 20_000;
const MOST_PATTERNS: usize = 256;
const LONGEST_PATTERN_CHARS: usize = 1000;
const LONGEST_NAME_CHARS: usize = 64;

/// A guardrail, checked.
pub(super) struct Guardrail {
    pub stage: Stage,
    pub of: Use,
    pub rules: Vec<RuleId>,
    pub max_chars: Option<usize>,
    pub label: Option<Arc<str>>,
    pub tenants: Filter,
    pub models: Filter,
    pub routes: Filter,
}

/// Names that something applies to.
pub(super) struct Filter(Option<Vec<String>>);

impl Guardrail {
    /// A route that there is not is a mistake: the guardrail would never apply to it.
    pub(super) fn check_routes(&self, index: usize, routes: &[&str]) -> Result<(), GuardrailsError> {
        let is_there = |wanted: &str| routes.iter().any(|route| matches(wanted, route));
        for (at, wanted) in self.routes.0.iter().flatten().enumerate() {
            if !is_there(wanted) {
                let expected = "a route as the interface's document has it, such as /v1/chat/completions, or the \
                                beginning of one that ends with *";
                return Err(invalid(format!("guardrail[{index}].routes[{at}]"), wanted, expected));
            }
        }
        Ok(())
    }
}

impl Filter {
    /// Does it apply to this name?
    pub(super) fn admits(&self, name: &str) -> bool {
        self.0.as_ref().is_none_or(|names| names.iter().any(|wanted| matches(wanted, name)))
    }
}

fn matches(wanted: &str, name: &str) -> bool {
    match wanted.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => wanted == name,
    }
}

/// Checks a configuration and compiles what it looks for.
pub(super) fn compile(
    config: GuardrailsConfig,
    classifier: Option<Arc<dyn Classifier>>,
) -> Result<Guardrails, GuardrailsError> {
    let count = config.guardrail.len();
    if count > MOST_GUARDRAILS {
        return Err(invalid("guardrail", format!("{count} tables"), format!("at most {MOST_GUARDRAILS}")));
    }
    let labels = classifier.as_ref().map(|classifier| classifier.labels());
    let mut collection = Collection::default();
    let mut names = HashSet::new();
    let mut guardrails = Vec::with_capacity(count);
    for (index, guardrail) in config.guardrail.into_iter().enumerate() {
        let at = |field: &str| format!("guardrail[{index}].{field}");
        let length = guardrail.name.chars().count();
        if !(1..=LONGEST_NAME_CHARS).contains(&length) {
            return Err(invalid(at("name"), guardrail.name, format!("1 to {LONGEST_NAME_CHARS} characters")));
        }
        if !names.insert(guardrail.name.clone()) {
            return Err(invalid(at("name"), guardrail.name, "a name that no other guardrail has"));
        }
        guardrails.push(check(guardrail, &at, labels.as_deref(), &mut collection)?);
    }
    let rules = collection.compile().map_err(|_| {
        invalid("guardrail", "all patterns and words", "fewer or smaller ones: together they are too large to compile")
    })?;
    Ok(Guardrails { guardrails: guardrails.into(), rules: Arc::new(rules), classifier })
}

fn check(
    config: GuardrailConfig,
    at: &dyn Fn(&str) -> String,
    labels: Option<&[String]>,
    collection: &mut Collection,
) -> Result<Guardrail, GuardrailsError> {
    check_combinations(&config, at)?;
    let mut rules = Vec::new();
    for (index, name) in config.detect.iter().enumerate() {
        let mut detectors = detectors::named(name).peekable();
        if detectors.peek().is_none() {
            return Err(invalid(
                at(&format!("detect[{index}]")),
                name,
                format!("one of {}", detectors::names().join(", ")),
            ));
        }
        rules.extend(detectors.map(|detector| collection.detector(detector)));
    }
    rules.sort_unstable();
    rules.dedup();
    let whole_words = config.whole_words.unwrap_or(true);
    rules.extend(take_patterns(&config.patterns, whole_words, at, collection)?);
    check_words(&config.words, at)?;
    if !config.words.is_empty() {
        rules.push(collection.words(&config.words, whole_words, config.case_sensitive.unwrap_or(false)));
    }
    let label = config.classifier.map(|classifier| classifier.label);
    if let Some(label) = &label {
        let at = at("classifier.label");
        match labels {
            None => return Err(GuardrailsError::NoClassifier { at, label: label.clone() }),
            Some(labels) if !labels.contains(label) => {
                return Err(invalid(at, label, format!("one of {}", labels.join(", "))));
            }
            Some(_) => {}
        }
    }
    let of = Use {
        guardrail: config.name.into(),
        action: config.action,
        mode: config.mode.unwrap_or_default(),
        threshold: config.threshold,
    };
    Ok(Guardrail {
        stage: config.stage,
        of,
        rules,
        max_chars: config.max_chars,
        label: label.map(Arc::from),
        tenants: filter(config.tenants, "tenants", at)?,
        models: filter(config.models, "models", at)?,
        routes: filter(config.routes, "routes", at)?,
    })
}

/// What would mean nothing is refused, as its writer expects it to mean something.
fn check_combinations(config: &GuardrailConfig, at: &dyn Fn(&str) -> String) -> Result<(), GuardrailsError> {
    let has_own = !config.words.is_empty() || !config.patterns.is_empty();
    let looks = !config.detect.is_empty() || has_own || config.max_chars.is_some() || config.classifier.is_some();
    let mode = config.mode.map(|mode| format!("{mode:?}").to_lowercase());
    match config {
        _ if !looks => {
            Err(invalid(at("detect"), "[]", "something to look for: detect, words, patterns, max_chars or classifier"))
        }
        GuardrailConfig { threshold, .. } if !(0.0..=1.0).contains(threshold) => {
            Err(invalid(at("threshold"), threshold, "a number from 0 to 1"))
        }
        GuardrailConfig { max_chars: Some(0), .. } => Err(invalid(at("max_chars"), 0, "at least 1")),
        GuardrailConfig { max_chars: Some(most), action: Action::Redact, .. } => Err(invalid(
            at("max_chars"),
            most,
            "action = \"flag\" or \"block\" with it: what is too long has no replacement",
        )),
        GuardrailConfig { action: Action::Flag | Action::Block, mode: Some(_), .. } => {
            Err(invalid(at("mode"), mode.unwrap_or_default(), "action = \"redact\" with it"))
        }
        GuardrailConfig { stage: Stage::Output, mode: Some(Mode::Reversible), .. } => Err(invalid(
            at("mode"),
            "reversible",
            "\"irreversible\" where stage = \"output\": nothing restores an answer",
        )),
        GuardrailConfig { whole_words: Some(whole), .. } if !has_own => {
            Err(invalid(at("whole_words"), whole, "words or patterns with it"))
        }
        GuardrailConfig { case_sensitive: Some(heeds), words, .. } if words.is_empty() => {
            Err(invalid(at("case_sensitive"), heeds, "words with it; patterns say (?i)"))
        }
        _ => Ok(()),
    }
}

fn take_patterns(
    patterns: &[String],
    whole_words: bool,
    at: &dyn Fn(&str) -> String,
    collection: &mut Collection,
) -> Result<Vec<RuleId>, GuardrailsError> {
    if patterns.len() > MOST_PATTERNS {
        return Err(invalid(at("patterns"), format!("{} of them", patterns.len()), format!("at most {MOST_PATTERNS}")));
    }
    let compile = |(index, pattern): (usize, &String)| {
        let name = format!("patterns[{index}]");
        if pattern.chars().count() > LONGEST_PATTERN_CHARS {
            return Err(invalid(at(&name), pattern, format!("at most {LONGEST_PATTERN_CHARS} characters")));
        }
        collection.expression(&name, pattern, whole_words).map_err(|error| {
            let reason = match error {
                ExpressionError::Syntax(reason) => reason,
                ExpressionError::TooLarge => "it is too large: fewer or smaller counts".to_owned(),
            };
            GuardrailsError::Pattern { at: at(&name), pattern: pattern.clone(), reason }
        })
    };
    patterns.iter().enumerate().map(compile).collect()
}

fn check_words(words: &[String], at: &dyn Fn(&str) -> String) -> Result<(), GuardrailsError> {
    if words.len() > MOST_WORDS {
        return Err(invalid(at("words"), format!("{} of them", words.len()), format!("at most {MOST_WORDS}")));
    }
    let fits = |word: &String| (1..=LONGEST_MATCH_CHARS).contains(&word.trim().chars().count());
    match words.iter().enumerate().find(|(_, word)| !fits(word)) {
        Some((index, word)) => {
            Err(invalid(at(&format!("words[{index}]")), word, format!("1 to {LONGEST_MATCH_CHARS} characters")))
        }
        None => Ok(()),
    }
}

fn filter(names: Option<Vec<String>>, field: &str, at: &dyn Fn(&str) -> String) -> Result<Filter, GuardrailsError> {
    match &names {
        Some(list) if list.is_empty() => Err(invalid(at(field), "[]", "at least one name, or no such key for all")),
        Some(list) if list.iter().any(String::is_empty) => {
            Err(invalid(at(field), "", "a name, or a beginning and `*`"))
        }
        _ => Ok(Filter(names)),
    }
}

fn invalid(at: impl Into<String>, value: impl ToString, expected: impl Into<String>) -> GuardrailsError {
    GuardrailsError::Invalid { at: at.into(), value: value.to_string(), expected: expected.into() }
}
