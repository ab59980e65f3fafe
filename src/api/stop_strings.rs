//! Finds stop strings in a text that arrives in pieces, and lets no part of one out.
//!
//! Main type: [`StopStrings`]. Invariant: what it emits does not depend on where the pieces are cut. The match
//! that ends first wins; of two that end at the same place, the one that began first. Text that may turn out
//! to be the beginning of a stop string is held back until it cannot be one any more.

/// A matcher for one answer.
#[derive(Clone, Debug)]
pub(super) struct StopStrings {
    strings: Vec<String>,
    /// Emitted up to the end of the match, not only up to its beginning.
    include: bool,
    held: String,
}

/// What a piece of text led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Matched {
    /// Text that may be sent.
    Text(String),
    /// The last text, and the stop string that ended it.
    Stop { text: String, stop: String },
}

impl StopStrings {
    /// Looks for `strings`, none of which is empty.
    pub(super) fn new(strings: Vec<String>, include: bool) -> Self {
        Self { strings, include, held: String::new() }
    }

    /// Bytes held back.
    pub(super) fn held_len(&self) -> usize {
        self.held.len()
    }

    /// More text.
    pub(super) fn push(&mut self, piece: &str) -> Matched {
        if self.strings.is_empty() {
            return Matched::Text(piece.to_owned());
        }
        self.held.push_str(piece);
        let found =
            |stop: &String| self.held.find(stop.as_str()).map(|start| (start + stop.len(), start, stop.clone()));
        if let Some((end, start, stop)) = self.strings.iter().filter_map(found).min() {
            self.held.truncate(if self.include { end } else { start });
            return Matched::Stop { text: std::mem::take(&mut self.held), stop };
        }
        let rest = self.held.split_off(self.held.len() - self.ambiguous_len());
        Matched::Text(std::mem::replace(&mut self.held, rest))
    }

    /// No more text, or text that cannot join what was held: gives it out.
    pub(super) fn flush(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Length of the longest end of `held` that begins a stop string.
    fn ambiguous_len(&self) -> usize {
        let longest = self.strings.iter().map(String::len).max().unwrap_or(0).saturating_sub(1);
        let earliest = self.held.len().saturating_sub(longest);
        let begins = |end: &str| self.strings.iter().any(|stop| stop.starts_with(end));
        let starts = self.held.char_indices().map(|(start, _)| start).filter(|&start| start >= earliest);
        starts.map(|start| &self.held[start..]).find(|end| begins(end)).map_or(0, str::len)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Text that came out, and the stop string.
    fn run(strings: &[&str], include: bool, pieces: &[&str]) -> (String, Option<String>) {
        let strings = strings.iter().map(|&stop| stop.to_owned()).collect();
        let mut matcher = StopStrings::new(strings, include);
        let mut out = String::new();
        for piece in pieces {
            match matcher.push(piece) {
                Matched::Text(text) => out.push_str(&text),
                Matched::Stop { text, stop } => return (out + &text, Some(stop)),
            }
        }
        out.push_str(&matcher.flush());
        (out, None)
    }

    #[track_caller]
    fn check(strings: &[&str], pieces: &[&str], text: &str, stop: Option<&str>) {
        assert_eq!(run(strings, false, pieces), (text.to_owned(), stop.map(str::to_owned)));
    }

    #[test]
    fn a_stop_string_is_found_across_pieces() {
        check(&["END"], &["a E", "N", "D b"], "a ", Some("END"));
        check(&["END"], &["a EN", "x"], "a ENx", None);
        check(&["END"], &["a EN"], "a EN", None);
        check(&["aab"], &["aa", "ab"], "a", Some("aab"));
    }

    #[test]
    fn the_match_that_ends_first_wins() {
        check(&["abcX", "bc"], &["abcX"], "a", Some("bc"));
        check(&["bc", "abc"], &["xabc"], "x", Some("abc"));
    }

    #[test]
    fn characters_of_several_bytes_are_not_cut() {
        check(&["é!"], &["caf", "é", "?"], "café?", None);
        check(&["🦀"], &["a🦀b"], "a", Some("🦀"));
        check(&["ééé"], &["éé", "aé"], "ééaé", None);
    }

    #[test]
    fn the_stop_string_may_stay() {
        assert_eq!(run(&["END"], true, &["a E", "ND b"]), ("a END".to_owned(), Some("END".to_owned())));
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(
            stops in prop::collection::vec("[abé]{1,3}", 0..3),
            pieces in prop::collection::vec("[abé]{0,3}", 0..8),
            include: bool,
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let whole = pieces.concat();
            let chars: Vec<String> = whole.chars().map(String::from).collect();
            let chars: Vec<&str> = chars.iter().map(String::as_str).collect();
            let one_by_one = run(&stops, include, &chars);
            prop_assert_eq!(&run(&stops, include, &pieces), &one_by_one);
            prop_assert_eq!(&run(&stops, include, &[&whole]), &one_by_one);
        }

        #[test]
        fn nothing_of_a_stop_string_leaks(
            stops in prop::collection::vec("[ab]{1,4}", 1..3),
            pieces in prop::collection::vec("[ab]{0,3}", 0..8),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (text, stop) = run(&stops, false, &pieces);
            prop_assert!(stops.iter().all(|stop| !text.contains(stop)));
            prop_assert!(pieces.concat().starts_with(&text));
            prop_assert_eq!(stop.is_some(), stops.iter().any(|stop| pieces.concat().contains(stop)));
        }
    }
}
