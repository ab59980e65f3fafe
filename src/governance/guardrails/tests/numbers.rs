//! How often numbers that mean nothing are taken for something.

use std::collections::BTreeMap;

use super::active;

/// Of ten thousand numbers of each length at random, the most that may be found with no word in front.
const MOST_FOUND: &[(&str, usize, u32)] = &[
    ("payment_card", 12, 5),
    ("payment_card", 13, 100),
    ("payment_card", 14, 50),
    ("payment_card", 15, 30),
    ("payment_card", 16, 280),
    ("payment_card", 17, 25),
    ("payment_card", 18, 15),
    ("payment_card", 19, 180),
    ("fr_nir", 15, 5),
    ("se_personnummer", 12, 5),
];

#[test]
fn random_numbers_are_rarely_found() {
    let active =
        active("[[guardrail]]\nname = \"g\"\nstage = \"input\"\ndetect = [\"personal_data\"]\naction = \"flag\"");
    let mut state: u64 = 42;
    // Numerical Recipes' linear congruential generator; its upper bits are good enough for digits.
    let mut digit = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'0' + (state >> 33).rem_euclid(10) as u8)
    };
    let mut found: BTreeMap<(String, usize), u32> = BTreeMap::new();
    for length in 6..=22 {
        for _ in 0..10_000 {
            let text: String = "no. ".chars().chain((0..length).map(|_| digit())).collect();
            for finding in active.check_input(&[&text]).findings {
                *found.entry((finding.detector.to_string(), length)).or_default() += 1;
            }
        }
    }
    for ((detector, length), count) in &found {
        println!("{detector}: {count} of 10,000 numbers of {length} digits");
    }
    for ((detector, length), count) in found {
        let most = MOST_FOUND.iter().find(|(name, of, _)| *name == detector && *of == length).map_or(0, |row| row.2);
        assert!(count <= most, "{detector}: {count} of 10,000 numbers of {length} digits");
    }
}
