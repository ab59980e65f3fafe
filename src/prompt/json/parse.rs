//! Reading JSON text: Python's `json.loads` grammar, with positions in the errors.
//!
//! Differences from Python, both on purpose: nesting stops at [`MAX_DEPTH`] (Python stops near a
//! thousand, with a crash), and an escape such as `\ud800` that is half of a surrogate pair is an
//! error, because no UTF-8 text can hold it. Integers stop at 4300 digits, as in Python.

use std::collections::HashMap;

use super::{Number, Object, Value};

/// How deep arrays and objects may nest.
pub const MAX_DEPTH: usize = 128;

/// How many digits an integer may have (Python's `sys.get_int_max_str_digits()`).
const MAX_INTEGER_DIGITS: usize = 4300;

/// Objects with more entries than this look for duplicate keys through a hash map.
const LINEAR_SEARCH_ENTRIES: usize = 16;

/// Why a text is not JSON, and where: both numbers count from 1, the column in characters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid JSON at line {line}, column {column}: {fault}")]
pub struct JsonError {
    /// The line.
    pub line: usize,
    /// The character in that line.
    pub column: usize,
    /// What is wrong there.
    pub fault: JsonFault,
}

/// What is wrong at that place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JsonFault {
    /// The text breaks the grammar; Python raises `JSONDecodeError` here.
    #[error("{0}")]
    Syntax(&'static str),
    /// More levels than [`MAX_DEPTH`].
    #[error("nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// An integer that Python refuses to read as well.
    #[error("an integer of more than {MAX_INTEGER_DIGITS} digits")]
    IntegerTooLong,
    /// Half of a surrogate pair.
    #[error("an escaped surrogate without its pair; it stands for no character")]
    LoneSurrogate,
}

impl Value {
    /// Parses one JSON text.
    pub fn parse(text: &str) -> Result<Value, JsonError> {
        let mut parser = Parser { text, at: 0, depth: 0 };
        parser.document().map_err(|fault| {
            let (line, column) = line_and_column(text, parser.at);
            JsonError { line, column, fault }
        })
    }
}

fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    (line, before[line_start..].chars().count() + 1)
}

