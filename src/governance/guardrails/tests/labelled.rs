//! How well detectors do on texts that say what is in them: `tests/data/guardrails`, made up by
//! `scripts/guardrails-labelled-set`, and phrases of attacks written by hand.

use std::{collections::BTreeMap, fmt::Write, fs, ops::Range, path::PathBuf};

use super::{super::detectors, active, labelled_texts};

/// What a detector must reach: (name, precision, recall). Those that are not named here must reach 1 and 1.
const FLOORS: &[(&str, f64, f64)] = &[
    // A third of these labels has no word in front that says what the number is, and is not to be found.
    ("de_steuer_id", 1.0, 0.66),
    ("nl_bsn", 1.0, 0.66),
    ("pl_pesel", 1.0, 0.66),
    ("pt_nif", 1.0, 0.66),
    // Numbers as they are written within a country, whose word for it stands behind.
    ("phone", 1.0, 0.9),
    // Reworded attacks, of which the labels have some on purpose.
    ("injection_override", 1.0, 0.7),
    ("injection_disclosure", 0.9, 0.9),
    ("injection_identity", 1.0, 0.9),
    ("injection_authority", 1.0, 0.85),
];

#[derive(Default)]
struct Tally {
    right: u32,
    wrong: u32,
    missed: u32,
}

impl Tally {
    fn precision(&self) -> f64 {
        f64::from(self.right) / f64::from((self.right + self.wrong).max(1))
    }

    fn recall(&self) -> f64 {
        f64::from(self.right) / f64::from((self.right + self.missed).max(1))
    }
}

#[test]
fn precision_and_recall_are_what_we_say() {
    let active = active(
        r#"
        [[guardrail]]
        name = "all"
        stage = "input"
        detect = ["all"]
        action = "flag"
        "#,
    );
    let mut tallies: BTreeMap<&str, Tally> =
        detectors::names()[5..].iter().map(|&name| (name, Tally::default())).collect();
    let mut mistakes = String::new();
    for (text, labels) in labelled_texts() {
        let outcome = active.check_input(&[&text]);
        let mut labels: Vec<(String, Range<usize>, bool)> =
            labels.into_iter().map(|(name, range)| (name, range, false)).collect();
        for finding in outcome.findings {
            let name = &*finding.detector;
            let tally = tallies.get_mut(name).unwrap();
            // Of a phrase it is enough to find a part; of data all of it has to be found, and no more.
            let fits = |range: &Range<usize>| match name.starts_with("injection") {
                true => range.start < finding.range.end && finding.range.start < range.end,
                false => *range == finding.range,
            };
            match labels.iter_mut().find(|(label, range, found)| label == name && fits(range) && !found) {
                Some(label) => (label.2, tally.right) = (true, tally.right + 1),
                None => {
                    tally.wrong += 1;
                    writeln!(mistakes, "{name} wrong: {:?} in {text:?}", &text[finding.range.clone()]).unwrap();
                }
            }
        }
        for (name, range, found) in labels {
            if !found {
                tallies.get_mut(&*name).unwrap().missed += 1;
                writeln!(mistakes, "{name} missed: {:?} in {text:?}", &text[range]).unwrap();
            }
        }
    }
    let mut table = "| detector | labels | precision | recall |\n|---|---|---|---|\n".to_owned();
    let mut failed = Vec::new();
    for (name, tally) in &tallies {
        let (precision, recall) = (tally.precision(), tally.recall());
        writeln!(table, "| `{name}` | {} | {precision:.3} | {recall:.3} |", tally.right + tally.missed).unwrap();
        let floor = FLOORS.iter().find(|(floor, ..)| floor == name).map_or((1.0, 1.0), |floor| (floor.1, floor.2));
        if tally.right == 0 || precision < floor.0 || recall < floor.1 {
            failed.push(name);
        }
    }
    println!("{table}\n{mistakes}");
    let page = fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/guardrails.md")).unwrap();
    assert!(page.contains(&table), "docs/guardrails.md states other figures than\n{table}");
    assert!(failed.is_empty(), "below what is stated for {failed:?}\n{mistakes}");
}
