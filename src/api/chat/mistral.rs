//! What only Mistral's API has of a message: thinking as a part of the content, an answer that begins with the prefix
//! its request wrote, and the safety prompt.
//!
//! Main types: [`MessageContent`] and [`Beginning`]. Knows nothing of when the dialect is spoken; that is
//! [`Dialect`](crate::api::dialect::Dialect)'s.

use serde::Serialize;

use crate::{
    api::AnswerGuard,
    prompt::{Chunk, Codec, Content, Message, OutputEvent, SpecialTokens, ToolsOffered},
};

/// What `safe_prompt` puts in front of a conversation: <https://docs.mistral.ai/deprecated/safe_prompt>.
const SAFETY_PROMPT: &str = "Always assist with care, respect, and truth. Respond with utmost utility yet securely. Avoid \
     harmful, unethical, prejudiced, or negative content. Ensure replies promote fairness and positivity.";

/// `content` of an answer: a text, or (Mistral's form where the model has thought) a list.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum MessageContent {
    Text(String),
    Chunks(Vec<ContentChunk>),
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum ContentChunk {
    Text { text: String },
    Thinking { thinking: [ThinkingPart; 1] },
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum ThinkingPart {
    Text { text: String },
}

/// The beginning of an answer, which the request wrote as a message with `prefix: true`. Mistral's API repeats it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Beginning {
    pub(super) reasoning: String,
    pub(super) content: String,
}

impl MessageContent {
    /// Thinking and text as Mistral's API has them. What is empty is left out.
    pub(super) fn with_thinking(reasoning: String, text: Option<String>) -> Option<Self> {
        if reasoning.is_empty() {
            return text.map(Self::Text);
        }
        let thinking = ContentChunk::Thinking { thinking: [ThinkingPart::Text { text: reasoning }] };
        let text = text.filter(|text| !text.is_empty()).map(|text| ContentChunk::Text { text });
        Some(Self::Chunks(std::iter::once(thinking).chain(text).collect()))
    }
}

impl Beginning {
    /// Reads the ids of the message that the model continues, as the rest of the message will be read.
    pub(super) fn of(ids: &[u32], codec: &Codec, special: SpecialTokens) -> Self {
        let mut beginning = Self::default();
        match special {
            SpecialTokens::Keep => beginning.content = codec.decode(ids, special),
            SpecialTokens::Skip => {
                let mut parser = codec.output_parser(ToolsOffered::No);
                for event in ids.iter().flat_map(|&id| parser.push(id)) {
                    match event {
                        OutputEvent::Content(text) => beginning.content.push_str(&text),
                        OutputEvent::Reasoning(text) => beginning.reasoning.push_str(&text),
                        // Without tools a call is text.
                        OutputEvent::ToolCallBegin { .. } | OutputEvent::ToolCallArguments { .. } => {}
                    }
                }
            }
        }
        beginning
    }

    /// The same as the client has sent it.
    pub(super) fn restored(self, guard: &AnswerGuard) -> Self {
        Self { reasoning: guard.restore(self.reasoning), content: guard.restore(self.content) }
    }
}

/// Puts the safety prompt in front of a conversation. A system message that is there already goes on after it, as some
/// templates have room for one only.
pub(super) fn prepend_safety_prompt(messages: &mut Vec<Message>) {
    match messages.first_mut() {
        None => {} // is refused as it is
        Some(Message::System { content: Content::Text(text) }) => *text = format!("{SAFETY_PROMPT}\n\n{text}"),
        Some(Message::System { content: Content::Chunks(chunks) }) => match chunks.first_mut() {
            Some(Chunk::Text(text)) => *text = format!("{SAFETY_PROMPT}\n\n{text}"),
            Some(Chunk::Thinking { .. } | Chunk::Image | Chunk::Audio) | None => {
                chunks.insert(0, Chunk::Text(SAFETY_PROMPT.to_owned()));
            }
        },
        Some(Message::User { .. } | Message::Assistant { .. } | Message::Tool { .. }) => {
            messages.insert(0, Message::System { content: Content::Text(SAFETY_PROMPT.to_owned()) });
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    #[track_caller]
    fn check(reasoning: &str, text: Option<&str>, expected: Expect) {
        let content = MessageContent::with_thinking(reasoning.to_owned(), text.map(str::to_owned));
        expected.assert_eq(&serde_json::to_string(&content).expect("JSON"));
    }

    #[test]
    fn content_is_a_list_only_if_there_is_thinking() {
        check("", None, expect!["null"]);
        check("", Some("Yes."), expect![[r#""Yes.""#]]);
        check("Hm.", Some(""), expect![[r#"[{"type":"thinking","thinking":[{"type":"text","text":"Hm."}]}]"#]]);
        check(
            "Hm.",
            Some("Yes."),
            expect![[
                r#"[{"type":"thinking","thinking":[{"type":"text","text":"Hm."}]},{"type":"text","text":"Yes."}]"#
            ]],
        );
    }
}
