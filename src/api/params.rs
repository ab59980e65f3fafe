//! Request fields -> generation parameters: the fields that chat and completions share.
//!
//! A [`GenerationParams`] is checked: every value is in range, and every default has been filled in from the
//! model's. What remains open is only what needs the prompt, such as how many tokens still fit.

use std::{sync::Arc, time::Instant};

use serde_json::Value;

use super::{
    audit::AuditScope,
    body::{Fields, as_bool, as_f32, wrong},
    dialect::Dialect,
    error::ApiError,
    quota::Metering,
    state::{GenerationDefaults, ServedModel},
};
use crate::{
    engine::Precedence,
    prompt::{Codec, SpecialTokens},
    types::SamplingParams,
};

/// Most choices of one request, all its prompts together.
pub(super) const MAX_CHOICES: usize = 128;
/// Most alternatives reported per token.
pub(super) const MAX_LOGPROBS: usize = 20;
const MAX_STOP_STRINGS: usize = 16;
const MAX_BAD_WORDS: usize = 128;
/// Of one stop string or bad word.
const MAX_TEXT_CHARACTERS: usize = 1024;
const MAX_SALT_CHARACTERS: usize = 1024;
const MAX_REQUEST_ID_CHARACTERS: usize = 128;
const ANY_INTEGER: std::ops::RangeInclusive<i64> = i64::MIN..=i64::MAX;

/// How to generate from a prompt, whoever asks.
#[derive(Clone, Debug)]
pub struct GenerationParams {
    /// How tokens are chosen; of several choices, each has the seed of the one before plus 1.
    pub sampling: SamplingParams,
    /// When the answer ends.
    pub stopping: Stopping,
    /// Choices per prompt.
    pub n: usize,
    /// Log-probabilities of each token and of this many most likely ones.
    pub logprobs: Option<usize>,
    /// The same for the prompt.
    pub prompt_logprobs: Option<usize>,
    /// Do control tokens appear in the text?
    pub special_tokens: SpecialTokens,
    /// When it is computed, and with which cache.
    pub scheduling: Scheduling,
    /// What the answer is expected to be. It decides when the answer comes, never what it is.
    pub prediction: Vec<u32>,
}

/// When an answer ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stopping {
    /// Most tokens; as many as fit if `None`.
    pub max_tokens: Option<usize>,
    /// Nothing ends the answer before so many tokens.
    pub min_tokens: usize,
    /// Texts that end the answer.
    pub strings: Vec<String>,
    /// Further ids that end the answer.
    pub token_ids: Vec<u32>,
    /// The text of what ended the answer stays in it.
    pub include_in_output: bool,
    /// Generate past the end of sequence.
    pub ignore_eos: bool,
}

/// Place in the queue and in the cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scheduling {
    /// Whether it gives way to others.
    pub precedence: Precedence,
    /// Lower is earlier, among those of its share.
    pub priority: i32,
    /// Whose it is: tenants share evenly what the engine has.
    pub share: Arc<str>,
    /// What it is counted by.
    pub metering: Metering,
    /// The request fails past this moment.
    pub deadline: Option<Instant>,
    /// Prefixes are shared only within the same salt.
    pub cache_salt: Option<String>,
    /// Where it is written down.
    pub audit: AuditScope,
}

/// What the answer looks like, as far as chat and completions agree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ResponseOptions {
    pub(super) stream: Option<StreamOptions>,
    pub(super) return_token_ids: bool,
    pub(super) tokens_as_token_ids: bool,
    pub(super) request_id: Option<String>,
}

/// `stream_options`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StreamOptions {
    pub(super) include_usage: bool,
    pub(super) continuous_usage_stats: bool,
    /// The chunk that ends the last choice has the usage, unless a chunk of its own will: Mistral's form.
    pub(super) usage_at_the_end: bool,
}

/// `truncate_prompt_tokens` and `truncation_side`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Truncation {
    keep: Option<usize>, // None keeps what fits
    side: Side,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

impl GenerationParams {
    /// One choice, sampled as the model's makers recommend.
    pub fn new(defaults: &GenerationDefaults) -> Self {
        let base = SamplingParams::default();
        let sampling = SamplingParams {
            temperature: defaults.temperature.unwrap_or(base.temperature),
            top_p: defaults.top_p.unwrap_or(base.top_p),
            top_k: defaults.top_k.unwrap_or(base.top_k),
            min_p: defaults.min_p.unwrap_or(base.min_p),
            repetition_penalty: defaults.repetition_penalty.unwrap_or(base.repetition_penalty),
            ..base
        };
        Self {
            sampling,
            stopping: Stopping::default(),
            n: 1,
            logprobs: None,
            prompt_logprobs: None,
            special_tokens: SpecialTokens::Skip,
            scheduling: Scheduling::default(),
            prediction: Vec::new(),
        }
    }

