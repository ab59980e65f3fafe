//! Which of the two public APIs a request is written for, OpenAI's or Mistral's, and errors in Mistral's form.
//!
//! Main type: [`Dialect`]. Most of it is one API: Mistral's grew out of OpenAI's. A dialect decides only where they
//! exclude each other: the form of errors, of reasoning, of streamed tool calls, and where a stream has its usage.
//! What decides is, in this order: a route that only Mistral has; the client's own name in `User-Agent`; fields that
//! only Mistral has. Otherwise it is OpenAI's. Invariant: a request whose fields decide has passed through
//! [`Dialect::refuse`] with every error after that; all other errors are turned by [`Dialect::translated`], in one place
//! that every response passes.

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header::CONTENT_TYPE, header::USER_AGENT},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{body::Fields, error::ApiError};

/// Whose API a request is written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    OpenAi,
    Mistral,
}

/// Routes that only Mistral's API has. Both have conversations and agents.
const MISTRAL_ROUTES: &[&str] = &["/v1/fim", "/v1/batch", "/v1/libraries", "/v1/ocr", "/v1/chat/moderations"];

/// Routes that both have, and of which only Mistral's are served: they are Mistral's unless the client is OpenAI's.
const MISTRAL_SERVED: &[&str] = &["/v1/agents"];

/// What `User-Agent` begins with in Mistral's own clients, of Python and of TypeScript.
const MISTRAL_CLIENT: &str = "mistral-client-";
/// What it has in it where Vercel's AI SDK talks to Mistral, in versions from 7 on and before.
const AI_SDK_FOR_MISTRAL: &[&str] = &["ai-sdk-mistral/", "ai-sdk/mistral/"];
/// What it begins with in OpenAI's clients, which may well send fields that only Mistral has.
const OPENAI_CLIENTS: &[&str] = &["OpenAI/", "AsyncOpenAI/"];

/// Fields of a chat that only Mistral's API has.
const MISTRAL_CHAT_FIELDS: &[&str] =
    &["random_seed", "safe_prompt", "prompt_mode", "guardrails", "top_prompt_logprobs"];

/// Fields of an embedding request that only Mistral's API has.
const MISTRAL_EMBEDDING_FIELDS: &[&str] = &["output_dimension", "output_dtype"];

/// An error, and in which form the client expects it.
#[derive(Debug)]
pub(super) struct Refusal {
    error: ApiError,
    dialect: Dialect,
}

impl Dialect {
    /// What the route and the client's name say, if they say anything.
    pub(super) fn of_head(path: &str, headers: &HeaderMap) -> Option<Self> {
        if MISTRAL_ROUTES.iter().any(|route| is_within(path, route)) {
            return Some(Self::Mistral);
        }
        let client = headers.get(USER_AGENT).and_then(|client| client.to_str().ok()).unwrap_or_default();
        if client.starts_with(MISTRAL_CLIENT) || AI_SDK_FOR_MISTRAL.iter().any(|name| client.contains(name)) {
            return Some(Self::Mistral);
        }
        if OPENAI_CLIENTS.iter().any(|name| client.starts_with(name)) {
            return Some(Self::OpenAi);
        }
        MISTRAL_SERVED.iter().any(|route| is_within(path, route)).then_some(Self::Mistral)
    }

