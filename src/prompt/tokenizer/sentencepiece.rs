//! SentencePiece BPE, read from `tokenizer.model`, `tokenizer.model.v3` and their like.
//!
//! Main type: [`SentencePiece`]. Text is encoded as a whole: a space in front, every space written
//! as U+2581, user-defined pieces cut out, and the characters between them merged by score. A
//! character without a piece becomes the pieces of its bytes. Control pieces are never matched in
//! text. Source: the behaviour of the `sentencepiece` library 0.2.3 with an identity normalizer;
//! files that ask for another normalizer or model type are refused.

use std::borrow::Cow;
use std::collections::HashMap;

use super::Piece;
use super::bpe;
use super::sentencepiece_proto::{ModelProto, PieceKind};

/// How pieces write a space.
const SPACE: char = '\u{2581}';

/// `TrainerSpec.model_type` of byte-pair encoding.
const MODEL_TYPE_BPE: u64 = 2;

/// A SentencePiece tokenizer.
#[derive(Debug)]
pub(crate) struct SentencePiece {
    pieces: Vec<StoredPiece>,
    /// Normal and user-defined pieces: what text may become.
    by_text: HashMap<Box<str>, Scored>,
    controls: HashMap<Box<str>, u32>,
    /// User-defined pieces, by their first character, longest first.
    user_defined: HashMap<char, Vec<(Box<str>, u32)>>,
    byte_ids: Option<Box<[u32; 256]>>,
    unknown_id: u32,
    unknown_surface: Box<str>,
    adds_dummy_prefix: bool,
    /// No piece has a space behind another character, so words can be merged one by one.
    words_are_separate: bool,
    bos_id: Option<u32>,
    eos_id: Option<u32>,
}

#[derive(Debug)]
struct StoredPiece {
    text: Box<str>,
    kind: PieceKind,
}

#[derive(Debug, Clone, Copy)]
struct Scored {
    id: u32,
    score: f32,
}

/// A score as a merge priority.
struct Priority(f32);

impl SentencePiece {
    /// Parses a `.model` file, or says what is wrong with it.
    pub(crate) fn parse(bytes: &[u8]) -> Result<SentencePiece, String> {
        let model = ModelProto::parse(bytes)?;
        check_kind(&model)?;
        let mut tokenizer = SentencePiece {
            pieces: Vec::with_capacity(model.pieces.len()),
            by_text: HashMap::with_capacity(model.pieces.len()),
            controls: HashMap::new(),
            user_defined: HashMap::new(),
            byte_ids: None,
            unknown_id: 0,
            unknown_surface: model.trainer.unk_surface.into(),
            adds_dummy_prefix: model.normalizer.add_dummy_prefix,
            words_are_separate: true,
            bos_id: None,
            eos_id: None,
        };
        let mut byte_ids: HashMap<u8, u32> = HashMap::new();
        let mut unknown_id = None;
        for (position, piece) in model.pieces.iter().enumerate() {
            let id = u32::try_from(position).map_err(|_| "too many pieces".to_owned())?;
            let place = |reason: &str| format!("piece {position} ({:?}): {reason}", piece.piece);
            match piece.kind {
                PieceKind::Unknown if unknown_id.is_some() => return Err(place("a second unknown piece")),
                PieceKind::Unknown => unknown_id = Some(id),
                PieceKind::Control => tokenizer.add_control(piece.piece, id).map_err(|error| place(&error))?,
                PieceKind::Byte => {
                    let byte = byte_of(piece.piece).ok_or_else(|| place("expected a name such as <0x0A>"))?;
                    if byte_ids.insert(byte, id).is_some() {
                        return Err(place("a second piece for this byte"));
                    }
                }
                PieceKind::Normal | PieceKind::UserDefined => {
                    let scored = Scored { id, score: piece.score };
                    let is_user_defined = piece.kind == PieceKind::UserDefined;
                    tokenizer.add_text(piece.piece, scored, is_user_defined).map_err(|error| place(&error))?;
                }
                PieceKind::Unused => return Err(place("unused pieces are not supported")),
            }
            tokenizer.pieces.push(StoredPiece { text: piece.piece.into(), kind: piece.kind });
        }
        tokenizer.unknown_id = unknown_id.ok_or("no unknown piece")?;
        if model.trainer.byte_fallback {
            tokenizer.byte_ids = Some(all_bytes(&byte_ids)?);
        }
        tokenizer.bos_id = tokenizer.control_id(model.trainer.bos_piece);
        tokenizer.eos_id = tokenizer.control_id(model.trainer.eos_piece);
        Ok(tokenizer)
    }

