//! `/v1/embeddings` and `/classify`: the tokens that are pooled, the forms of vectors, limits, and who has neither.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tramontane::types::{Activation, Pooling};

use super::support::{Answer, EMBEDDING_WIDTH, Harness, babbles, codec, merged, mistral_error, pooled, redacted};

const PATH: &str = "/v1/embeddings";

async fn embed(harness: &Harness, more: Value) -> Answer {
    harness.post(PATH, &merged(json!({ "model": "tiny", "input": "Hello" }), more)).await
}

/// The vectors of an answer.
#[track_caller]
fn vectors(answer: &Answer) -> Vec<Vec<f32>> {
    let body = answer.json();
    let data = body["data"].as_array().unwrap_or_else(|| panic!("{}", answer.body)).clone();
    for (index, item) in data.iter().enumerate() {
        assert_eq!((&item["index"], &item["object"]), (&json!(index), &json!("embedding")));
    }
    let number = |value: &Value| value.as_f64().expect("a number") as f32;
    data.iter().map(|item| item["embedding"].as_array().expect("a list").iter().map(number).collect()).collect()
}

/// What the model pools these tokens to, at length 1.
fn expected(ids: &[u32], width: usize) -> Vec<f32> {
    let counts = &pooled(ids, EMBEDDING_WIDTH)[..width];
    let length = counts.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    counts.iter().map(|value| (f64::from(*value) / length) as f32).collect()
}

fn classifier(labels: &[&str], activation: Activation) -> Harness {
    let labels = labels.iter().map(|label| (*label).to_owned()).collect();
    Harness::pooling(Pooling::Classes { labels, activation })
}

#[tokio::test]
async fn texts_and_tokens_are_embedded() {
    let harness = Harness::new(babbles());
    let text = codec().encode_text("Hello there", true);
    let answer = embed(&harness, json!({ "input": "Hello there" })).await;
    assert_eq!(vectors(&answer), [expected(&text, 16)]);
    let usage = &answer.json()["usage"];
    assert_eq!((&usage["prompt_tokens"], &usage["completion_tokens"]), (&json!(text.len()), &json!(0)));
    assert_eq!(
        (&usage["total_tokens"], &usage["prompt_tokens_details"]["cached_tokens"]),
        (&json!(text.len()), &json!(0))
    );
    let body = redacted(&answer.json());
    assert_eq!((&body["object"], &body["model"]), (&json!("list"), &json!("tiny")));

    let [one, other] = [vec![1, 7, 7], vec![1, 9]];
    assert_eq!(vectors(&embed(&harness, json!({ "input": one })).await), [expected(&one, 16)]);
    let all = [expected(&one, 16), expected(&other, 16)];
    assert_eq!(vectors(&embed(&harness, json!({ "input": [one, other] })).await), all);
    let texts = embed(&harness, json!({ "input": ["Hello there", "Bye", "Hello there"] })).await;
    let bye = codec().encode_text("Bye", true);
    assert_eq!(vectors(&texts), [expected(&text, 16), expected(&bye, 16), expected(&text, 16)]);

    let bare = embed(&harness, json!({ "input": "Hello there", "add_special_tokens": false })).await;
    assert_eq!(vectors(&bare), [expected(&text[1..], 16)]);
    // The beginning stays, and what the tokenizer writes in front of it.
    let cut = embed(&harness, json!({ "input": "Hello there", "truncate_prompt_tokens": 2 })).await;
    assert_eq!(vectors(&cut), [expected(&text[..2], 16)]);
    let left = json!({ "input": "Hello there", "truncate_prompt_tokens": 2, "truncation_side": "left" });
    assert_eq!(vectors(&embed(&harness, left).await), [expected(&[text[0], text[text.len() - 1]], 16)]);
    harness.idle().await;
}

