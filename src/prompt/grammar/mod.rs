//! The form of an answer: JSON of a schema, a regular expression, a choice, a grammar, tags in a text, calls of tools.
//!
//! Main types: [`AnswerForm`], what a request wants, and [`Grammars`], which makes constraints of it for one tokenizer.
//! The work is llguidance's; this module says in its dialect of Lark what Mistral's models write around a form: control
//! tokens, thinking, calls per tokenizer version. The rules are those of mistral-common 1.13.1 (`guidance`), where they
//! leave something open the stricter reading: only tools that were offered can be called, a call that is demanded comes
//! without an introduction, and a response's schema binds whether it is called strict or not.
//!
//! Invariant: what a constraint lets through can be read by [`OutputParser`](super::OutputParser). A form that nothing
//! can fulfil, or that takes too long, is refused when it is compiled, with the field that has it.

mod lark;
mod matcher;
mod tags;
mod vocabulary;

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use llguidance::{
    Matcher, ParserFactory,
    api::{GrammarWithLexer, ParserLimits, TopLevelGrammar},
    earley::SlicedBiasComputer,
    toktrie::InferenceCapabilities,
};

pub use self::tags::{StructuralTag, StructuralTags};
use self::{
    lark::{Frame, schema_text},
    matcher::AnswerMatcher,
};
use super::{Codec, error::PromptError, json::Value, request::Tool, tokenizer::Piece};
use crate::types::{Constraint, WrittenForm};

/// Compiled grammars that are kept, none of a longer text: an agent sends the same tools with every request.
const KEPT: usize = 64;
const LONGEST_KEPT: usize = 64 << 10;
/// The longest text of a form that is compiled: that of a grammar in Lark, whose rules may lead into one another, and of
/// everything else together.
const LONGEST_LARK: usize = 32 << 10;
const LONGEST_FORM: usize = 1 << 20;
/// Of the thread that compiles, which follows rules into one another. Only what is used takes memory.
const STACK_BYTES: usize = 256 << 20;
/// States of a lexer, of one to two kilobytes each; every answer has its own.
const MOST_LEXER_STATES: usize = 20_000;
/// Tools that are looked at one by one when something does not compile.
const MOST_SUSPECTS: usize = 16;

/// What an answer has to be. Without content and calls it is free.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AnswerForm {
    /// The form of the text, if it has one.
    pub content: Option<ContentForm>,
    /// The calls that may take its place.
    pub calls: Option<CallForm>,
}

/// The form of a text, with the path of the field that asks for it.
#[derive(Clone, Debug, PartialEq)]
pub struct ContentForm {
    /// Path of the field.
    pub field: String,
    /// What it asks for.
    pub kind: ContentKind,
}

/// Kinds of forms.
#[derive(Clone, Debug, PartialEq)]
pub enum ContentKind {
    /// JSON that a schema describes; with what may stand between its tokens, as a regular expression.
    Json {
        /// The schema.
        schema: Value,
        /// Up to 24 characters of white space if absent.
        whitespace: Option<String>,
    },
    /// A regular expression for the whole text.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A grammar in llguidance's dialect of Lark, beginning with the rule `start`.
    Lark(String),
    /// A text with tags.
    Tags(StructuralTags),
}

/// How tools may be called.
#[derive(Clone, Debug, PartialEq)]
pub struct CallForm {
    /// Those that may, with their places in the request.
    pub tools: Vec<(usize, Tool)>,
    /// The answer is a call.
    pub required: bool,
    /// There may be several.
    pub parallel: bool,
}

impl AnswerForm {
    /// True if some answers do not have the form. Calls alone, of tools that are not strict, are left to the model.
    pub fn binds(&self) -> bool {
        self.content.is_some()
            || self.calls.as_ref().is_some_and(|calls| {
                calls.required || !calls.parallel || calls.tools.iter().any(|(_, tool)| tool.strict)
            })
    }
}

