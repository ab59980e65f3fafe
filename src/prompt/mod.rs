//! Messages to tokens, and tokens back to messages.
//!
//! Main type: [`Codec`], everything that turns a request into a prompt and a model's ids into
//! output, for one checkpoint: its tokenizer, its prompt format, its detokenizer and the parser of
//! its tool calls. Pure functions over data: nothing here knows HTTP or tensors, and only Jinja
//! templates are told the date.
//!
//! Invariants: the same request gives the same ids as mistral-common 1.13.1, token for token (test
//! `vectors`); text from a request never becomes a control token; decoding never hands out half a
//! character; and no input, neither a request nor a tokenizer file, makes this layer panic.

mod checkpoint;
mod detokenizer;
mod error;
mod grammar;
mod jinja;
pub mod json;
mod normalize;
mod output;
mod passages;
mod reasoning;
mod request;
mod schema;
mod template;
mod tokenizer;
mod validate;
mod version;
mod whole_text;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use grammar::Grammars;
use jinja::{JinjaTemplate, TemplateSources};
use passages::Joining;
use template::{Controls, NativeTemplate};
use tokenizer::{HuggingFace, Piece, SentencePiece, Tekken, Tokenizer};
use version::CallLayout;
use whole_text::Ends;

pub use detokenizer::{Detokenizer, SpecialTokens};
pub use error::PromptError;
pub use grammar::{AnswerForm, CallForm, ContentForm, ContentKind, StructuralTag, StructuralTags};
pub use output::{OutputEvent, OutputParser, ToolsOffered};
pub use passages::{Part, Passage};
pub use request::{
    ChatRequest, Chunk, Content, FimRequest, Message, PromptMode, ReasoningEffort, ResponseFormat, Tool, ToolCall,
};
pub use tokenizer::{TekkenFile, TokenizerFormat};
pub use version::{TokenizerVersion, UnknownVersion};

use crate::types::{Constraint, WrittenForm};

/// What formats the prompt of a chat request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TemplateChoice {
    /// Mistral's own format where the tokenizer version is known, else the Jinja template.
    #[default]
    Auto,
    /// Mistral's own format.
    Native,
    /// The checkpoint's Jinja `chat_template`.
    Jinja,
}

/// Which orders of roles a conversation may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MessageOrder {
    /// Those of mistral-common's serving mode, which joins neighbours of one role; with a Jinja template, those that it
    /// accepts.
    #[default]
    Lenient,
    /// One system message at most, at the beginning, then user and assistant in turns, results right behind their calls.
    Strict,
}

/// How to open a checkpoint's tokenizer.
#[derive(Debug, Clone, Default)]
pub struct CodecOptions {
    /// What formats chat requests.
    pub template: TemplateChoice,
    /// The tokenizer file, instead of the one found in the checkpoint.
    pub tokenizer_file: Option<PathBuf>,
    /// The tokenizer version, instead of the one the file states.
    pub tokenizer_version: Option<TokenizerVersion>,
}

/// A prompt, and how much of its end is a message that the model continues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatPrompt {
    /// The whole prompt.
    pub ids: Vec<u32>,
    /// How many of the last ids belong to an assistant message with `prefix: true`. They are the
    /// context of [`Codec::detokenizer`] and [`Codec::output_parser_after`].
    pub n_continued: usize,
}

/// A checkpoint's tokenizer and prompt format. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Codec {
    tokenizer: Arc<Tokenizer>,
    /// Mistral's own formats, where the version is known.
    native: Option<Arc<NativeTemplate>>,
    /// Formats chats in place of the native one.
    jinja: Option<Arc<JinjaTemplate>>,
    message_order: MessageOrder,
    /// What `prompt_mode: "reasoning"` puts in front of a conversation.
    reasoning_prompt: Option<Arc<Content>>,
    /// Around texts that are embedded or classified.
    ends: Ends,
    /// SHA-256 of the tokenizer's file, where it was read from one.
    digest: Option<Arc<str>>,
    /// Made when the first answer of a form is wanted.
    grammars: Arc<OnceLock<Result<Grammars, String>>>,
}

