//! Answers of a given form, whatever the model would like to say.

use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use super::support::{Harness, babbles, chat, control, merged, says, small_engine};

fn format(schema: &Value) -> Value {
    json!({ "response_format": { "type": "json_schema", "json_schema": { "name": "s", "schema": schema } } })
}

fn function(name: &str, strict: bool) -> Value {
    let parameters = json!({
        "type": "object",
        "properties": { "kind": { "enum": ["a", "b"] }, "days": { "type": "integer", "minimum": 1, "maximum": 7 } },
        "required": ["kind", "days"],
        "additionalProperties": false,
    });
    json!({ "type": "function", "function": { "name": name, "parameters": parameters, "strict": strict } })
}

/// Wants nothing, or everything alike: what it says is a walk through the grammar.
fn aimless(seed: u64) -> Harness {
    let thinks = control("[THINK]");
    let preferences = Box::new(move |history: &[u32]| {
        let mut random = ChaCha8Rng::seed_from_u64(seed ^ history.len() as u64);
        let mut liked: Vec<_> =
            (0..200).map(|_| (random.random_range(0..1000), random.random_range(0.0..6.0))).collect();
        liked.push((thinks, -50.0)); // it would think for ever
        liked
    });
    let harness = Harness::with_preferences(preferences, small_engine());
    harness.gate.open();
    harness
}

fn tags(structural_tag: Value) -> Value {
    json!({ "structured_outputs": { "structural_tag": structural_tag } })
}

fn tag(begin: &str, schema: Value) -> Value {
    json!({ "begin": begin, "schema": schema, "end": ">" })
}

fn kind_and_days(arguments: &Value) -> bool {
    let known = arguments.as_object().is_some_and(|members| members.len() == 2);
    known
        && ["a", "b"].contains(&arguments["kind"].as_str().unwrap_or(""))
        && (1..=7).contains(&arguments["days"].as_u64().unwrap_or(0))
}

#[tokio::test]
async fn json_of_a_schema_comes_however_the_tokens_fall() {
    let schema = function("f", true)["function"]["parameters"].clone();
    for seed in 0..20 {
        let harness = aimless(seed);
        let more = json!({ "temperature": 1.5, "seed": seed, "n": 5, "max_tokens": 200 });
        let answer = harness.chat(merged(format(&schema), more)).await.json();
        for choice in answer["choices"].as_array().unwrap() {
            let text = choice["message"]["content"].as_str().unwrap();
            let parsed: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"));
            assert!(kind_and_days(&parsed) && choice["finish_reason"] == "stop", "{choice}");
        }
        harness.idle().await;
    }
}

#[tokio::test]
async fn a_model_that_would_say_something_else_says_what_has_the_form() {
    let harness = Harness::new(says("Hello there"));
    for (more, expected) in [
        (json!({ "structured_outputs": { "choice": ["no", "Hello you", "Hello there"] } }), "Hello there"),
        (json!({ "structured_outputs": { "choice": ["yes"] } }), "yes"),
        (json!({ "structured_outputs": { "choice": ["\"/\\\n", "{%"] } }), "\"/\\\n"),
        (json!({ "structured_outputs": { "regex": "Hello (you|all)" } }), "Hello all"),
        (json!({ "structured_outputs": { "regex": "a/b" } }), "a/b"),
        (json!({ "structured_outputs": { "grammar": "start: \"x\" /[0]{2}/" } }), "x00"),
        (
            json!({ "structured_outputs": { "json": { "const": [1, "a"] }, "whitespace_pattern": "[ ]{0}" } }),
            "[1,\"a\"]",
        ),
        (json!({ "structured_outputs": { "json": "{\"const\": null}" } }), "null"),
        (format(&json!({ "const": 7 })), "7"),
    ] {
        let answer = harness.chat(merged(more.clone(), json!({ "max_tokens": 50 }))).await;
        let text = answer.json()["choices"][0]["message"]["content"].as_str().map(str::to_owned);
        // Which of several fits best is the model's to say; here the first id of those that it does not care for.
        assert_eq!(text.as_deref().map(str::trim), Some(expected.trim()), "{more}: {}", answer.body);
        let body = merged(json!({ "model": "tiny", "prompt": "a", "max_tokens": 50 }), more.clone());
        let answer = harness.post("/v1/completions", &body).await.json();
        assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{more}: {answer}");
    }
}