/// Makes constraints for one tokenizer.
pub(super) struct Grammars {
    factory: ParserFactory,
    /// The text of an answer's first token may begin with a space that does not count.
    begins_with_space: bool,
    /// Grammars with matchers that nobody uses; the latest first.
    kept: Mutex<VecDeque<(Arc<str>, Matcher)>>,
}

impl fmt::Debug for Grammars {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Grammars").finish_non_exhaustive()
    }
}

impl Grammars {
    /// Takes some 0.2 s for a vocabulary of 131,072.
    pub(super) fn new(codec: &Codec) -> Result<Self, String> {
        let vocabulary = vocabulary::of(codec)?;
        let slices = SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&vocabulary, InferenceCapabilities::default(), &slices)
            .map_err(|error| format!("{error:#}"))?;
        factory.quiet();
        *factory.limits_mut() =
            ParserLimits { verbose_errors: false, max_lexer_states: MOST_LEXER_STATES, ..ParserLimits::default() };
        let mut ids = 0..codec.vocab_size() as u32;
        let begins_with_space = ids.any(|id| matches!(codec.tokenizer.piece(id), Piece::Spaced(_)));
        Ok(Self { factory, begins_with_space, kept: Mutex::default() })
    }

    /// A constraint at the beginning of an answer, or after `continued` tokens of it. Any of `end_ids` may end it.
    pub(super) fn constraint(
        &self,
        codec: &Codec,
        form: &AnswerForm,
        end_ids: &[u32],
        continued: &[u32],
    ) -> Result<Box<dyn Constraint>, PromptError> {
        let frame = Frame::of(codec, self.begins_with_space);
        if form.calls.is_some() && !frame.has_calls() {
            return Err(PromptError::form("tools", "this model's tokenizer has no form for calls"));
        }
        let compiled = grammar(&frame, form).and_then(|grammar| self.compiled(grammar));
        let (matcher, written) = match compiled {
            Ok(compiled) => compiled,
            Err(reason) => return Err(self.culprit(&frame, form, reason)),
        };
        self.begun(AnswerMatcher::new(matcher, written, self.factory.tok_env().eos_token(), end_ids), continued)
    }

    /// The constraint that was written down as a form.
    pub(super) fn constraint_again(
        &self,
        form: &WrittenForm,
        end_ids: &[u32],
    ) -> Result<Box<dyn Constraint>, PromptError> {
        let wrong = |reason: String| PromptError::form("form", reason);
        let grammar = serde_json::from_str(&form.grammar).map_err(|error| wrong(error.to_string()))?;
        let (matcher, written) = self.compiled(grammar).map_err(wrong)?;
        self.begun(AnswerMatcher::new(matcher, written, self.factory.tok_env().eos_token(), end_ids), &form.continued)
    }

    fn begun(&self, mut matcher: AnswerMatcher, continued: &[u32]) -> Result<Box<dyn Constraint>, PromptError> {
        matcher.advance_past(continued).map_err(|error| {
            let expected = format!("the beginning of an answer of the form that is asked for: {error}");
            PromptError::rule("messages", "a last message to be continued", expected)
        })?;
        Ok(Box::new(matcher))
    }

    /// A matcher of its own, of a grammar that is kept or is now.
    fn compiled(&self, grammar: TopLevelGrammar) -> Result<(Matcher, Arc<str>), String> {
        let key: Arc<str> = serde_json::to_string(&grammar).map_err(|error| error.to_string())?.into();
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut kept = kept();
            if let Some(at) = kept.iter().position(|(known, _)| *known == key)
                && let Some(found) = kept.remove(at)
            {
                let matcher = found.1.deep_clone();
                let key = Arc::clone(&found.0);
                kept.push_front(found);
                return Ok((matcher, key));
            }
        }
        let matcher = self.compile(grammar, key.len())?;
        if key.len() <= LONGEST_KEPT {
            let mut kept = kept();
            kept.retain(|(known, _)| *known != key); // somebody else may have compiled it meanwhile
            kept.push_front((Arc::clone(&key), matcher.deep_clone()));
            kept.truncate(KEPT);
        }
        Ok((matcher, key))
    }

    fn compile(&self, grammar: TopLevelGrammar, len: usize) -> Result<Matcher, String> {
        if len > LONGEST_FORM {
            return Err(format!("it is longer than {LONGEST_FORM} bytes"));
        }
        let compile = || {
            let mut matcher = Matcher::new(self.factory.create_parser(grammar));
            // The first set of tokens shows what compiling alone does not, such as a lexer that grows too large.
            match matcher.compute_mask() {
                Ok(allowed) if allowed.is_zero() => Err("no answer fulfils it".to_owned()),
                Ok(_) => Ok(matcher),
                Err(error) => Err(first_line(&format!("{error:#}"))),
            }
        };
        let ended = |_| Err("it cannot be compiled".to_owned());
        thread::scope(|scope| {
            let builder = thread::Builder::new().name("grammar".to_owned()).stack_size(STACK_BYTES);
            match builder.spawn_scoped(scope, compile) {
                Ok(thread) => thread.join().unwrap_or_else(ended),
                Err(error) => Err(format!("no thread can be started: {error}")),
            }
        })
    }

    /// Names the part of a form that does not compile.
    fn culprit(&self, frame: &Frame, form: &AnswerForm, reason: String) -> PromptError {
        let fails = |form: AnswerForm| grammar(frame, &form).and_then(|grammar| self.compile(grammar, 0)).err();
        if let Some(content) = &form.content
            && let Some(reason) = fails(AnswerForm { content: Some(content.clone()), calls: None })
        {
            return PromptError::form(&content.field, reason);
        }
        let calls = form.calls.iter().flat_map(|calls| calls.tools.iter().map(move |tool| (calls, tool)));
        for (calls, tool) in calls.take(MOST_SUSPECTS) {
            let alone = CallForm { tools: vec![tool.clone()], required: true, parallel: calls.parallel };
            if let Some(reason) = fails(AnswerForm { content: None, calls: Some(alone) }) {
                return PromptError::form(format!("tools[{}].function.parameters", tool.0), reason);
            }
        }
        let field = form.content.as_ref().map_or("tools", |content| &content.field);
        PromptError::form(field, reason)
    }
}

