//! Where in a token a claim is.

use std::fmt;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::governance::jwt::error::SourceError;

/// Names from the outside in: `"realm_access.roles"`, or `["https://example.org/roles"]` where a name has dots itself.
/// There is at least one name, and none is empty.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "WrittenPath")]
pub struct ClaimPath {
    outer: Vec<String>,
    last: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenPath {
    Dotted(String),
    Names(Vec<String>),
}

impl ClaimPath {
    /// What is there, if every name on the way is that of an object.
    pub(in super::super) fn find<'a>(&self, payload: &'a Map<String, Value>) -> Option<&'a Value> {
        let mut object = payload;
        for name in &self.outer {
            object = object.get(name)?.as_object()?;
        }
        object.get(&self.last)
    }

    /// The innermost name.
    pub(in super::super) fn last(&self) -> &str {
        &self.last
    }
}

impl fmt::Display for ClaimPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.outer.iter().try_for_each(|name| write!(formatter, "{name}."))?;
        formatter.write_str(&self.last)
    }
}

impl TryFrom<WrittenPath> for ClaimPath {
    type Error = SourceError;

    fn try_from(written: WrittenPath) -> Result<Self, SourceError> {
        let mut outer: Vec<String> = match written {
            WrittenPath::Dotted(path) => path.split('.').map(str::to_owned).collect(),
            WrittenPath::Names(names) => names,
        };
        let value = outer.join(".");
        match outer.pop() {
            Some(last) if !last.is_empty() && !outer.iter().any(String::is_empty) => Ok(Self { outer, last }),
            _ => Err(SourceError::Invalid {
                field: "claims".to_owned(),
                value,
                expected: "names with dots between, or a list of names, none of which is empty",
            }),
        }
    }
}
