//! The tokens around a text that is embedded or classified whole: which of the beginning- and the end-of-sequence token a
//! checkpoint's own tokenizer puts there.
//!
//! Main type: [`Ends`]. Read are, in this order, `add_bos_token` and `add_eos_token` of `tokenizer_config.json`, then the
//! template of `tokenizer.json`'s post-processor, as transformers does. Where neither says anything, a text begins with
//! the beginning-of-sequence token and has none at its end.

use std::path::Path;

use serde_json::Value;

use super::checkpoint::read_json;
use super::error::PromptError;

/// Which tokens are around a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) bos: bool,
    pub(super) eos: bool,
}

impl Default for Ends {
    fn default() -> Self {
        Ends { bos: true, eos: false }
    }
}

impl Ends {
    /// What the checkpoint in `dir` says.
    pub(super) fn read(dir: &Path) -> Result<Ends, PromptError> {
        let mut ends = match read_json(&dir.join("tokenizer.json"))? {
            Some(tokenizer) => Ends::of_post_processor(&tokenizer["post_processor"]).unwrap_or_default(),
            None => Ends::default(),
        };
        let path = dir.join("tokenizer_config.json");
        let Some(config) = read_json(&path)? else { return Ok(ends) };
        for (key, end) in [("add_bos_token", &mut ends.bos), ("add_eos_token", &mut ends.eos)] {
            match &config[key] {
                Value::Null => {}
                Value::Bool(flag) => *end = *flag,
                other => {
                    let reason = format!("{key} must be true or false, got {other}");
                    return Err(PromptError::file(path.display().to_string(), reason));
                }
            }
        }
        Ok(ends)
    }

    /// Of the first `TemplateProcessing`, which may be one of a sequence: what it writes around a single text.
    fn of_post_processor(processor: &Value) -> Option<Ends> {
        match processor["type"].as_str()? {
            "TemplateProcessing" => {
                let single = processor["single"].as_array()?;
                let is = |item: Option<&Value>, name: &str| item.is_some_and(|item| item["SpecialToken"]["id"] == name);
                Some(Ends { bos: is(single.first(), "<s>"), eos: is(single.last(), "</s>") })
            }
            "Sequence" => processor["processors"].as_array()?.iter().find_map(Ends::of_post_processor),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    fn check(tokenizer: Option<Value>, config: Option<Value>, bos: bool, eos: bool) {
        let dir = tempfile::tempdir().expect("a folder");
        for (name, content) in [("tokenizer.json", tokenizer), ("tokenizer_config.json", config)] {
            if let Some(content) = content {
                fs::write(dir.path().join(name), content.to_string()).expect("writable");
            }
        }
        assert_eq!(Ends::read(dir.path()).expect("readable"), Ends { bos, eos });
    }

    #[test]
    fn the_settings_win_over_the_template() {
        let token = |id: &str| json!({"SpecialToken": {"id": id, "type_id": 0}});
        let text = json!({"Sequence": {"id": "A", "type_id": 0}});
        let template = json!({"type": "TemplateProcessing", "single": [token("<s>"), text, token("</s>")]});
        let tokenizer = Some(json!({"post_processor": template}));
        check(None, None, true, false);
        check(tokenizer.clone(), None, true, true);
        check(tokenizer.clone(), Some(json!({"add_eos_token": false, "add_bos_token": null})), true, false);
        check(None, Some(json!({"add_bos_token": false, "add_eos_token": true})), false, true);
        let nested = json!({"type": "Sequence", "processors": [{"type": "ByteLevel"}, template]});
        check(Some(json!({"post_processor": nested})), None, true, true);
        check(Some(json!({"post_processor": {"type": "ByteLevel"}})), None, true, false);
        check(Some(json!({"post_processor": null})), None, true, false);
    }

    #[test]
    fn a_setting_that_is_no_flag_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(dir.path().join("tokenizer_config.json"), r#"{"add_eos_token": "yes"}"#).expect("writable");
        let error = Ends::read(dir.path()).expect_err("no flag").to_string();
        assert!(error.ends_with(r#"add_eos_token must be true or false, got "yes""#), "{error}");
    }
}
