//! Log-probabilities as clients see them: token ids become text and bytes.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{dialect::Dialect, generation::ScoredToken};
use crate::{
    engine::TokenLogprobs,
    prompt::{Codec, SpecialTokens},
};

/// JSON has no infinities: vLLM's stand-in for a probability of zero.
const ZERO_PROBABILITY: f32 = -9999.0;

/// Names tokens.
pub(super) struct TokenNames<'a> {
    pub(super) codec: &'a Codec,
    /// `return_tokens_as_token_ids`.
    pub(super) as_token_ids: bool,
    /// Mistral's tokens have their ids beside them.
    pub(super) dialect: Dialect,
}

/// Chat's form.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(super) struct ChatLogprobs {
    pub(super) content: Vec<ChatToken>,
}

/// One token in chat's form.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ChatToken {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_id: Option<u32>,
    top_logprobs: Vec<TopToken>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct TopToken {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_id: Option<u32>,
}

/// Completions' form: four lists of equal length.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(super) struct CompletionLogprobs {
    pub(super) text_offset: Vec<usize>,
    pub(super) token_logprobs: Vec<Option<f32>>,
    pub(super) tokens: Vec<String>,
    pub(super) top_logprobs: Vec<Option<Map<String, Value>>>,
}

impl TokenNames<'_> {
    fn name(&self, id: u32) -> String {
        if self.as_token_ids { format!("token_id:{id}") } else { self.text(id) }
    }

    fn text(&self, id: u32) -> String {
        String::from_utf8_lossy(&self.codec.token_bytes(id)).into_owned()
    }

    pub(super) fn chat(&self, tokens: &[ScoredToken]) -> Vec<ChatToken> {
        tokens.iter().map(|ScoredToken { id, logprobs, .. }| self.chat_token(*id, logprobs)).collect()
    }

    /// Chat's form of a prompt, which Mistral's API has. The first token has no log-probabilities and is left out.
    pub(super) fn chat_prompt(&self, prompt_ids: &[u32], logprobs: &[Option<TokenLogprobs>]) -> Vec<ChatToken> {
        let token = |(&id, entry): (&u32, &Option<TokenLogprobs>)| Some(self.chat_token(id, entry.as_ref()?));
        prompt_ids.iter().zip(logprobs).filter_map(token).collect()
    }

    fn chat_token(&self, id: u32, logprobs: &TokenLogprobs) -> ChatToken {
        let TopToken { token, logprob, bytes, token_id } = self.top(id, logprobs.logprob);
        let top_logprobs = logprobs.top.iter().map(|&(id, logprob)| self.top(id, logprob)).collect();
        ChatToken { token, logprob, bytes, token_id, top_logprobs }
    }

    fn top(&self, id: u32, logprob: f32) -> TopToken {
        TopToken {
            token: self.name(id),
            logprob: finite(logprob),
            bytes: self.codec.token_bytes(id),
            token_id: (self.dialect == Dialect::Mistral).then_some(id),
        }
    }

    /// Completions' form of generated tokens that follow `before` characters.
    pub(super) fn extend_completion(&self, out: &mut CompletionLogprobs, tokens: &[ScoredToken], before: usize) {
        for token in tokens {
            self.push_completion(out, token.id, before + token.text_offset, Some(&token.logprobs));
        }
    }

    /// Completions' form of a prompt, and its text. The first token has no log-probabilities.
    pub(super) fn echo(
        &self,
        prompt_ids: &[u32],
        special: SpecialTokens,
        logprobs: Option<&[Option<TokenLogprobs>]>,
    ) -> (String, CompletionLogprobs) {
        let mut out = CompletionLogprobs::default();
        let mut detokenizer = self.codec.detokenizer(special, &[]);
        let mut text = String::new();
        let mut chars = 0;
        for (index, &id) in prompt_ids.iter().enumerate() {
            if let Some(logprobs) = logprobs {
                self.push_completion(&mut out, id, chars, logprobs.get(index).and_then(Option::as_ref));
            }
            let piece = detokenizer.push(id);
            chars += piece.chars().count();
            text.push_str(&piece);
        }
        text.push_str(&detokenizer.finish());
        (text, out)
    }

    fn push_completion(
        &self,
        out: &mut CompletionLogprobs,
        id: u32,
        text_offset: usize,
        logprobs: Option<&TokenLogprobs>,
    ) {
        out.text_offset.push(text_offset);
        out.tokens.push(self.name(id));
        out.token_logprobs.push(logprobs.map(|logprobs| finite(logprobs.logprob)));
        out.top_logprobs.push(logprobs.map(|logprobs| self.alternatives(id, logprobs)));
    }

    /// The most likely tokens, and the chosen one if it is not among them.
    fn alternatives(&self, id: u32, logprobs: &TokenLogprobs) -> Map<String, Value> {
        let mut map = Map::new();
        for &(id, logprob) in &logprobs.top {
            // Two ids with one spelling: the more likely one counts.
            map.entry(self.name(id)).or_insert_with(|| finite(logprob).into());
        }
        map.entry(self.name(id)).or_insert_with(|| finite(logprobs.logprob).into());
        map
    }

    /// vLLM's `prompt_logprobs`: per position an object keyed by token id.
    pub(super) fn prompt(&self, prompt_ids: &[u32], logprobs: &[Option<TokenLogprobs>]) -> Value {
        let position = |(&id, entry): (&u32, &Option<TokenLogprobs>)| match entry {
            None => Value::Null,
            Some(logprobs) => {
                let mut map = Map::new();
                let describe = |id, logprob, rank| json!({ "logprob": finite(logprob), "rank": rank, "decoded_token": self.text(id) });
                map.insert(id.to_string(), describe(id, logprobs.logprob, logprobs.rank));
                for (&(other, logprob), rank) in logprobs.top.iter().zip(1..) {
                    map.entry(other.to_string()).or_insert_with(|| describe(other, logprob, rank));
                }
                Value::Object(map)
            }
        };
        prompt_ids.iter().zip(logprobs).map(position).collect()
    }
}

fn finite(logprob: f32) -> f32 {
    if logprob.is_nan() { ZERO_PROBABILITY } else { logprob.max(ZERO_PROBABILITY) }
}