    /// Takes the fields of sampling, stopping and scheduling. `logprobs` is each resource's own.
    pub(super) fn take(fields: &mut Fields, defaults: &GenerationDefaults, codec: &Codec) -> Result<Self, ApiError> {
        let mut params = Self::new(defaults);
        let vocab_size = codec.vocab_size();
        take_sampling(fields, &mut params.sampling, vocab_size)?;
        params.sampling.bad_words = take_bad_words(fields, codec)?;
        params.stopping = take_stopping(fields, vocab_size)?;
        params.scheduling = take_scheduling(fields)?;
        params.n = fields.count("n", 1..=MAX_CHOICES)?.unwrap_or(1);
        params.prompt_logprobs = take_prompt_logprobs(fields)?;
        if fields.flag("skip_special_tokens")? == Some(false) {
            params.special_tokens = SpecialTokens::Keep;
        }
        Ok(params)
    }
}

impl ResponseOptions {
    pub(super) fn take(fields: &mut Fields) -> Result<Self, ApiError> {
        let stream = fields.flag("stream")?.unwrap_or(false);
        let options = take_stream_options(fields)?;
        if options.is_some() && !stream {
            return Err(ApiError::invalid("stream_options", "`stream_options` needs `stream` to be true."));
        }
        let request_id = take_request_id(fields)?;
        Ok(Self {
            stream: stream.then(|| options.unwrap_or_default()),
            return_token_ids: fields.flag("return_token_ids")?.unwrap_or(false),
            tokens_as_token_ids: fields.flag("return_tokens_as_token_ids")?.unwrap_or(false),
            request_id,
        })
    }
}

impl ResponseOptions {
    /// Mistral's streams end with the usage, whether it was asked for or not.
    pub(super) fn in_dialect(mut self, dialect: Dialect) -> Self {
        if let Some(stream) = &mut self.stream {
            stream.usage_at_the_end = dialect == Dialect::Mistral;
        }
        self
    }
}

impl Truncation {
    pub(super) fn take(fields: &mut Fields) -> Result<Option<Self>, ApiError> {
        Self::take_or(fields, Side::Left)
    }

    /// With a side of the resource's own where the request names none.
    pub(super) fn take_or(fields: &mut Fields, default: Side) -> Result<Option<Self>, ApiError> {
        let side = match fields.string("truncation_side")?.as_deref() {
            None => default,
            Some("left") => Side::Left,
            Some("right") => Side::Right,
            Some(other) => return Err(wrong("truncation_side", "left or right", &other.into())),
        };
        match fields.integer("truncate_prompt_tokens", -1..=i64::MAX)? {
            None => Ok(None),
            Some(0) => Err(wrong("truncate_prompt_tokens", "-1 or at least 1", &0.into())),
            Some(keep) => Ok(Some(Self { keep: usize::try_from(keep).ok(), side })),
        }
    }

    /// Cuts the prompt to the wanted length, or to what leaves room for `max_tokens`.
    pub(super) fn apply(self, ids: &mut Vec<u32>, model: &ServedModel, max_tokens: Option<usize>) {
        self.cut(ids, model.max_model_len.saturating_sub(max_tokens.unwrap_or(1)).max(1));
    }

    /// Cuts what stands between so many tokens, to which the wanted length, or `fits`, applies too.
    pub(super) fn cut_around(self, ids: &mut Vec<u32>, fits: usize, around: usize) {
        let keep = self.keep.map(|keep| keep.saturating_sub(around));
        Self { keep, ..self }.cut(ids, fits.saturating_sub(around));
    }

    /// Cuts to the wanted length, or to `fits`.
    pub(super) fn cut(self, ids: &mut Vec<u32>, fits: usize) {
        let keep = self.keep.unwrap_or(fits);
        match self.side {
            Side::Left => drop(ids.drain(..ids.len().saturating_sub(keep))),
            Side::Right => ids.truncate(keep),
        }
    }
}

/// Takes `model`; it must be one of the served names. Returns the name to answer with.
pub(super) fn take_model(fields: &mut Fields, served: &ServedModel) -> Result<String, ApiError> {
    match fields.string("model")? {
        None => Ok(served.name().to_owned()),
        Some(name) if served.names.contains(&name) => Ok(name),
        Some(model) => Err(ApiError::ModelNotFound { model, served: served.names.join(", ") }),
    }
}

/// Takes the fields that only say something about the request, and checks their types.
pub(super) fn take_labels(fields: &mut Fields) -> Result<(), ApiError> {
    for name in ["user", "safety_identifier", "session_id", "prompt_cache_key"] {
        fields.string(name)?;
    }
    drop_metadata(fields)
}