impl Codec {
    /// Opens the tokenizer of the checkpoint in `dir`.
    ///
    /// Preferred are, in this order, `tekken.json`, `tokenizer.model` with or without a version as
    /// suffix, `tokenizer.json`. The Jinja template is `chat_template.jinja`, or `chat_template` in
    /// `tokenizer_config.json` or `chat_template.json`.
    pub fn open(dir: &Path, options: &CodecOptions) -> Result<Codec, PromptError> {
        checkpoint::open(dir, options)
    }

    /// The file that [`Codec::open`] reads the tokenizer from.
    pub fn tokenizer_file(dir: &Path, options: &CodecOptions) -> Result<PathBuf, PromptError> {
        checkpoint::tokenizer_file(dir, options)
    }

    /// A codec from a parsed `tekken.json`.
    pub fn from_tekken(file: &TekkenFile, version: Option<TokenizerVersion>) -> Result<Codec, PromptError> {
        let tekken = Tekken::new(file)?;
        let version = version.unwrap_or(tekken.version());
        Codec::new(Tokenizer::Tekken(tekken), Some(version), file.name())
    }

    /// A codec from the bytes of a SentencePiece model, which do not state their version.
    pub fn from_sentencepiece(bytes: &[u8], version: TokenizerVersion, name: &str) -> Result<Codec, PromptError> {
        let model = SentencePiece::parse(bytes).map_err(|reason| PromptError::file(name, reason))?;
        Codec::new(Tokenizer::SentencePiece(model), Some(version), name)
    }

    /// A codec from the bytes of a `tokenizer.json`; without a version or a template of its own
    /// (see [`Codec::with_jinja`]) it formats no chats.
    pub fn from_huggingface(bytes: &[u8], version: Option<TokenizerVersion>, name: &str) -> Result<Codec, PromptError> {
        let tokenizer = HuggingFace::parse(bytes).map_err(|reason| PromptError::file(name, reason))?;
        Codec::new(Tokenizer::HuggingFace(Box::new(tokenizer)), version, name)
    }

    fn new(tokenizer: Tokenizer, version: Option<TokenizerVersion>, name: &str) -> Result<Codec, PromptError> {
        let native = match version {
            Some(version) => Some(Arc::new(NativeTemplate::new(&tokenizer, version, name)?)),
            None => None,
        };
        Ok(Codec {
            tokenizer: Arc::new(tokenizer),
            native,
            jinja: None,
            message_order: MessageOrder::default(),
            reasoning_prompt: None,
            ends: Ends::default(),
            digest: None,
            grammars: Arc::default(),
        })
    }

    /// SHA-256 of the file that the tokenizer was read from, in hexadecimal digits, if it was a file.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// The same, for conversations of that order only.
    pub fn with_message_order(self, message_order: MessageOrder) -> Codec {
        Codec { message_order, ..self }
    }

    fn with_ends(self, ends: Ends) -> Codec {
        Codec { ends, ..self }
    }

    /// The same tokenizer, with a Jinja template that formats chats from now on.
    pub fn with_jinja(self, template: &str) -> Result<Codec, PromptError> {
        self.with_templates(&TemplateSources { default: template.to_owned(), tool_use: None })
    }

    fn with_templates(self, sources: &TemplateSources) -> Result<Codec, PromptError> {
        let jinja = JinjaTemplate::new(sources, &self.tokenizer)?;
        Ok(Codec { jinja: Some(Arc::new(jinja)), ..self })
    }

    /// The same, with the text of a `SYSTEM_PROMPT.txt` for `prompt_mode: "reasoning"`, if it speaks of reasoning and this
    /// tokenizer's prompts can say it.
    pub fn with_reasoning_prompt(self, text: &str) -> Codec {
        let can_say_it =
            self.jinja.is_none() && self.version().is_some_and(TokenizerVersion::writes_thinking_in_system);
        let reasoning_prompt = reasoning::parse(text).filter(|_| can_say_it).map(Arc::new);
        Codec { reasoning_prompt, ..self }
    }

