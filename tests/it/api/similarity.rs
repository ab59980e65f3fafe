//! `/score` and `/rerank` under all of their names, by embeddings and by a classification head.

use serde_json::{Value, json};
use tramontane::types::{Activation, Pooling};

use super::support::{Harness, babbles, codec, pooled};

/// A head with one class, whose score is the number of tokens.
fn pair_scorer(activation: Activation) -> Harness {
    Harness::pooling(Pooling::Classes { labels: vec!["LABEL_0".to_owned()], activation })
}

fn cosine(one: &str, other: &str) -> f64 {
    let [one, other] = [one, other].map(|text| pooled(&codec().encode_text(text, true), 16));
    let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
    product(&one, &other) / (product(&one, &one) * product(&other, &other)).sqrt()
}

#[track_caller]
fn near(found: &Value, expected: f64) {
    assert!((found.as_f64().expect("a number") - expected).abs() < 1e-6, "{found}, expected {expected}");
}

#[tokio::test]
async fn pairs_are_scored_by_the_cosine_of_their_embeddings() {
    let harness = Harness::new(babbles());
    let one_to_many = json!({ "text_1": "Hello there", "text_2": ["Hello there", "Good bye"] });
    for path in ["/score", "/v1/score"] {
        let answer = harness.post(path, &one_to_many).await.json();
        assert_eq!(answer["data"].as_array().map(Vec::len), Some(2), "{answer}");
        near(&answer["data"][0]["score"], 1.0);
        near(&answer["data"][1]["score"], cosine("Hello there", "Good bye"));
        assert_eq!((&answer["data"][1]["index"], &answer["data"][1]["object"]), (&json!(1), &json!("score")));
        // The query counts once.
        let tokens = |text: &str| codec().encode_text(text, true).len();
        assert_eq!(answer["usage"]["prompt_tokens"], 2 * tokens("Hello there") + tokens("Good bye"));
    }
    let many = json!({ "queries": ["Hello there", "Good bye"], "documents": ["Good bye", "Good bye"] });
    let answer = harness.post("/score", &many).await.json();
    near(&answer["data"][0]["score"], cosine("Hello there", "Good bye"));
    near(&answer["data"][1]["score"], 1.0);
    let one = harness.post("/score", &json!({ "text_1": "Hello", "text_2": "Bye" })).await.json();
    near(&one["data"][0]["score"], cosine("Hello", "Bye"));
    harness.idle().await;
}

#[tokio::test]
async fn documents_are_sorted() {
    let harness = Harness::new(babbles());
    let texts = ["Good bye", "Hello there", "Hello"];
    let body = json!({ "model": "tiny", "query": "Hello there", "documents": ["Good bye", { "text": "Hello there" }, "Hello"] });
    for path in ["/rerank", "/v1/rerank", "/v2/rerank"] {
        let answer = harness.post(path, &body).await.json();
        let results = answer["results"].as_array().expect("a list").clone();
        let mut expected: Vec<(usize, f64)> =
            texts.iter().map(|text| cosine("Hello there", text)).enumerate().collect();
        expected.sort_by(|one, other| other.1.total_cmp(&one.1));
        for (result, (index, score)) in results.iter().zip(expected) {
            assert_eq!(
                (&result["index"], &result["document"]["text"]),
                (&json!(index), &json!(texts[index])),
                "{path}"
            );
            near(&result["relevance_score"], score);
        }
        assert_eq!((results.len(), &results[0]["index"]), (3, &json!(1)));
    }
    let mut best = body.clone();
    best["top_n"] = json!(1);
    best["return_documents"] = json!(false);
    let answer = harness.post("/rerank", &best).await.json();
    assert_eq!(answer["results"].as_array().map(Vec::len), Some(1));
    assert!(answer["results"][0].get("document").is_none(), "{answer}");
}

#[tokio::test]
async fn a_head_with_one_class_scores_the_pair_as_one_text() {
    let tokens = |text: &str| codec().encode_text(text, true).len() as f64;
    let length = tokens("Hello there") + tokens("Good bye");
    let body = json!({ "text_1": "Hello there", "text_2": ["Good bye"] });
    let regression = pair_scorer(Activation::Identity).post("/score", &body).await.json();
    near(&regression["data"][0]["score"], length);
    assert_eq!(regression["usage"]["prompt_tokens"], length);
    let probability = pair_scorer(Activation::Sigmoid).post("/score", &body).await.json();
    near(&probability["data"][0]["score"], 1.0 / (1.0 + (-length).exp()));
    let body = json!({ "query": "Hello", "documents": ["a", "a a a a", "a a"] });
    let ranked = pair_scorer(Activation::Identity).post("/rerank", &body).await.json();
    let order: Vec<&Value> =
        ranked["results"].as_array().expect("a list").iter().map(|result| &result["index"]).collect();
    assert_eq!(order, [1, 2, 0]);
}

#[tokio::test]
async fn what_cannot_be_compared_is_refused_by_name() {
    let harness = Harness::new(babbles());
    for (path, body, expected) in [
        ("/score", json!({ "text_2": "a" }), r#"400 "queries" null"#),
        ("/score", json!({ "text_1": ["a", "b"], "text_2": ["a", "b", "c"] }), r#"400 "text_1" null"#),
        ("/score", json!({ "text_1": "a", "queries": "a", "text_2": "a" }), r#"400 "text_1" null"#),
        ("/score", json!({ "text_1": "a", "text_2": vec!["a"; 1025] }), r#"400 "text_2" null"#),
        ("/rerank", json!({ "documents": ["a"] }), r#"400 "query" null"#),
        ("/rerank", json!({ "query": "a", "documents": [] }), r#"400 "documents" null"#),
        (
            "/rerank",
            json!({ "query": "a", "documents": [{ "text": "a", "title": "b" }] }),
            r#"400 "documents[0].title" "unknown_parameter""#,
        ),
        ("/rerank", json!({ "query": "a", "documents": [{}] }), r#"400 "documents[0].text" null"#),
        (
            "/rerank",
            json!({ "query": "a", "documents": ["a ".repeat(5000)] }),
            r#"400 "documents[0]" "context_length_exceeded""#,
        ),
    ] {
        assert_eq!(harness.post(path, &body).await.error(), expected, "{path} {body:.60}");
    }
    let two = Pooling::Classes { labels: vec!["a".to_owned(), "b".to_owned()], activation: Activation::Softmax };
    let answer = Harness::pooling(two).post("/score", &json!({ "text_1": "a", "text_2": "a" })).await;
    assert_eq!(answer.error(), r#"400 "model" null"#);
}
