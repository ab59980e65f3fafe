//! What chat templates use of Python: `tojson` as `json.dumps`, string and dict methods,
//! `raise_exception`, `strftime_now`.
//!
//! The set is what the templates of Mistral checkpoints call; an unknown name is an error of the
//! template, not an empty text.

use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value as JinjaValue, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State};

use crate::prompt::json::{Number, Object, Value};

const SECONDS_PER_DAY: u64 = 86_400;
/// Of values that are written as JSON; those of requests have fewer levels.
const MAX_DEPTH: usize = 256;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// An environment set up as `apply_chat_template` sets up Jinja.
pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the default delimiters are valid"));
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.add_filter("tojson", to_json);
    environment.add_function("raise_exception", raise_exception);
    environment.set_unknown_method_callback(call_method);
    environment
}

/// A JSON value as the template sees it.
pub(super) fn to_jinja(value: &Value) -> JinjaValue {
    match value {
        Value::Null => JinjaValue::from(()),
        Value::Bool(flag) => JinjaValue::from(*flag),
        Value::Number(number) => match (number.is_integer_literal(), number.as_i64()) {
            (true, Some(integer)) => JinjaValue::from(integer),
            (true, None) | (false, _) => JinjaValue::from(number.as_f64()),
        },
        Value::String(text) => JinjaValue::from(text.as_str()),
        Value::Array(items) => items.iter().map(to_jinja).collect(),
        Value::Object(object) => JinjaValue::from_pairs(object.iter().map(|(key, item)| (key, to_jinja(item)))),
    }
}

/// `strftime_now(format)`, in UTC.
pub(super) fn strftime_now(now: SystemTime) -> JinjaValue {
    JinjaValue::from_function(move |format: &str| strftime(now, format))
}

fn raise_exception(message: String) -> Result<JinjaValue, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

fn to_json(state: &State<'_, '_>, value: &JinjaValue, options: Kwargs) -> Result<String, Error> {
    // `ensure_ascii=false` is what this writes; anything else would change the text.
    if options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false) {
        return Err(Error::new(ErrorKind::InvalidOperation, "tojson(ensure_ascii=true) is not supported"));
    }
    if options.get::<Option<JinjaValue>>("indent")?.is_some_and(|indent| !indent.is_none()) {
        return Err(Error::new(ErrorKind::InvalidOperation, "tojson(indent=..) is not supported"));
    }
    options.assert_all_used()?;
    Ok(from_jinja(state, value, 0)?.to_python_json())
}

/// A value may contain another one many times and so be far larger than what it took to make it: each time costs.
fn from_jinja(state: &State<'_, '_>, value: &JinjaValue, depth: usize) -> Result<Value, Error> {
    state.consume_fuel(1)?;
    if depth > MAX_DEPTH {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("tojson: a value of more than {MAX_DEPTH} levels"),
        ));
    }
    let inner = |value: &JinjaValue| from_jinja(state, value, depth + 1);
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => Ok(Value::Null),
        ValueKind::Bool => Ok(Value::Bool(value.is_true())),
        ValueKind::Number => Ok(Value::Number(match value.as_i64() {
            Some(integer) if value.is_integer() => Number::from(integer),
            Some(_) | None => Number::from(f64::try_from(value.clone())?),
        })),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            state.consume_fuel(bytes_fuel(text.len()))?;
            Ok(Value::from(text))
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value.try_iter()?.map(|item| inner(&item));
            items.collect::<Result<Vec<Value>, Error>>().map(Value::Array)
        }
        ValueKind::Map => {
            let mut object = Object::new();
            for key in value.try_iter()? {
                if matches!(key.kind(), ValueKind::Seq | ValueKind::Iterable | ValueKind::Map) {
                    return Err(Error::new(ErrorKind::InvalidOperation, "tojson: a key that is not text"));
                }
                let name = key.to_string();
                state.consume_fuel(bytes_fuel(name.len()))?;
                object.push_unique(name, inner(&value.get_item(&key)?)?);
            }
            Ok(Value::Object(object))
        }
        kind => Err(Error::new(ErrorKind::InvalidOperation, format!("tojson cannot write a value of kind {kind}"))),
    }
}

/// What the engine itself takes for text of that length.
fn bytes_fuel(n_bytes: usize) -> u64 {
    n_bytes as u64 / 64
}