#[tokio::test]
async fn a_call_can_be_demanded_named_and_be_the_only_one() {
    let tools = json!([function("look", false), function("find", true)]);
    for seed in 0..10 {
        let harness = aimless(seed);
        for (more, names, most) in [
            (json!({ "tool_choice": "required", "parallel_tool_calls": false }), &["look", "find"][..], 1),
            (json!({ "tool_choice": "any", "parallel_tool_calls": false }), &["look", "find"][..], 1),
            (json!({ "tool_choice": { "type": "function", "function": { "name": "find" } } }), &["find"][..], 20),
        ] {
            let more = merged(more, json!({ "tools": tools, "temperature": 1.0, "seed": seed, "max_tokens": 400 }));
            let answer = harness.chat(more.clone()).await.json();
            let choice = &answer["choices"][0];
            let calls = choice["message"]["tool_calls"].as_array().unwrap_or_else(|| panic!("no call: {answer}"));
            assert!((1..=most).contains(&calls.len()), "{answer}");
            let complete = if choice["finish_reason"] == "length" { calls.len() - 1 } else { calls.len() };
            for call in &calls[..complete] {
                let name = call["function"]["name"].as_str().unwrap();
                assert!(names.contains(&name), "{more}: {call}");
                let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
                assert!(arguments.is_object() && (name != "find" || kind_and_days(&arguments)), "{call}");
            }
        }
    }
}

#[tokio::test]
async fn a_demanded_call_is_streamed_piece_by_piece() {
    let harness = Harness::new(says("I would rather talk."));
    let more = json!({ "tools": [function("find", true)], "tool_choice": "required", "parallel_tool_calls": false });
    let events = harness.chat(merged(more, json!({ "stream": true, "max_tokens": 1000 }))).await.events();
    let calls = || {
        events
            .iter()
            .flat_map(|event| event["choices"].as_array().unwrap())
            .flat_map(|choice| choice["delta"]["tool_calls"].as_array().cloned().unwrap_or_default())
    };
    assert_eq!(calls().next().unwrap()["function"]["name"], "find");
    let pieces: Vec<String> =
        calls().map(|call| call["function"]["arguments"].as_str().unwrap_or("").to_owned()).collect();
    assert!(pieces.iter().filter(|piece| !piece.is_empty()).count() > 3, "{pieces:?}");
    let arguments: Value = serde_json::from_str(&pieces.concat()).unwrap();
    assert!(kind_and_days(&arguments), "{arguments}");
    assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
}