#[tokio::test]
async fn texts_are_no_longer_than_the_checkpoint_wants() {
    let wanted = |max_seq_length| {
        Harness::pooling(Pooling::Embedding { width: EMBEDDING_WIDTH, normalized: true, max_seq_length })
    };
    let harness = wanted(Some(8));
    let ids = |count: usize| json!({ "input": [vec![1, 2], vec![1; count]] });
    assert_eq!(embed(&harness, ids(8)).await.status, 200);
    assert_eq!(
        refusal(&embed(&harness, ids(9)).await, "input[1]"),
        "`input[1]` has 9 tokens; this model takes texts of up to 8, the max_seq_length of its \
         sentence_bert_config.json (max_model_len is 4096)."
    );
    // The tokens around a text count; what is cut fits.
    let text = json!({ "input": "Hello there, how do you do? I am fine." });
    assert_eq!(embed(&harness, text.clone()).await.error(), r#"400 "input" "context_length_exceeded""#);
    assert_eq!(embed(&harness, merged(text, json!({ "truncate_prompt_tokens": -1 }))).await.status, 200);
    let pair = json!({ "model": "tiny", "queries": "Hi", "documents": "Hello there, how do you do? I am fine." });
    let scored = harness.post("/v1/score", &pair).await;
    assert_eq!(scored.error(), r#"400 "documents" "context_length_exceeded""#);

    let harness = wanted(Some(1 << 40));
    assert_eq!(
        refusal(&embed(&harness, ids(4096)).await, "input[1]"),
        "`input[1]` has 4096 tokens; this model takes texts of up to 4095, one less than max_model_len (the \
         max_seq_length of its sentence_bert_config.json is 1099511627776)."
    );
}

/// What a client is told whose text, at `param`, is too long.
#[track_caller]
fn refusal(answer: &Answer, param: &str) -> String {
    assert_eq!(answer.error(), format!(r#"400 "{param}" "context_length_exceeded""#));
    answer.json()["error"]["message"].as_str().expect("a text").to_owned()
}

#[tokio::test]
async fn more_texts_than_fit_are_embedded_one_after_the_other() {
    let harness = Harness::new(babbles());
    let inputs: Vec<Vec<u32>> = (0..100).map(|index| vec![1, 3 + index, 9]).collect();
    let answer = embed(&harness, json!({ "input": inputs })).await;
    let all: Vec<Vec<f32>> = inputs.iter().map(|ids| expected(ids, 16)).collect();
    assert_eq!(vectors(&answer), all);
    harness.idle().await;
}

#[tokio::test]
async fn vectors_come_in_the_form_that_was_asked_for() {
    let harness = Harness::new(babbles());
    let ids = codec().encode_text("Hello", true);
    let short = embed(&harness, json!({ "dimensions": 5 })).await;
    assert_eq!(vectors(&short), [expected(&ids, 5)]);
    let short = embed(&harness, json!({ "output_dimension": 5, "dimensions": 5 })).await;
    assert_eq!(vectors(&short), [expected(&ids, 5)]);
    let raw = vectors(&embed(&harness, json!({ "normalize": false })).await);
    assert_eq!(raw, [pooled(&ids, 16)]);

    let encoded = embed(&harness, json!({ "encoding_format": "base64" })).await.json();
    let bytes = STANDARD.decode(encoded["data"][0]["embedding"].as_str().expect("a text")).expect("base64");
    let floats: Vec<f32> = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    assert_eq!(floats, expected(&ids, 16));

    let signs = expected(&ids, 16);
    let bits = |values: &[f32]| values.iter().fold(0u8, |bits, value| 2 * bits + u8::from(*value > 0.0));
    let ubinary = vectors(&embed(&harness, json!({ "output_dtype": "ubinary" })).await);
    assert_eq!(ubinary, [[f32::from(bits(&signs[..8])), f32::from(bits(&signs[8..]))]]);
    let binary = vectors(&embed(&harness, json!({ "output_dtype": "binary" })).await);
    assert_eq!(binary[0].iter().map(|value| value + 128.0).collect::<Vec<_>>(), ubinary[0]);
    let int8 = vectors(&embed(&harness, json!({ "output_dtype": "int8" })).await);
    assert_eq!(int8[0].iter().copied().fold(0.0, f32::max), 127.0);
    let odd = embed(&harness, json!({ "output_dtype": "binary", "dimensions": 5 })).await;
    assert!(odd.body.contains("a multiple of 8"), "{}", odd.body);
}

#[tokio::test]
async fn what_cannot_be_embedded_is_refused_by_name() {
    let harness = Harness::new(babbles());
    for (more, expected) in [
        (json!({ "input": null }), r#"400 "input" null"#),
        (json!({ "input": [] }), r#"400 "input" null"#),
        (json!({ "input": [[]] }), r#"400 "input[0]" null"#),
        (json!({ "input": ["a", 1] }), r#"400 "input[1]" null"#),
        (json!({ "input": [1, "a"] }), r#"400 "input[1]" null"#),
        (json!({ "input": vec!["a"; 2049] }), r#"400 "input" null"#),
        (json!({ "input": ["a", vec![1; 4096]] }), r#"400 "input[1]" "context_length_exceeded""#),
        (json!({ "dimensions": 17 }), r#"400 "dimensions" null"#),
        (json!({ "encoding_format": "hex" }), r#"400 "encoding_format" null"#),
        (json!({ "model": "other" }), r#"404 "model" "model_not_found""#),
        (json!({ "inputs": "a" }), r#"400 "inputs" "unknown_parameter""#),
    ] {
        assert_eq!(embed(&harness, more.clone()).await.error(), expected, "{more}");
    }
    let long = embed(&harness, json!({ "input": vec![1; 5000], "truncate_prompt_tokens": -1 })).await;
    assert_eq!(long.json()["usage"]["prompt_tokens"], 4095);
    let both = embed(&harness, json!({ "dimensions": 4, "output_dimension": 5 })).await;
    // One of them only Mistral has.
    assert_eq!(mistral_error(&both), r#"422 ["body","output_dimension"] "value_error""#);
    let client = "mistral-client-python/3.7.0";
    let refused = harness.post_as(client, PATH, &json!({ "model": "tiny", "input": 1 })).await;
    assert_eq!(mistral_error(&refused), r#"422 ["body","input"] "value_error""#);
}

#[tokio::test]
async fn texts_are_classified() {
    let harness = classifier(&["no", "maybe", "yes"], Activation::Softmax);
    // Ids 5 and 8 count for the last class, 3 for the first.
    let answer = harness.post("/classify", &json!({ "input": [[5, 8, 5], [3]] })).await.json();
    let data = &answer["data"];
    assert_eq!((&data[0]["label"], &data[1]["label"]), (&json!("yes"), &json!("no")));
    assert_eq!((&data[1]["index"], &data[1]["num_classes"]), (&json!(1), &json!(3)));
    let probabilities: Vec<f64> =
        data[0]["probs"].as_array().expect("a list").iter().map(|value| value.as_f64().expect("a number")).collect();
    let sum = 3f64.exp() + 2.0;
    let wanted = [1.0 / sum, 1.0 / sum, 3f64.exp() / sum];
    assert!(probabilities.iter().zip(wanted).all(|(found, wanted)| (found - wanted).abs() < 1e-6), "{probabilities:?}");
    let scores = harness.post("/classify", &json!({ "input": [[5, 8, 5]], "use_activation": false })).await.json();
    assert_eq!(scores["data"][0]["probs"], json!([0.0, 0.0, 3.0]));
    assert_eq!(answer["usage"]["prompt_tokens"], 4);
    harness.idle().await;
}

#[tokio::test]
async fn models_are_asked_for_what_they_have() {
    let classifier = classifier(&["no", "yes"], Activation::Softmax);
    assert_eq!(embed(&classifier, json!({})).await.error(), r#"400 "model" null"#);
    for (path, body) in [
        ("/v1/chat/completions", json!({ "messages": [{ "role": "user", "content": "Hello" }] })),
        ("/v1/completions", json!({ "prompt": "Hello" })),
    ] {
        let answer = classifier.post(path, &body).await;
        assert_eq!(answer.error(), r#"400 "model" null"#, "{path}");
        assert!(answer.body.contains("predicts no tokens"), "{}", answer.body);
    }
    let card = classifier.get("/v1/models/tiny").await.json();
    let capable = |name: &str| card["capabilities"][name] == true;
    assert!(
        capable("classification")
            && !capable("completion_chat")
            && !capable("moderation")
            && !capable("completion_fim")
    );

    let language_model = Harness::new(babbles());
    let answer = language_model.post("/classify", &json!({ "input": "Hello" })).await;
    assert_eq!(answer.error(), r#"400 "model" null"#);
    let card = language_model.get("/v1/models/tiny").await.json();
    let capable = |name: &str| card["capabilities"][name] == true;
    assert!(!capable("classification") && capable("completion_chat") && capable("moderation"));
}
