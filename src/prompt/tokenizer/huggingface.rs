//! `tokenizer.json`, through the `tokenizers` crate.
//!
//! Main type: [`HuggingFace`]. The crate encodes; what an id stands for is read from the file once,
//! so that decoding goes through the same [`Piece`]s as the native formats. Two kinds of files are
//! served, the two that Mistral checkpoints come with: byte-level BPE (from tekken) and BPE with
//! U+2581 for spaces and byte fallback (from SentencePiece). Others are refused by name.
//!
//! Special tokens in a text are letters here: `encode_special_tokens` is always on.
//!
//! Invariant: no text is lost. The vocabulary has a token for every byte, checked at loading, so that
//! each character can be written, with or without the crate's help; what a file says about truncation
//! and padding does not apply, and steps that remove characters are refused.

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
    /// The token of each byte.
    bytes: [u32; 256],
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
        tokenizer.with_truncation(None).map_err(|error| error.to_string())?.with_padding(None);
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
        let bytes = byte_tokens(&file, alphabet, &pieces, &tokenizer)?;
        let vocab_size = pieces.keys().max().map_or(0, |id| *id as usize + 1);
        Ok(HuggingFace {
            tokenizer,
            pieces,
            controls,
            bytes,
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
        if self.encode_as_text_into(text, ids) {
            return;
        }
        // A model with `ignore_merges` looks whole words up, special tokens among them. Such a text is
        // encoded letter by letter instead, and a letter that has the same fault byte by byte.
        let mut buffer = [0; 4];
        for (place, letter) in text.chars().enumerate() {
            let letter: &str = letter.encode_utf8(&mut buffer);
            let is_written = match place {
                0 => self.encode_as_text_into(letter, ids),
                _ => self.encode_inner_letter_into(letter, ids),
            };
            if !is_written {
                ids.extend(letter.bytes().map(|byte| self.bytes[usize::from(byte)]));
            }
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

    /// The same for a letter that follows others, before which nothing is to be put.
    fn encode_inner_letter_into(&self, letter: &str, ids: &mut Vec<u32>) -> bool {
        let (mut guard, mut whole) = (Vec::new(), Vec::new());
        let is_text = self.encode_as_text_into(START_GUARD, &mut guard)
            && self.encode_as_text_into(&format!("{START_GUARD}{letter}"), &mut whole);
        match whole.strip_prefix(guard.as_slice()) {
            Some(inner) if is_text => {
                ids.extend_from_slice(inner);
                true
            }
            Some(_) | None => false,
        }
    }

    /// False, and no ids, if the crate fails or finds control tokens in the text.
    fn encode_as_text_into(&self, text: &str, ids: &mut Vec<u32>) -> bool {
        let Ok(encoding) = self.tokenizer.encode_fast(text, false) else { return false };
        let is_text = !encoding.get_ids().iter().any(|id| self.is_control(*id));
        if is_text {
            ids.extend_from_slice(encoding.get_ids());
        }
        is_text
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

/// The token of each byte; an error if one has none, or if something else keeps text from having tokens.
fn byte_tokens(
    file: &Value,
    alphabet: Alphabet,
    pieces: &HashMap<u32, StoredPiece>,
    tokenizer: &Tokenizer,
) -> Result<[u32; 256], String> {
    check_steps(file, alphabet)?;
    let model = &file["model"];
    if alphabet == Alphabet::Spaced && model["byte_fallback"] != true {
        return Err("model.byte_fallback is not true, so it has no tokens for characters it does not know".to_owned());
    }
    let vocab = tokenizer.get_vocab(false);
    let mut tokens = [0; 256];
    for byte in 0..=u8::MAX {
        let name = match alphabet {
            Alphabet::ByteLevel => letter_of_byte(byte).to_string(),
            Alphabet::Spaced => format!("<0x{byte:02X}>"),
        };
        let id = vocab.get(&name).copied();
        let is_text = id.is_some_and(|id| !matches!(pieces.get(&id), Some(StoredPiece::Control(_)) | None));
        match id {
            Some(id) if is_text => tokens[usize::from(byte)] = id,
            Some(_) => return Err(format!("model.vocab: {name:?}, the token of byte {byte}, is a special token")),
            None => return Err(format!("model.vocab has no {name:?}, the token of byte {byte}")),
        }
    }
    Ok(tokens)
}

/// Refuses steps that take characters away, and byte-level files that do not turn text into bytes.
fn check_steps(file: &Value, alphabet: Alphabet) -> Result<(), String> {
    const REMOVING: [&str; 4] = ["Whitespace", "WhitespaceSplit", "BertPreTokenizer", "CharDelimiterSplit"];
    let pre_tokenizer = steps(&file["pre_tokenizer"]);
    for step in &pre_tokenizer {
        let kind = step["type"].as_str().unwrap_or("none");
        if REMOVING.contains(&kind) || step["behavior"] == "Removed" {
            return Err(format!("its pre_tokenizer has the step {kind}, which removes characters from texts"));
        }
    }
    let is_byte_level = |step: &&Value| step["type"] == "ByteLevel";
    if alphabet == Alphabet::ByteLevel && !pre_tokenizer.iter().chain(&steps(&file["normalizer"])).any(is_byte_level) {
        return Err("its decoder is ByteLevel, but neither its pre_tokenizer nor its normalizer is".to_owned());
    }
    for affix in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if file["model"][affix].as_str().is_some_and(|affix| !affix.is_empty()) {
            return Err(format!("model.{affix} is {}, expected none", file["model"][affix]));
        }
    }
    Ok(())
}

/// A component or, if it is a sequence, its steps.
fn steps(component: &Value) -> Vec<&Value> {
    let lists = ["decoders", "pretokenizers", "normalizers"];
    match lists.iter().find_map(|list| component[list].as_array()) {
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

/// The inverse of [`byte_of_letter`].
fn letter_of_byte(byte: u8) -> char {
    let is_of_byte = |letter: &char| byte_of_letter(*letter) == Some(byte);
    ('!'..='\u{143}').find(is_of_byte).unwrap_or(char::REPLACEMENT_CHARACTER)
}
