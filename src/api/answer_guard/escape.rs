//! Escapes of JSON strings (RFC 8259, section 7), one character at a time.
//!
//! Main type: [`Escape`]. Invariant: whatever comes says something: half a pair of surrogates and what is no escape are the
//! replacement character. Knows nothing of what the text is judged for.

/// What stands for half a pair of surrogates, and for what is no escape.
const UNKNOWN: &str = "\u{fffd}";

/// As in a JSON string (RFC 8259, section 7).
pub(super) fn escape_into(text: &str, out: &mut String) {
    let quoted = serde_json::Value::from(text).to_string();
    out.push_str(&quoted[1..quoted.len() - 1]);
}

/// An escape in a string, while it comes. Empty where there is none.
#[derive(Clone, Debug, Default)]
pub(super) struct Escape(String);

/// What a character was in an escape.
pub(super) struct Taken {
    /// What the escape says, if that is known now.
    pub(super) said: String,
    /// It belongs to the escape.
    pub(super) is_taken: bool,
}

impl Escape {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn begin(&mut self) {
        self.0.push('\\');
    }

    /// In a string, what it is behind the next character, and what that says; `None` where it ends the string.
    pub(super) fn goes_on(mut self, c: char, said: &mut String) -> Option<Self> {
        while !self.is_empty() {
            let taken = self.take(c);
            said.push_str(&taken.said);
            if taken.is_taken {
                return Some(self);
            }
        }
        match c {
            '"' => return None,
            '\\' => self.begin(),
            c => said.push(c),
        }
        Some(self)
    }

    pub(super) fn take(&mut self, c: char) -> Taken {
        let belongs = match self.0.len() {
            1 if c != 'u' => {
                self.0.clear();
                return Taken { said: one_letter(c).into(), is_taken: true };
            }
            1 | 7 => c == 'u',
            6 => c == '\\', // behind the first half of a pair
            _ => c.is_ascii_hexdigit(),
        };
        if !belongs {
            self.0 = self.0.split_off(self.0.len().min(6));
            return Taken { said: UNKNOWN.to_owned(), is_taken: false };
        }
        self.0.push(c);
        let said = match self.0.len() {
            6 => self.take_single(),
            12 => self.take_pair(),
            _ => String::new(),
        };
        Taken { said, is_taken: true }
    }

    /// Says nothing yet where it is the first half of a pair.
    fn take_single(&mut self) -> String {
        let code = self.code(2);
        if (0xd800..0xdc00).contains(&code) {
            return String::new();
        }
        self.0.clear();
        char::from_u32(code).map_or(UNKNOWN.to_owned(), String::from)
    }

    fn take_pair(&mut self) -> String {
        let (first, second) = (self.code(2), self.code(8));
        if (0xdc00..0xe000).contains(&second) {
            self.0.clear();
            let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
            return char::from_u32(code).map_or(UNKNOWN.to_owned(), String::from);
        }
        self.0 = self.0.split_off(6);
        UNKNOWN.to_owned() + &self.take_single()
    }

    fn code(&self, at: usize) -> u32 {
        self.0.get(at..at + 4).and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or(0xfffd)
    }
}

/// What stands behind a backslash and is no `u`.
fn one_letter(c: char) -> char {
    match c {
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an escape and what follows it say.
    fn said(text: &str) -> String {
        let (mut escape, mut said) = (Escape::default(), String::new());
        for c in text.chars() {
            if escape.is_empty() && c == '\\' {
                escape.begin();
                continue;
            }
            let mut is_taken = false;
            while !escape.is_empty() && !is_taken {
                let taken = escape.take(c);
                said.push_str(&taken.said);
                is_taken = taken.is_taken;
            }
            if !is_taken && c == '\\' {
                escape.begin();
            } else if !is_taken {
                said.push(c);
            }
        }
        said
    }

    #[test]
    fn escapes_say_what_json_says_they_do() {
        for text in [r#"a\n\t\"\\\/\b\f\r"#, r"\u0041\u00e9x", r"\ud83d\ude00!", r"x\u2028"] {
            let expected: String = serde_json::from_str(&format!("\"{text}\"")).expect("JSON");
            assert_eq!(said(text), expected, "{text}");
        }
        for (text, expected) in [
            (r"\ud83dx", "\u{fffd}x"),
            (r"\ud83d\n", "\u{fffd}\n"),
            (r"\ud83d\u0041", "\u{fffd}A"),
            (r"\ud83d\ud83d\ude00", "\u{fffd}\u{1f600}"),
            (r"\ud83d\u00x", "\u{fffd}\u{fffd}x"),
            (r"\ude00", "\u{fffd}"),
            (r"\u00zz", "\u{fffd}zz"),
        ] {
            assert_eq!(said(text), expected, "{text}");
        }
    }
}
