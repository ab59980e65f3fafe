//! Malformed bodies by the thousand, at every route that reads one: always a 4xx of a shape that the document names, or an
//! answer where the damage left a request that makes sense; never a failure of the server, nothing kept of them.

use axum::http::{Request, header::CONTENT_TYPE};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Map, Value};
use tramontane::api::{
    fields::{self, Support, Table},
    openapi,
};

use super::support::{Answer, Harness, babbles, send};

/// Tables of routes that read JSON.
fn tables() -> impl Iterator<Item = &'static Table> {
    let is_json = |table: &&Table| table.resource != "POST /v1/files"; // it reads a form
    fields::ALL.iter().copied().filter(is_json)
}

/// Bodies with every field that has a sample.
fn bodies() -> Vec<(&'static str, String)> {
    tables().map(|table| (table.resource, body(table).to_string())).collect()
}

fn body(table: &Table) -> Value {
    let mut members = Map::new();
    for field in table.fields() {
        let (Support::Honoured { sample, .. } | Support::Label { sample, .. }) = field.support else { continue };
        let sample: Map<String, Value> = serde_json::from_str(&format!("{{{sample}}}")).expect("JSON");
        members.extend(sample);
    }
    members.insert("stream".to_owned(), false.into());
    Value::Object(members)
}

/// Sends damaged bodies and judges what comes back.
struct Judge {
    harness: Harness,
    error: jsonschema::Validator,
    sent: usize,
}

impl Judge {
    fn new() -> Self {
        let mut document = openapi::document();
        let schema = document["components"]["schemas"]["Error"].take();
        let error = jsonschema::validator_for(&schema).expect("a valid schema");
        Self { harness: Harness::guessing(babbles()), error, sent: 0 }
    }

    /// To a resource such as `POST /v1/completions`. Objects in its path are unknown: that is found out after reading.
    async fn send(&mut self, resource: &str, body: impl AsRef<[u8]>) -> Answer {
        self.sent += 1;
        let body = body.as_ref();
        let (method, path) = resource.split_once(' ').expect("a method and a path");
        let path = path.replace("{id}", "unknown");
        let request = Request::builder().method(method).uri(&path).header(CONTENT_TYPE, "application/json");
        let answer = send(self.harness.app(), request.body(body.to_vec().into()).expect("a request")).await;
        let shown = || String::from_utf8_lossy(&body[..body.len().min(2000)]).into_owned();
        match answer.status {
            200 => {}
            400..=499 => assert!(self.error.is_valid(&answer.json()), "{path}: {}\n{}", answer.body, shown()),
            status => panic!("{path}: {status} {}\n{}", answer.body, shown()),
        }
        answer
    }

    async fn refuses(&mut self, resource: &str, body: impl AsRef<[u8]>) {
        let answer = self.send(resource, body.as_ref()).await;
        let shown = String::from_utf8_lossy(&body.as_ref()[..body.as_ref().len().min(2000)]).into_owned();
        assert_ne!(answer.status, 200, "{resource}: {shown}");
    }

    /// Nothing is left of all that, and a good request is answered as ever.
    async fn end(self, at_least: usize) {
        assert!(self.sent >= at_least, "only {} bodies", self.sent);
        self.harness.idle().await;
        assert_eq!(self.harness.chat(serde_json::json!({ "max_tokens": 3 })).await.status, 200);
    }
}

#[tokio::test]
async fn bodies_that_break_off_anywhere_are_refused() {
    let mut judge = Judge::new();
    for (path, body) in bodies() {
        for end in 0..body.len() {
            judge.refuses(path, &body.as_bytes()[..end]).await;
        }
    }
    judge.end(3_500).await;
}

#[tokio::test]
async fn bytes_that_are_no_utf8_are_refused_wherever_they_are() {
    let mut judge = Judge::new();
    for (path, body) in bodies() {
        for position in (0..body.len()).step_by(3) {
            for bad in [&b"\xff"[..], b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xe2\x82"] {
                let (before, after) = body.as_bytes().split_at(position);
                judge.refuses(path, [before, bad, after].concat()).await;
            }
        }
    }
    judge.end(5_000).await;
}

#[tokio::test]
async fn what_json_cannot_say_is_refused_in_every_field() {
    let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    let objects = |depth: usize| format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
    let values = [
        "NaN",
        "Infinity",
        "-Infinity",
        "1e999",
        "-1e999",
        "01",
        "1.",
        ".5",
        "+1",
        "0x10",
        "1_000",
        "'a'",
        "undefined",
        "True",
        r#""\ud800""#,
        r#""\udc00\ud800""#,
        r#""\x41""#,
        "\"\u{1}\"",
        "\"a\nb\"",
        "/* a */ 1",
        "[1,]",
        r#"{"a": 1, "a": 2}"#,
        r#"{"a": {"b": [{"c": 1, "c": 1}]}}"#,
    ]
    .map(str::to_owned);
    let values =
        values.into_iter().chain([nested(200), nested(50_000), objects(200), objects(20_000), "9".repeat(400)]);
    let values: Vec<String> = values.collect();
    let mut judge = Judge::new();
    for table in tables() {
        let path = table.resource;
        for field in table.fields() {
            for value in &values {
                judge.refuses(path, format!("{{\"{}\": {value}}}", field.name)).await;
            }
            // The same field twice, whatever it says.
            judge.refuses(path, format!("{{\"{0}\": null, \"{0}\": null}}", field.name)).await;
        }
    }
    judge.end(5_000).await;
}

/// Deep and wide values that are JSON: refused by what reads them, or harmless.
#[tokio::test]
async fn bombs_within_the_limits_of_json_are_survived() {
    let deep = format!("{}{}", "[".repeat(120), "]".repeat(120));
    let objects = format!("{}1{}", r#"{"a":"#.repeat(120), "}".repeat(120));
    let wide = format!("[{}0]", "0,".repeat(20_000));
    let many = format!("{{{}\"z\":0}}", (0..5_000).map(|i| format!("\"k{i}\":{i},")).collect::<String>());
    let long = format!("\"{}\"", "\\u0000".repeat(20_000));
    let mut judge = Judge::new();
    for table in tables() {
        let path = table.resource;
        for field in table.fields() {
            for value in [&deep, &objects, &wide, &many, &long] {
                judge.send(path, format!("{{\"{}\": {value}}}", field.name)).await;
            }
        }
    }
    judge.end(500).await;
}

/// Random damage, the same in every run.
#[tokio::test]
async fn random_damage_never_makes_the_server_fail() {
    let mut random = StdRng::seed_from_u64(20_261_128);
    let pieces: [&[u8]; 12] =
        [b"\"", b"{", b"}", b"[", b"]", b",", b":", b"null", b"-1", b"1e308", b"\\u0000", b"\xf0\x9f\xa6\x80"];
    let mut judge = Judge::new();
    for (path, body) in bodies() {
        for _ in 0..400 {
            let mut bytes = body.clone().into_bytes();
            for _ in 0..random.random_range(1..4) {
                let position = random.random_range(0..bytes.len());
                let end = (position + random.random_range(0..8)).min(bytes.len());
                let piece = pieces[random.random_range(0..pieces.len())];
                bytes.splice(position..end, piece.iter().copied());
            }
            judge.send(path, bytes).await;
        }
    }
    judge.end(2_000).await;
}
