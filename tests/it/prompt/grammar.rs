//! Forms of answers against mistral-common's own grammars (`scripts/make-grammar-vectors`), and the layouts that it has
//! none for.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tramontane::prompt::{
    AnswerForm, CallForm, ChatRequest, Codec, ContentForm, ContentKind, ResponseFormat, StructuralTag, StructuralTags,
    json as spelled,
};

use super::output::ids_of;
use crate::fixtures::{Data, codec, read};

#[derive(Deserialize)]
struct Line {
    tokenizer: String,
    request: Map<String, Value>,
    answers: Map<String, Value>,
}

/// The form that the fields of a chat request ask for.
fn form_of(request: &Map<String, Value>) -> AnswerForm {
    let mut body = request.clone();
    body.insert("model".to_owned(), json!("m"));
    body.insert("messages".to_owned(), json!([{ "role": "user", "content": "Hi" }]));
    let body = spelled::Value::parse(&Value::Object(body).to_string()).expect("JSON");
    let chat = ChatRequest::from_json(&body).expect("a valid request");
    let choice = request.get("tool_choice").cloned().unwrap_or(json!("auto"));
    let named = choice["function"]["name"].as_str();
    let tools: Vec<_> =
        chat.tools.into_iter().enumerate().filter(|(_, tool)| named.is_none_or(|name| tool.name == name)).collect();
    let calls = (!tools.is_empty() && choice != "none").then(|| CallForm {
        tools,
        required: choice != "auto",
        parallel: request.get("parallel_tool_calls").is_none_or(|parallel| parallel == true),
    });
    let schema = match chat.response_format {
        ResponseFormat::Text => None,
        ResponseFormat::JsonObject => Some(spelled::Value::parse(r#"{"type": "object"}"#).expect("JSON")),
        ResponseFormat::JsonSchema(schema) => Some(schema),
    };
    let content = schema.map(|schema| ContentForm {
        field: "response_format".to_owned(),
        kind: ContentKind::Json { schema, whitespace: None },
    });
    AnswerForm { content, calls }
}

/// Whether an answer has the form, as a whole.
fn accepts(codec: &Codec, form: &AnswerForm, ids: &[u32]) -> bool {
    let eos = codec.eos_id().expect("an end");
    let mut constraint = codec.constraint(form, &[eos], &[]).unwrap_or_else(|error| panic!("{form:?}: {error}"));
    for &id in ids {
        if !constraint.allowed().expect("a set").contains(id) {
            return false;
        }
        constraint.advance(id).expect("it was allowed");
    }
    constraint.allowed().expect("a set").contains(eos)
}

/// Where the form here is stricter: a tool that was not offered cannot be called, nor one with spaces around its name; a
/// call that is demanded has no introduction; a JSON object is no array.
fn is_stricter(request: &Map<String, Value>, answer: &str) -> bool {
    let is_demanded = request.get("tool_choice").is_some_and(|choice| choice != "auto" && choice != "none");
    answer.contains("›other‹")
        || answer.contains(" weather ")
        || is_demanded && answer.contains("I look it up")
        || (answer == "[]" && request.get("response_format") == Some(&json!({ "type": "json_object" })))
}

#[test]
fn forms_are_those_of_mistral_common() {
    let file = read(&Data::of_repository().vectors.join("grammar.jsonl"));
    let text = String::from_utf8(file).expect("UTF-8");
    let (mut compared, mut accepted, mut wrong) = (0, 0, Vec::new());
    for line in text.lines() {
        let Line { tokenizer, request, answers } = serde_json::from_str(line).expect("a line of the vectors");
        let codec = codec(&tokenizer);
        let form = form_of(&request);
        assert!(form.binds(), "{line}");
        for (answer, expected) in &answers {
            let expected = expected == true && !is_stricter(&request, answer);
            if accepts(codec, &form, &ids_of(codec, answer)) != expected {
                wrong
                    .push(format!("{tokenizer}: {answer:?} should be {expected} for {}", Value::from(request.clone())));
            }
            compared += 1;
            accepted += usize::from(expected);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(compared > 1000 && accepted > 100, "{compared} answers, {accepted} of them accepted");
}

/// One form, and answers that have it or not.
fn check(name: &str, request: Value, good: &[&str], bad: &[&str]) {
    let codec = codec(name);
    let form = form_of(request.as_object().expect("an object"));
    for (answers, expected) in [(good, true), (bad, false)] {
        for answer in answers {
            assert_eq!(accepts(codec, &form, &ids_of(codec, answer)), expected, "{name}: {answer:?} for {request}");
        }
    }
}

fn tools(strict: bool) -> Value {
    let parameters = json!({ "type": "object", "properties": { "city": { "type": "string" } }, "required": ["city"] });
    json!([{ "type": "function", "function": { "name": "weather", "parameters": parameters, "strict": strict } }])
}

#[test]
fn call_lists_of_older_versions_have_names_arguments_and_perhaps_ids() {
    for name in ["v3-spm", "v3-tekken", "v7-spm", "v7-tekken"] {
        check(
            name,
            json!({ "tools": tools(true), "tool_choice": "required" }),
            &[
                r#"‹[TOOL_CALLS]›[{"name": "weather", "arguments": {"city": "Oslo"}}]"#,
                r#"‹[TOOL_CALLS]› [{"name": "weather", "arguments": {"city": "Oslo"}, "id": "abcDEF123"}]"#,
                r#"‹[TOOL_CALLS]›[{"name": "weather", "arguments": {"city": "a"}}, {"name": "weather", "arguments": {"city": "b"}}]"#,
            ],
            &[
                "‹[TOOL_CALLS]›[]",
                "‹[TOOL_CALLS]›",
                "It is sunny.",
                r#"‹[TOOL_CALLS]›[{"name": "sun", "arguments": {"city": "Oslo"}}]"#,
                r#"‹[TOOL_CALLS]›[{"name": "weather", "arguments": {}}]"#,
                r#"‹[TOOL_CALLS]›[{"name": "weather", "arguments": {"city": "Oslo"}, "id": "call_1"}]"#,
                r#"‹[TOOL_CALLS]›[{"name": "weather"}]"#,
                r#"[{"name": "weather", "arguments": {"city": "Oslo"}}]"#,
            ],
        );
        check(
            name,
            json!({ "tools": tools(false), "parallel_tool_calls": false }),
            &["Sunny.", r#"‹[TOOL_CALLS]›[{"name": "weather", "arguments": {}}]"#],
            &[
                r#"‹[TOOL_CALLS]›[{"name": "weather", "arguments": {}}, {"name": "weather", "arguments": {}}]"#,
                "‹[TOOL_CALLS]›weather",
            ],
        );
    }
}

#[test]
fn calls_of_v11_may_have_ids() {
    check(
        "v11-tekken",
        json!({ "tools": tools(true), "tool_choice": "required" }),
        &[
            r#"‹[TOOL_CALLS]›weather‹[ARGS]›{"city": "Oslo"}"#,
            r#"‹[TOOL_CALLS]›weather‹[CALL_ID]›abcDEF123‹[ARGS]›{"city": "Oslo"}"#,
        ],
        &[
            r#"‹[TOOL_CALLS]›weather‹[CALL_ID]›call_1‹[ARGS]›{"city": "Oslo"}"#,
            "‹[TOOL_CALLS]›weather‹[CALL_ID]›abcDEF123",
        ],
    );
}

#[test]
fn json_begins_with_a_space_where_the_tokenizer_writes_one() {
    for name in ["v1-spm", "v3-spm", "v7-spm", "v3-tekken"] {
        check(
            name,
            json!({ "response_format": { "type": "json_object" } }),
            &["{}", r#"{"a": [1, {"b": null}]}"#, "{\n    \"a\": \"é 🦀 \\u0001\"\n}"],
            &["", "[1]", "x", "{", r#"{"a": }"#, "{} {}"],
        );
    }
}

/// In a list of calls each tool's schema is a document of its own, to which its references refer.
#[test]
fn references_of_a_strict_tool_are_its_own() {
    let parameters = json!({
        "type": "object",
        "properties": { "place": { "$ref": "#/$defs/place" }, "next": { "anyOf": [{ "type": "null" }, { "$ref": "#" }] } },
        "required": ["place"],
        "additionalProperties": false,
        "$defs": { "place": { "enum": ["Oslo", "Rome"] } },
    });
    let tools = json!([{ "type": "function", "function": { "name": "go", "parameters": parameters, "strict": true } }]);
    let good = r#"{"place": "Oslo", "next": {"place": "Rome", "next": null}}"#;
    let bad =
        [r#"{"place": "Bonn"}"#, r#"{"place": "Oslo", "next": [{"name": "go", "arguments": {"place": "Oslo"}}]}"#];
    let listed = |arguments: &str| format!(r#"‹[TOOL_CALLS]›[{{"name": "go", "arguments": {arguments}}}]"#);
    let named = |arguments: &str| format!("‹[TOOL_CALLS]›go‹[ARGS]›{arguments}");
    let request = json!({ "tools": tools, "tool_choice": "required" });
    for name in ["v3-spm", "v7-tekken"] {
        check(name, request.clone(), &[&listed(good)], &[&listed(bad[0]), &listed(bad[1])]);
    }
    check("v13-tekken", request, &[&named(good)], &[&named(bad[0]), &named(bad[1])]);
}

#[test]
fn an_answer_may_have_begun_in_any_way_that_its_form_has() {
    let json = json!({ "response_format": { "type": "json_object" } });
    let call = json!({ "tools": tools(true), "response_format": { "type": "json_object" } });
    for (name, request, begun, rest) in [
        ("v3-spm", &json, "{\"a", "\": 1}"),
        ("v7-tekken", &json, " {", "}"),
        ("v13-tekken", &json, "{\"a\":", " [1]}"),
        ("v13-tekken", &call, "Let me look it up.", "‹[TOOL_CALLS]›weather‹[ARGS]›{\"city\": \"Oslo\"}"),
        ("v15-tekken", &json, "‹[THINK]›Well.‹[/THINK]›", "{}"),
        ("v15-tekken", &json, "‹[THINK]›Well", ".‹[/THINK]›{}"),
    ] {
        let codec = codec(name);
        let eos = codec.eos_id().expect("an end");
        let form = form_of(request.as_object().expect("an object"));
        let begun = ids_of(codec, begun);
        let mut constraint =
            codec.constraint(&form, &[eos], &begun).unwrap_or_else(|error| panic!("{name}: {begun:?}: {error}"));
        // Without the space that a SentencePiece tokenizer writes in front of a text.
        let whole = ids_of(codec, rest);
        for id in whole.into_iter().filter(|id| name != "v3-spm" || codec.token_bytes(*id) != b" ") {
            assert!(constraint.allowed().expect("a set").contains(id), "{name}: {rest}");
            constraint.advance(id).expect("it was allowed");
        }
        assert!(constraint.allowed().expect("a set").contains(eos), "{name}: {rest}");
    }
}

#[test]
fn answers_of_one_form_do_not_know_of_each_other() {
    let codec = codec("v13-tekken");
    let eos = codec.eos_id().expect("an end");
    let form = form_of(json!({ "response_format": { "type": "json_object" } }).as_object().expect("an object"));
    let mut first = codec.constraint(&form, &[eos], &[]).expect("a form");
    let mut others = [first.fork(), codec.constraint(&form, &[eos], &[]).expect("a form")];
    let ids = ids_of(codec, "{\"a\": 1}");
    first.advance(ids[0]).expect("it fits");
    first.advance(ids_of(codec, "\n")[0]).expect_err("no name has a new line");
    first.allowed().expect_err("it has failed");
    for other in &mut others {
        ids.iter().for_each(|&id| other.advance(id).expect("it fits"));
        assert!(other.allowed().expect("a set").contains(eos));
    }
}

#[test]
fn a_trigger_begins_one_of_its_tags_and_everything_else_is_free() {
    let tag = |begin: &str, schema: &str, end: &str| StructuralTag {
        begin: begin.to_owned(),
        schema: spelled::Value::parse(schema).expect("JSON"),
        end: end.to_owned(),
    };
    let whole = r#"{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}"#;
    let tags = StructuralTags {
        triggers: vec!["<f=".to_owned(), "\"%\n".to_owned()],
        tags: vec![
            tag("<f=one>", whole, "</f>"),
            tag("<f=two>", r#"{"enum": [1, "x"]}"#, ""),
            tag("\"%\n", r#"{"type": "boolean"}"#, "<[3]>"),
        ],
    };
    let kind = ContentKind::Tags(tags);
    let form = AnswerForm { content: Some(ContentForm { field: "tags".to_owned(), kind }), calls: None };
    for name in ["v13-tekken", "v3-spm"] {
        let codec = codec(name);
        for (answer, expected) in [
            ("", true),
            ("Hi", true),
            ("a < b, f=1 <f and \"% are texts\n", true),
            ("<f=one>{\"a\": 1}</f>", true),
            ("Let me see.<f=one>{\"a\": 1}</f> And: <f=two>\"x\"<f=two>1 and so on", true),
            ("say \"%\ntrue<[3]>", true),
            ("<f=", false),
            ("Let me see. <f=three>", false),
            ("<f=one>{\"b\": 1}</f>", false),
            ("<f=one>{\"a\": 1}", false),
            ("<f=one>{\"a\": 1}</f><f=one>x", false),
            ("<f=two>\"y\"", false),
            ("\"%\nmaybe<[3]>", false),
        ] {
            let ids = codec.encode_text(answer, false);
            assert_eq!(accepts(codec, &form, &ids), expected, "{name}: {answer:?}");
        }
    }
}

#[test]
fn texts_of_requests_stay_texts() {
    let codec = codec("v13-tekken");
    let eos = codec.eos_id().expect("an end");
    let texts: Vec<String> = (1..0xa1)
        .filter_map(char::from_u32)
        .map(|character| format!("a{character}b"))
        .chain(["\"i", "//", "<s>", "<[3]>", "/x/", "| start", "%json {}"].map(str::to_owned))
        .collect();
    let kind = ContentKind::Choice(texts.clone());
    let form = AnswerForm { content: Some(ContentForm { field: "choice".to_owned(), kind }), calls: None };
    for text in &texts {
        let mut constraint = codec.constraint(&form, &[eos], &[]).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        for id in codec.encode_text(text, false) {
            assert!(constraint.allowed().expect("a set").contains(id), "{text:?}");
            constraint.advance(id).expect("it was allowed");
        }
        assert!(constraint.allowed().expect("a set").contains(eos), "{text:?}");
    }
}

#[test]
fn a_model_without_calls_is_asked_for_none() {
    let form = form_of(json!({ "tools": tools(false), "tool_choice": "required" }).as_object().expect("an object"));
    let error = codec("v1-spm").constraint(&form, &[2], &[]).map(drop).expect_err("v1 has no calls");
    assert!(error.to_string().contains("no form for calls") && error.field() == Some("tools"), "{error}");
}
