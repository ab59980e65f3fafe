//! Ids to text, one at a time, without ever handing out half a character.
//!
//! Main type: [`Detokenizer`]. A token can end inside a character; its bytes wait until the next
//! tokens complete it. Bytes that turn out to be no character become U+FFFD: for byte-level
//! vocabularies one for each maximal invalid part (as Rust's lossy decoding), for SentencePiece one
//! for each byte. A control token ends a character that is still incomplete.
//!
//! Invariant: whatever the ids, the pieces of text handed out are together exactly what decoding
//! all ids at once gives. `Codec::decode` is this, pushed and finished.

use std::sync::Arc;

use super::tokenizer::{Piece, Tokenizer};

/// What becomes of control tokens in decoded text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialTokens {
    /// They leave no trace.
    Skip,
    /// They are written out. With SentencePiece all other tokens then are their pieces, as in
    /// mistral-common: U+2581 for a space, `<0x0A>` for a byte.
    Keep,
}

/// An incremental decoder.
#[derive(Debug, Clone)]
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    special: SpecialTokens,
    /// Bytes of a character that is not complete, or is not known to be broken.
    pending: Vec<u8>,
    /// Whether the pending bytes came as byte pieces, which break one by one.
    breaks_by_byte: bool,
    /// No text yet, so the space that encoding put in front is still to be dropped.
    at_start: bool,
    /// The last piece was that space.
    dropped_space: bool,
}

impl Detokenizer {
    pub(super) fn new(tokenizer: Arc<Tokenizer>, special: SpecialTokens) -> Detokenizer {
        let at_start = tokenizer.adds_dummy_prefix();
        Detokenizer { tokenizer, special, pending: Vec::new(), breaks_by_byte: false, at_start, dropped_space: false }
    }

    /// Takes the next id; returns the text that is now certain, often one word, sometimes nothing.
    pub fn push(&mut self, id: u32) -> String {
        let mut text = String::new();
        self.push_into(id, &mut text);
        text
    }

    /// The text that was still waiting: U+FFFD for a character that never became complete.
    pub fn finish(&mut self) -> String {
        let mut text = String::new();
        self.flush(&mut text);
        text
    }

    /// [`Detokenizer::push`], appending to `text`.
    pub(super) fn push_into(&mut self, id: u32, text: &mut String) {
        let tokenizer = Arc::clone(&self.tokenizer);
        match (tokenizer.piece(id), self.special) {
            (Piece::Nothing, _) => {}
            (Piece::Bytes(bytes), _) => {
                self.breaks_by_byte = false;
                self.pending.extend_from_slice(bytes);
                self.release(text);
            }
            (Piece::Byte { byte, .. }, SpecialTokens::Skip) => {
                self.breaks_by_byte = true;
                self.pending.push(byte);
                self.release(text);
            }
            (Piece::Byte { name, .. } | Piece::Unknown { name, .. }, SpecialTokens::Keep) => text.push_str(name),
            (Piece::Control(name), SpecialTokens::Keep) => {
                self.flush(text);
                text.push_str(&name);
            }
            (Piece::Spaced(piece), SpecialTokens::Keep) => text.push_str(piece),
            (Piece::Control(_), SpecialTokens::Skip) => {
                self.end_of_bytes(text);
                self.dropped_space = false;
            }
            (Piece::Unknown { surface, .. }, SpecialTokens::Skip) => {
                self.end_of_bytes(text);
                self.dropped_space = false;
                self.write(surface, text);
            }
            (Piece::Spaced(piece), SpecialTokens::Skip) => {
                self.end_of_bytes(text);
                self.spaced(piece, text);
            }
        }
    }

    /// Text with U+2581 for spaces; the first one of all is dropped.
    fn spaced(&mut self, piece: &str, text: &mut String) {
        let rest = if self.at_start { piece.strip_prefix('\u{2581}') } else { None };
        self.dropped_space = rest.is_some();
        self.write(&rest.unwrap_or(piece).replace('\u{2581}', " "), text);
    }

    /// A token that is no byte ends a row of bytes, and the start of the text if that row or the
    /// token before it was anything.
    fn end_of_bytes(&mut self, text: &mut String) {
        self.flush(text);
        if self.dropped_space {
            self.at_start = false;
        }
    }

    /// Hands out what is decided: all but the beginning of a character at the end.
    fn release(&mut self, text: &mut String) {
        let decided = self.pending.len() - incomplete_tail(&self.pending);
        let rest = self.pending.split_off(decided);
        let bytes = std::mem::replace(&mut self.pending, rest);
        self.write_bytes(&bytes, text);
    }

    fn flush(&mut self, text: &mut String) {
        let bytes = std::mem::take(&mut self.pending);
        self.write_bytes(&bytes, text);
    }

    fn write_bytes(&mut self, bytes: &[u8], text: &mut String) {
        for chunk in bytes.utf8_chunks() {
            self.write(chunk.valid(), text);
            let n_broken = match chunk.invalid().len() {
                0 => 0,
                n_bytes if self.breaks_by_byte => n_bytes,
                _ => 1,
            };
            for _ in 0..n_broken {
                self.write("\u{FFFD}", text);
            }
        }
    }

    fn write(&mut self, piece: &str, text: &mut String) {
        text.push_str(piece);
        if !piece.is_empty() {
            self.at_start = false;
        }
    }
}

/// How many bytes at the end are the beginning of a character that more bytes may complete.
fn incomplete_tail(bytes: &[u8]) -> usize {
    for n_bytes in 1..=bytes.len().min(3) {
        let announced = match bytes[bytes.len() - n_bytes] {
            0x80..=0xBF => continue,
            0xC2..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF4 => 4,
            0x00..=0x7F | 0xC0..=0xC1 | 0xF5..=0xFF => 1,
        };
        return if n_bytes < announced { n_bytes } else { 0 };
    }
    0
}
