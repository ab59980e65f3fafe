//! Fields that all requests about whole texts share: the texts, how they become tokens, and their place in the queue.
//!
//! Main type: [`TextOptions`]. Texts get the tokens around them that the checkpoint's tokenizer puts there
//! ([`Codec::ends`](crate::prompt::Codec::ends)); lists of token ids are taken as they are.

use serde_json::Value;

use super::{
    body::{Fields, as_token_ids, wrong},
    error::ApiError,
    guard::{RequestGuard, Terms},
    params::{Scheduling, Side, Truncation, drop_metadata, take_request_id, take_scheduling},
    state::ServedModel,
};

/// Most texts of one request, as OpenAI has it.
pub(super) const MAX_INPUTS: usize = 2048;

/// How texts become tokens, and when they are computed.
pub(super) struct TextOptions {
    guard: RequestGuard,
    add_special_tokens: bool,
    truncation: Option<Truncation>,
    pub(super) scheduling: Scheduling,
    pub(super) request_id: Option<String>,
}

impl TextOptions {
    /// Takes the fields; labels are checked and dropped.
    pub(super) fn take(fields: &mut Fields, terms: &Terms) -> Result<Self, ApiError> {
        fields.string("user")?;
        drop_metadata(fields)?;
        let mut scheduling = take_scheduling(fields)?;
        scheduling.deadline = Some(terms.deadline);
        let request_id = take_request_id(fields)?;
        Ok(Self {
            guard: terms.guard.clone(),
            add_special_tokens: fields.flag("add_special_tokens")?.unwrap_or(true),
            // The beginning of a text says most about it.
            truncation: Truncation::take_or(fields, Side::Right)?,
            scheduling,
            request_id,
        })
    }

    /// The tokens of a text at `path`, with those around it, which cutting leaves in place.
    pub(super) fn encode(&self, text: &str, path: &str, model: &ServedModel) -> Result<Vec<u32>, ApiError> {
        let [bos, eos] = if self.add_special_tokens { model.codec.ends() } else { [None, None] };
        let around = usize::from(bos.is_some()) + usize::from(eos.is_some());
        let mut ids = model.codec.encode_text(&self.guard.text(text)?, false);
        if let Some(truncation) = self.truncation {
            truncation.cut_around(&mut ids, longest(model), around);
        }
        let ids = bos.into_iter().chain(ids).chain(eos).collect();
        check_length(ids, path, model)
    }

    /// Tokens that came as such.
    fn cut(&self, mut ids: Vec<u32>, path: &str, model: &ServedModel) -> Result<Vec<u32>, ApiError> {
        self.guard.check_ids(path)?;
        if let Some(truncation) = self.truncation {
            truncation.cut(&mut ids, longest(model));
        }
        check_length(ids, path, model)
    }

    /// Takes the texts or token ids of field `name`.
    pub(super) fn take_inputs(
        &self,
        fields: &mut Fields,
        name: &str,
        model: &ServedModel,
    ) -> Result<Vec<Vec<u32>>, ApiError> {
        const EXPECTED: &str = "a text, a list of texts, a list of token ids, or a list of such lists";
        let items = match fields.take(name) {
            Some(Value::String(text)) => return Ok(vec![self.encode(&text, name, model)?]),
            Some(Value::Array(items)) => items,
            other => return Err(wrong(name, EXPECTED, &other.unwrap_or(Value::Null))),
        };
        let vocab_size = model.codec.vocab_size();
        if items.first().is_some_and(Value::is_number) {
            return Ok(vec![self.cut(as_token_ids(&items, name, vocab_size)?, name, model)?]);
        }
        check_count(name, items.len(), MAX_INPUTS)?;
        let one = |(index, item): (usize, &Value)| {
            let path = format!("{name}[{index}]");
            match item {
                Value::String(text) => self.encode(text, &path, model),
                Value::Array(ids) => self.cut(as_token_ids(ids, &path, vocab_size)?, &path, model),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
                    Err(wrong(&path, "a text or a list of token ids", item))
                }
            }
        };
        items.iter().enumerate().map(one).collect()
    }
}

/// Refuses an empty list and one that is too long.
pub(super) fn check_count(name: &str, count: usize, most: usize) -> Result<(), ApiError> {
    if (1..=most).contains(&count) {
        return Ok(());
    }
    Err(ApiError::invalid(name, format!("`{name}` must have 1 to {most} items, got {count}.")))
}

/// Refuses a text that has no token or too many.
fn check_length(ids: Vec<u32>, path: &str, model: &ServedModel) -> Result<Vec<u32>, ApiError> {
    check_fits(ids.len(), path, model).map(|()| ids)
}

/// The same for a number of tokens.
pub(super) fn check_fits(len: usize, path: &str, model: &ServedModel) -> Result<(), ApiError> {
    let longest = longest(model);
    match len {
        0 => Err(ApiError::invalid(path, format!("`{path}` must have at least one token."))),
        len if len > longest => Err(ApiError::Invalid {
            message: format!("`{path}` has {len} tokens; this model takes texts of up to {longest}{}.", reason(model)),
            param: Some(path.to_owned()),
            code: Some("context_length_exceeded"),
        }),
        _ => Ok(()),
    }
}

/// What the checkpoint wants, and one less than the longest sequence: the engine keeps a place for a token after each
/// prompt.
fn longest(model: &ServedModel) -> usize {
    let takes = model.max_model_len.saturating_sub(1);
    model.pooling.max_seq_length().map_or(takes, |wanted| wanted.min(takes))
}

/// Where that is from.
fn reason(model: &ServedModel) -> String {
    let max_model_len = model.max_model_len;
    match model.pooling.max_seq_length() {
        None => String::new(),
        Some(wanted) if wanted < max_model_len => {
            format!(", the max_seq_length of its sentence_bert_config.json (max_model_len is {max_model_len})")
        }
        Some(wanted) => {
            format!(", one less than max_model_len (the max_seq_length of its sentence_bert_config.json is {wanted})")
        }
    }
}
