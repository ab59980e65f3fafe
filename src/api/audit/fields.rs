//! What records of inferences say, as JSON. `docs/audit.md` explains each member.

use std::{collections::BTreeMap, mem};

use serde::Serialize;
use serde_json::{Value, json};

use super::{Cause, FoundBy, Rules, Shared};
use crate::{
    api::{params::GenerationParams, state::ServedModel},
    governance::Principal,
    types::Constraint,
};

/// That an inference begins.
#[derive(Serialize)]
pub(super) struct Beginning<'a> {
    pub(super) request: &'a str,
    pub(super) tenant: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) principal: Option<Who<'a>>,
    pub(super) route: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) purpose: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) data_classification: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) consent: Option<&'a str>,
    /// Keyed hash of whom it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) subject: Option<String>,
    /// The same of whom the line of a batch is about, if that is somebody else than whom its batch is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) line_subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cause: Option<&'a Cause>,
    pub(super) task: &'static str,
    pub(super) model: Model<'a>,
    pub(super) server: &'a Rules,
    pub(super) prompts: usize,
    pub(super) prompt_tokens: usize,
    pub(super) prompt_hash: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) parameters: Option<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) findings: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content: Option<String>,
    /// Keyed hash of all parameters, as they are in the content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) parameters_hash: Option<String>,
}

/// How it ended.
#[derive(Serialize)]
pub(super) struct End<'a> {
    pub(super) request: &'a str,
    pub(super) tenant: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) principal: Option<&'a str>,
    /// `complete`, `cancelled` or `failed`.
    pub(super) outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<&'a str>,
    pub(super) cached_tokens: usize,
    pub(super) completion_tokens: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) choices: Vec<Choice>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) findings: Vec<Value>,
    pub(super) ms: Times,
}

/// One answer.
#[derive(Serialize)]
pub(super) struct Choice {
    pub(super) index: usize,
    pub(super) tokens: usize,
    pub(super) hash: String,
    /// OpenAI's `finish_reason`, `cancelled`, or an error's code.
    pub(super) finish: &'static str,
}

/// Milliseconds since it was handed to the engine.
#[derive(Serialize)]
pub(super) struct Times {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) queue: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) first_token: Option<f64>,
    pub(super) all: f64,
}

/// Who asks.
#[derive(Serialize)]
pub(super) struct Who<'a> {
    source: &'static str,
    id: &'a str,
    name: &'a str,
    roles: &'a [String],
}

/// What answers.
#[derive(Serialize)]
pub(super) struct Model<'a> {
    name: &'a str,
    weights: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokenizer: Option<&'a str>,
    /// None can be loaded.
    adapters: [&'a str; 0],
}

impl<'a> Who<'a> {
    pub(super) fn of(principal: &'a Principal) -> Self {
        let asker = &principal.asker;
        Self { source: principal.source.name(), id: &asker.id, name: &asker.name, roles: &asker.roles }
    }
}

impl<'a> Model<'a> {
    pub(super) fn of(model: &'a ServedModel) -> Self {
        Self { name: model.name(), weights: &model.digest, tokenizer: model.codec.digest(), adapters: [] }
    }
}

/// All that were noted; they are told once.
pub(super) fn findings(noted: &mut BTreeMap<FoundBy, u64>) -> Vec<Value> {
    let told = mem::take(noted).into_iter();
    told.map(|(by, count)| {
        json!({ "guardrail": by.guardrail, "detector": by.detector, "action": by.action, "stage": by.stage, "count": count })
    })
    .collect()
}

/// What decides the answer besides the prompt.
pub(in crate::api) struct Parameters<'a> {
    pub(in crate::api) params: &'a GenerationParams,
    /// Of the first choice.
    pub(in crate::api) seed: u64,
    pub(in crate::api) max_tokens: usize,
    /// The form that the answer must have, such as JSON.
    pub(in crate::api) constraint: Option<&'a dyn Constraint>,
}

impl Parameters<'_> {
    /// For the record: texts and ids that a client sends are only counted.
    pub(super) fn recorded(&self) -> Value {
        let Self { params, seed, max_tokens, constraint } = *self;
        let (sampling, stopping) = (&params.sampling, &params.stopping);
        let mut value = json!({
            "n": params.n,
            "seed": seed.cast_signed(),
            "max_tokens": max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
        });
        let mut unless = |name: &str, given: Value, usual: Value| {
            if given != usual {
                value[name] = given;
            }
        };
        unless("typical_p", json!(sampling.typical_p), json!(1.0_f32));
        unless("repetition_penalty", json!(sampling.repetition_penalty), json!(1.0_f32));
        unless("presence_penalty", json!(sampling.presence_penalty), json!(0.0_f32));
        unless("frequency_penalty", json!(sampling.frequency_penalty), json!(0.0_f32));
        unless("logit_biases", json!(sampling.logit_bias.len()), json!(0));
        unless("bad_words", json!(sampling.bad_words.len()), json!(0));
        unless("allowed_token_ids", json!(sampling.allowed_token_ids.as_ref().map(Vec::len)), json!(null));
        unless("min_tokens", json!(stopping.min_tokens), json!(0));
        unless("stop_strings", json!(stopping.strings.len()), json!(0));
        unless("stop_token_ids", json!(stopping.token_ids.len()), json!(0));
        unless("ignore_eos", json!(stopping.ignore_eos), json!(false));
        unless("has_form", json!(constraint.is_some()), json!(false));
        value
    }

    /// The same with all texts and ids and the form, to be kept with the content.
    pub(super) fn whole(&self) -> Value {
        let (sampling, stopping) = (&self.params.sampling, &self.params.stopping);
        let mut value = self.recorded();
        value["logit_bias"] = json!(sampling.logit_bias);
        value["bad_words"] = json!(sampling.bad_words);
        value["allowed_token_ids"] = json!(sampling.allowed_token_ids);
        value["stop_token_ids"] = json!(stopping.token_ids);
        value["stop_strings"] = json!(stopping.strings);
        if let Some(form) = self.constraint.and_then(Constraint::written) {
            value["form"] = json!(form);
        }
        value
    }
}

impl Shared {
    pub(super) fn who(&self) -> Option<Who<'_>> {
        self.principal.as_deref().map(Who::of)
    }
}
