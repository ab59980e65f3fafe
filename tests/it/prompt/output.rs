//! The parser of generated tokens: formats of all versions, mistakes, any cut into tokens.

use std::fmt::Write as _;

use expect_test::{Expect, expect};
use proptest::prelude::*;
use tramontane::prompt::{Codec, OutputEvent, ToolsOffered};

use crate::fixtures::codec;

/// Ids of an output written with control tokens between `‹` and `›`.
pub fn ids_of(codec: &Codec, output: &str) -> Vec<u32> {
    let mut ids = Vec::new();
    for (index, part) in output.split(['‹', '›']).enumerate() {
        if index % 2 == 0 {
            ids.extend(codec.encode_text(part, false));
        } else {
            let id = (0..1000).find(|id| codec.is_control(*id) && codec.token_bytes(*id) == part.as_bytes());
            ids.push(id.unwrap_or_else(|| panic!("no control token {part}")));
        }
    }
    ids
}

fn parse(codec: &Codec, ids: &[u32], tools: ToolsOffered) -> Vec<OutputEvent> {
    let mut parser = codec.output_parser(tools);
    let mut events: Vec<OutputEvent> = ids.iter().flat_map(|id| parser.push(*id)).collect();
    events.extend(parser.finish());
    events
}

/// Events with neighbours of one kind joined, one a line.
fn joined(events: &[OutputEvent]) -> String {
    let mut text = String::new();
    let mut last = String::new();
    for event in events {
        let (start, more) = match event {
            OutputEvent::Content(more) => ("content ".to_owned(), more.clone()),
            OutputEvent::Reasoning(more) => ("reasoning ".to_owned(), more.clone()),
            OutputEvent::ToolCallArguments { index, fragment } => (format!("{index} arguments "), fragment.clone()),
            OutputEvent::ToolCallBegin { index, id, name } => {
                (format!("{index} call {name} {} ", id.as_deref().unwrap_or("-")), String::new())
            }
        };
        if start != last {
            if !last.is_empty() {
                text.push('\n');
            }
            text.push_str(&start);
        }
        write!(text, "{}", more.escape_debug()).expect("writing to a string");
        last = start;
    }
    text
}

fn check(name: &str, output: &str, expected: Expect) {
    let codec = codec(name);
    expected.assert_eq(&joined(&parse(codec, &ids_of(codec, output), ToolsOffered::Yes)));
}

#[test]
fn plain_answers() {
    check("v3-tekken", "Hello [TOOL_CALLS] world‹</s>›", expect!["content Hello [TOOL_CALLS] world"]);
    check("v1-spm", "Hello world‹</s>›", expect!["content Hello world"]);
    check("v13-tekken", "", expect![""]);
}

