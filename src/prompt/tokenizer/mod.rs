//! Text to token ids and what each id stands for, for the three formats of tokenizer files.
//!
//! Main type: [`Tokenizer`]. [`Tokenizer::encode_text`] never returns a control token, whatever the
//! text says; control tokens are looked up by name. What an id contributes to text is a [`Piece`];
//! the detokenizer puts pieces together, so that all formats share one.

mod bpe;
mod huggingface;
mod pattern;
mod sentencepiece;
mod sentencepiece_proto;
mod tekken;

use std::borrow::Cow;
use std::fmt;

use super::template::SettingsRules;

pub(crate) use huggingface::HuggingFace;
pub(crate) use sentencepiece::SentencePiece;
pub(crate) use tekken::Tekken;
pub use tekken::TekkenFile;

/// The format of a checkpoint's tokenizer file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenizerFormat {
    /// `tekken.json`.
    Tekken,
    /// `tokenizer.model`, with or without a version as suffix.
    SentencePiece,
    /// `tokenizer.json`.
    HuggingFace,
}

/// A tokenizer of any format.
#[derive(Debug)]
pub(crate) enum Tokenizer {
    Tekken(Tekken),
    SentencePiece(SentencePiece),
    HuggingFace(Box<HuggingFace>),
}

/// What one token id stands for.
#[derive(Debug)]
pub(crate) enum Piece<'a> {
    /// A control token, by its written form: no part of the text.
    Control(Cow<'a, str>),
    /// Bytes that may begin or end inside a character.
    Bytes(&'a [u8]),
    /// Whole characters, with U+2581 for a space.
    Spaced(&'a str),
    /// One byte of a character that has no piece of its own.
    Byte { byte: u8, name: &'a str },
    /// The unknown piece: its name, and what text shows for it.
    Unknown { name: &'a str, surface: &'a str },
    /// The id is outside of the vocabulary.
    Nothing,
}

/// A stretch of a prompt that a Jinja template rendered.
#[derive(Debug, Clone, Copy)]
pub(crate) enum RenderedText<'a> {
    /// A control token.
    Control(u32),
    /// Text between control tokens.
    Text(&'a str),
}

impl Tokenizer {
    pub(crate) fn format(&self) -> TokenizerFormat {
        match self {
            Tokenizer::Tekken(_) => TokenizerFormat::Tekken,
            Tokenizer::SentencePiece(_) => TokenizerFormat::SentencePiece,
            Tokenizer::HuggingFace(_) => TokenizerFormat::HuggingFace,
        }
    }

    /// One more than the highest id.
    pub(crate) fn vocab_size(&self) -> usize {
        match self {
            Tokenizer::Tekken(tekken) => tekken.vocab_size(),
            Tokenizer::SentencePiece(model) => model.vocab_size(),
            Tokenizer::HuggingFace(tokenizer) => tokenizer.vocab_size(),
        }
    }

    /// The control token of that name.
    pub(crate) fn control_id(&self, name: &str) -> Option<u32> {
        match self {
            Tokenizer::Tekken(tekken) => tekken.control_id(name),
            Tokenizer::SentencePiece(model) => model.control_id(name),
            Tokenizer::HuggingFace(tokenizer) => tokenizer.control_id(name),
        }
    }

    /// All control tokens that have a name of their own.
    pub(crate) fn control_tokens(&self) -> Vec<(&str, u32)> {
        match self {
            Tokenizer::Tekken(tekken) => tekken.control_tokens().collect(),
            Tokenizer::SentencePiece(model) => model.control_tokens().collect(),
            Tokenizer::HuggingFace(tokenizer) => tokenizer.control_tokens().collect(),
        }
    }

    pub(crate) fn is_control(&self, id: u32) -> bool {
        match self {
            Tokenizer::Tekken(tekken) => tekken.is_control(id),
            Tokenizer::SentencePiece(model) => model.is_control(id),
            Tokenizer::HuggingFace(tokenizer) => tokenizer.is_control(id),
        }
    }

    pub(crate) fn bos_id(&self) -> Option<u32> {
        match self {
            Tokenizer::Tekken(tekken) => tekken.control_id("<s>"),
            Tokenizer::SentencePiece(model) => model.bos_id(),
            Tokenizer::HuggingFace(tokenizer) => tokenizer.control_id("<s>"),
        }
    }

    pub(crate) fn eos_id(&self) -> Option<u32> {
        match self {
            Tokenizer::Tekken(tekken) => tekken.control_id("</s>"),
            Tokenizer::SentencePiece(model) => model.eos_id(),
            Tokenizer::HuggingFace(tokenizer) => tokenizer.control_id("</s>"),
        }
    }

    /// Which settings the model takes, if its file says so.
    pub(crate) fn settings_rules(&self) -> Option<&SettingsRules> {
        match self {
            Tokenizer::Tekken(tekken) => tekken.settings_rules(),
            Tokenizer::SentencePiece(_) | Tokenizer::HuggingFace(_) => None,
        }
    }

    pub(crate) fn piece(&self, id: u32) -> Piece<'_> {
        match self {
            Tokenizer::Tekken(tekken) => tekken.piece(id),
            Tokenizer::SentencePiece(model) => model.piece(id),
            Tokenizer::HuggingFace(tokenizer) => tokenizer.piece(id),
        }
    }

    /// True if decoded text drops the space that encoding put in front of it.
    pub(crate) fn adds_dummy_prefix(&self) -> bool {
        match self {
            Tokenizer::Tekken(_) => false,
            Tokenizer::SentencePiece(model) => model.adds_dummy_prefix(),
            Tokenizer::HuggingFace(tokenizer) => tokenizer.adds_dummy_prefix(),
        }
    }

    /// The ids of a rendered prompt.
    pub(crate) fn encode_rendered(&self, parts: &[RenderedText<'_>]) -> Vec<u32> {
        let mut ids = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            match (part, self) {
                (RenderedText::Control(id), _) => ids.push(*id),
                (RenderedText::Text(text), Tokenizer::HuggingFace(tokenizer)) if index > 0 => {
                    tokenizer.encode_inner_into(text, &mut ids);
                }
                (RenderedText::Text(text), _) => self.encode_text_into(text, &mut ids),
            }
        }
        ids
    }

    /// The ids of a text. Never a control token.
    pub(crate) fn encode_text(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        self.encode_text_into(text, &mut ids);
        ids
    }

    /// The same, appended.
    pub(crate) fn encode_text_into(&self, text: &str, ids: &mut Vec<u32>) {
        match self {
            Tokenizer::Tekken(tekken) => tekken.encode_text_into(text, ids),
            Tokenizer::SentencePiece(model) => model.encode_text_into(text, ids),
            Tokenizer::HuggingFace(tokenizer) => tokenizer.encode_text_into(text, ids),
        }
    }
}

impl fmt::Display for TokenizerFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            TokenizerFormat::Tekken => "tekken",
            TokenizerFormat::SentencePiece => "sentencepiece",
            TokenizerFormat::HuggingFace => "huggingface",
        })
    }
}
