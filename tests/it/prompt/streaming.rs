//! The detokenizer: any ids, any cut.

use proptest::prelude::*;
use tramontane::prompt::SpecialTokens;

use crate::fixtures::codec;

const NAMES: [&str; 5] = ["v1-spm", "v3-spm", "v7-spm", "v3-tekken", "tiny-v13-tekken"];

/// Ids that matter: control tokens, single bytes, anything, and outside of the vocabulary.
fn ids() -> impl Strategy<Value = Vec<u32>> {
    let id = prop_oneof![0..40u32, 128..400u32, 771..1300u32, 0..140_000u32, any::<u32>()];
    prop::collection::vec(id, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// What is handed out token by token is the whole, and never half a character: a replacement
    /// character in a piece is one of the whole.
    #[test]
    fn pieces_are_the_whole(ids in ids(), keep in any::<bool>()) {
        let special = if keep { SpecialTokens::Keep } else { SpecialTokens::Skip };
        for name in NAMES {
            let codec = codec(name);
            let whole = codec.decode(&ids, special);
            let mut detokenizer = codec.detokenizer(special, &[]);
            let mut text = String::new();
            for id in &ids {
                text.push_str(&detokenizer.push(*id));
                prop_assert!(whole.starts_with(&text), "{}: {:?} is no beginning of {:?}", name, text, whole);
            }
            text.push_str(&detokenizer.finish());
            prop_assert_eq!(&text, &whole, "{}", name);
        }
    }

    /// After a context the detokenizer goes on where decoding the context stopped.
    #[test]
    fn a_context_is_a_beginning(ids in ids(), cut in any::<prop::sample::Index>()) {
        for name in NAMES {
            let codec = codec(name);
            let cut = cut.index(ids.len() + 1);
            let mut before = codec.detokenizer(SpecialTokens::Skip, &[]);
            let mut text: String = ids[..cut].iter().map(|id| before.push(*id)).collect();
            let mut after = codec.detokenizer(SpecialTokens::Skip, &ids[..cut]);
            text.extend(ids[cut..].iter().map(|id| after.push(*id)));
            text.push_str(&after.finish());
            prop_assert_eq!(text, codec.decode(&ids, SpecialTokens::Skip), "{}", name);
        }
    }
}

#[test]
fn token_bytes_make_up_the_text() {
    let text = "Grüße 😀, [INST] two  spaces\n";
    for name in ["v3-tekken", "tiny-v13-tekken"] {
        let codec = codec(name);
        let bytes: Vec<u8> = codec.encode_text(text, false).into_iter().flat_map(|id| codec.token_bytes(id)).collect();
        assert_eq!(bytes, text.as_bytes(), "{name}");
        assert_eq!(codec.token_bytes(3), b"[INST]");
    }
    let codec = codec("v3-spm");
    let bytes: Vec<u8> = codec.encode_text(text, false).into_iter().flat_map(|id| codec.token_bytes(id)).collect();
    assert_eq!(bytes, format!(" {text}").as_bytes());
}
