//! What a URL says: the id in its path, and query parameters, which are under the same rule as the fields of bodies.
//! Each is taken, or refused by name.

use axum::{
    extract::{FromRequestParts, Path, Query},
    http::request::Parts,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    body::{shortened, wrong},
    error::ApiError,
    state::AppState,
};
use crate::store::{Order, PageQuery};

/// Pages that are numbered have so many items unless told otherwise, at most [`MOST_NUMBERED`].
const NUMBERED: u64 = 100;
const MOST_NUMBERED: u64 = 1000;

/// The id in a path, or its two ids where `Id` is a pair.
pub(super) struct ObjectId<Id = String>(pub(super) Id);

impl<Id: DeserializeOwned + Send> FromRequestParts<AppState> for ObjectId<Id> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(id)) => Ok(Self(id)),
            // One that is not UTF-8 is nobody's.
            Err(_) => Err(ApiError::RouteNotFound { path: parts.uri.path().to_owned() }),
        }
    }
}

/// The parameters of a request that nobody has taken yet.
pub(super) struct QueryFields {
    pairs: Vec<(String, String)>,
    path: String,
}

impl FromRequestParts<AppState> for QueryFields {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, ApiError> {
        let Ok(Query(pairs)) = Query::try_from_uri(&parts.uri) else {
            let message = "The query is not made of names and values.".to_owned();
            return Err(ApiError::Invalid { message, param: None, code: None });
        };
        Ok(Self { pairs, path: parts.uri.path().to_owned() })
    }
}

impl QueryFields {
    /// Takes every value of a parameter.
    pub(super) fn all(&mut self, name: &str) -> Vec<String> {
        let mut values = Vec::new();
        self.pairs.retain_mut(|(key, value)| {
            let is_it = key == name;
            if is_it {
                values.push(std::mem::take(value));
            }
            !is_it
        });
        values
    }

    /// Takes a parameter that may be there once. An empty one is as good as absent: some clients send it.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        let mut values = self.all(name);
        if values.len() > 1 {
            return Err(ApiError::invalid(name, format!("`{name}` is there {} times.", values.len())));
        }
        Ok(values.pop().filter(|value| !value.is_empty()))
    }

    /// Takes an integer in `range`.
    pub(super) fn integer(
        &mut self,
        name: &str,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<Option<u64>, ApiError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        match text.parse() {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            Ok(_) | Err(_) => {
                let expected = format!("an integer from {} to {}", range.start(), range.end());
                Err(wrong(name, expected, &Value::String(text)))
            }
        }
    }

    /// Takes a true or false.
    pub(super) fn flag(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.text(name)?.as_deref() {
            None => Ok(None),
            Some("true" | "True" | "1") => Ok(Some(true)),
            Some("false" | "False" | "0") => Ok(Some(false)),
            Some(other) => Err(wrong(name, "true or false", &other.into())),
        }
    }

    /// Takes one of these words.
    pub(super) fn word<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Result<Option<T>, ApiError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        match words.iter().find(|(word, _)| *word == text) {
            Some((_, meaning)) => Ok(Some(*meaning)),
            None => {
                let expected = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(" or ");
                Err(wrong(name, expected, &Value::String(text)))
            }
        }
    }

    /// Takes a parameter that is known and refused. An empty one asks for nothing.
    pub(super) fn unsupported(&mut self, name: &str, reason: &str) -> Result<(), ApiError> {
        if self.all(name).iter().all(String::is_empty) {
            return Ok(());
        }
        Err(ApiError::Invalid {
            message: format!("`{name}` is not supported: {reason}."),
            param: Some(name.to_owned()),
            code: Some("unsupported_value"),
        })
    }

    /// Takes what says which part of a list is wanted: OpenAI's `limit`, `after` and `order`, or Mistral's `page` and
    /// `page_size`. Newest first unless told otherwise.
    pub(super) fn page(&mut self, default_limit: u64, most: u64) -> Result<PageQuery, ApiError> {
        let (limit, after) = (self.integer("limit", 1..=most)?, self.text("after")?);
        let order = self.word("order", &[("asc", Order::Ascending), ("desc", Order::Descending)])?;
        let order = order.unwrap_or(Order::Descending);
        let is_numbered = self.says("page") || self.says("page_size");
        let numbered = self.numbered_page(NUMBERED)?;
        match is_numbered {
            false => Ok(PageQuery { after, skip: 0, limit: limit.unwrap_or(default_limit), order }),
            true if limit.is_none() && after.is_none() => Ok(PageQuery { order, ..numbered }),
            true => Err(ApiError::invalid("page", "Give `page` and `page_size`, or `after` and `limit`, not both.")),
        }
    }

    /// Takes `page`, counted from 0, and `page_size`: a part of a list that has its newest item first.
    pub(super) fn numbered_page(&mut self, default_size: u64) -> Result<PageQuery, ApiError> {
        let page = self.integer("page", 0..=1 << 32)?.unwrap_or(0);
        let limit = self.integer("page_size", 1..=MOST_NUMBERED)?.unwrap_or(default_size);
        Ok(PageQuery { after: None, skip: page * limit, limit, order: Order::Descending })
    }

    /// Refuses what nobody took.
    pub(super) fn finish(self) -> Result<(), ApiError> {
        let Some((name, _)) = self.pairs.into_iter().next() else { return Ok(()) };
        let name = shortened(name);
        Err(ApiError::Invalid {
            message: format!("`{name}` is not a query parameter of {}.", self.path),
            param: Some(name),
            code: Some("unknown_parameter"),
        })
    }

    /// Is there a parameter of this name that is not empty?
    fn says(&self, name: &str) -> bool {
        self.pairs.iter().any(|(key, value)| key == name && !value.is_empty())
    }
}
