//! Splitting text into the pieces that tekken merges separately, in linear time.
//!
//! Main type: [`Pattern`]. Tekken files carry a regular expression that ends in
//! `|\s+(?!\S)|\s+`: the look-ahead makes a run of white space leave its last character to the word
//! that follows. Engines with look-ahead backtrack, and give up (or blow up) on long runs. So the
//! pattern's head goes to the `regex` crate, which cannot backtrack, and its tail is done by hand.

use regex::Regex;

/// The end of every released tekken pattern.
const LOOKAHEAD_TAIL: &str = r"|\s+(?!\S)|\s+";

/// A compiled splitting pattern.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    /// The pattern with the tail reduced to `\s+`.
    whole: Regex,
    /// The head alone, anchored; `None` for patterns that have no such tail.
    head: Option<Regex>,
}

impl Pattern {
    /// Compiles a pattern, or says why it cannot be used.
    pub(super) fn new(source: &str) -> Result<Pattern, String> {
        let compile = |source: &str| Regex::new(source).map_err(|error| error.to_string());
        match source.strip_suffix(LOOKAHEAD_TAIL) {
            Some(head) => Ok(Pattern {
                whole: compile(&format!(r"{head}|\s+"))?,
                head: Some(compile(&format!(r"\A(?:{head})"))?),
            }),
            None => Ok(Pattern { whole: compile(source)?, head: None }),
        }
    }

    /// Hands out the pieces in order; together they are the text, nothing is left out.
    pub(super) fn split<'t>(&self, text: &'t str, mut emit: impl FnMut(&'t str)) {
        let mut at = 0;
        while at < text.len() {
            let (start, end) = match self.whole.find_at(text, at) {
                Some(found) if !found.is_empty() => (found.start(), found.end()),
                Some(_) | None => (text.len(), text.len()),
            };
            if at < start {
                emit(&text[at..start]);
            }
            if start == end {
                return;
            }
            at = self.end_of_piece(text, start, end);
            emit(&text[start..at]);
        }
    }

    /// Where the piece that was found at `start..end` ends, with the look-ahead applied.
    fn end_of_piece(&self, text: &str, start: usize, end: usize) -> usize {
        let Some(head) = &self.head else {
            return end;
        };
        let found = &text[start..end];
        let is_from_tail = found.chars().all(char::is_whitespace) && !head.is_match(&text[start..]);
        let last = found.char_indices().next_back().map_or(0, |(offset, _)| offset);
        if is_from_tail && end < text.len() && last > 0 { start + last } else { end }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

    fn check(text: &str, expected: &[&str]) {
        let mut pieces = Vec::new();
        Pattern::new(TEKKEN).expect("valid").split(text, |piece| pieces.push(piece));
        assert_eq!(pieces, expected, "splitting {text:?}");
    }

    #[test]
    fn white_space_leaves_its_last_character_to_a_word() {
        check("a  b", &["a", " ", " b"]);
        check("a   12", &["a", "  ", " ", "1", "2"]);
        check("a \n  b ", &["a", " \n", " ", " b", " "]);
        check("  ", &["  "]);
        check("\t\tx", &["\t", "\tx"]);
        check("HelloWorld, it's", &["Hello", "World", ",", " it", "'s"]);
    }

    #[test]
    fn long_runs_neither_fail_nor_stall() {
        let spaces = " ".repeat(1 << 20);
        check(&spaces, &[&spaces]);
        let mut n_pieces = 0;
        Pattern::new(TEKKEN).expect("valid").split(&format!("{spaces}x"), |_| n_pieces += 1);
        assert_eq!(n_pieces, 2);
    }
}
