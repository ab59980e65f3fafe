//! What may come next in an answer of a given form: sets of token ids, and who knows them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Ids of a word of the set.
const WORD_IDS: usize = u32::BITS as usize;

/// A set of token ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenSet {
    /// Id `32 w + b` is in the set if bit `b` of word `w` is set.
    words: Vec<u32>,
}

impl TokenSet {
    /// The set whose id `32 w + b` is bit `b` of word `w`.
    pub fn from_words(words: Vec<u32>) -> Self {
        Self { words }
    }

    /// True if the id is in the set.
    pub fn contains(&self, id: u32) -> bool {
        self.words.get(id as usize / WORD_IDS).is_some_and(|word| word >> (id as usize % WORD_IDS) & 1 == 1)
    }

    /// Adds an id.
    pub fn insert(&mut self, id: u32) {
        let word = id as usize / WORD_IDS;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (id as usize % WORD_IDS);
    }

    /// How many ids it has.
    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// True if it has none.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }

    /// True if it has no id but these, which are few.
    pub fn is_within(&self, ids: &[u32]) -> bool {
        let mut distinct = ids.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        self.len() == distinct.iter().filter(|&&id| self.contains(id)).count()
    }

    /// Sets the scores of all ids that are not in the set to negative infinity.
    pub fn mask(&self, scores: &mut [f32]) {
        let words = self.words.iter().copied().chain(std::iter::repeat(0));
        for (word, scores) in words.zip(scores.chunks_mut(WORD_IDS)) {
            match word {
                u32::MAX => {}
                0 => scores.fill(f32::NEG_INFINITY),
                _ => {
                    for (bit, score) in scores.iter_mut().enumerate() {
                        if word >> bit & 1 == 0 {
                            *score = f32::NEG_INFINITY;
                        }
                    }
                }
            }
        }
    }
}

/// The form of one answer, as far as the answer has come.
pub trait Constraint: Send + Sync + fmt::Debug {
    /// The ids that may come next; those that end the answer are among them where it may end.
    fn allowed(&mut self) -> Result<TokenSet, ConstraintError>;
    /// An id has come. It was one of those that may.
    fn advance(&mut self, id: u32) -> Result<(), ConstraintError>;
    /// The same form at the same place, for another answer.
    fn fork(&self) -> Box<dyn Constraint>;
    /// The form and where an answer begins, to be had again another day; `None` if it cannot be written.
    fn written(&self) -> Option<WrittenForm> {
        None
    }
}

/// The form of an answer as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrittenForm {
    /// A grammar, in the language of whoever keeps answers to it.
    pub grammar: String,
    /// Tokens of the answer that were there before.
    pub continued: Vec<u32>,
}

impl Clone for Box<dyn Constraint> {
    fn clone(&self) -> Self {
        self.fork()
    }
}

/// Why an answer's form cannot be kept to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the form of the answer cannot be kept to: {0}")]
pub struct ConstraintError(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[u32]) -> TokenSet {
        let mut set = TokenSet::default();
        ids.iter().for_each(|&id| set.insert(id));
        set
    }

    #[test]
    fn a_set_has_what_was_inserted() {
        let ids = [0, 31, 32, 95, 131_071];
        let set = set(&ids);
        assert_eq!(set.len(), ids.len());
        let found: Vec<u32> = (0..200_000).filter(|&id| set.contains(id)).collect();
        assert_eq!(found, ids);
        assert!(set.is_within(&[131_071, 95, 32, 31, 0, 0, 7]) && !set.is_within(&[0, 31, 32, 95]));
        assert!(!set.is_empty() && TokenSet::from_words(vec![0, 0]).is_empty());
    }

    #[test]
    fn a_mask_leaves_what_is_in_the_set_also_where_it_is_shorter_than_the_vocabulary() {
        for ids in [vec![], vec![3], (0..64).collect(), vec![0, 40, 69]] {
            let mut scores: Vec<f32> = (0..70).map(|id| id as f32).collect();
            set(&ids).mask(&mut scores);
            for (id, &score) in scores.iter().enumerate() {
                let expected = if ids.contains(&(id as u32)) { id as f32 } else { f32::NEG_INFINITY };
                assert_eq!(score, expected, "{id} of {ids:?}");
            }
        }
    }
}