    /// What is stored of it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Mistral => "mistral",
        }
    }

    /// The dialect that is stored so.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        [Self::OpenAi, Self::Mistral].into_iter().find(|dialect| dialect.name() == name)
    }

    /// What a chat's fields say where its head says nothing.
    pub(super) fn of_chat(head: Option<Self>, fields: &Fields) -> Self {
        let is_there = |name: &&str| fields.peek(name).is_some_and(|value| !value.is_null());
        let has_prefix = || fields.peek("messages").and_then(Value::as_array).is_some_and(|them| ends_in_prefix(them));
        head.unwrap_or_else(|| {
            let is_mistral = MISTRAL_CHAT_FIELDS.iter().any(is_there) || has_prefix();
            if is_mistral { Self::Mistral } else { Self::OpenAi }
        })
    }

    /// What an embedding request's fields say where its head says nothing.
    pub(super) fn of_embedding(head: Option<Self>, fields: &Fields) -> Self {
        let is_there = |name: &&str| fields.peek(name).is_some_and(|value| !value.is_null());
        let is_mistral = || MISTRAL_EMBEDDING_FIELDS.iter().any(is_there);
        head.unwrap_or_else(|| if is_mistral() { Self::Mistral } else { Self::OpenAi })
    }

    /// An error for a request in this dialect.
    pub(super) fn refuse(self, error: ApiError) -> Refusal {
        Refusal { error, dialect: self }
    }

    /// The last event of a stream that fails.
    pub(super) fn error_event(self, error: &ApiError) -> Value {
        match self {
            Self::OpenAi => error.body(),
            Self::Mistral => flat(error),
        }
    }

    /// The response in this dialect: only what became of an [`ApiError`] differs. A method without a body has its
    /// fields in the query.
    pub(super) fn translated(self, method: &Method, mut response: Response) -> Response {
        // What the fields said, if it was not said by the head.
        let told = response.extensions_mut().remove::<Self>().filter(|told| *told == Self::Mistral);
        let error = match told.unwrap_or(self) {
            Self::OpenAi => None,
            Self::Mistral => response.extensions_mut().remove::<ApiError>(),
        };
        let Some(error) = error else { return response };
        let (status, body) = in_mistrals_form(&error, if has_body(method) { "body" } else { "query" });
        *response.status_mut() = status;
        *response.body_mut() = Body::from(body.to_string());
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

impl Refusal {
    /// The error alone, for a request that the server has written itself.
    pub(super) fn into_error(self) -> ApiError {
        self.error
    }
}

impl From<ApiError> for Refusal {
    /// An error before the fields were read: the head decides.
    fn from(error: ApiError) -> Self {
        Self { error, dialect: Dialect::OpenAi }
    }
}

impl IntoResponse for Refusal {
    /// Still to be translated: only then is it known where the request has its fields.
    fn into_response(self) -> Response {
        let mut response = self.error.into_response();
        response.extensions_mut().insert(self.dialect);
        response
    }
}

/// Are the fields of such a request in its body?
fn has_body(method: &Method) -> bool {
    *method == Method::POST || *method == Method::PATCH
}

/// Is it the route or below it?
fn is_within(path: &str, route: &str) -> bool {
    path.strip_prefix(route).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn ends_in_prefix(messages: &[Value]) -> bool {
    messages.last().and_then(|message| message.get("prefix")) == Some(&Value::Bool(true))
}

/// What is wrong with a request's fields is 422, as FastAPI writes it: the client makes its `HTTPValidationError` of
/// nothing else. What is wrong with them together is 400, and like all the rest it is one flat object.
fn in_mistrals_form(error: &ApiError, part: &str) -> (StatusCode, Value) {
    match error {
        ApiError::Invalid { code: Some("context_length_exceeded" | "invalid_message_order" | "no_answer"), .. } => {
            (StatusCode::BAD_REQUEST, flat(error))
        }
        ApiError::Invalid { message, param, code } => {
            let detail =
                json!({ "loc": location(part, param.as_deref()), "msg": message, "type": kind_of_mistake(*code) });
            (StatusCode::UNPROCESSABLE_ENTITY, json!({ "detail": [detail] }))
        }
        // What Mistral's own guardrails answer.
        ApiError::Guardrail(_) => (StatusCode::FORBIDDEN, flat(error)),
        ApiError::ModelNotFound { .. }
        | ApiError::RouteNotFound { .. }
        | ApiError::NotServed { .. }
        | ApiError::MethodNotAllowed { .. }
        | ApiError::BodyTimeout { .. }
        | ApiError::BodyTooLarge { .. }
        | ApiError::NotJson { .. }
        | ApiError::Busy { .. }
        | ApiError::Quota(_)
        | ApiError::Unavailable { .. }
        | ApiError::DeadlineExceeded
        | ApiError::Stored(_)
        | ApiError::Access(_)
        | ApiError::Administration(_)
        | ApiError::Internal { .. } => (error.status(), flat(error)),
    }
}

fn flat(error: &ApiError) -> Value {
    let kind = match error.code() {
        Some("invalid_message_order") => "invalid_request_message_order",
        Some("model_not_found") => "invalid_model",
        Some(_) | None => error.kind(),
    };
    json!({
        "object": "error",
        "message": error.to_string(),
        "type": kind,
        "param": error.param(),
        "code": error.code(),
    })
}

/// `messages[0].content` as pydantic has it: `["body", "messages", 0, "content"]`.
fn location(part: &str, param: Option<&str>) -> Value {
    let parts = param.unwrap_or_default().split(['.', '[']).filter(|part| !part.is_empty());
    let element = |part: &str| match part.strip_suffix(']').map(str::parse::<u64>) {
        Some(Ok(index)) => Value::from(index),
        Some(Err(_)) | None => Value::from(part),
    };
    std::iter::once(Value::from(part)).chain(parts.map(element)).collect()
}

/// The names that pydantic gives mistakes.
fn kind_of_mistake(code: Option<&str>) -> &'static str {
    match code {
        Some("invalid_json" | "invalid_utf8") => "json_invalid",
        Some("unknown_parameter") => "extra_forbidden",
        Some(_) | None => "value_error",
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(path: &str, client: &str, expected: Expect) {
        let headers = HeaderMap::from_iter([(USER_AGENT, HeaderValue::from_str(client).expect("a header"))]);
        expected.assert_eq(&format!("{:?}", Dialect::of_head(path, &headers)));
    }

    #[test]
    fn the_route_decides_first_and_the_client_next() {
        check("/v1/chat/completions", "mistral-client-python/3.7.0", expect!["Some(Mistral)"]);
        check("/v1/chat/completions", "mistral-client-typescript/2.2.1", expect!["Some(Mistral)"]);
        check("/v1/chat/completions", "ai/5.0.0 ai-sdk/mistral/2.0.0 runtime/node.js/22", expect!["Some(Mistral)"]);
        check("/v1/chat/completions", "ai-sdk-mistral/4.0.87 ai-sdk-provider-utils/5.0.81", expect!["Some(Mistral)"]);
        check("/v1/chat/completions", "ai/7.0.173 ai-sdk-provider-utils/5.0.81 node.js/24", expect!["None"]);
        check("/v1/chat/completions", "OpenAI/Python 3.57.0", expect!["Some(OpenAi)"]);
        check("/v1/chat/completions", "AsyncOpenAI/Python 3.57.0", expect!["Some(OpenAi)"]);
        check("/v1/chat/completions", "curl/8.5.0", expect!["None"]);
        check("/v1/fim/completions", "OpenAI/Python 3.57.0", expect!["Some(Mistral)"]);
        check("/v1/batches", "curl/8.5.0", expect!["None"]);
        check("/v1/agents/a", "curl/8.5.0", expect!["Some(Mistral)"]);
        check("/v1/agents/a", "OpenAI/Python 3.57.0", expect!["Some(OpenAi)"]);
        check("/v1/batch/jobs", "curl/8.5.0", expect!["Some(Mistral)"]);
    }

    #[test]
    fn paths_become_locations() {
        let check = |param: Option<&str>, expected: Expect| expected.assert_eq(&location("body", param).to_string());
        check(None, expect![[r#"["body"]"#]]);
        check(Some("n"), expect![[r#"["body","n"]"#]]);
        check(Some("messages[0].content[12].type"), expect![[r#"["body","messages",0,"content",12,"type"]"#]]);
        check(Some("logit_bias.5"), expect![[r#"["body","logit_bias","5"]"#]]);
    }
}
