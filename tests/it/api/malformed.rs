//! Malformed bodies by the thousand, at every route that reads one, in both dialects: always a 4xx of a shape that the
//! document names, or an answer where the damage left a request that makes sense; never a failure of the server, nothing
//! kept of them.

use axum::http::{
    Method, Request,
    header::{CONTENT_TYPE, USER_AGENT},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tramontane::api::{
    fields::{self, Support, Table},
    openapi,
};

use super::{
    fields::{Prepared, fitting, harnesses, prepared},
    support::{Answer, Harness, send},
};

const OPENAI: &str = "OpenAI/Python 3.57.0";
const MISTRAL: &str = "mistral-client-python/2.5.1";

/// Tables of routes that read JSON.
fn tables() -> impl Iterator<Item = &'static Table> {
    let is_json = |table: &&Table| table.resource != "POST /v1/files"; // it reads a form
    fields::ALL.iter().copied().filter(is_json)
}

/// Where a table's bodies go: to objects that are there, so that what reads a body is reached.
struct Place {
    table: &'static Table,
    method: Method,
    path: String,
}

/// Sends damaged bodies and judges what comes back.
struct Judge {
    harnesses: [Harness; 3],
    error: jsonschema::Validator,
    sent: usize,
}

impl Judge {
    fn new() -> Self {
        let mut document = openapi::document();
        let schema = document["components"]["schemas"]["Error"].take();
        let error = jsonschema::validator_for(&schema).expect("a valid schema");
        Self { harnesses: harnesses(), error, sent: 0 }
    }

    async fn places(&self) -> Vec<Place> {
        let mut places = Vec::new();
        for table in tables() {
            let Prepared { method, path, .. } = prepared(fitting(&self.harnesses, table), table, "").await;
            places.push(Place { table, method, path });
        }
        places
    }

    /// Bodies that are accepted, each with as many fields as go together: in the order of the table, whatever fits those
    /// before it.
    async fn accepted(&mut self) -> Vec<(Place, String)> {
        let mut accepted = Vec::new();
        for table in tables() {
            let (mut members, mut count) = (Vec::new(), 0);
            for field in table.fields() {
                let (Support::Honoured { sample, .. } | Support::Label { sample, .. }) = field.support else {
                    continue;
                };
                if field.name == "stream" {
                    continue; // an error within a stream has the status of an answer
                }
                count += 1;
                members.push(sample);
                let (place, body) = self.place_and_body(table, &members).await;
                if self.send(&place, &body).await.status != 200 {
                    members.pop();
                }
            }
            let (place, body) = self.place_and_body(table, &members).await;
            let answer = self.send(&place, &body).await;
            assert_eq!(answer.status, 200, "{}: {body}\n{}", table.resource, answer.body);
            assert!(2 * members.len() >= count, "{}: of {count} fields only {members:?}", table.resource);
            accepted.push((place, body));
        }
        accepted
    }

    async fn place_and_body(&self, table: &'static Table, members: &[&str]) -> (Place, String) {
        let prepared = prepared(fitting(&self.harnesses, table), table, &members.join(", ")).await;
        let Prepared { method, path, body } = prepared;
        (Place { table, method, path }, body.to_string())
    }

    /// As whoever has the route, in turn if that is both. What comes back has the client's form.
    async fn send(&mut self, place: &Place, body: impl AsRef<[u8]>) -> Answer {
        self.sent += 1;
        let Place { table, method, path } = place;
        let client = match table.resource {
            resource if resource.ends_with("(Mistral)") || resource.ends_with("/restart") => MISTRAL,
            resource if resource.contains("/v1/agents") => MISTRAL, // OpenAI's are not served
            resource if resource.contains("/v1/conversations") => OPENAI,
            _ if self.sent.is_multiple_of(2) => MISTRAL,
            _ => OPENAI,
        };
        let request = Request::builder().method(method).uri(path).header(CONTENT_TYPE, "application/json");
        let body = body.as_ref();
        let request = request.header(USER_AGENT, client).body(body.to_vec().into());
        let answer = send(fitting(&self.harnesses, table).app(), request.expect("a request")).await;
        let shown = || String::from_utf8_lossy(&body[..body.len().min(2000)]).into_owned();
        match answer.status {
            200 => {}
            400..=499 => {
                let error = answer.json();
                assert!(self.error.is_valid(&error), "{path}: {}\n{}", answer.body, shown());
                let is_openais = error.get("error").is_some();
                assert_eq!(is_openais, client == OPENAI && !is_mistrals(path), "{path}: {}", answer.body);
            }
            status => panic!("{path}: {status} {}\n{}", answer.body, shown()),
        }
        answer
    }

