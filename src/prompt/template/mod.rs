//! Mistral's own prompt formats: from a normalized conversation to token ids.
//!
//! Main type: [`NativeTemplate`]. One renderer serves all versions; what they disagree on is data
//! in `version`. Invariant: text that came with the request is only ever passed to
//! [`Tokenizer::encode_text`], which cannot produce a control token; control tokens come from
//! [`Controls`] alone. So a user who types `[INST]` gets the letters.

mod controls;
mod render;
mod settings;

pub(crate) use controls::{Control, Controls};
pub(crate) use settings::SettingsRules;

use super::ChatPrompt;
use super::error::PromptError;
use super::normalize::{self, Turn, TurnKind};
use super::request::{ChatRequest, FimRequest};
use super::tokenizer::Tokenizer;
use super::validate;
use super::version::TokenizerVersion;
use render::{Chat, Renderer};

/// Puts one character in front of a suffix whose own first space must not be added or lost; the
/// two tokens it becomes are cut off again.
const SUFFIX_GUARD: &str = "☺";
const SUFFIX_GUARD_TOKENS: usize = 2;

/// The prompt format of one checkpoint.
#[derive(Debug, Clone)]
pub(crate) struct NativeTemplate {
    version: TokenizerVersion,
    controls: Controls,
    settings: Option<SettingsRules>,
}

impl NativeTemplate {
    /// Refuses a vocabulary that lacks a token this version writes; `file` is named in the error.
    pub(crate) fn new(
        tokenizer: &Tokenizer,
        version: TokenizerVersion,
        file: &str,
    ) -> Result<NativeTemplate, PromptError> {
        let controls = Controls::of(tokenizer);
        controls.check(version, file)?;
        let settings = tokenizer.settings_rules().cloned();
        if let Some(rules) = &settings {
            rules.check(file)?;
        }
        if version.writes_settings() && settings.is_none() {
            let reason = format!("has no model_settings_builder, which tokenizer version {version} needs");
            return Err(PromptError::file(file, reason));
        }
        Ok(NativeTemplate { version, controls, settings })
    }

    pub(crate) fn version(&self) -> TokenizerVersion {
        self.version
    }

    /// The prompt of a chat request.
    pub(crate) fn encode_chat(&self, tokenizer: &Tokenizer, request: &ChatRequest) -> Result<ChatPrompt, PromptError> {
        validate::check(request, self.version)?;
        let conversation = normalize::conversation(request, self.version)?;
        // Settings are checked even in a conversation that has no user turn to write them before.
        let settings = match &self.settings {
            Some(rules) if self.version.writes_settings() => rules.render(request)?,
            Some(_) | None => None,
        };
        let chat = Chat::new(&conversation, &request.tools, settings.as_deref());
        let mut renderer = self.renderer(tokenizer);
        renderer.control(Control::Bos)?;
        let mut last_start = 0;
        for (index, turn) in conversation.turns.iter().enumerate() {
            last_start = renderer.ids.len();
            renderer.turn(turn, chat.place(index))?;
        }
        let is_continued =
            matches!(conversation.turns.last(), Some(Turn { kind: TurnKind::Assistant { prefix: true, .. }, .. }));
        let n_continued = if is_continued { renderer.ids.len() - last_start } else { 0 };
        Ok(ChatPrompt { ids: renderer.ids, n_continued })
    }

    /// The prompt of a fill-in-the-middle request: `<s>[SUFFIX]` suffix `[PREFIX]` prompt.
    pub(crate) fn encode_fim(&self, tokenizer: &Tokenizer, request: &FimRequest) -> Result<Vec<u32>, PromptError> {
        let has_tokens = [Control::Prefix, Control::Suffix].iter().all(|control| self.controls.get(*control).is_some());
        if self.version == TokenizerVersion::V1 || !has_tokens {
            return Err(PromptError::unsupported("prompt", "fill-in-the-middle", self.version));
        }
        let mut renderer = self.renderer(tokenizer);
        renderer.control(Control::Bos)?;
        renderer.control(Control::Suffix)?;
        if let Some(suffix) = request.suffix.as_deref().filter(|suffix| !suffix.is_empty()) {
            let guarded = tokenizer.encode_text(&format!("{SUFFIX_GUARD}{suffix}"));
            renderer.ids.extend(guarded.into_iter().skip(SUFFIX_GUARD_TOKENS));
        }
        renderer.control(Control::Prefix)?;
        renderer.text(&request.prompt);
        Ok(renderer.ids)
    }

    fn renderer<'a>(&'a self, tokenizer: &'a Tokenizer) -> Renderer<'a> {
        Renderer { tokenizer, controls: &self.controls, version: self.version, ids: Vec::new() }
    }
}
