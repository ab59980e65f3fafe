//! A tokenizer's vocabulary as llguidance wants it: the bytes of every token, in a trie.

use std::sync::Arc;

use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};

use crate::prompt::{Codec, tokenizer::Piece};

/// The trie has no room for longer tokens; they cannot be chosen where an answer has a form.
const LONGEST_TOKEN: usize = 1000;

/// Every token with its bytes; a control token is none of them, but can be named by its id or by its name in angle
/// brackets. A token that stands for nothing, or for a byte that no text has, has none and can never come.
pub(super) fn of(codec: &Codec) -> Result<TokEnv, String> {
    let eos = codec.eos_id().ok_or("the tokenizer has no token that ends an answer")?;
    let vocab_size = u32::try_from(codec.vocab_size()).map_err(|_| "the vocabulary is too large")?;
    let words: Vec<Vec<u8>> = (0..vocab_size).map(|id| bytes(codec, id)).collect();
    let trie = TokTrie::from(&TokRxInfo::new(vocab_size, eos), &words);
    Ok(Arc::new(ApproximateTokEnv::new(trie)))
}

fn bytes(codec: &Codec, id: u32) -> Vec<u8> {
    let bytes = match codec.tokenizer.piece(id) {
        Piece::Control(name) => {
            let inner = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
            let name = inner.map_or_else(|| name.to_string(), |inner| format!("<{inner}>"));
            [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat()
        }
        Piece::Unknown { .. } => Vec::new(),
        Piece::Bytes(_) | Piece::Spaced(_) | Piece::Byte { .. } | Piece::Nothing => {
            let bytes = codec.token_bytes(id);
            if bytes.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) { Vec::new() } else { bytes }
        }
    };
    if bytes.len() > LONGEST_TOKEN { Vec::new() } else { bytes }
}