/// Takes `metadata`, which is kept nowhere.
pub(super) fn drop_metadata(fields: &mut Fields) -> Result<(), ApiError> {
    match fields.take("metadata") {
        None | Some(Value::Object(_)) => Ok(()),
        Some(other) => Err(wrong("metadata", "an object", &other)),
    }
}

/// Takes `request_id`.
pub(super) fn take_request_id(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    let request_id = fields.string("request_id")?;
    if let Some(id) = request_id.as_deref().filter(|id| !is_request_id(id)) {
        let expected = format!("1 to {MAX_REQUEST_ID_CHARACTERS} visible ASCII characters");
        return Err(wrong("request_id", expected, &id.into()));
    }
    Ok(request_id)
}

/// A request id that may stand in a header and in a log line.
pub(super) fn is_request_id(id: &str) -> bool {
    (1..=MAX_REQUEST_ID_CHARACTERS).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

fn take_sampling(fields: &mut Fields, sampling: &mut SamplingParams, vocab_size: usize) -> Result<(), ApiError> {
    for (name, target) in [
        ("temperature", &mut sampling.temperature),
        ("top_p", &mut sampling.top_p),
        ("min_p", &mut sampling.min_p),
        ("typical_p", &mut sampling.typical_p),
        ("repetition_penalty", &mut sampling.repetition_penalty),
        ("presence_penalty", &mut sampling.presence_penalty),
        ("frequency_penalty", &mut sampling.frequency_penalty),
    ] {
        if let Some(number) = fields.number(name)? {
            *target = number;
        }
    }
    if let Some(top_k) = fields.integer("top_k", -1..=i64::from(u32::MAX))? {
        sampling.top_k = u32::try_from(top_k).unwrap_or(0); // -1 is vLLM's older way to say off
    }
    sampling.logit_bias = take_logit_bias(fields, vocab_size)?;
    sampling.allowed_token_ids = fields.token_ids("allowed_token_ids", vocab_size)?;
    if sampling.allowed_token_ids.as_ref().is_some_and(Vec::is_empty) {
        return Err(ApiError::invalid("allowed_token_ids", "`allowed_token_ids` must have at least one id."));
    }
    sampling.seed = take_seed(fields)?;
    sampling.validate()?;
    Ok(())
}

/// A number, as vLLM has it; or true, as Mistral has it, with the number beside it.
fn take_prompt_logprobs(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    const TOP: &str = "top_prompt_logprobs";
    let top = if fields.knows(TOP) { fields.count(TOP, 0..=MAX_LOGPROBS)? } else { None };
    match (fields.peek("prompt_logprobs"), top) {
        (Some(Value::Bool(true)), top) => {
            fields.take("prompt_logprobs");
            Ok(Some(top.unwrap_or(0)))
        }
        (_, Some(_)) => Err(ApiError::invalid(TOP, format!("`{TOP}` needs `prompt_logprobs` to be true."))),
        (Some(Value::Bool(false)), None) => {
            fields.take("prompt_logprobs");
            Ok(None)
        }
        (Some(_) | None, None) => fields.count("prompt_logprobs", 0..=MAX_LOGPROBS),
    }
}

fn take_seed(fields: &mut Fields) -> Result<Option<u64>, ApiError> {
    let (seed, random_seed) = (fields.integer("seed", ANY_INTEGER)?, fields.integer("random_seed", ANY_INTEGER)?);
    if let (Some(one), Some(other)) = (seed, random_seed)
        && one != other
    {
        return Err(ApiError::invalid("random_seed", "`seed` and `random_seed` are the same; give one of them."));
    }
    Ok(seed.or(random_seed).map(i64::cast_unsigned))
}

fn take_logit_bias(fields: &mut Fields, vocab_size: usize) -> Result<Vec<(u32, f32)>, ApiError> {
    let map = match fields.take("logit_bias") {
        None => return Ok(Vec::new()),
        Some(Value::Object(map)) => map,
        Some(other) => return Err(wrong("logit_bias", "an object of token ids and numbers", &other)),
    };
    let entry = |(key, value): (&String, &Value)| {
        let path = format!("logit_bias.{key}");
        match key.parse::<u32>() {
            Ok(id) if (id as usize) < vocab_size => Ok((id, as_f32(value, &path)?)),
            Ok(_) | Err(_) => {
                let expected = format!("a token id from 0 to {}", vocab_size.saturating_sub(1));
                Err(wrong("logit_bias", format_args!("keyed by {expected}"), &key.as_str().into()))
            }
        }
    };
    map.iter().map(entry).collect()
}

/// Each text in the spellings that tokenizers distinguish: at the beginning, and after a space (vLLM's rule).
fn take_bad_words(fields: &mut Fields, codec: &Codec) -> Result<Vec<Vec<u32>>, ApiError> {
    let mut sequences = Vec::new();
    for word in take_texts(fields, "bad_words", MAX_BAD_WORDS)? {
        let word = word.trim_start();
        let bare = codec.encode_text(word, false);
        let spaced = codec.encode_text(&format!(" {word}"), false);
        if spaced.len() == bare.len() && spaced.first() != bare.first() {
            sequences.push(spaced);
        }
        sequences.push(bare);
    }
    sequences.retain(|ids| !ids.is_empty());
    Ok(sequences)
}

fn take_stopping(fields: &mut Fields, vocab_size: usize) -> Result<Stopping, ApiError> {
    let max_tokens = take_max_tokens(fields)?;
    let min_tokens = fields.count("min_tokens", 0..=usize::MAX)?.unwrap_or(0);
    if max_tokens.is_some_and(|max_tokens| min_tokens > max_tokens) {
        return Err(wrong("min_tokens", "at most `max_tokens`", &min_tokens.into()));
    }
    Ok(Stopping {
        max_tokens,
        min_tokens,
        strings: take_texts(fields, "stop", MAX_STOP_STRINGS)?,
        token_ids: fields.token_ids("stop_token_ids", vocab_size)?.unwrap_or_default(),
        include_in_output: fields.flag("include_stop_str_in_output")?.unwrap_or(false),
        ignore_eos: fields.flag("ignore_eos")?.unwrap_or(false),
    })
}

/// Chat has two names for it. 0 is left to the resource: it makes sense with `echo` only.
fn take_max_tokens(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let max_tokens = fields.count("max_tokens", 0..=usize::MAX)?;
    if !fields.knows("max_completion_tokens") {
        return Ok(max_tokens);
    }
    let max_completion_tokens = fields.count("max_completion_tokens", 1..=usize::MAX)?;
    match (max_tokens, max_completion_tokens) {
        (Some(one), Some(other)) if one != other => {
            let message = "`max_tokens` and `max_completion_tokens` are the same; give one of them.";
            Err(ApiError::invalid("max_completion_tokens", message))
        }
        (one, other) => Ok(other.or(one)),
    }
}

/// One text or a list of them.
fn take_texts(fields: &mut Fields, name: &str, most: usize) -> Result<Vec<String>, ApiError> {
    let items = match fields.take(name) {
        None => return Ok(Vec::new()),
        Some(Value::Array(items)) => items,
        Some(text) => vec![text],
    };
    if items.len() > most {
        return Err(ApiError::invalid(name, format!("`{name}` may have {most} texts, got {}.", items.len())));
    }
    let check = |(index, item): (usize, &Value)| match item.as_str() {
        Some(text) if (1..=MAX_TEXT_CHARACTERS).contains(&text.chars().count()) => Ok(text.to_owned()),
        Some(_) | None => {
            let expected = format!("a text of 1 to {MAX_TEXT_CHARACTERS} characters");
            Err(wrong(&format!("{name}[{index}]"), expected, item))
        }
    };
    items.iter().enumerate().map(check).collect()
}

pub(super) fn take_scheduling(fields: &mut Fields) -> Result<Scheduling, ApiError> {
    let priority = fields.integer("priority", i64::from(i32::MIN)..=i64::from(i32::MAX))?.unwrap_or(0);
    let cache_salt = fields.string("cache_salt")?;
    if let Some(salt) = cache_salt.as_deref().filter(|salt| !(1..=MAX_SALT_CHARACTERS).contains(&salt.chars().count()))
    {
        return Err(wrong("cache_salt", format_args!("1 to {MAX_SALT_CHARACTERS} characters"), &salt.into()));
    }
    let priority = i32::try_from(priority).expect("the range was checked");
    Ok(Scheduling { priority, cache_salt, ..Scheduling::default() })
}

fn take_stream_options(fields: &mut Fields) -> Result<Option<StreamOptions>, ApiError> {
    let map = match fields.take("stream_options") {
        None => return Ok(None),
        Some(Value::Object(map)) => map,
        Some(other) => return Err(wrong("stream_options", "an object", &other)),
    };
    let mut options = StreamOptions::default();
    for (key, value) in map.iter().filter(|(_, value)| !value.is_null()) {
        let path = format!("stream_options.{key}");
        match key.as_str() {
            "include_usage" => options.include_usage = as_bool(value, &path)?,
            "continuous_usage_stats" => options.continuous_usage_stats = as_bool(value, &path)?,
            "include_obfuscation" if as_bool(value, &path)? => {
                return Err(ApiError::invalid(path, "`stream_options.include_obfuscation` is not supported."));
            }
            "include_obfuscation" => {}
            _ => return Err(ApiError::invalid(path.clone(), format!("`{path}` is not a field."))),
        }
    }
    Ok(Some(options))
}
