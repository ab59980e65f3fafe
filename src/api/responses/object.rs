//! The response as clients see it: what was asked, what was answered, and where it stands.
//!
//! Main type: [`Draft`], all that is known before the first token. A stored response is its body without state and
//! output, which the store has beside it; [`shown`] puts them together.

use serde_json::{Map, Value, json};

use super::request::{Asked, Continued, Delivery};
use crate::{
    api::{answer::UsageCounter, error::ApiError, generation::Finish, state::unix_seconds, turn::Turn},
    store::{ResponseState, StoredResponse, new_id},
};

/// What a response says from its beginning.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) id: String,
    pub(super) created_at: u64,
    members: Map<String, Value>,
}

/// What it says in addition at its end.
#[derive(Clone, Debug, Default)]
pub(super) struct Ending {
    pub(super) usage: Option<UsageCounter>,
    /// How the answer has ended, if it has.
    pub(super) finish: Option<Finish>,
    pub(super) error: Option<ApiError>,
}

impl Draft {
    /// The beginning of a response to `asked`, which `turn` will answer.
    pub(super) fn new(asked: &Asked, turn: &Turn) -> Self {
        let sampling = &turn.params().sampling;
        let (mut previous, mut conversation) = (Value::Null, Value::Null);
        match &asked.continued {
            None => {}
            Some(Continued::Response(id)) => previous = id.as_str().into(),
            Some(Continued::Conversation(id)) => conversation = json!({ "id": id }),
        }
        let mut members = Map::new();
        for (key, value) in [
            ("model", turn.model_name().into()),
            ("background", matches!(asked.delivery, Delivery::Later { .. }).into()),
            ("store", (!matches!(asked.delivery, Delivery::Now { stored: false, .. })).into()),
            ("previous_response_id", previous),
            ("conversation", conversation),
            ("temperature", sampling.temperature.into()),
            ("top_p", sampling.top_p.into()),
            ("service_tier", "default".into()),
        ] {
            members.insert(key.to_owned(), value);
        }
        members.extend(asked.shown.clone());
        Self { id: new_id("resp_"), created_at: unix_seconds(), members }
    }

    /// The draft of a response that was stored as `body`.
    pub(super) fn stored(response: &StoredResponse) -> Result<Self, ApiError> {
        let Value::Object(mut members) = parse(&response.body)? else { return Err(unreadable("no object")) };
        for key in ["id", "object", "created_at", "status", "completed_at", "error", "incomplete_details", "output"] {
            members.shift_remove(key);
        }
        members.shift_remove("usage");
        Ok(Self { id: response.id.clone(), created_at: response.created_at, members })
    }

    /// The whole object.
    pub(super) fn object(&self, state: ResponseState, output: &[Value], ending: &Ending) -> Value {
        let completed_at = matches!(state, ResponseState::Completed).then(unix_seconds);
        let reason = match ending.finish {
            Some(Finish::ContentFilter) => "content_filter",
            Some(Finish::Stop | Finish::Length | Finish::ToolCalls) | None => "max_output_tokens",
        };
        let incomplete = matches!(state, ResponseState::Incomplete).then(|| json!({ "reason": reason }));
        let mut object = Map::new();
        for (key, value) in [
            ("id", self.id.as_str().into()),
            ("object", "response".into()),
            ("created_at", self.created_at.into()),
            ("status", state.as_str().into()),
            ("completed_at", completed_at.into()),
            ("error", ending.error.as_ref().map(error).into()),
            ("incomplete_details", incomplete.into()),
            ("output", output.into()),
        ] {
            object.insert(key.to_owned(), value);
        }
        object.extend(self.members.clone());
        object.insert("usage".to_owned(), ending.usage.as_ref().map(usage).into());
        Value::Object(object)
    }

    /// As the store keeps it: without the output, whose items are stored one by one.
    pub(super) fn body(&self, state: ResponseState, ending: &Ending) -> String {
        self.object(state, &[], ending).to_string()
    }
}

/// A stored response with its output.
pub(super) fn shown(response: &StoredResponse, output: &[String]) -> Result<Value, ApiError> {
    let mut object = parse(&response.body)?;
    object["status"] = response.state.as_str().into();
    object["output"] = output.iter().map(|item| parse(item)).collect::<Result<_, _>>()?;
    Ok(object)
}

fn parse(text: &str) -> Result<Value, ApiError> {
    serde_json::from_str(text).map_err(|error| unreadable(&error.to_string()))
}

fn unreadable(reason: &str) -> ApiError {
    ApiError::Internal { message: format!("A stored response cannot be read: {reason}.") }
}

/// OpenAI has few codes for this.
fn error(error: &ApiError) -> Value {
    let code = match error {
        ApiError::Busy { .. } | ApiError::Quota(_) => "rate_limit_exceeded",
        ApiError::Invalid { .. } | ApiError::ModelNotFound { .. } | ApiError::Guardrail(_) => "invalid_prompt",
        ApiError::RouteNotFound { .. }
        | ApiError::NotServed { .. }
        | ApiError::MethodNotAllowed { .. }
        | ApiError::BodyTimeout { .. }
        | ApiError::BodyTooLarge { .. }
        | ApiError::NotJson { .. }
        | ApiError::Unavailable { .. }
        | ApiError::Stored(_)
        | ApiError::Access(_)
        | ApiError::Administration(_)
        | ApiError::DeadlineExceeded
        | ApiError::Internal { .. } => "server_error",
    };
    json!({ "code": code, "message": error.to_string(), "param": error.param() })
}

fn usage(counter: &UsageCounter) -> Value {
    json!({
        "input_tokens": counter.prompt_tokens,
        "input_tokens_details": { "cached_tokens": counter.cached_tokens, "cache_write_tokens": 0 },
        "output_tokens": counter.completion_tokens,
        "output_tokens_details": { "reasoning_tokens": counter.reasoning_tokens },
        "total_tokens": counter.prompt_tokens + counter.completion_tokens,
    })
}
