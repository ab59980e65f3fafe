//! vLLM's structural tags: free text in which certain words, the triggers, begin a tag, whose content is JSON of a schema.
//!
//! Invariant: no trigger has another within it, so that at most one is complete at any place of a text.

use std::fmt::Write as _;

use super::lark::{quoted, schema_text};
use crate::prompt::json::Value;

/// Tags that may be anywhere in a text, any number of times.
#[derive(Clone, Debug, PartialEq)]
pub struct StructuralTags {
    /// What begins a tag wherever it is. Each tag begins with one of them.
    pub triggers: Vec<String>,
    /// At least one for each trigger.
    pub tags: Vec<StructuralTag>,
}

/// What stands around some JSON.
#[derive(Clone, Debug, PartialEq)]
pub struct StructuralTag {
    /// Stands before it, trigger included.
    pub begin: String,
    /// What the JSON has to be.
    pub schema: Value,
    /// Stands behind it.
    pub end: String,
}

/// The grammar of such a text.
pub(super) fn grammar(tags: &StructuralTags) -> Result<String, String> {
    let (mut parts, mut rules) = (Vec::new(), String::new());
    for (index, trigger) in tags.triggers.iter().enumerate() {
        let after = tags.tags.iter().filter_map(|tag| Some((tag.begin.strip_prefix(trigger.as_str())?, tag)));
        let after = after.map(|(rest, tag)| Ok(written(rest, tag, &schema_text(&tag.schema, None)?)));
        let after = after.collect::<Result<Vec<_>, String>>()?;
        parts.push(format!("trigger_{index} ({})", after.join(" | ")));
        // As soon as it is complete, what follows is a tag.
        let _ = writeln!(rules, "trigger_{index}[lazy]: /(.|\\n)*/ {}", quoted(trigger));
    }
    Ok(format!("start: ({})* text?\ntext: /(.|\\n)+/\n{rules}", parts.join(" | ")))
}

fn written(rest: &str, tag: &StructuralTag, schema: &str) -> String {
    let text = |text: &str| if text.is_empty() { String::new() } else { quoted(text) };
    format!("({} %json {schema} {})", text(rest), text(&tag.end))
}