/// The whole form: what the frame writes, and a grammar of its own for a content that has its own language.
fn grammar(frame: &Frame, form: &AnswerForm) -> Result<TopLevelGrammar, String> {
    let content = match form.content.as_ref().map(|content| &content.kind) {
        None => None,
        Some(ContentKind::Json { schema, whitespace }) => {
            let schema = schema_text(schema, whitespace.as_deref())?;
            return Ok(TopLevelGrammar::from_lark(frame.json(&schema, form.calls.as_ref())?));
        }
        Some(ContentKind::Regex(regex)) => Some(GrammarWithLexer::from_regex(regex)),
        Some(ContentKind::Choice(texts)) => Some(GrammarWithLexer::from_lark(lark::choice(texts))),
        Some(ContentKind::Lark(text)) if text.len() > LONGEST_LARK => {
            return Err(format!("it is longer than {LONGEST_LARK} bytes"));
        }
        Some(ContentKind::Lark(text)) => Some(GrammarWithLexer::from_lark(text.clone())),
        Some(ContentKind::Tags(tags)) => Some(GrammarWithLexer::from_lark(tags::grammar(tags)?)),
    };
    match (content, &form.calls) {
        (None, calls) => Ok(TopLevelGrammar::from_lark(frame.calls(calls.as_ref())?)),
        (Some(_), Some(_)) => Err("it cannot be combined with calls of tools".to_owned()),
        (Some(content), None) => match frame.around(lark::CONTENT) {
            None => Ok(TopLevelGrammar::from_grammar(content)),
            Some(outer) => {
                let content = GrammarWithLexer { name: Some(lark::CONTENT.to_owned()), ..content };
                Ok(TopLevelGrammar { grammars: vec![GrammarWithLexer::from_lark(outer), content], max_tokens: None })
            }
        },
    }
}

/// Errors of grammars go on with the grammar.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim_end_matches(':').to_owned()
}