    async fn refuses(&mut self, place: &Place, body: impl AsRef<[u8]>) {
        let answer = self.send(place, body.as_ref()).await;
        let shown = String::from_utf8_lossy(&body.as_ref()[..body.as_ref().len().min(2000)]).into_owned();
        assert_ne!(answer.status, 200, "{}: {shown}", place.table.resource);
    }

    /// Nothing is left of all that, and a good request is answered as ever.
    async fn end(self, at_least: usize) {
        assert!(self.sent >= at_least, "only {} bodies", self.sent);
        for harness in &self.harnesses {
            harness.idle().await;
        }
        assert_eq!(self.harnesses[0].chat(serde_json::json!({ "max_tokens": 3 })).await.status, 200);
    }
}

/// Routes whose errors have Mistral's form whoever asks.
fn is_mistrals(path: &str) -> bool {
    ["/v1/fim/", "/v1/batch/", "/v1/chat/moderations"].iter().any(|route| path.starts_with(route))
}

#[tokio::test]
async fn bodies_that_break_off_anywhere_are_refused() {
    let mut judge = Judge::new();
    for (place, body) in judge.accepted().await {
        for end in 0..body.len() {
            judge.refuses(&place, &body.as_bytes()[..end]).await;
        }
    }
    judge.end(3_500).await;
}

#[tokio::test]
async fn bytes_that_are_no_utf8_are_refused_wherever_they_are() {
    let mut judge = Judge::new();
    for (place, body) in judge.accepted().await {
        for position in (0..body.len()).step_by(3) {
            for bad in [&b"\xff"[..], b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xe2\x82"] {
                let (before, after) = body.as_bytes().split_at(position);
                judge.refuses(&place, [before, bad, after].concat()).await;
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
    for place in judge.places().await {
        for field in place.table.fields() {
            for value in &values {
                judge.refuses(&place, format!("{{\"{}\": {value}}}", field.name)).await;
            }
            // The same field twice, whatever it says.
            judge.refuses(&place, format!("{{\"{0}\": null, \"{0}\": null}}", field.name)).await;
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
    for place in judge.places().await {
        for field in place.table.fields() {
            for value in [&deep, &objects, &wide, &many, &long] {
                judge.send(&place, format!("{{\"{}\": {value}}}", field.name)).await;
            }
        }
    }
    judge.end(500).await;
}

/// Random damage of bodies that are accepted, the same in every run.
#[tokio::test]
async fn random_damage_never_makes_the_server_fail() {
    let mut random = StdRng::seed_from_u64(20_261_128);
    let pieces: [&[u8]; 12] =
        [b"\"", b"{", b"}", b"[", b"]", b",", b":", b"null", b"-1", b"1e308", b"\\u0000", b"\xf0\x9f\xa6\x80"];
    let mut judge = Judge::new();
    for (place, body) in judge.accepted().await {
        for _ in 0..400 {
            let mut bytes = body.clone().into_bytes();
            for _ in 0..random.random_range(1..4) {
                let position = random.random_range(0..bytes.len());
                let end = (position + random.random_range(0..8)).min(bytes.len());
                let piece = pieces[random.random_range(0..pieces.len())];
                bytes.splice(position..end, piece.iter().copied());
            }
            judge.send(&place, bytes).await;
        }
    }
    judge.end(2_000).await;
}
