//! `tokenizer.json`, through the `tokenizers` crate.
//!
//! Main type: [`HuggingFace`]. The crate encodes; what an id stands for is read from the file once,
//! so that decoding goes through the same [`Piece`]s as the native formats. Two kinds of files are
//! served, the two that Mistral checkpoints come with: byte-level BPE (from tekken) and BPE with
//! U+2581 for spaces and byte fallback (from SentencePiece). Others are refused by name.
//!
//! Special tokens in a text are letters here: `encode_special_tokens` is always on.

use std::borrow::Cow;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::Value;
use tokenizers::Tokenizer;

use super::Piece;

/// Text that no token of a SentencePiece vocabulary joins with what follows.
const START_GUARD: &str = "\n";

/// A tokenizer from a `tokenizer.json`.
pub(crate) struct HuggingFace {
    /// Treats special tokens in text as letters.
    tokenizer: Tokenizer,
    pieces: HashMap<u32, StoredPiece>,
    controls: HashMap<String, u32>,
    vocab_size: usize,
    adds_dummy_prefix: bool,
    prepends_at_start_only: bool,
}

#[derive(Debug)]
enum StoredPiece {
    Control(String),
    Bytes(Vec<u8>),
    Spaced(String),
    Byte { byte: u8, name: String },
}

/// How the vocabulary writes text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alphabet {
    /// One letter for each byte.
    ByteLevel,
    /// Characters, with U+2581 for a space and `<0x0A>` for a byte.
    Spaced,
}

impl HuggingFace {
    /// Parses a file, or says what is wrong with it.
    pub(crate) fn parse(bytes: &[u8]) -> Result<HuggingFace, String> {
        let file: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let decoder = &file["decoder"];
        let alphabet = alphabet_of(decoder)?;
        if file["model"]["type"].as_str().is_some_and(|kind| kind != "BPE") {
            return Err(format!("model.type is {}, expected \"BPE\"", file["model"]["type"]));
        }
        // The crate is not ours to vouch for: a panic over a hostile file must stay an error.
        let parsed = catch_unwind(AssertUnwindSafe(|| Tokenizer::from_bytes(bytes)));
        let mut tokenizer =
            parsed.map_err(|_| "the parser gave up on it".to_owned())?.map_err(|error| error.to_string())?;
        tokenizer.set_encode_special_tokens(true);
        let mut pieces: HashMap<u32, StoredPiece> =
            tokenizer.get_vocab(false).into_iter().map(|(name, id)| (id, alphabet.piece(name))).collect();
        let mut controls = HashMap::new();
        for (id, token) in tokenizer.get_added_tokens_decoder() {
            let piece = if token.special {
                controls.insert(token.content.clone(), id);
                StoredPiece::Control(token.content)
            } else {
                match alphabet {
                    Alphabet::ByteLevel => StoredPiece::Bytes(token.content.into_bytes()),
                    Alphabet::Spaced => StoredPiece::Spaced(token.content),
                }
            };
            pieces.insert(id, piece);
        }
        let vocab_size = pieces.keys().max().map_or(0, |id| *id as usize + 1);
        Ok(HuggingFace {
            tokenizer,
            pieces,
            controls,
            vocab_size,
            adds_dummy_prefix: strips_first_space(decoder),
            prepends_at_start_only: prepends_at_start_only(&file["pre_tokenizer"]),
        })
    }

    pub(crate) fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    pub(crate) fn control_id(&self, name: &str) -> Option<u32> {
        self.controls.get(name).copied()
    }

    pub(crate) fn is_control(&self, id: u32) -> bool {
        matches!(self.pieces.get(&id), Some(StoredPiece::Control(_)))
    }

    pub(crate) fn control_tokens(&self) -> impl Iterator<Item = (&str, u32)> {
        self.controls.iter().map(|(name, id)| (name.as_str(), *id))
    }

    pub(crate) fn adds_dummy_prefix(&self) -> bool {
        self.adds_dummy_prefix
    }