#[test]
fn reasoning() {
    check(
        "v13-tekken",
        "‹[THINK]›Let me see.‹[/THINK]›It is 4.‹</s>›",
        expect![[r#"
            reasoning Let me see.
            content It is 4."#]],
    );
    check("v13-tekken", "‹[THINK]›never ends", expect!["reasoning never ends"]);
}

#[test]
fn call_lists() {
    let two = r#"‹[TOOL_CALLS]› [{"name": "f", "arguments": {"a": "]}", "n": 1e5}, "id": "abcDEF123"}, {"name": "g", "arguments": "{}"}]‹</s>›"#;
    let expected = expect![[r#"
        0 call f abcDEF123 
        0 arguments {\"a\": \"]}\", \"n\": 1e5}
        1 call g - 
        1 arguments {}"#]];
    for name in ["v2-spm", "v3-spm", "v3-tekken", "v7-tekken"] {
        let codec = codec(name);
        expected.assert_eq(&joined(&parse(codec, &ids_of(codec, two), ToolsOffered::Yes)));
    }
}

#[test]
fn separate_calls() {
    check(
        "v11-tekken",
        r#"One moment.‹[TOOL_CALLS]›get_weather‹[CALL_ID]›abcDEF123‹[ARGS]›{"city": "Paris"}‹</s>›"#,
        expect![[r#"
            content One moment.
            0 call get_weather abcDEF123 
            0 arguments {\"city\": \"Paris\"}"#]],
    );
    check(
        "v13-tekken",
        r#"‹[THINK]›Two.‹[/THINK]›‹[TOOL_CALLS]›f‹[ARGS]›{"a": [1]}‹[TOOL_CALLS]›g‹[ARGS]›‹</s>›"#,
        expect![[r#"
            reasoning Two.
            0 call f - 
            0 arguments {\"a\": [1]}
            1 call g - 
            1 arguments {}"#]],
    );
}

#[test]
fn mistakes_are_content() {
    check("v3-tekken", "‹[TOOL_CALLS]›f(1)‹</s>›", expect!["content f(1)"]);
    check(
        "v3-tekken",
        r#"‹[TOOL_CALLS]›[{"name": "f", "arguments": {}}, {"nam"#,
        expect![[r#"
            0 call f - 
            0 arguments {}
            content , {\"nam"#]],
    );
    check("v3-tekken", r#"‹[TOOL_CALLS]›[{"arguments": {}}] x"#, expect![[r#"content [{\"arguments\": {}}] x"#]]);
    check("v13-tekken", "‹[TOOL_CALLS]›only a name‹</s>›", expect!["content only a name"]);
    check(
        "v13-tekken",
        r#"‹[TOOL_CALLS]›f‹[ARGS]› {"a": 1}  and more‹</s>›"#,
        expect![[r#"
            0 call f - 
            0 arguments {\"a\": 1}
            content   and more"#]],
    );
    check(
        "v13-tekken",
        "‹[TOOL_CALLS]›f‹[ARGS]›not json‹</s>›",
        expect![[r#"
            0 call f - 
            0 arguments not json"#]],
    );
}

#[test]
fn calls_nobody_offered_are_content() {
    let codec = codec("v13-tekken");
    let ids = ids_of(codec, r#"‹[TOOL_CALLS]›f‹[ARGS]›{"a": 1}‹</s>›"#);
    expect![[r#"content f{\"a\": 1}"#]].assert_eq(&joined(&parse(codec, &ids, ToolsOffered::No)));
}

#[test]
fn a_continued_message_keeps_its_state() {
    let codec = codec("v13-tekken");
    let mut parser = codec.output_parser_after(ToolsOffered::Yes, &ids_of(codec, "‹[THINK]›I wond"));
    let mut events: Vec<OutputEvent> =
        ids_of(codec, "er.‹[/THINK]›Yes.").iter().flat_map(|id| parser.push(*id)).collect();
    events.extend(parser.finish());
    expect![[r#"
        reasoning er.
        content Yes."#]]
    .assert_eq(&joined(&events));
}

/// The same output in other tokens: each letter's bytes on their own.
fn cut_up(codec: &Codec, output: &str, cuts: &[bool]) -> Vec<u32> {
    let mut ids = Vec::new();
    for (index, part) in output.split(['‹', '›']).enumerate() {
        if index % 2 == 1 {
            ids.extend(ids_of(codec, &format!("‹{part}›")));
            continue;
        }
        let mut run = String::new();
        for (place, character) in part.chars().enumerate() {
            run.push(character);
            if cuts[place % cuts.len()] {
                ids.extend(codec.encode_text(&std::mem::take(&mut run), false));
            }
        }
        ids.extend(codec.encode_text(&run, false));
    }
    ids
}

proptest! {
    /// Where the text is cut into tokens changes nothing.
    #[test]
    fn cuts_do_not_matter(
        cuts in prop::collection::vec(any::<bool>(), 1..30),
        output in prop::sample::select(vec![
            r#"Hi‹[TOOL_CALLS]›[{"name": "é", "arguments": {"a": "\"]}"}, "id": "x"}, {"name": "g"}] bye‹</s>›"#,
            r#"‹[TOOL_CALLS]›[{"name": "f", "arguments": 1}, [2]] rest"#,
            r#"‹[TOOL_CALLS]›  x [{"name": "f"}]"#,
        ]),
        separate in prop::sample::select(vec![
            r#"‹[THINK]›é‹[/THINK]›ab‹[TOOL_CALLS]›f‹[CALL_ID]›1‹[ARGS]› {"a": "}\\"} ‹[TOOL_CALLS]›g‹[ARGS]›[1] x"#,
            r#"‹[ARGS]›{}‹[CALL_ID]›‹[TOOL_CALLS]›‹[CALL_ID]›‹[ARGS]›5 ‹[TOOL_CALLS]›‹[/THINK]›z"#,
        ]),
    ) {
        for (name, output) in [("v3-tekken", output), ("v7-tekken", output), ("v15-tekken", separate), ("v13-tekken", separate)] {
            let codec = codec(name);
            let expected = joined(&parse(codec, &ids_of(codec, output), ToolsOffered::Yes));
            let got = joined(&parse(codec, &cut_up(codec, output, &cuts), ToolsOffered::Yes));
            prop_assert_eq!(got, expected, "{}", name);
        }
    }

    /// Any ids at all are some output.
    #[test]
    fn never_panics(ids in prop::collection::vec(prop_oneof![0..40u32, 1000..1300u32, any::<u32>()], 0..60)) {
        for name in ["v1-spm", "v2-spm", "v7-spm", "v3-tekken", "v11-tekken", "v13-tekken", "v15-tekken"] {
            for tools in [ToolsOffered::Yes, ToolsOffered::No] {
                parse(codec(name), &ids, tools);
            }
        }
    }
}
