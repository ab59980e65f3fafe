//! Tool call ids that other servers made, such as `call_8f3a...`, for tokenizers that write nine letters and digits.
//!
//! Main function: [`fit`]. Invariants: an id that fits stays as it is; one id becomes the same everywhere in a
//! request, and in every request where it meets no other id that fits; and two ids never become the same.

use std::collections::{HashMap, HashSet};

use sha2::{Digest, Sha256};

use crate::{
    api::answer::{TOOL_CALL_ID_ALPHABET, TOOL_CALL_ID_LEN, is_tool_call_id},
    prompt::{Message, TokenizerVersion},
};

/// Does this version refuse ids of another form?
pub(super) fn must_fit(version: TokenizerVersion) -> bool {
    match version {
        TokenizerVersion::V3 | TokenizerVersion::V7 | TokenizerVersion::V11 => true,
        TokenizerVersion::V1 | TokenizerVersion::V2 | TokenizerVersion::V13 | TokenizerVersion::V15 => false,
    }
}

/// Replaces the ids that do not fit, of calls and of results. Missing and empty ids are left to be refused.
pub(super) fn fit(messages: &mut [Message]) {
    let mut ids: Vec<&mut String> = messages.iter_mut().flat_map(ids).filter(|id| !id.is_empty()).collect();
    let mut taken: HashSet<String> = ids.iter().filter(|id| is_tool_call_id(id)).map(|id| (*id).clone()).collect();
    let mut fitted: HashMap<String, String> = HashMap::new();
    for id in ids.iter_mut().filter(|id| !is_tool_call_id(id)) {
        let short = fitted.entry((*id).clone()).or_insert_with_key(|id| free(id, &mut taken));
        id.clone_from(short);
    }
}

fn ids(message: &mut Message) -> Vec<&mut String> {
    match message {
        Message::System { .. } | Message::User { .. } => Vec::new(),
        Message::Assistant { tool_calls, .. } => tool_calls.iter_mut().filter_map(|call| call.id.as_mut()).collect(),
        Message::Tool { tool_call_id, .. } => tool_call_id.iter_mut().collect(),
    }
}

/// The first short form of `id` that nothing else has.
fn free(id: &str, taken: &mut HashSet<String>) -> String {
    let candidate = (0..).map(|attempt| short(id, attempt)).find(|short| !taken.contains(short));
    let short = candidate.expect("a request has fewer ids than there are");
    taken.insert(short.clone());
    short
}

/// Nine digits to the base 62 of a hash.
fn short(id: &str, attempt: u64) -> String {
    let digest = Sha256::new().chain_update(id).chain_update(attempt.to_le_bytes()).finalize();
    let mut number = digest.iter().take(8).fold(0_u64, |number, &byte| (number << 8) | u64::from(byte));
    let base = TOOL_CALL_ID_ALPHABET.len() as u64;
    let mut letter = || {
        let letter = TOOL_CALL_ID_ALPHABET[(number % base) as usize];
        number /= base;
        char::from(letter)
    };
    (0..TOOL_CALL_ID_LEN).map(|_| letter()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::{Content, ToolCall};

    fn call(id: &str) -> Message {
        let call = ToolCall { id: Some(id.to_owned()), name: "f".to_owned(), arguments: "{}".to_owned() };
        Message::Assistant { content: Content::Text(String::new()), tool_calls: vec![call], prefix: false }
    }

    fn result(id: &str) -> Message {
        Message::Tool { content: Content::Text(String::new()), tool_call_id: Some(id.to_owned()), name: None }
    }

    fn fitted(mut messages: Vec<Message>) -> Vec<String> {
        fit(&mut messages);
        messages.iter_mut().flat_map(ids).map(|id| id.clone()).collect()
    }

    #[test]
    fn calls_and_results_keep_belonging_together() {
        let got = fitted(vec![call("call_1"), result("call_1"), call("call_2"), result("call_2"), call("123456789")]);
        assert!(got.iter().all(|id| is_tool_call_id(id)), "{got:?}");
        assert_eq!((&got[0], &got[2]), (&got[1], &got[3]));
        assert_ne!(got[0], got[2]);
        assert_eq!(got[4], "123456789", "an id that fits stays");
    }

    #[test]
    fn the_same_id_becomes_the_same_in_another_request() {
        assert_eq!(fitted(vec![call("call_1")])[0], fitted(vec![call("other"), call("call_1")])[1]);
        assert_eq!(fitted(vec![call("")]), [""], "an empty id is left to be refused");
    }

    #[test]
    fn an_id_that_fits_is_not_given_to_another() {
        let first = fitted(vec![call("call_1")])[0].clone();
        let got = fitted(vec![call("call_1"), call(&first)]);
        assert_eq!(got[1], first);
        assert_ne!(got[0], first);
    }
}