    pub(crate) fn vocab_size(&self) -> usize {
        self.pieces.len()
    }

    pub(crate) fn bos_id(&self) -> Option<u32> {
        self.bos_id
    }

    pub(crate) fn eos_id(&self) -> Option<u32> {
        self.eos_id
    }

    pub(crate) fn control_id(&self, name: &str) -> Option<u32> {
        self.controls.get(name).copied()
    }

    pub(crate) fn is_control(&self, id: u32) -> bool {
        self.pieces.get(id as usize).is_some_and(|piece| piece.kind == PieceKind::Control)
    }

    pub(crate) fn control_tokens(&self) -> impl Iterator<Item = (&str, u32)> {
        self.controls.iter().map(|(name, id)| (&**name, *id))
    }

    pub(crate) fn adds_dummy_prefix(&self) -> bool {
        self.adds_dummy_prefix
    }

    pub(crate) fn piece(&self, id: u32) -> Piece<'_> {
        let Some(piece) = self.pieces.get(id as usize) else {
            return Piece::Nothing;
        };
        match piece.kind {
            PieceKind::Control => Piece::Control(Cow::Borrowed(&piece.text)),
            PieceKind::Unknown => Piece::Unknown { name: &piece.text, surface: &self.unknown_surface },
            PieceKind::Byte => match byte_of(&piece.text) {
                Some(byte) => Piece::Byte { byte, name: &piece.text },
                None => Piece::Nothing,
            },
            PieceKind::Normal | PieceKind::UserDefined | PieceKind::Unused => Piece::Spaced(&piece.text),
        }
    }

    pub(crate) fn encode_text_into(&self, text: &str, ids: &mut Vec<u32>) {
        if text.is_empty() {
            return;
        }
        let mut normalized = String::with_capacity(text.len() + text.len() / 4 + SPACE.len_utf8());
        if self.adds_dummy_prefix {
            normalized.push(SPACE);
        }
        normalized.extend(text.chars().map(|character| if character == ' ' { SPACE } else { character }));
        self.encode_normalized(&normalized, ids);
    }

    /// Cuts out the user-defined pieces and, where that is safe, the words.
    fn encode_normalized(&self, text: &str, ids: &mut Vec<u32>) {
        let mut start = 0;
        let mut previous = SPACE;
        let mut skip_until = 0;
        for (at, character) in text.char_indices() {
            if at < skip_until {
                continue;
            }
            if let Some((piece, id)) = self.user_defined_at(&text[at..], character) {
                self.encode_run(&text[start..at], ids);
                ids.push(id);
                start = at + piece.len();
                skip_until = start;
                previous = SPACE;
                continue;
            }
            if self.words_are_separate && character == SPACE && previous != SPACE {
                self.encode_run(&text[start..at], ids);
                start = at;
            }
            previous = character;
        }
        self.encode_run(&text[start..], ids);
    }

    fn user_defined_at(&self, text: &str, first: char) -> Option<(&str, u32)> {
        let pieces = self.user_defined.get(&first)?;
        pieces.iter().find(|(piece, _)| text.starts_with(&**piece)).map(|(piece, id)| (&**piece, *id))
    }

    fn encode_run(&self, run: &str, ids: &mut Vec<u32>) {
        if let Some(scored) = self.by_text.get(run)
            && run.chars().nth(1).is_none()
        {
            ids.push(scored.id);
            return;
        }
        let symbol_ends = run.char_indices().map(|(start, character)| start + character.len_utf8());
        bpe::merge(
            run.as_bytes(),
            symbol_ends,
            |bytes| self.scored(bytes).map(|scored| Priority(scored.score)),
            |bytes| match self.scored(bytes) {
                Some(scored) => ids.push(scored.id),
                None => self.push_fallback(bytes, ids),
            },
        );
    }

    fn scored(&self, bytes: &[u8]) -> Option<Scored> {
        // Symbols end at character boundaries, so this cannot fail; a map by bytes would do as well.
        std::str::from_utf8(bytes).ok().and_then(|text| self.by_text.get(text)).copied()
    }

    /// A character without a piece: its bytes, or the unknown piece (one for a row of them).
    fn push_fallback(&self, bytes: &[u8], ids: &mut Vec<u32>) {
        match &self.byte_ids {
            Some(byte_ids) => ids.extend(bytes.iter().map(|byte| byte_ids[usize::from(*byte)])),
            None if ids.last() == Some(&self.unknown_id) => {}
            None => ids.push(self.unknown_id),
        }
    }

    fn add_control(&mut self, name: &str, id: u32) -> Result<(), String> {
        match self.controls.insert(name.into(), id) {
            None => Ok(()),
            Some(earlier) => Err(format!("the same name as piece {earlier}")),
        }
    }

    fn add_text(&mut self, text: &str, scored: Scored, is_user_defined: bool) -> Result<(), String> {
        let Some(first) = text.chars().next() else {
            return Err("empty".to_owned());
        };
        if scored.score.is_nan() {
            return Err("its score is not a number".to_owned());
        }
        // Adding zero makes minus zero plain zero: scores that are equal must compare so.
        let scored = Scored { id: scored.id, score: scored.score + 0.0 };
        if let Some(earlier) = self.by_text.insert(text.into(), scored) {
            return Err(format!("the same text as piece {}", earlier.id));
        }
        if is_user_defined {
            let pieces = self.user_defined.entry(first).or_default();
            pieces.push((text.into(), scored.id));
            pieces.sort_by_key(|(piece, _)| std::cmp::Reverse(piece.len()));
        } else {
            let mut characters = text.chars().skip_while(|character| *character == SPACE);
            self.words_are_separate &= !characters.any(|character| character == SPACE);
        }
        Ok(())
    }
}