    /// The version of the tokenizer, if it is known.
    pub fn version(&self) -> Option<TokenizerVersion> {
        self.native.as_ref().map(|template| template.version())
    }

    fn has_control(&self, name: &str) -> bool {
        self.tokenizer.control_id(name).is_some()
    }

    /// Whether chats are formatted by a Jinja template.
    pub fn uses_jinja(&self) -> bool {
        self.jinja.is_some()
    }

    /// The format of the tokenizer file.
    pub fn format(&self) -> TokenizerFormat {
        self.tokenizer.format()
    }

    /// One more than the highest token id.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.vocab_size()
    }

    /// The token that begins every prompt.
    pub fn bos_id(&self) -> Option<u32> {
        self.tokenizer.bos_id()
    }

    /// The token that ends an answer.
    pub fn eos_id(&self) -> Option<u32> {
        self.tokenizer.eos_id()
    }

    /// The ids of a text, after the beginning-of-sequence token if `add_bos`. Nothing in the text
    /// becomes a control token.
    pub fn encode_text(&self, text: &str, add_bos: bool) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 1);
        ids.extend(self.bos_id().filter(|_| add_bos));
        self.tokenizer.encode_text_into(text, &mut ids);
        ids
    }

    /// What the checkpoint's tokenizer puts in front of a text that is embedded or classified, and behind it.
    pub fn ends(&self) -> [Option<u32>; 2] {
        [self.bos_id().filter(|_| self.ends.bos), self.eos_id().filter(|_| self.ends.eos)]
    }

    /// What the model reads as a whole of a conversation's messages, in the parts that they have.
    pub fn passages<'c>(&self, messages: &'c mut [Message]) -> Vec<Passage<'c>> {
        let joining = match (&self.jinja, self.version()) {
            (None, Some(version)) => Joining::of(version),
            (Some(_), version) | (None, version @ None) => Joining::of_jinja(version),
        };
        joining.passages(messages)
    }

    /// The prompt of a chat request.
    pub fn encode_chat(&self, request: &ChatRequest) -> Result<Vec<u32>, PromptError> {
        Ok(self.encode_chat_prompt(request)?.ids)
    }

    /// The prompt of a chat request, with what the model continues told apart.
    pub fn encode_chat_prompt(&self, request: &ChatRequest) -> Result<ChatPrompt, PromptError> {
        match self.message_order {
            MessageOrder::Lenient => {}
            MessageOrder::Strict => validate::check_turns(&request.messages)?,
        }
        let guided = match request.prompt_mode {
            None => return self.encode_messages(request),
            Some(PromptMode::Reasoning) => reasoning::guided(request, self.reasoning_prompt.as_deref())?,
        };
        self.encode_messages(&guided).map_err(|error| match self.encode_messages(request) {
            // The conversation's own mistakes are told by the places that its author knows.
            Err(own) => own,
            Ok(_) => {
                PromptError::rule("prompt_mode", error.to_string(), "a conversation that it can stand in front of")
            }
        })
    }

    fn encode_messages(&self, request: &ChatRequest) -> Result<ChatPrompt, PromptError> {
        match (&self.jinja, &self.native) {
            (Some(template), _) => template.encode_chat(&self.tokenizer, request, SystemTime::now()),
            (None, Some(template)) => template.encode_chat(&self.tokenizer, request),
            (None, None) => Err(no_chat_template()),
        }
    }

    /// The prompt for filling in what stands between `prompt` and `suffix`.
    pub fn encode_fim(&self, prompt: &str, suffix: Option<&str>) -> Result<Vec<u32>, PromptError> {
        let request = FimRequest { prompt: prompt.to_owned(), suffix: suffix.map(str::to_owned) };
        match &self.native {
            Some(template) => template.encode_fim(&self.tokenizer, &request),
            None => Err(no_chat_template()),
        }
    }

    /// Keeps an answer to a form, from its beginning or from after the tokens `continued` on, which are there already. Any
    /// of `end_ids` may end it where it is complete.
    pub fn constraint(
        &self,
        form: &AnswerForm,
        end_ids: &[u32],
        continued: &[u32],
    ) -> Result<Box<dyn Constraint>, PromptError> {
        match self.grammars() {
            Ok(grammars) => grammars.constraint(self, form, end_ids, continued),
            Err(reason) => Err(PromptError::form("response_format", reason.clone())),
        }
    }

    /// Keeps an answer to a form that was written down ([`Constraint::written`]).
    pub fn constraint_again(&self, form: &WrittenForm, end_ids: &[u32]) -> Result<Box<dyn Constraint>, PromptError> {
        match self.grammars() {
            Ok(grammars) => grammars.constraint_again(form, end_ids),
            Err(reason) => Err(PromptError::form("form", reason.clone())),
        }
    }

    /// Makes what [`Codec::constraint`] needs of the vocabulary; without it the first call does. Says why no answer can be
    /// given a form, if that is so.
    pub fn prepare_constraints(&self) -> Result<(), String> {
        self.grammars().as_ref().map(|_| ()).map_err(String::clone)
    }

    fn grammars(&self) -> &Result<Grammars, String> {
        self.grammars.get_or_init(|| Grammars::new(self))
    }

    /// The text of ids. Ids outside of the vocabulary are nothing.
    pub fn decode(&self, ids: &[u32], special: SpecialTokens) -> String {
        let mut detokenizer = self.detokenizer(special, &[]);
        let mut text = String::new();
        for id in ids {
            detokenizer.push_into(*id, &mut text);
        }
        text.push_str(&detokenizer.finish());
        text
    }

    /// The bytes one id contributes to text; a control token gives its written form.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        match self.tokenizer.piece(id) {
            Piece::Control(name) => name.as_bytes().to_vec(),
            Piece::Bytes(bytes) => bytes.to_vec(),
            Piece::Spaced(text) => text.replace('\u{2581}', " ").into_bytes(),
            Piece::Byte { byte, .. } => vec![byte],
            Piece::Unknown { surface, .. } => surface.as_bytes().to_vec(),
            Piece::Nothing => Vec::new(),
        }
    }

    /// True for tokens that no text contains, such as `[INST]`.
    pub fn is_control(&self, id: u32) -> bool {
        self.tokenizer.is_control(id)
    }

    /// An incremental decoder. `context_ids` are the ids of the message that is continued, if one
    /// is: they give no text, but decide whether a first space counts.
    pub fn detokenizer(&self, special: SpecialTokens, context_ids: &[u32]) -> Detokenizer {
        let mut detokenizer = Detokenizer::new(Arc::clone(&self.tokenizer), special);
        let mut ignored = String::new();
        for id in context_ids {
            detokenizer.push_into(*id, &mut ignored);
        }
        detokenizer
    }

    /// An incremental parser of the model's output.
    pub fn output_parser(&self, tools: ToolsOffered) -> OutputParser {
        self.output_parser_after(tools, &[])
    }

    /// The same for an output that continues a message with these ids.
    pub fn output_parser_after(&self, tools: ToolsOffered, context_ids: &[u32]) -> OutputParser {
        let detokenizer = self.detokenizer(SpecialTokens::Skip, &[]);
        let controls = Controls::of(&self.tokenizer);
        let calls = match self.version() {
            Some(version) => version.calls(),
            None => CallLayout::of(&controls),
        };
        let mut parser = OutputParser::new(detokenizer, controls, calls, tools);
        parser.skip(context_ids);
        parser
    }
}

fn no_chat_template() -> PromptError {
    let reason = "the checkpoint has none, and its tokenizer states no version; choose a tokenizer version";
    PromptError::ChatTemplate { reason: reason.to_owned() }
}
