//! The control tokens that templates write, by what they mean.
//!
//! Main type: [`Controls`], the ids a tokenizer gives them. Invariant: every token that the
//! tokenizer's version must have is there, so that a checkpoint with holes fails when it is opened
//! and not in the middle of a request.

use crate::prompt::error::PromptError;
use crate::prompt::tokenizer::Tokenizer;
use crate::prompt::version::{CallLayout, ResultLayout, SystemLayout, TokenizerVersion, ToolsLayout};

/// A control token of Mistral's vocabularies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    Bos,
    Eos,
    BeginInst,
    EndInst,
    BeginTools,
    EndTools,
    BeginToolResults,
    EndToolResults,
    ToolCalls,
    Prefix,
    Suffix,
    BeginSystem,
    EndSystem,
    ToolContent,
    Arguments,
    CallId,
    BeginThink,
    EndThink,
    BeginSettings,
    EndSettings,
}

impl Control {
    const ALL: [Control; 20] = [
        Control::Bos,
        Control::Eos,
        Control::BeginInst,
        Control::EndInst,
        Control::BeginTools,
        Control::EndTools,
        Control::BeginToolResults,
        Control::EndToolResults,
        Control::ToolCalls,
        Control::Prefix,
        Control::Suffix,
        Control::BeginSystem,
        Control::EndSystem,
        Control::ToolContent,
        Control::Arguments,
        Control::CallId,
        Control::BeginThink,
        Control::EndThink,
        Control::BeginSettings,
        Control::EndSettings,
    ];

    /// The token's written form in the vocabulary.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Control::Bos => "<s>",
            Control::Eos => "</s>",
            Control::BeginInst => "[INST]",
            Control::EndInst => "[/INST]",
            Control::BeginTools => "[AVAILABLE_TOOLS]",
            Control::EndTools => "[/AVAILABLE_TOOLS]",
            Control::BeginToolResults => "[TOOL_RESULTS]",
            Control::EndToolResults => "[/TOOL_RESULTS]",
            Control::ToolCalls => "[TOOL_CALLS]",
            Control::Prefix => "[PREFIX]",
            Control::Suffix => "[SUFFIX]",
            Control::BeginSystem => "[SYSTEM_PROMPT]",
            Control::EndSystem => "[/SYSTEM_PROMPT]",
            Control::ToolContent => "[TOOL_CONTENT]",
            Control::Arguments => "[ARGS]",
            Control::CallId => "[CALL_ID]",
            Control::BeginThink => "[THINK]",
            Control::EndThink => "[/THINK]",
            Control::BeginSettings => "[MODEL_SETTINGS]",
            Control::EndSettings => "[/MODEL_SETTINGS]",
        }
    }

    /// True if a prompt of this version cannot do without the token. Fill-in-the-middle and
    /// thinking are left to the request that wants them: released vocabularies differ there.
    fn is_required(self, version: TokenizerVersion) -> bool {
        match self {
            Control::Bos | Control::Eos => true,
            Control::BeginInst | Control::EndInst => version >= TokenizerVersion::V2,
            Control::BeginTools | Control::EndTools => version.tools() != ToolsLayout::Nowhere,
            Control::BeginToolResults | Control::EndToolResults => version.results() != ResultLayout::None,
            Control::ToolCalls => version.calls() != CallLayout::None,
            Control::BeginSystem | Control::EndSystem => version.system() == SystemLayout::OwnBlock,
            Control::ToolContent => version.results() == ResultLayout::IdAndText,
            Control::Arguments => {
                matches!(version.calls(), CallLayout::NameIdArguments | CallLayout::NameArguments)
            }
            Control::CallId => version.calls() == CallLayout::NameIdArguments,
            Control::BeginSettings | Control::EndSettings => version.writes_settings(),
            Control::Prefix | Control::Suffix | Control::BeginThink | Control::EndThink => false,
        }
    }
}

/// The ids of the control tokens in one vocabulary.
#[derive(Debug, Clone)]
pub(crate) struct Controls {
    ids: [Option<u32>; Control::ALL.len()],
}

impl Controls {
    /// Looks up what the vocabulary has.
    pub(crate) fn of(tokenizer: &Tokenizer) -> Controls {
        Controls { ids: Control::ALL.map(|control| tokenizer.control_id(control.name())) }
    }

    /// Refuses a vocabulary without the tokens that `version` writes.
    pub(crate) fn check(&self, version: TokenizerVersion, file: &str) -> Result<(), PromptError> {
        for control in Control::ALL {
            if control.is_required(version) && self.get(control).is_none() {
                let name = control.name();
                let reason = format!("has no control token `{name}`, which tokenizer version {version} needs");
                return Err(PromptError::file(file, reason));
            }
        }
        Ok(())
    }

    pub(crate) fn get(&self, control: Control) -> Option<u32> {
        self.ids[control as usize]
    }

    /// Which of these tokens an id is.
    pub(crate) fn which(&self, id: u32) -> Option<Control> {
        Control::ALL.into_iter().find(|control| self.get(*control) == Some(id))
    }
}

impl CallLayout {
    /// The layout that a vocabulary is made for, where no version is known.
    pub(crate) fn of(controls: &Controls) -> CallLayout {
        let has = |control: Control| controls.get(control).is_some();
        match (has(Control::ToolCalls), has(Control::Arguments)) {
            (false, _) => CallLayout::None,
            (true, false) => CallLayout::ListWithIds,
            (true, true) => CallLayout::NameIdArguments,
        }
    }
}
