//! Writing JSON text, byte for byte as Python's `json.dumps(value, ensure_ascii=False)` does.
//!
//! Separators are `", "` and `": "`. A float is its shortest decimal form in Python's `repr`
//! spelling: plain between 1e-4 and 1e16, else with an exponent of at least two digits.

use super::{Number, Value};

/// How numbers are written.
#[derive(Clone, Copy)]
enum Numbers {
    /// As Python writes what it read: `1e5` becomes `100000.0`, `-0` becomes `0`.
    Python,
    /// As they were spelled.
    AsSpelled,
}

impl Value {
    /// The text that `json.dumps(json.loads(text), ensure_ascii=False)` gives.
    pub fn to_python_json(&self) -> String {
        let mut text = String::new();
        write_value(self, Numbers::Python, &mut text);
        text
    }

    /// The same layout, but every number stays as it was spelled.
    pub fn to_json(&self) -> String {
        let mut text = String::new();
        write_value(self, Numbers::AsSpelled, &mut text);
        text
    }
}

/// Python's `repr` of a float, in the spelling `json.dumps` uses for the three that have no digits.
pub(super) fn python_float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    // Rust's `{:e}` gives the shortest digits that read back as the same double, as repr does.
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').expect("{:e} always writes an e");
    let exponent: i32 = exponent.parse().expect("{:e} writes an integer exponent");
    let (sign, digits) = match mantissa.strip_prefix('-') {
        Some(digits) => ("-", digits.replace('.', "")),
        None => ("", mantissa.replace('.', "")),
    };
    format!("{sign}{}", place_point(&digits, exponent))
}

fn place_point(digits: &str, exponent: i32) -> String {
    let n_digits = digits.len() as i32;
    if !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        let (first, rest) = digits.split_at(1);
        let point = if rest.is_empty() { "" } else { "." };
        return format!("{first}{point}{rest}e{sign}{:02}", exponent.abs());
    }
    if exponent < 0 {
        return format!("0.{}{digits}", "0".repeat((-exponent - 1) as usize));
    }
    if n_digits <= exponent + 1 {
        return format!("{digits}{}.0", "0".repeat((exponent + 1 - n_digits) as usize));
    }
    let (whole, fraction) = digits.split_at(exponent as usize + 1);
    format!("{whole}.{fraction}")
}

fn write_value(value: &Value, numbers: Numbers, text: &mut String) {
    match value {
        Value::Null => text.push_str("null"),
        Value::Bool(true) => text.push_str("true"),
        Value::Bool(false) => text.push_str("false"),
        Value::Number(number) => write_number(number, numbers, text),
        Value::String(string) => write_string(string, text),
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push_str(", ");
                }
                write_value(item, numbers, text);
            }
            text.push(']');
        }
        Value::Object(object) => {
            text.push('{');
            for (index, (key, item)) in object.iter().enumerate() {
                if index > 0 {
                    text.push_str(", ");
                }
                write_string(key, text);
                text.push_str(": ");
                write_value(item, numbers, text);
            }
            text.push('}');
        }
    }
}

fn write_number(number: &Number, numbers: Numbers, text: &mut String) {
    match numbers {
        Numbers::AsSpelled => text.push_str(number.spelling()),
        Numbers::Python if number.spelling() == "-0" => text.push('0'),
        Numbers::Python if number.is_integer_literal() => text.push_str(number.spelling()),
        Numbers::Python => text.push_str(&python_float(number.as_f64())),
    }
}

fn write_string(string: &str, text: &mut String) {
    text.push('"');
    for character in string.chars() {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\u{8}' => text.push_str("\\b"),
            '\u{c}' => text.push_str("\\f"),
            control if control < ' ' => text.push_str(&format!("\\u{:04x}", control as u32)),
            plain => text.push(plain),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let value = Value::parse(text).expect("valid JSON");
        assert_eq!(value.to_python_json(), expected, "from {text}");
    }

    #[test]
    fn numbers_as_python_writes_them() {
        check("1e5", "100000.0");
        check("1e16", "1e+16");
        check("1E-7", "1e-07");
        check("0.0001", "0.0001");
        check("0.00001", "1e-05");
        check("123456789012345680.0", "1.2345678901234568e+17");
        check("1234567890123456.0", "1234567890123456.0");
        check("-0", "0");
        check("-0.0", "-0.0");
        check("22.50", "22.5");
        check("1e400", "Infinity");
        check("123456789012345678901234567890", "123456789012345678901234567890");
        check("5e-324", "5e-324");
    }

    #[test]
    fn strings_keep_everything_but_controls() {
        check(r#""caf\u00e9 \u007f \u2028 \u0001 \/""#, "\"café \u{7f} \u{2028} \\u0001 /\"");
        check(r#"{"a":[1,{}],"b":[]}"#, r#"{"a": [1, {}], "b": []}"#);
    }
}
