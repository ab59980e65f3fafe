//! `prediction`: the text that a client expects as the answer. The engine guesses from it, so that an answer that is
//! mostly known, such as an edited file, comes sooner; what the answer is does not depend on it.

use serde_json::{Map, Value};

use crate::api::{
    body::{Fields, wrong},
    error::ApiError,
    state::ServedModel,
};

/// Takes `prediction` as tokens; none if it is absent. Beyond the longest sequence nothing can come true.
pub(super) fn take_prediction(fields: &mut Fields, model: &ServedModel) -> Result<Vec<u32>, ApiError> {
    let text = match fields.take("prediction") {
        None => return Ok(Vec::new()),
        Some(_) if !model.engine.guesses_ahead() => {
            let message = "`prediction` is of no use here: this server guesses no tokens ahead.";
            return Err(ApiError::invalid("prediction", message));
        }
        Some(Value::Object(prediction)) => text(&prediction)?,
        Some(other) => return Err(wrong("prediction", r#"an object such as {"type": "content", ..}"#, &other)),
    };
    let mut ids = model.codec.encode_text(&text, false);
    ids.truncate(model.max_model_len);
    Ok(ids)
}

fn text(prediction: &Map<String, Value>) -> Result<String, ApiError> {
    let mut text = String::new();
    for key in ["type", "content"] {
        if prediction.get(key).is_none_or(Value::is_null) {
            return Err(ApiError::invalid(format!("prediction.{key}"), format!("`prediction.{key}` is missing.")));
        }
    }
    for (key, value) in prediction.iter().filter(|(_, value)| !value.is_null()) {
        let path = format!("prediction.{key}");
        match (key.as_str(), value) {
            ("type", Value::String(kind)) if kind == "content" => {}
            ("type", _) => return Err(wrong(&path, "content", value)),
            ("content", Value::String(content)) => text.clone_from(content),
            ("content", Value::Array(parts)) => {
                for (index, part) in parts.iter().enumerate() {
                    text.push_str(text_part(part, &format!("{path}[{index}]"))?);
                }
            }
            ("content", _) => return Err(wrong(&path, "a text or a list of text parts", value)),
            _ => return Err(ApiError::invalid(path.clone(), format!("`{path}` is not a field."))),
        }
    }
    Ok(text)
}

/// OpenAI's form of a part: `{"type": "text", "text": ..}` and nothing else.
fn text_part<'a>(part: &'a Value, path: &str) -> Result<&'a str, ApiError> {
    let is_known = |key: &String| ["type", "text"].contains(&key.as_str());
    let members = part.as_object().filter(|members| members.keys().all(is_known) && part["type"] == "text");
    let text = members.and_then(|members| members.get("text")?.as_str());
    text.ok_or_else(|| wrong(path, r#"{"type": "text", "text": ..}"#, part))
}