#[tokio::test]
async fn a_text_that_the_answer_continues_is_part_of_the_form() {
    let harness = Harness::new(babbles());
    let schema = function("f", true)["function"]["parameters"].clone();
    let messages = |begin: &str| {
        json!({ "messages": [{ "role": "user", "content": "Go" }, { "role": "assistant", "content": begin }],
            "continue_final_message": true, "add_generation_prompt": false })
    };
    let begin = "{\"kind\": \"b\", \"da";
    let answer = harness.chat(merged(format(&schema), messages(begin))).await.json();
    let rest = answer["choices"][0]["message"]["content"].as_str().unwrap_or_else(|| panic!("{answer}"));
    let whole = format!("{begin}{rest}");
    let parsed: Value = serde_json::from_str(&whole).unwrap_or_else(|error| panic!("{error} in {whole}"));
    assert!(kind_and_days(&parsed) && parsed["kind"] == "b", "{parsed}");
    let refused = harness.chat(merged(format(&schema), messages("Well: {"))).await;
    assert_eq!(refused.error(), r#"400 "messages" null"#, "{}", refused.body);
}

#[tokio::test]
async fn what_cannot_be_is_refused_by_name() {
    let harness = Harness::new(says("Hi"));
    let tools = json!([function("f", false)]);
    let named = |name: &str| json!({ "type": "function", "function": { "name": name } });
    let mut wild = function("f", true);
    wild["function"]["parameters"] =
        json!({ "type": "object", "properties": { "a": { "$ref": "https://example.com/x" } } });
    for (more, expected) in [
        (json!({ "tool_choice": "required" }), r#"400 "tool_choice" null"#),
        (json!({ "tool_choice": named("f") }), r#"400 "tool_choice" null"#),
        (json!({ "tool_choice": named("g"), "tools": tools }), r#"400 "tool_choice" null"#),
        (
            json!({ "tool_choice": { "type": "function", "function": { "name": "f", "b": 1 } }, "tools": tools }),
            r#"400 "tool_choice" null"#,
        ),
        (json!({ "tool_choice": "sometimes", "tools": tools }), r#"400 "tool_choice" null"#),
        (
            json!({ "response_format": { "type": "json_object" }, "tool_choice": "required", "tools": tools }),
            r#"400 "tool_choice" null"#,
        ),
        (json!({ "structured_outputs": { "regex": "a" }, "tools": tools }), r#"400 "structured_outputs.regex" null"#),
        (json!({ "structured_outputs": { "regex": "a", "choice": ["b"] } }), r#"400 "structured_outputs.choice" null"#),
        (json!({ "structured_outputs": { "regex": "(a" } }), r#"400 "structured_outputs.regex" null"#),
        (
            json!({ "structured_outputs": { "regex": "a", "whitespace_pattern": " " } }),
            r#"400 "structured_outputs.whitespace_pattern" null"#,
        ),
        (json!({ "structured_outputs": { "grammar": "start: nowhere" } }), r#"400 "structured_outputs.grammar" null"#),
        (tags(json!("{}")), r#"400 "structured_outputs.structural_tag.triggers" null"#),
        (tags(json!("{")), r#"400 "structured_outputs.structural_tag" null"#),
        (
            tags(json!({ "type": "structural_tag", "format": { "type": "any_text" } })),
            r#"400 "structured_outputs.structural_tag.format" "unknown_parameter""#,
        ),
        (
            tags(json!({ "triggers": ["<"], "structures": [] })),
            r#"400 "structured_outputs.structural_tag.structures" null"#,
        ),
        (
            tags(json!({ "triggers": ["<", "<a"], "structures": [tag("<a", json!({}))] })),
            r#"400 "structured_outputs.structural_tag.triggers[1]" null"#,
        ),
        (
            tags(json!({ "triggers": ["<", ">"], "structures": [tag("<a", json!({}))] })),
            r#"400 "structured_outputs.structural_tag.triggers[1]" null"#,
        ),
        (
            tags(json!({ "triggers": ["<"], "structures": [tag("<a", json!({})), tag("a", json!({}))] })),
            r#"400 "structured_outputs.structural_tag.structures[1].begin" null"#,
        ),
        (
            tags(json!({ "triggers": ["<"], "structures": [tag("<a", json!({ "type": "thing" }))] })),
            r#"400 "structured_outputs.structural_tag.structures[0].schema.type" null"#,
        ),
        (
            tags(json!({ "triggers": ["<"], "structures": [tag("<a", json!({ "not": {} }))] })),
            r#"400 "structured_outputs.structural_tag" null"#,
        ),
        (json!({ "structured_outputs": {} }), r#"400 "structured_outputs" null"#),
        (
            json!({ "structured_outputs": { "regex": "a" }, "response_format": { "type": "json_object" } }),
            r#"400 "structured_outputs" null"#,
        ),
        (json!({ "response_format": { "type": "yaml" } }), r#"400 "response_format.type" null"#),
        (json!({ "response_format": { "type": "json_schema" } }), r#"400 "response_format.json_schema" null"#),
        (
            json!({ "response_format": { "type": "json_object", "depth": 1 } }),
            r#"400 "response_format.depth" "unknown_parameter""#,
        ),
        (format(&json!({ "type": "thing" })), r#"400 "response_format.json_schema.schema.type" null"#),
        (
            format(&json!({ "type": "object", "required": ["a"], "properties": { "a": false } })),
            r#"400 "response_format.json_schema.schema" null"#,
        ),
        (format(&json!({ "not": {} })), r#"400 "response_format.json_schema.schema" null"#),
        (json!({ "tools": [function("g", true), wild] }), r#"400 "tools[1].function.parameters" null"#),
    ] {
        let answer = harness.post("/v1/chat/completions", &chat(more.clone())).await;
        assert_eq!(answer.error(), expected, "{more}: {}", answer.body);
    }
    harness.idle().await;
}

#[tokio::test]
async fn tags_have_the_content_that_their_schema_wants() {
    let wanted = json!({ "triggers": ["<f"], "structures": [tag("<f=", json!({ "enum": [77] }))] });
    for wanted in [wanted.clone(), wanted.to_string().into()] {
        let harness = Harness::new(says("Well: <f=1> or so"));
        let answer = harness.chat(merged(tags(wanted), json!({ "max_tokens": 12 }))).await.text();
        assert!(answer.starts_with("Well: <f=77>"), "{answer}");
    }
}

#[tokio::test]
async fn fields_that_leave_nothing_of_a_form_end_the_answer_by_name() {
    let harness = Harness::new(says("Hi"));
    let choice = json!({ "structured_outputs": { "choice": ["yes"] }, "max_tokens": 20 });
    for more in [json!({ "allowed_token_ids": [300, 301] }), json!({ "bad_words": ["y", "ye", "yes"] })] {
        let answer = harness.chat(merged(choice.clone(), more.clone())).await;
        assert_eq!(answer.error(), r#"400 null "no_answer""#, "{more}: {}", answer.body);
    }
    for more in [
        json!({ "min_tokens": 20 }),
        json!({ "logit_bias": { "2": 100 }, "temperature": 2 }),
        json!({ "ignore_eos": true }),
        json!({ "n": 3 }),
        json!({ "logprobs": true, "top_logprobs": 3 }),
        json!({ "repetition_penalty": 1.5 }),
    ] {
        let answer = harness.chat(merged(choice.clone(), more.clone())).await.json();
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap_or_default();
        assert_eq!(text, "yes", "{more}: {answer}");
    }
    harness.idle().await;
}

/// Rules or terminals of which each is the next one.
fn chain(len: usize, letter: &str) -> String {
    let mut grammar = format!("start: {letter}0\n");
    (0..len).for_each(|i| grammar += &format!("{letter}{i}: {letter}{}\n", i + 1));
    grammar + &format!("{letter}{len}: \"x\"\n")
}

#[tokio::test]
async fn an_enormous_form_is_refused_or_kept_to_in_bounded_time() {
    let harness = Harness::new(babbles());
    let many = (0..20_000)
        .map(|i| (format!("p{i}"), json!({ "type": "string", "maxLength": 5 })))
        .collect::<serde_json::Map<_, _>>();
    let mut deep = json!({ "type": "string" });
    for _ in 0..60 {
        deep = json!({ "type": "array", "items": { "anyOf": [deep, { "type": "object", "properties": { "a": { "type": "number" } } }] } });
    }
    for more in [
        format(&json!({ "type": "object", "properties": many })),
        format(&deep),
        format(&json!({ "type": "string", "pattern": "^(a|aa)+(b{1,900}c{1,900}){1,900}$" })),
        format(&json!({ "type": "string", "minLength": 100_000 })),
        json!({ "structured_outputs": { "regex": "((((a{0,99}){0,99}){0,99}){0,99}){0,99}" } }),
        json!({ "structured_outputs": { "regex": "(.*a){30}(.*b){30}" } }),
        json!({ "structured_outputs": { "grammar": "start: start start | \"a\" | \"\"" } }),
        json!({ "structured_outputs": { "grammar": chain(1_500, "a") } }),
        json!({ "structured_outputs": { "grammar": chain(1_500, "A") } }),
        json!({ "structured_outputs": { "grammar": chain(100_000, "a") } }),
        json!({ "structured_outputs": { "choice": vec!["x".repeat(1000); 1000] } }),
    ] {
        let began = Instant::now();
        let answer = harness.chat(merged(more.clone(), json!({ "max_tokens": 8 }))).await;
        let shown: String = more.to_string().chars().take(120).collect();
        println!("{:?} {} {shown}", began.elapsed(), answer.status);
        assert!(began.elapsed() < Duration::from_secs(10), "{shown}: {:?}", began.elapsed());
        assert!([200, 400].contains(&answer.status), "{shown}: {} {}", answer.status, answer.body);
    }
    harness.idle().await;
}
