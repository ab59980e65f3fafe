//! Texts of as many tokens as are wanted, for a server whose tokenizer is not known. Main type: [`Prompts`].
//! They are made of words that are one token each in about every vocabulary; [`Calibration`] says how the
//! server counts them. Random words, so that a prefix cache helps only where a prefix is shared on purpose.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{calibration::Calibration, trace::HASHED_TOKENS};

/// Spreads the runs' numbers over the seeds: 2^64 divided by the golden ratio, as Knuth's multiplicative hashing has it.
const RUN_STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// Makes prompts: the same seed and index, the same text.
#[derive(Clone, Debug)]
pub struct Prompts {
    seed: u64,
    /// Share of each prompt, from 0 to 1, that is the same in all of them, at its beginning.
    shared_prefix: f64,
    calibration: Calibration,
}

impl Prompts {
    /// `shared_prefix` is from 0 to 1.
    pub fn new(seed: u64, shared_prefix: f64, calibration: Calibration) -> Self {
        Self { seed, shared_prefix, calibration }
    }

    /// Prompt number `index`, of `tokens` tokens by the calibration.
    pub fn text(&self, index: u64, tokens: u32) -> String {
        let words = self.calibration.words(tokens);
        let shared = (words as f64 * self.shared_prefix).round() as usize;
        let mut text = String::with_capacity(8 * words);
        push_words(&mut text, self.rng(Stream::Shared), shared);
        push_words(&mut text, self.rng(Stream::Own(index)), words - shared);
        text
    }

    /// Prompt number `index` of the run that begins with number `first`: `tokens` tokens that begin with the blocks
    /// `hash_ids`, each the same wherever it stands within the run.
    pub fn hashed_text(&self, (first, index): (u64, u64), tokens: u32, hash_ids: &[u64]) -> String {
        let mut left = self.calibration.words(tokens);
        let block = (f64::from(HASHED_TOKENS) / self.calibration.tokens_per_word).round() as usize;
        let mut text = String::with_capacity(8 * left);
        for id in hash_ids {
            let words = left.min(block);
            push_words(&mut text, self.rng(Stream::Block(first, *id)), words);
            left -= words;
        }
        push_words(&mut text, self.rng(Stream::Own(index)), left);
        text
    }

    fn rng(&self, stream: Stream) -> ChaCha8Rng {
        let (seed, kind, number) = match stream {
            Stream::Shared => (self.seed, 0, 0),
            Stream::Own(index) => (self.seed, 1, index),
            Stream::Block(first, id) => (self.seed.wrapping_add(first.wrapping_mul(RUN_STEP)), 2, id),
        };
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        // ChaCha has 2^64 streams; ids of a trace are hashes at most, of which two bits are not missed.
        rng.set_stream((number << 2) | kind);
        rng
    }
}

/// The random texts of one seed, which have nothing to do with each other.
enum Stream {
    Shared,
    Own(u64),
    /// Of the run that begins with this number.
    Block(u64, u64),
}

fn push_words(text: &mut String, mut rng: ChaCha8Rng, count: usize) {
    for _ in 0..count {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(WORDS[rng.random_range(0..WORDS.len())]);
    }
}

/// Frequent English words; a test holds them to be one token each, after a space, in the vocabulary of Mistral's v3 tokenizer.
const WORDS: [&str; 256] = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "was",
    "for",
    "on",
    "that",
    "with",
    "as",
    "his",
    "they",
    "at",
    "be",
    "this",
    "from",
    "have",
    "or",
    "by",
    "one",
    "had",
    "not",
    "but",
    "what",
    "all",
    "were",
    "when",
    "we",
    "there",
    "can",
    "an",
    "your",
    "which",
    "their",
    "said",
    "if",
    "do",
    "will",
    "each",
    "about",
    "how",
    "up",
    "out",
    "them",
    "then",
    "she",
    "many",
    "some",
    "so",
    "these",
    "would",
    "other",
    "into",
    "has",
    "more",
    "her",
    "two",
    "like",
    "him",
    "see",
    "time",
    "could",
    "no",
    "make",
    "than",
    "first",
    "been",
    "its",
    "who",
    "now",
    "people",
    "my",
    "made",
    "over",
    "did",
    "down",
    "only",
    "way",
    "find",
    "use",
    "may",
    "water",
    "long",
    "little",
    "very",
    "after",
    "words",
    "called",
    "just",
    "where",
    "most",
    "know",
    "get",
    "through",
    "back",
    "much",
    "before",
    "also",
    "around",
    "another",
    "came",
    "come",
    "work",
    "three",
    "must",
    "because",
    "does",
    "part",
    "even",
    "place",
    "well",
    "such",
    "here",
    "take",
    "why",
    "help",
    "put",
    "different",
    "away",
    "again",
    "off",
    "went",
    "old",
    "number",
    "great",
    "tell",
    "men",
    "say",
    "small",
    "every",
    "found",
    "still",
    "between",
    "name",
    "should",
    "home",
    "big",
    "give",
    "air",
    "line",
    "set",
    "own",
    "under",
    "read",
    "last",
    "never",
    "us",
    "left",
    "end",
    "along",
    "while",
    "might",
    "next",
    "sound",
    "below",
    "saw",
    "something",
    "thought",
    "both",
    "few",
    "those",
    "always",
    "show",
    "large",
    "often",
    "together",
    "asked",
    "house",
    "world",
    "going",
    "want",
    "school",
    "important",
    "until",
    "form",
    "food",
    "keep",
    "children",
    "feet",
    "land",
    "side",
    "without",
    "boy",
    "once",
    "animal",
    "life",
    "enough",
    "took",
    "sometimes",
    "four",
    "head",
    "above",
    "kind",
    "began",
    "almost",
    "live",
    "page",
    "got",
    "earth",
    "need",
    "far",
    "hand",
    "high",
    "year",
    "mother",
    "light",
    "country",
    "father",
    "let",
    "night",
    "following",
    "picture",
    "being",
    "study",
    "second",
    "soon",
    "story",
    "since",
    "white",
    "ever",
    "paper",
    "hard",
    "near",
    "sentence",
    "better",
    "best",
    "across",
    "during",
    "today",
    "however",
    "sure",
    "knew",
    "trying",
    "told",
    "young",
    "sun",
    "thing",
    "whole",
    "hear",
    "example",
    "heard",
    "several",
    "change",
    "answer",
    "room",
    "sea",
    "against",
    "top",
    "turned",
    "learn",
    "point",
    "city",
    "play",
    "toward",
];
