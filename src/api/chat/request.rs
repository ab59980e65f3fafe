//! The body of a chat request -> a checked job.

use super::tool_choice::CallWishes;
use crate::api::{
    body::{Fields, wrong},
    chat::{
        conversation::{chat_request, check_conversation},
        mistral::{Beginning, prepend_safety_prompt},
        prediction::take_prediction,
    },
    dialect::{Dialect, Refusal},
    error::ApiError,
    fields,
    form::take_content_form,
    generation::{Finish, Job, OutputFormat},
    guard::Terms,
    params::{GenerationParams, MAX_LOGPROBS, ResponseOptions, Truncation, take_labels, take_model},
    state::ServedModel,
};
use crate::prompt::{ChatPrompt, ChatRequest, Codec, ToolsOffered};

/// Fields that `ChatRequest::from_json` reads.
const PROMPT_FIELDS: &[&str] = &["messages", "tools", "reasoning_effort", "prompt_mode"];

/// A chat request, checked.
#[derive(Debug)]
pub(in crate::api) struct ChatCall {
    pub(in crate::api) model_name: String,
    pub(in crate::api) job: Job,
    pub(super) options: ResponseOptions,
    pub(super) include_reasoning: bool,
    /// Whose form the answer has.
    pub(super) dialect: Dialect,
    /// What the answer repeats of the request.
    pub(super) beginning: Beginning,
}

impl ChatCall {
    /// Reads a body. `head` is the dialect if the request's head shows it.
    pub(in crate::api) fn parse(
        text: &str,
        head: Option<Dialect>,
        model: &ServedModel,
        terms: &Terms,
    ) -> Result<Self, Refusal> {
        let fields = Fields::parse(text, &fields::CHAT)?;
        let dialect = Dialect::of_chat(head, &fields);
        Self::read(text, fields, dialect, model, terms).map_err(|error| dialect.refuse(error))
    }

    /// Reads a body that is known to be in Mistral's dialect.
    pub(super) fn parse_mistral(text: &str, model: &ServedModel, terms: &Terms) -> Result<Self, ApiError> {
        Self::read(text, Fields::parse(text, &fields::CHAT)?, Dialect::Mistral, model, terms)
    }

    fn read(
        text: &str,
        mut fields: Fields,
        dialect: Dialect,
        model: &ServedModel,
        terms: &Terms,
    ) -> Result<Self, ApiError> {
        let model_name = take_model(&mut fields, model)?;
        check_conversation(fields.peek("messages"), fields.peek("tools"))?;
        let calls = CallWishes::take(&mut fields)?;
        let content = take_content_form(&mut fields, text)?;
        let mut params = GenerationParams::take(&mut fields, &model.defaults, &model.codec)?;
        params.logprobs = take_logprobs(&mut fields)?;
        params.prediction = take_prediction(&mut fields, model)?;
        params.scheduling.deadline = Some(terms.deadline);
        check_max_tokens(&params)?;
        check_generation_prompt(&mut fields)?;
        let options = ResponseOptions::take(&mut fields)?.in_dialect(dialect);
        check_prompt_logprobs(&params, &options)?;
        let include_reasoning = fields.flag("include_reasoning")?.unwrap_or(true);
        let is_safe = fields.flag("safe_prompt")?.unwrap_or(false);
        let truncation = Truncation::take(&mut fields)?;
        take_labels(&mut fields)?;
        fields.forget(PROMPT_FIELDS);
        fields.finish()?;

        let mut chat = chat_request(text, &model_name, calls.tools_offered(), &model.codec)?;
        terms.tools.check(&chat)?;
        let guard = terms.guard.chat(&mut chat, &model.codec)?;
        guard.check_raw(&params, options.return_token_ids)?;
        let tools = if chat.tools.is_empty() { ToolsOffered::No } else { ToolsOffered::Yes };
        let form = calls.form(content, &chat)?;
        if form.binds() && !params.prediction.is_empty() {
            let message = "`prediction` cannot be combined with an answer of a form: its tokens are not guessed ahead.";
            return Err(ApiError::invalid("prediction", message));
        }
        let prompt =
            if is_safe { encode_safely(chat, &model.codec)? } else { model.codec.encode_chat_prompt(&chat)? };
        let ChatPrompt { mut ids, n_continued } = prompt;
        let constraint = model.constraint(&form, &ids[ids.len() - n_continued..])?;
        let beginning = Beginning::of(&ids[ids.len() - n_continued..], &model.codec, params.special_tokens);
        let guard = guard.behind(&beginning.content, &beginning.reasoning);
        let guard = guard.of_form(form.content.as_ref(), &beginning.content);
        let beginning = match dialect {
            Dialect::OpenAi => Beginning::default(),
            Dialect::Mistral => beginning.restored(&guard),
        };
        if let Some(truncation) = truncation {
            truncation.apply(&mut ids, model, params.stopping.max_tokens);
        }
        let format = OutputFormat::Message { tools, n_continued };
        let job = Job { prompt_ids: ids, params, format, constraint, guard };
        Ok(Self { model_name, job, options, include_reasoning, dialect, beginning })
    }