struct Parser<'a> {
    text: &'a str,
    /// Offset of the next unread byte; always on a character boundary.
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn document(&mut self) -> Result<Value, JsonFault> {
        self.skip_whitespace();
        let value = self.value()?;
        self.skip_whitespace();
        if self.at < self.text.len() {
            return Err(JsonFault::Syntax("more text after the value"));
        }
        Ok(value)
    }

    fn value(&mut self) -> Result<Value, JsonFault> {
        match self.peek() {
            Some(b'{') => self.nested(Parser::object),
            Some(b'[') => self.nested(Parser::array),
            Some(b'"') => self.string().map(Value::String),
            Some(b'-' | b'0'..=b'9') if !self.rest().starts_with("-Infinity") => self.number(),
            Some(_) => self.literal(),
            None => Err(JsonFault::Syntax("the text ends where a value should be")),
        }
    }

    fn nested(&mut self, read: fn(&mut Self) -> Result<Value, JsonFault>) -> Result<Value, JsonFault> {
        if self.depth == MAX_DEPTH {
            return Err(JsonFault::TooDeep);
        }
        self.depth += 1;
        let value = read(self);
        self.depth -= 1;
        value
    }

    fn object(&mut self) -> Result<Value, JsonFault> {
        self.at += 1; // the brace
        let mut entries = Vec::new();
        self.skip_whitespace();
        if self.eat(b'}') {
            return Ok(Value::Object(Object { entries }));
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(JsonFault::Syntax("expected a key in double quotes"));
            }
            let key = self.string()?;
            self.skip_whitespace();
            if !self.eat(b':') {
                return Err(JsonFault::Syntax("expected `:` after the key"));
            }
            self.skip_whitespace();
            entries.push((key, self.value()?));
            self.skip_whitespace();
            if self.eat(b'}') {
                return Ok(Value::Object(Object { entries: without_duplicates(entries) }));
            }
            if !self.eat(b',') {
                return Err(JsonFault::Syntax("expected `,` or `}`"));
            }
            self.skip_whitespace();
        }
    }

    fn array(&mut self) -> Result<Value, JsonFault> {
        self.at += 1; // the bracket
        let mut items = Vec::new();
        self.skip_whitespace();
        if self.eat(b']') {
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value()?);
            self.skip_whitespace();
            if self.eat(b']') {
                return Ok(Value::Array(items));
            }
            if !self.eat(b',') {
                return Err(JsonFault::Syntax("expected `,` or `]`"));
            }
            self.skip_whitespace();
        }
    }

    fn string(&mut self) -> Result<String, JsonFault> {
        self.at += 1; // the opening quote
        let mut text = String::new();
        loop {
            let rest = self.rest();
            let plain =
                rest.bytes().position(|byte| byte < 0x20 || byte == b'"' || byte == b'\\').unwrap_or(rest.len());
            text.push_str(&rest[..plain]);
            self.at += plain;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => text.push(self.escape()?),
                Some(_) => return Err(JsonFault::Syntax("a control character inside a string")),
                None => return Err(JsonFault::Syntax("the text ends inside a string")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, JsonFault> {
        let character = match self.text.as_bytes().get(self.at + 1) {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode_escape(),
            Some(_) => return Err(JsonFault::Syntax("an unknown escape in a string")),
            None => return Err(JsonFault::Syntax("the text ends inside an escape")),
        };
        self.at += 2;
        Ok(character)
    }

    fn unicode_escape(&mut self) -> Result<char, JsonFault> {
        let first = self.code_unit(self.at)?;
        if let Some(character) = char::from_u32(first) {
            self.at += 6;
            return Ok(character);
        }
        // Half of a surrogate pair: the other half must follow as an escape of its own.
        let is_high = first < 0xDC00;
        if is_high && self.text[self.at + 6..].starts_with("\\u") {
            let second = self.code_unit(self.at + 6)?;
            if (0xDC00..0xE000).contains(&second) {
                let scalar = 0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00);
                self.at += 12;
                return char::from_u32(scalar).ok_or(JsonFault::LoneSurrogate);
            }
        }
        Err(JsonFault::LoneSurrogate)
    }

    /// The value of the escape `\uXXXX` that starts at `at`.
    fn code_unit(&self, at: usize) -> Result<u32, JsonFault> {
        self.text
            .get(at + 2..at + 6)
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .ok_or(JsonFault::Syntax("`\\u` must be followed by four hexadecimal digits"))
    }

    fn number(&mut self) -> Result<Value, JsonFault> {
        let start = self.at;
        self.eat(b'-');
        let integer_start = self.at;
        if !self.eat(b'0') {
            self.digits();
        }
        let integer_digits = self.at - integer_start;
        if integer_digits == 0 {
            return Err(JsonFault::Syntax("expected a digit after `-`"));
        }
        let is_float = self.fraction() | self.exponent();
        if !is_float && integer_digits > MAX_INTEGER_DIGITS {
            self.at = start;
            return Err(JsonFault::IntegerTooLong);
        }
        Ok(Value::Number(Number { spelling: self.text[start..self.at].to_owned() }))
    }

    /// Reads `.digits` if it is there; a lone `.` is left unread and fails later.
    fn fraction(&mut self) -> bool {
        let bytes = self.text.as_bytes();
        let is_there = self.peek() == Some(b'.') && bytes.get(self.at + 1).is_some_and(u8::is_ascii_digit);
        if is_there {
            self.at += 1;
            self.digits();
        }
        is_there
    }

    /// Reads `e`, a sign and digits if they are there.
    fn exponent(&mut self) -> bool {
        let bytes = self.text.as_bytes();
        if !matches!(self.peek(), Some(b'e' | b'E')) {
            return false;
        }
        let sign = usize::from(matches!(bytes.get(self.at + 1), Some(b'+' | b'-')));
        let is_there = bytes.get(self.at + 1 + sign).is_some_and(u8::is_ascii_digit);
        if is_there {
            self.at += 1 + sign;
            self.digits();
        }
        is_there
    }

    fn digits(&mut self) {
        self.at += self.rest().bytes().take_while(u8::is_ascii_digit).count();
    }

    fn literal(&mut self) -> Result<Value, JsonFault> {
        let numbers = ["NaN", "Infinity", "-Infinity"];
        if let Some(name) = numbers.into_iter().find(|name| self.rest().starts_with(name)) {
            self.at += name.len();
            return Ok(Value::Number(Number { spelling: name.to_owned() }));
        }
        let words = [("null", Value::Null), ("true", true.into()), ("false", false.into())];
        for (name, value) in words {
            if self.rest().starts_with(name) {
                self.at += name.len();
                return Ok(value);
            }
        }
        Err(JsonFault::Syntax("expected a value"))
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let is_there = self.peek() == Some(byte);
        self.at += usize::from(is_there);
        is_there
    }

    fn skip_whitespace(&mut self) {
        let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        self.at += self.rest().bytes().take_while(is_space).count();
    }
}

/// Keeps of every key the last value, at the place of the first one, as a Python dict does.
fn without_duplicates(entries: Vec<(String, Value)>) -> Vec<(String, Value)> {
    let mut kept: Vec<(String, Value)> = Vec::with_capacity(entries.len());
    if entries.len() <= LINEAR_SEARCH_ENTRIES {
        for (key, value) in entries {
            match kept.iter_mut().find(|(name, _)| *name == key) {
                Some((_, old)) => *old = value,
                None => kept.push((key, value)),
            }
        }
        return kept;
    }
    let mut places: HashMap<String, usize> = HashMap::with_capacity(entries.len());
    for (key, value) in entries {
        match places.get(&key) {
            Some(&place) => kept[place].1 = value,
            None => {
                places.insert(key.clone(), kept.len());
                kept.push((key, value));
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_line_and_column() {
        let error = Value::parse("{\"a\": 1,\n  \"é\": tru}").expect_err("broken");
        assert_eq!(error.to_string(), "invalid JSON at line 2, column 8: expected a value");
    }

    #[test]
    fn python_literals_and_duplicates() {
        let value = Value::parse(r#"{"a": NaN, "b": -Infinity, "a": 2}"#).expect("valid");
        assert_eq!(value.to_python_json(), r#"{"a": 2, "b": -Infinity}"#);
        let many: String = (0..40).map(|i| format!("\"k{}\": {i},", i % 20)).collect();
        let value = Value::parse(&format!("{{{}\"k0\": 99}}", many)).expect("valid");
        assert_eq!(value.as_object().map(Object::len), Some(20));
        assert_eq!(value.get("k0").and_then(Value::as_i64), Some(99));
    }

    #[test]
    fn refuses_what_it_must() {
        for text in ["", "01", "1.", ".5", "-", "[1,]", "{a:1}", "\"\\x\"", "\"\t\"", "nul", "+1"] {
            assert!(Value::parse(text).is_err(), "{text:?} must be refused");
        }
        let deep = "[".repeat(1_000_000);
        let error = Value::parse(&deep).expect_err("too deep");
        assert_eq!(error.fault, JsonFault::TooDeep);
        let lone = Value::parse(r#""\ud83d""#).expect_err("half a pair");
        assert_eq!(lone.fault, JsonFault::LoneSurrogate);
        let long = Value::parse(&"9".repeat(4301)).expect_err("too long");
        assert_eq!(long.fault, JsonFault::IntegerTooLong);
    }

    #[test]
    fn surrogate_pairs_and_escapes() {
        let value = Value::parse(r#""\ud83d\ude00 \/ \u00e9\n""#).expect("valid");
        assert_eq!(value.as_str(), Some("😀 / é\n"));
    }
}