    pub(crate) fn piece(&self, id: u32) -> Piece<'_> {
        match self.pieces.get(&id) {
            Some(StoredPiece::Control(name)) => Piece::Control(Cow::Borrowed(name)),
            Some(StoredPiece::Bytes(bytes)) => Piece::Bytes(bytes),
            Some(StoredPiece::Spaced(text)) => Piece::Spaced(text),
            Some(StoredPiece::Byte { byte, name }) => Piece::Byte { byte: *byte, name },
            None => Piece::Nothing,
        }
    }

    pub(crate) fn encode_text_into(&self, text: &str, ids: &mut Vec<u32>) {
        let start = ids.len();
        self.encode_into(text, ids);
        if ids[start..].iter().any(|id| self.is_control(*id)) {
            // A model with `ignore_merges` looks whole words up, special tokens among them. Such a
            // word is encoded letter by letter instead.
            ids.truncate(start);
            let mut letter = [0; 4];
            text.chars().for_each(|character| self.encode_into(character.encode_utf8(&mut letter), ids));
            let mut place = 0;
            ids.retain(|id| {
                place += 1;
                place <= start || !self.is_control(*id)
            });
        }
    }

    /// Encodes text that follows other tokens: pipelines that put a space in front of a prompt do
    /// so only at its very beginning.
    pub(crate) fn encode_inner_into(&self, text: &str, ids: &mut Vec<u32>) {
        if !self.prepends_at_start_only || text.is_empty() {
            self.encode_text_into(text, ids);
            return;
        }
        // A line break in front takes the place of the beginning; its tokens are cut off again.
        let start = ids.len();
        self.encode_text_into(START_GUARD, ids);
        let n_guard = ids.len() - start;
        ids.truncate(start);
        self.encode_text_into(&format!("{START_GUARD}{text}"), ids);
        ids.drain(start..(start + n_guard).min(ids.len()));
    }

    /// The crate fails only on models that lack their own unknown token; such text has no ids.
    fn encode_into(&self, text: &str, ids: &mut Vec<u32>) {
        if let Ok(encoding) = self.tokenizer.encode_fast(text, false) {
            ids.extend_from_slice(encoding.get_ids());
        }
    }
}

impl std::fmt::Debug for HuggingFace {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("HuggingFace").field("vocab_size", &self.vocab_size).finish_non_exhaustive()
    }
}

impl Alphabet {
    fn piece(self, name: String) -> StoredPiece {
        match self {
            Alphabet::ByteLevel => match name.chars().map(byte_of_letter).collect() {
                Some(bytes) => StoredPiece::Bytes(bytes),
                None => StoredPiece::Bytes(name.into_bytes()),
            },
            Alphabet::Spaced => match byte_of_name(&name) {
                Some(byte) => StoredPiece::Byte { byte, name },
                None => StoredPiece::Spaced(name),
            },
        }
    }
}

/// A decoder or pre-tokenizer or, if it is a sequence, its steps.
fn steps(component: &Value) -> Vec<&Value> {
    match component["decoders"].as_array().or(component["pretokenizers"].as_array()) {
        Some(steps) => steps.iter().collect(),
        None => vec![component],
    }
}

fn prepends_at_start_only(pre_tokenizer: &Value) -> bool {
    steps(pre_tokenizer).iter().any(|step| step["type"] == "Metaspace" && step["prepend_scheme"] == "first")
}

fn alphabet_of(decoder: &Value) -> Result<Alphabet, String> {
    let has = |kind: &str| steps(decoder).iter().any(|step| step["type"] == kind);
    if has("ByteLevel") {
        Ok(Alphabet::ByteLevel)
    } else if has("ByteFallback") || has("Metaspace") {
        Ok(Alphabet::Spaced)
    } else {
        let kind = decoder["type"].as_str().unwrap_or("none");
        Err(format!("its decoder is {kind}, expected ByteLevel, Metaspace or a sequence with ByteFallback"))
    }
}

fn strips_first_space(decoder: &Value) -> bool {
    steps(decoder).iter().any(|step| match step["type"].as_str() {
        Some("Strip") => step["content"] == " " && step["start"].as_u64().is_some_and(|count| count > 0),
        Some("Metaspace") => step["prepend_scheme"] != "never" && step["add_prefix_space"] != false,
        Some(_) | None => false,
    })
}

/// The byte of a piece such as `<0x0A>`.
fn byte_of_name(name: &str) -> Option<u8> {
    let digits = name.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// The byte that a letter of the byte-level alphabet stands for: printable Latin-1 stands for
/// itself, the other 68 bytes are shifted to U+0100 and up, in order.
fn byte_of_letter(letter: char) -> Option<u8> {
    let is_printable = |byte: &u8| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    match u32::from(letter) {
        code @ 0x100.. => {
            let place = usize::try_from(code - 0x100).ok()?;
            (0..=u8::MAX).filter(|byte| !is_printable(byte)).nth(place)
        }
        code => u8::try_from(code).ok().filter(is_printable),
    }
}