    /// `finish_reason` of a whole answer. Mistral's API tells apart whose limit it was; its streams do not.
    pub(super) fn finish_reason(&self, finish: Finish) -> &'static str {
        match (self.dialect, finish) {
            (Dialect::Mistral, Finish::Length) if self.job.params.stopping.max_tokens.is_none() => "model_length",
            (Dialect::OpenAi | Dialect::Mistral, finish) => finish.as_str(),
        }
    }
}

/// The prompt of a conversation behind the safety prompt.
fn encode_safely(chat: ChatRequest, codec: &Codec) -> Result<ChatPrompt, ApiError> {
    let mut guarded = chat.clone();
    prepend_safety_prompt(&mut guarded.messages);
    codec.encode_chat_prompt(&guarded).map_err(|error| match codec.encode_chat_prompt(&chat) {
        // The conversation's own mistakes are told by the places that its author knows.
        Err(own) => own.into(),
        Ok(_) => ApiError::invalid("safe_prompt", error.to_string()),
    })
}

/// `max_tokens` 0 makes sense only where a prompt can be echoed.
pub(super) fn check_max_tokens(params: &GenerationParams) -> Result<(), ApiError> {
    match params.stopping.max_tokens {
        Some(0) => Err(wrong("max_tokens", "an integer of at least 1", &0.into())),
        Some(_) | None => Ok(()),
    }
}

pub(in crate::api) fn check_prompt_logprobs(
    params: &GenerationParams,
    options: &ResponseOptions,
) -> Result<(), ApiError> {
    if params.prompt_logprobs.is_some() && options.stream.is_some() {
        return Err(ApiError::invalid("prompt_logprobs", "`prompt_logprobs` is not available with `stream`."));
    }
    Ok(())
}

pub(super) fn take_logprobs(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let wanted = fields.flag("logprobs")?.unwrap_or(false);
    let top = fields.count("top_logprobs", 0..=MAX_LOGPROBS)?;
    match (wanted, top) {
        (true, top) => Ok(Some(top.unwrap_or(0))),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => Err(ApiError::invalid("top_logprobs", "`top_logprobs` needs `logprobs` to be true.")),
    }
}

/// A prompt that ends where the answer begins is the only kind that Mistral's templates write.
fn check_generation_prompt(fields: &mut Fields) -> Result<(), ApiError> {
    let continues = fields.flag("continue_final_message")?.unwrap_or(false);
    match (fields.flag("add_generation_prompt")?, continues) {
        (Some(false), false) => {
            let message = "`add_generation_prompt` false needs `continue_final_message` to be true.";
            Err(ApiError::invalid("add_generation_prompt", message))
        }
        (Some(true), true) => {
            let message = "`continue_final_message` and `add_generation_prompt` exclude each other.";
            Err(ApiError::invalid("add_generation_prompt", message))
        }
        (Some(true) | None, false) | (Some(false) | None, true) => Ok(()),
    }
}
