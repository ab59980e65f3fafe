//! The layers that a setting can come from, and the record of where each value did come from.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use clap::parser::ValueSource;

use super::{Args, ConfigError, values::Setting};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The configuration file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// The command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            // A path may hold a line break, which would end the comment that it is printed in.
            Origin::File(path) => f.write_str(&path.display().to_string().replace(char::is_control, "?")),
            Origin::Environment(variable) => f.write_str(variable),
            Origin::Flag(flag) => f.write_str(flag),
        }
    }
}

/// One setting after resolution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Name of the setting.
    pub key: &'static str,
    /// Its value as TOML; `Err` tells in words what an unset one stands for.
    pub value: Result<String, &'static str>,
    /// Where the value came from.
    pub origin: Origin,
}

impl Resolved {
    pub(super) fn to_toml_line(&self) -> String {
        match &self.value {
            Ok(value) => {
                let assignment = format!("{} = {value}", self.key);
                format!("{assignment:<40} # {}\n", self.origin)
            }
            Err(meaning) => format!("# {} is not set: {meaning}\n", self.key),
        }
    }
}

/// The values as text, the highest layer's only; taken one by one.
pub(super) struct Layers {
    values: BTreeMap<String, (String, Origin)>,
    resolved: Vec<Resolved>,
}

impl Layers {
    /// Reads the configuration file, if one was named, and lays what was typed over it.
    pub(super) fn new(args: &Args, matches: &clap::ArgMatches) -> Result<Layers, ConfigError> {
        let typed = as_map(args);
        let mut values = BTreeMap::new();
        if let Some(path) = &args.log.config {
            read_file(path, &typed, &mut values)?;
        }
        for (key, value) in typed {
            if let Some(value) = value {
                let origin = typed_origin(&key, matches);
                values.insert(key, (value, origin));
            }
        }
        if std::env::var("HF_HUB_OFFLINE").is_ok_and(|value| is_true(&value)) {
            values.insert("offline".into(), ("on".into(), Origin::Environment("HF_HUB_OFFLINE".into())));
        }
        Ok(Layers { values, resolved: Vec::new() })
    }

    /// The value of `key`, or `default`.
    pub(super) fn take<T: Setting>(&mut self, key: &'static str, default: T) -> Result<T, ConfigError> {
        self.take_where(key, default, T::EXPECTED, |_| true)
    }

    /// The value of `key`, or `default`; it must satisfy `accept`, which `expected` puts in words.
    pub(super) fn take_where<T: Setting>(
        &mut self,
        key: &'static str,
        default: T,
        expected: &'static str,
        accept: impl Fn(&T) -> bool,
    ) -> Result<T, ConfigError> {
        let (value, origin) = match self.values.remove(key) {
            None => (default, Origin::Default),
            Some((text, origin)) => match T::parse(&text) {
                Some(value) if accept(&value) => (value, origin),
                _ => return Err(ConfigError::Invalid { key: key.into(), value: text, origin, expected }),
            },
        };
        self.resolved.push(Resolved { key, value: Ok(value.to_toml()), origin });
        Ok(value)
    }

    /// The value of `key` if anybody set it; `unset` says what happens otherwise.
    pub(super) fn take_optional<T: Setting>(
        &mut self,
        key: &'static str,
        unset: &'static str,
    ) -> Result<Option<T>, ConfigError> {
        let Some((text, origin)) = self.values.remove(key) else {
            self.resolved.push(Resolved { key, value: Err(unset), origin: Origin::Default });
            return Ok(None);
        };
        let Some(value) = T::parse(&text) else {
            return Err(ConfigError::Invalid { key: key.into(), value: text, origin, expected: T::EXPECTED });
        };
        self.resolved.push(Resolved { key, value: Ok(value.to_toml()), origin });
        Ok(Some(value))
    }

    /// The record of all settings taken.
    pub(super) fn finish(self) -> Vec<Resolved> {
        debug_assert!(self.values.is_empty(), "settings nobody took: {:?}", self.values.keys());
        self.resolved
    }
}

/// All settings by name, `None` where nothing was typed.
fn as_map(args: &Args) -> BTreeMap<String, Option<String>> {
    let value = serde_json::to_value(args).expect("a struct of optional strings serialises");
    serde_json::from_value(value).expect("and is a flat map of them")
}

fn typed_origin(key: &str, matches: &clap::ArgMatches) -> Origin {
    // Asking clap for the source of an argument that the subcommand does not have is a panic.
    let known = matches.try_contains_id(key).unwrap_or(false);
    match known.then(|| matches.value_source(key)).flatten() {
        Some(ValueSource::EnvVariable) => Origin::Environment(format!("TRAMONTANE_{}", key.to_uppercase())),
        _ if key == "model" => Origin::Flag("argument MODEL".into()),
        _ => Origin::Flag(format!("--{}", key.replace('_', "-"))),
    }
}

fn read_file(
    path: &Path,
    known: &BTreeMap<String, Option<String>>,
    values: &mut BTreeMap<String, (String, Origin)>,
) -> Result<(), ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.into(), source })?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(1, |span| text[..span.start].lines().count().max(1));
        ConfigError::Syntax { path: path.into(), line, reason: error.message().to_owned() }
    })?;
    let origin = Origin::File(path.into());
    for (key, value) in table {
        if !known.contains_key(&key) {
            let known = known.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            return Err(ConfigError::UnknownKey { path: path.into(), key, known });
        }
        let Some(text) = as_text(&value) else {
            let expected = "a string, a number, true or false, or a list of strings";
            return Err(ConfigError::Invalid { key, value: value.to_string(), origin, expected });
        };
        values.insert(key, (text, origin.clone()));
    }
    Ok(())
}

fn as_text(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(truth) => Some(truth.to_string()),
        toml::Value::Array(items) => {
            let texts = items.iter().map(|item| item.as_str()).collect::<Option<Vec<_>>>()?;
            Some(texts.join(","))
        }
        toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

/// How the hub's own client reads a switch from the environment.
fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str())
}
