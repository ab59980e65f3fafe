//! What a server answered, read as a client reads it.

use axum::http::HeaderMap;
use serde_json::Value;

/// What a server answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

impl Answer {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {}", self.body))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("ASCII"))
    }

    /// The events of a stream, without `[DONE]`, which must be there.
    #[track_caller]
    pub fn events(&self) -> Vec<Value> {
        assert_eq!(self.status, 200, "{}", self.body);
        assert_eq!(self.header("content-type"), Some("text/event-stream"));
        let body = self.body.strip_suffix("data: [DONE]\n\n").unwrap_or_else(|| panic!("no [DONE] in {}", self.body));
        let event = |event: &str| serde_json::from_str(event.strip_prefix("data: ").expect("data")).expect("JSON");
        body.split_terminator("\n\n").map(event).collect()
    }

    /// The text of a choice, put together from a stream.
    #[track_caller]
    pub fn streamed_text(&self, index: u64) -> String {
        let events = self.events();
        let choices = events.iter().flat_map(|event| event["choices"].as_array().expect("choices").clone());
        let text = |choice: Value| match &choice["text"] {
            Value::String(text) => text.clone(),
            _ => choice["delta"]["content"].as_str().unwrap_or_default().to_owned(),
        };
        choices.filter(|choice| choice["index"] == index).map(text).collect()
    }

    /// Text of the first choice.
    #[track_caller]
    pub fn text(&self) -> String {
        let answer = self.json();
        let choice = &answer["choices"][0];
        let text = choice["message"]["content"].as_str().or(choice["text"].as_str());
        text.unwrap_or_else(|| panic!("no text in {answer}")).to_owned()
    }

    /// `status param code`, for errors.
    #[track_caller]
    pub fn error(&self) -> String {
        let body = self.json();
        let error = body["error"].as_object().unwrap_or_else(|| panic!("no error: {} {body}", self.status));
        assert_eq!(error.keys().collect::<Vec<_>>(), ["message", "type", "param", "code"]);
        format!("{} {} {}", self.status, error["param"], error["code"])
    }
}

/// `status loc type` of an error in Mistral's form for fields, or `status type param code` of its other form.
#[track_caller]
pub fn mistral_error(answer: &Answer) -> String {
    let body = answer.json();
    let keys: Vec<&String> = body.as_object().unwrap_or_else(|| panic!("{body}")).keys().collect();
    if answer.status == 422 {
        assert_eq!(keys, ["detail"]);
        let detail = &body["detail"][0];
        assert!(detail["msg"].as_str().is_some_and(|message| !message.is_empty()), "{body}");
        return format!("422 {} {}", detail["loc"], detail["type"]);
    }
    assert_eq!(keys, ["object", "message", "type", "param", "code"], "{body}");
    assert_eq!(body["object"], "error");
    format!("{} {} {} {}", answer.status, body["type"], body["param"], body["code"])
}
