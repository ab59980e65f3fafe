//! The instructions that a model was taught to reason with: the `SYSTEM_PROMPT.txt` of its checkpoint, which
//! `prompt_mode: "reasoning"` puts in front of a conversation.
//!
//! In the file `[THINK]..[/THINK]` shows the model how its thinking is to look; it is written with the control tokens of
//! that name, as Mistral's model cards do it (<https://huggingface.co/mistralai/Magistral-Small-2509>). A file without that
//! mark is a system prompt of another kind.

use super::error::PromptError;
use super::request::{ChatRequest, Chunk, Content, Message};

const BEGIN: &str = "[THINK]";
const END: &str = "[/THINK]";

/// Reads the text of a `SYSTEM_PROMPT.txt`; `None` if it says nothing of reasoning.
pub(super) fn parse(text: &str) -> Option<Content> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (thinking, after) = rest.split_once(END)?;
    let text = |text: &str| Chunk::Text(text.to_owned());
    let thinking = Chunk::Thinking { text: thinking.to_owned(), closed: true };
    Some(Content::Chunks(vec![text(before), thinking, text(after)]))
}

/// The conversation behind the instructions.
pub(super) fn guided(request: &ChatRequest, prompt: Option<&Content>) -> Result<ChatRequest, PromptError> {
    let Some(content) = prompt else {
        let expected =
            "no value: this model's checkpoint has no SYSTEM_PROMPT.txt for reasoning, or its tokenizer no form for it";
        return Err(PromptError::invalid("prompt_mode", "reasoning", expected));
    };
    let mut guided = request.clone();
    guided.messages.insert(0, Message::System { content: content.clone() });
    Ok(guided)
}
