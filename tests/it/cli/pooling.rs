//! Checkpoints that predict no tokens, from their files to the answers of a running server.

use std::path::Path;

use serde_json::{Value, json};

use super::{
    check_failure, checkpoint,
    serve::{Server, answer},
    tramontane,
};

/// Status and body of an answer.
fn post(server: &Server, path: &str, body: &Value) -> (u16, Value) {
    let answer = answer(server.post(path, &body.to_string()));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_else(|_| panic!("not JSON: {answer}")))
}

fn serve(write: fn(&Path)) -> (Server, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path());
    (Server::start(directory.path(), &[]), directory)
}

#[test]
fn an_embedding_checkpoint_embeds_and_does_nothing_else() {
    let (server, directory) = serve(checkpoint::write_embedder);
    let (status, answer) = post(&server, "/v1/embeddings", &json!({ "input": ["Hello", "Hello", "Bye"] }));
    assert_eq!(status, 200, "{answer}");
    let vector = |index: usize| -> Vec<f64> {
        let values = answer["data"][index]["embedding"].as_array().unwrap();
        values.iter().map(|value| value.as_f64().unwrap()).collect()
    };
    assert!((vector(0).iter().map(|value| value * value).sum::<f64>() - 1.0).abs() < 1e-5);
    assert_eq!((vector(0), vector(0).len()), (vector(1), 32));
    assert_ne!(vector(0), vector(2));
    // Its tokenizer puts a token in front of a text and one behind it.
    let (_, bare) = post(&server, "/v1/embeddings", &json!({ "input": "Hello", "add_special_tokens": false }));
    let (_, whole) = post(&server, "/v1/embeddings", &json!({ "input": "Hello" }));
    let tokens = |answer: &Value| answer["usage"]["prompt_tokens"].as_u64().unwrap();
    assert_eq!(tokens(&whole), tokens(&bare) + 2);
    for (path, body) in [
        ("/v1/chat/completions", json!({ "messages": [{ "role": "user", "content": "Hello" }] })),
        ("/v1/moderations", json!({ "input": "Hello" })),
        ("/classify", json!({ "input": "Hello" })),
    ] {
        let (status, answer) = post(&server, path, &body);
        assert_eq!((status, &answer["error"]["param"]), (400, &json!("model")), "{path}: {answer}");
    }
    let draft = directory.path().to_str().unwrap();
    let language_model = tempfile::tempdir().unwrap();
    checkpoint::write(language_model.path());
    let model = language_model.path().to_str().unwrap();
    check_failure(
        &mut tramontane(&["serve", model, "--draft-model", draft]),
        1,
        &["draft_model", "predicts no tokens"],
    );
}

#[test]
fn a_classification_checkpoint_classifies() {
    let (server, _directory) = serve(checkpoint::write_classifier);
    let (status, answer) = post(&server, "/classify", &json!({ "input": "Hello" }));
    assert_eq!(status, 200, "{answer}");
    let probabilities: Vec<f64> =
        answer["data"][0]["probs"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect();
    assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-6 && probabilities.len() == 2, "{probabilities:?}");
    let (status, _) = post(&server, "/v1/embeddings", &json!({ "input": "Hello" }));
    assert_eq!(status, 400);
}
