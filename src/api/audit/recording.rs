//! One inference on its way into the audit log: a record when it begins, and one when the last of its answers has ended.
//!
//! Main types: [`Recording`], and a [`ChoiceRecord`] per answer. Whoever drops one says that its answer has ended there; the
//! last one writes the record. That is why nothing can end without one.

use std::{
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use super::{
    AuditScope, Parameters,
    fields::{self, Beginning, Choice, End, Model, Times},
};
use crate::{
    api::{error::ApiError, state::ServedModel},
    governance::audit::{
        ANSWER_HASH, Begun, Capture, Content, ContentName, PARAMETERS_HASH, PROMPT_HASH, RawJson, RunningHash,
        SUBJECT_HASH, TextHasher,
    },
    types::unix_seconds,
};

/// What is asked of the model.
pub(in crate::api) struct Inference<'a> {
    pub(in crate::api) model: &'a ServedModel,
    /// `generate`, `pool` or `weigh`.
    pub(in crate::api) task: &'static str,
    /// Tokens of each text or prompt, in parts.
    pub(in crate::api) prompts: Vec<[&'a [u32]; 2]>,
    /// What decides the answer besides them.
    pub(in crate::api) parameters: Option<Parameters<'a>>,
}

/// An inference that has begun. The default writes nothing down.
#[derive(Clone, Default)]
pub(in crate::api) struct Recording {
    running: Option<Arc<Running>>,
}

struct Running {
    scope: AuditScope,
    begun: Begun,
    hasher: TextHasher,
    began: Instant,
    /// The name of the content that is kept, and what there is of it.
    content: Option<(ContentName, Content)>,
    outcome: Mutex<Outcome>,
}

#[derive(Default)]
struct Outcome {
    cached_tokens: usize,
    queue_ms: Option<f64>,
    first_token_ms: Option<f64>,
    error: Option<String>,
    is_cancelled: bool,
    choices: Vec<Choice>,
    answers: Vec<(usize, Vec<u32>)>,
}

/// One answer that is being generated.
pub(in crate::api) struct ChoiceRecord {
    running: Arc<Running>,
    index: usize,
    tokens: usize,
    hash: Option<RunningHash>,
    kept: Vec<u32>,
    /// Cancelled, unless something else is known.
    finish: &'static str,
    is_on_disk: bool,
}

impl AuditScope {
    /// Hands in that the model is asked something. Fails if that is to be refused as it cannot be written down.
    pub(in crate::api) fn begin(&self, inference: Inference<'_>) -> Result<Recording, ApiError> {
        let Some(shared) = &self.shared else { return Ok(Recording::default()) };
        let Some(hasher) = shared.audit.hasher(&shared.tenant.id) else {
            shared.audit.check()?;
            shared.audit.missed();
            return Ok(Recording::default());
        };
        let Inference { model, task, prompts, parameters } = inference;
        let mut hash = hasher.begin(PROMPT_HASH);
        prompts.iter().flatten().for_each(|part| hash.tokens(part));
        let content = (shared.capture == Capture::Content).then(|| {
            let whole = |prompt: &[&[u32]; 2]| prompt.concat();
            let prompts = prompts.iter().map(whole).collect();
            let parameters = parameters.as_ref().map(|parameters| RawJson::of(&parameters.whole()));
            let until = shared.keep_s.map(|seconds| unix_seconds().saturating_add(seconds));
            let content = Content { prompts, parameters, answers: Vec::new() };
            (ContentName::new(&shared.tenant.id, until), content)
        });
        let captured = content.as_ref().and_then(|(_, content)| content.parameters.as_ref());
        let subject = shared.state().subject.clone();
        let hashed = |subject: String| hasher.hash(SUBJECT_HASH, subject.as_bytes());
        // Where it is the same there is one.
        let line_subject = shared.line_subject.clone().filter(|own| Some(own) != subject.as_ref());
        let findings = fields::findings(&mut shared.state().findings);
        let beginning = Beginning {
            request: &shared.request,
            tenant: &shared.tenant.name,
            principal: shared.who(),
            route: &shared.route,
            purpose: shared.circumstances.purpose.as_deref(),
            data_classification: shared.circumstances.data_classification.as_deref(),
            consent: shared.circumstances.consent.as_deref(),
            subject: subject.map(hashed),
            line_subject: line_subject.map(hashed),
            cause: shared.cause.as_ref(),
            task,
            model: Model::of(model),
            server: &shared.rules,
            prompts: prompts.len(),
            prompt_tokens: prompts.iter().flatten().map(|part| part.len()).sum(),
            prompt_hash: hash.finish(),
            parameters: parameters.as_ref().map(Parameters::recorded),
            findings,
            content: content.as_ref().map(|(name, _)| name.to_string()),
            parameters_hash: captured.map(|captured| hasher.hash(PARAMETERS_HASH, captured.text().as_bytes())),
        };
        let Some(begun) = shared.audit.begin(&beginning)? else { return Ok(Recording::default()) };
        shared.state().begun.push(begun.clone());
        let (scope, began, outcome) = (self.clone(), Instant::now(), Mutex::default());
        Ok(Recording { running: Some(Arc::new(Running { scope, begun, hasher, began, content, outcome })) })
    }
}

impl Recording {
    /// One of its answers.
    pub(in crate::api) fn choice(&self, index: usize) -> Option<ChoiceRecord> {
        let running = Arc::clone(self.running.as_ref()?);
        let hash = Some(running.hasher.begin(ANSWER_HASH));
        let (tokens, kept, finish, is_on_disk) = (0, Vec::new(), "cancelled", false);
        Some(ChoiceRecord { running, index, tokens, hash, kept, finish, is_on_disk })
    }

    /// Returns when its beginning is on disk.
    pub(in crate::api) async fn on_disk(&self) -> Result<(), ApiError> {
        match &self.running {
            Some(running) => Ok(running.begun.on_disk().await?),
            None => Ok(()),
        }
    }

    /// How an inference without answers of tokens has ended; nothing if it was given up.
    pub(in crate::api) fn computed(&self, cached_tokens: usize) {
        let Some(running) = &self.running else { return };
        let mut outcome = running.outcome();
        outcome.is_cancelled = false;
        outcome.cached_tokens = cached_tokens;
    }

    /// It is given up unless more is told.
    pub(in crate::api) fn expecting(self) -> Self {
        if let Some(running) = &self.running {
            running.outcome().is_cancelled = true;
        }
        self
    }

    /// It has failed.
    pub(in crate::api) fn failed(&self, error: &ApiError) {
        if let Some(running) = &self.running {
            running.outcome().error = Some(code(error));
        }
    }
}

impl ChoiceRecord {
    /// Returns when the beginning of its inference is on disk.
    pub(in crate::api) async fn on_disk(&mut self) -> Result<(), ApiError> {
        if !self.is_on_disk {
            self.running.begun.on_disk().await?;
            self.is_on_disk = true;
        }
        Ok(())
    }

    /// Computation began.
    pub(in crate::api) fn started(&self, cached_tokens: usize) {
        let elapsed = self.running.elapsed_ms();
        let mut outcome = self.running.outcome();
        if outcome.queue_ms.is_none() {
            outcome.queue_ms = Some(elapsed);
            outcome.cached_tokens = cached_tokens;
        }
    }

    /// The next token.
    pub(in crate::api) fn token(&mut self, id: u32) {
        if self.tokens == 0 {
            let elapsed = self.running.elapsed_ms();
            self.running.outcome().first_token_ms.get_or_insert(elapsed);
        }
        self.tokens += 1;
        if let Some(hash) = &mut self.hash {
            hash.tokens(&[id]);
        }
        if self.running.content.is_some() {
            self.kept.push(id);
        }
    }

    /// It has ended as it says.
    pub(in crate::api) fn finished(&mut self, reason: &'static str) {
        self.finish = reason;
    }

    /// It has failed.
    pub(in crate::api) fn failed(&mut self, error: &ApiError) {
        self.finish = "error";
        self.running.outcome().error = Some(code(error));
    }
}

impl Drop for ChoiceRecord {
    fn drop(&mut self) {
        let hash = self.hash.take().map_or_else(String::new, RunningHash::finish);
        let choice = Choice { index: self.index, tokens: self.tokens, hash, finish: self.finish };
        let mut outcome = self.running.outcome();
        outcome.is_cancelled |= self.finish == "cancelled";
        outcome.choices.push(choice);
        if self.running.content.is_some() {
            outcome.answers.push((self.index, mem::take(&mut self.kept)));
        }
    }
}

impl Running {
    fn outcome(&self) -> std::sync::MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn elapsed_ms(&self) -> f64 {
        // Microseconds are enough, and short to write.
        (self.began.elapsed().as_secs_f64() * 1e6).round() / 1e3
    }
}

impl Drop for Running {
    /// Nobody is left who could go on with it.
    fn drop(&mut self) {
        let Some(shared) = &self.scope.shared else { return };
        let all = self.elapsed_ms();
        let mut outcome = mem::take(&mut *self.outcome());
        outcome.choices.sort_by_key(|choice| choice.index);
        outcome.answers.sort_by_key(|(index, _)| *index);
        let how = match (&outcome.error, outcome.is_cancelled) {
            (Some(_), _) => "failed",
            (None, true) => "cancelled",
            (None, false) => "complete",
        };
        let end = End {
            request: &shared.request,
            tenant: &shared.tenant.name,
            principal: shared.principal.as_deref().map(|principal| principal.asker.id.as_str()),
            outcome: how,
            error: outcome.error.as_deref(),
            cached_tokens: outcome.cached_tokens,
            completion_tokens: outcome.choices.iter().map(|choice| choice.tokens).sum(),
            choices: outcome.choices,
            findings: fields::findings(&mut shared.state().findings),
            ms: Times { queue: outcome.queue_ms, first_token: outcome.first_token_ms, all },
        };
        let content = self.content.take().map(|(name, content)| {
            let answers = outcome.answers.into_iter().map(|(_, tokens)| tokens).collect();
            (name, Content { answers, ..content })
        });
        shared.audit.end(&self.begun, &end, content);
    }
}

fn code(error: &ApiError) -> String {
    error.code().unwrap_or(error.kind()).to_owned()
}