fn check_kind(model: &ModelProto<'_>) -> Result<(), String> {
    let normalizer = &model.normalizer;
    if model.pieces.is_empty() {
        return Err("has no pieces; is it a SentencePiece model?".to_owned());
    }
    if model.trainer.model_type != MODEL_TYPE_BPE {
        return Err(format!("model type {} is not supported, only BPE (2)", model.trainer.model_type));
    }
    if !normalizer.precompiled_charsmap.is_empty() || normalizer.remove_extra_whitespaces {
        return Err("its normalizer changes the text; only the identity normalizer is supported".to_owned());
    }
    if !normalizer.escape_whitespaces || model.trainer.treat_whitespace_as_suffix {
        return Err("its handling of white space is not supported".to_owned());
    }
    Ok(())
}

/// The byte of a piece such as `<0x0A>`.
fn byte_of(name: &str) -> Option<u8> {
    let digits = name.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

fn all_bytes(byte_ids: &HashMap<u8, u32>) -> Result<Box<[u32; 256]>, String> {
    let mut ids = Box::new([0; 256]);
    for (byte, id) in (0..=u8::MAX).zip(ids.iter_mut()) {
        *id = *byte_ids.get(&byte).ok_or_else(|| format!("byte fallback without a piece for byte {byte:#04x}"))?;
    }
    Ok(ids)
}

impl Ord for Priority {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Priority {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Priority {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Priority {}