fn call_method(
    state: &mut State<'_, '_>,
    value: &JinjaValue,
    method: &str,
    args: &[JinjaValue],
) -> Result<JinjaValue, Error> {
    match (value.kind(), value.as_str()) {
        (ValueKind::String, Some(text)) if method == "replace" => {
            let (from, to): (&str, &str) = from_args(args)?;
            let added = text.matches(from).count().saturating_mul(to.len());
            // Paid before it is made: the result may be as long as the square of what there is.
            state.consume_fuel(bytes_fuel(added))?;
            Ok(JinjaValue::from(text.replace(from, to)))
        }
        (ValueKind::String, Some(text)) => call_string_method(text, method, args),
        (ValueKind::Map, _) => match method {
            "items" => {
                let () = from_args(args)?;
                state.apply_filter("items", std::slice::from_ref(value))
            }
            "keys" => {
                let () = from_args(args)?;
                Ok(value.try_iter()?.collect())
            }
            "values" => {
                let () = from_args(args)?;
                value.try_iter()?.map(|key| value.get_item(&key)).collect()
            }
            "get" => {
                let (key, default): (JinjaValue, Option<JinjaValue>) = from_args(args)?;
                let found = value.get_item(&key)?;
                Ok(if found.is_undefined() { default.unwrap_or(JinjaValue::from(())) } else { found })
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        },
        (_, _) => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn call_string_method(text: &str, method: &str, args: &[JinjaValue]) -> Result<JinjaValue, Error> {
    match method {
        "strip" | "lstrip" | "rstrip" => {
            let (letters,): (Option<&str>,) = from_args(args)?;
            let is_stripped = |letter: char| match letters {
                Some(letters) => letters.contains(letter),
                None => letter.is_whitespace(),
            };
            Ok(JinjaValue::from(match method {
                "lstrip" => text.trim_start_matches(is_stripped),
                "rstrip" => text.trim_end_matches(is_stripped),
                _ => text.trim_matches(is_stripped),
            }))
        }
        "split" => {
            let (separator,): (Option<&str>,) = from_args(args)?;
            Ok(match separator {
                Some(separator) => text.split(separator).map(JinjaValue::from).collect(),
                None => text.split_whitespace().map(JinjaValue::from).collect(),
            })
        }
        "startswith" => from_args(args).map(|(start,): (&str,)| JinjaValue::from(text.starts_with(start))),
        "endswith" => from_args(args).map(|(end,): (&str,)| JinjaValue::from(text.ends_with(end))),
        "upper" => from_args(args).map(|()| JinjaValue::from(text.to_uppercase())),
        "lower" => from_args(args).map(|()| JinjaValue::from(text.to_lowercase())),
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn strftime(now: SystemTime, format: &str) -> Result<String, Error> {
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
    let (days, second) = (seconds / SECONDS_PER_DAY, seconds % SECONDS_PER_DAY);
    let (year, month, day) = civil_date(days);
    let month_name = MONTHS[month as usize - 1];
    let weekday = WEEKDAYS[((days + 4) % 7) as usize]; // 1 January 1970 was a Thursday
    let mut text = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            text.push(letter);
            continue;
        }
        match letters.next() {
            Some('Y') => text.push_str(&year.to_string()),
            Some('m') => text.push_str(&format!("{month:02}")),
            Some('d') => text.push_str(&format!("{day:02}")),
            Some('H') => text.push_str(&format!("{:02}", second / 3600)),
            Some('M') => text.push_str(&format!("{:02}", second / 60 % 60)),
            Some('S') => text.push_str(&format!("{:02}", second % 60)),
            Some('B') => text.push_str(month_name),
            Some('b') => text.push_str(&month_name[..3]),
            Some('A') => text.push_str(weekday),
            Some('a') => text.push_str(&weekday[..3]),
            Some('%') => text.push('%'),
            other => {
                let reason = format!("strftime_now: %{} is not supported", other.unwrap_or(' '));
                return Err(Error::new(ErrorKind::InvalidOperation, reason));
            }
        }
    }
    Ok(text)
}

/// Year, month and day of a day since 1970, in the Gregorian calendar.
fn civil_date(days: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (mut year, mut day) = (1970, days);
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    for (month, length) in (1..).zip([31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]) {
        if day < length {
            return (year, month, day + 1);
        }
        day -= length;
    }
    (year, 12, 31)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn check(seconds: u64, expected: &str) {
        let now = UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(strftime(now, "%A %d %B %Y, %H:%M:%S").expect("known letters"), expected);
    }

    #[test]
    fn dates() {
        check(0, "Thursday 01 January 1970, 00:00:00");
        check(951_782_399, "Monday 28 February 2000, 23:59:59");
        check(951_782_400, "Tuesday 29 February 2000, 00:00:00");
        check(1_735_689_599, "Tuesday 31 December 2024, 23:59:59");
    }

    #[test]
    fn python_methods_and_json() {
        let mut environment = environment();
        let source = "{{ ' a '.strip() }}|{{ 'a,b'.split(',')|length }}|{{ d.get('x', 1) }}|{{ d|tojson }}|{{ d.items()|length }}";
        environment.add_template("t", source).expect("valid");
        let value = Value::parse(r#"{"k": "<é>", "n": [1, 2.5, 1e16, null, true]}"#).expect("valid");
        let context = JinjaValue::from_pairs([("d", to_jinja(&value))]);
        let text = environment.get_template("t").and_then(|template| template.render(context)).expect("renders");
        assert_eq!(text, "a|2|1|{\"k\": \"<é>\", \"n\": [1, 2.5, 1e+16, null, true]}|2");
    }
}
