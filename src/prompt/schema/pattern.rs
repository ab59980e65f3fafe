//! Whether a regular expression is one at all.
//!
//! Main function: [`fault`]. It looks for the mistakes that are mistakes in every dialect: brackets
//! that do not pair up, a repetition of nothing, a backslash at the end. What only some dialects
//! know is let through: refusing a schema that other servers take would be worse.

use std::iter::Peekable;
use std::str::Chars;

/// What is wrong with a pattern, if it is certain.
pub(super) fn fault(pattern: &str) -> Option<&'static str> {
    // Comments and verbose mode may contain anything.
    if pattern.contains("(?#") || pattern.contains("(?x") {
        return None;
    }
    let mut letters = pattern.chars().peekable();
    let mut open_groups = 0_usize;
    let mut has_something_to_repeat = false;
    while let Some(letter) = letters.next() {
        match letter {
            '\\' if letters.next().is_none() => return Some("a backslash at the end"),
            '[' if !skip_set(&mut letters) => return Some("a [ without its ]"),
            '(' => {
                open_groups += 1;
                // In `(?:` and its like the question mark repeats nothing.
                letters.next_if_eq(&'?');
            }
            ')' if open_groups == 0 => return Some("a ) without its ("),
            ')' => open_groups -= 1,
            '*' | '+' | '?' if !has_something_to_repeat => return Some("a repetition of nothing"),
            _ => {}
        }
        has_something_to_repeat = !matches!(letter, '(' | '|');
    }
    if open_groups > 0 { Some("a ( without its )") } else { None }
}

/// Skips the rest of a character set; false if it has no end. A `]` at its start is a member.
fn skip_set(letters: &mut Peekable<Chars<'_>>) -> bool {
    letters.next_if_eq(&'^');
    letters.next_if_eq(&']');
    while let Some(letter) = letters.next() {
        match letter {
            ']' => return true,
            '\\' => {
                letters.next();
            }
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_certain_mistakes() {
        for pattern in ["", r"^\d{3}-[A-Z]+$", "[]a]", "[^]]", "(?:a|b)*?", r"\(", "{x}", "a{,3}", r"(?<=\$)\d", "()"] {
            assert_eq!(fault(pattern), None, "{pattern}");
        }
        for pattern in ["(", ")", "a)", "[a", "[]", "*a", "a|+", "(?", "(*)", "\\"] {
            assert!(fault(pattern).is_some(), "{pattern}");
        }
    }
}
