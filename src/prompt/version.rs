//! Mistral's tokenizer versions, and every difference between their prompts as data.
//!
//! Main type: [`TokenizerVersion`]. A checkpoint states its version in its tokenizer file, never
//! in its name. The layouts below are the whole of what the versions disagree on; the renderer
//! (`template`), the checks (`validate`) and the output parser read them and know no versions.
//! Source: mistral-common 1.13.1, checked token for token by the test `vectors`.

use std::fmt;
use std::str::FromStr;

/// The version of the prompt format a model was trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TokenizerVersion {
    /// Plain text markers, no tools.
    V1,
    /// Control tokens for instructions and tools.
    V2,
    /// Tool calls with ids.
    V3,
    /// System prompts in a block of their own.
    V7,
    /// Calls with tokens for name, id and arguments.
    V11,
    /// Calls without ids, tools before the first user message, thinking.
    V13,
    /// Model settings, such as the reasoning effort.
    V15,
}

/// Where the system prompt is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SystemLayout {
    /// All system messages joined, in front of the first user message's text.
    InFirstUser,
    /// All system messages joined, in front of the last user message's text.
    InLastUser,
    /// Each in `[SYSTEM_PROMPT]..[/SYSTEM_PROMPT]`, where it stands in the conversation.
    OwnBlock,
}

/// Where `[AVAILABLE_TOOLS]` (and `[MODEL_SETTINGS]`) is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ToolsLayout {
    /// Tools are accepted and ignored.
    Nowhere,
    BeforeLastUser,
    BeforeFirstUser,
}

/// How an assistant's tool calls are written, and how the model writes its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallLayout {
    /// There is no way to write them.
    None,
    /// `[TOOL_CALLS][{"name": .., "arguments": ..}]`; none before the last user message.
    List,
    /// `[TOOL_CALLS][{"name": .., "arguments": .., "id": ..}]`.
    ListWithIds,
    /// `[TOOL_CALLS]name[CALL_ID]id[ARGS]{..}` for each call.
    NameIdArguments,
    /// `[TOOL_CALLS]name[ARGS]{..}` for each call.
    NameArguments,
}

/// What stands between `[TOOL_RESULTS]` and `[/TOOL_RESULTS]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ResultLayout {
    /// There is no way to write them.
    None,
    /// `[{"name": .., "content": ..}]`, one result per turn; none before the last user message.
    NamedList,
    /// `{"content": .., "call_id": ..}`.
    Object,
    /// The call id, `[TOOL_CONTENT]`, the text as it is.
    IdAndText,
    /// The text as it is.
    Text,
}

/// Which tool call ids are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallIdRule {
    /// Ids are not written, so any or none will do.
    Any,
    /// Exactly nine of `[a-zA-Z0-9]`.
    NineAlphanumeric,
    /// Anything but the empty string and `null`.
    NotEmpty,
}

impl TokenizerVersion {
    /// All of them, oldest first.
    pub const ALL: [TokenizerVersion; 7] = [
        TokenizerVersion::V1,
        TokenizerVersion::V2,
        TokenizerVersion::V3,
        TokenizerVersion::V7,
        TokenizerVersion::V11,
        TokenizerVersion::V13,
        TokenizerVersion::V15,
    ];

    /// As tokenizer files spell it: `v13`.
    pub fn as_str(self) -> &'static str {
        match self {
            TokenizerVersion::V1 => "v1",
            TokenizerVersion::V2 => "v2",
            TokenizerVersion::V3 => "v3",
            TokenizerVersion::V7 => "v7",
            TokenizerVersion::V11 => "v11",
            TokenizerVersion::V13 => "v13",
            TokenizerVersion::V15 => "v15",
        }
    }

    pub(crate) fn system(self) -> SystemLayout {
        match self {
            TokenizerVersion::V1 => SystemLayout::InFirstUser,
            TokenizerVersion::V2 | TokenizerVersion::V3 => SystemLayout::InLastUser,
            TokenizerVersion::V7 | TokenizerVersion::V11 | TokenizerVersion::V13 | TokenizerVersion::V15 => {
                SystemLayout::OwnBlock
            }
        }
    }

    pub(crate) fn tools(self) -> ToolsLayout {
        match self {
            TokenizerVersion::V1 => ToolsLayout::Nowhere,
            TokenizerVersion::V2 | TokenizerVersion::V3 | TokenizerVersion::V7 | TokenizerVersion::V11 => {
                ToolsLayout::BeforeLastUser
            }
            TokenizerVersion::V13 | TokenizerVersion::V15 => ToolsLayout::BeforeFirstUser,
        }
    }

    pub(crate) fn calls(self) -> CallLayout {
        match self {
            TokenizerVersion::V1 => CallLayout::None,
            TokenizerVersion::V2 => CallLayout::List,
            TokenizerVersion::V3 | TokenizerVersion::V7 => CallLayout::ListWithIds,
            TokenizerVersion::V11 => CallLayout::NameIdArguments,
            TokenizerVersion::V13 | TokenizerVersion::V15 => CallLayout::NameArguments,
        }
    }

    pub(crate) fn results(self) -> ResultLayout {
        match self {
            TokenizerVersion::V1 => ResultLayout::None,
            TokenizerVersion::V2 => ResultLayout::NamedList,
            TokenizerVersion::V3 => ResultLayout::Object,
            TokenizerVersion::V7 | TokenizerVersion::V11 => ResultLayout::IdAndText,
            TokenizerVersion::V13 | TokenizerVersion::V15 => ResultLayout::Text,
        }
    }

    pub(crate) fn call_ids(self) -> CallIdRule {
        match self {
            TokenizerVersion::V1 | TokenizerVersion::V2 => CallIdRule::Any,
            TokenizerVersion::V3 | TokenizerVersion::V7 | TokenizerVersion::V11 => CallIdRule::NineAlphanumeric,
            TokenizerVersion::V13 | TokenizerVersion::V15 => CallIdRule::NotEmpty,
        }
    }

    /// Results must name the calls they answer, and are written in the order of the calls.
    pub(crate) fn pairs_results_by_id(self) -> bool {
        self >= TokenizerVersion::V11
    }

    /// One assistant message may have both text and tool calls.
    pub(crate) fn allows_text_with_calls(self) -> bool {
        self >= TokenizerVersion::V7
    }

    /// `[THINK]..[/THINK]` exists for assistant messages.
    pub(crate) fn writes_thinking(self) -> bool {
        self >= TokenizerVersion::V13
    }

    /// `[THINK]..[/THINK]` may stand in system messages.
    pub(crate) fn writes_thinking_in_system(self) -> bool {
        self == TokenizerVersion::V13
    }

    /// `[MODEL_SETTINGS]` exists.
    pub(crate) fn writes_settings(self) -> bool {
        self >= TokenizerVersion::V15
    }

    /// What joins the text chunks of one message.
    pub(crate) fn chunk_separator(self) -> &'static str {
        if self >= TokenizerVersion::V15 { "" } else { "\n\n" }
    }

    /// Trailing spaces of an assistant's text are cut.
    pub(crate) fn trims_assistant_text(self) -> bool {
        self >= TokenizerVersion::V2
    }
}

impl fmt::Display for TokenizerVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A version name that is none of `v1`, `v2`, `v3`, `v7`, `v11`, `v13`, `v15`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown tokenizer version {0:?}, expected one of v1, v2, v3, v7, v11, v13, v15")]
pub struct UnknownVersion(pub String);

impl FromStr for TokenizerVersion {
    type Err = UnknownVersion;

    fn from_str(name: &str) -> Result<TokenizerVersion, UnknownVersion> {
        TokenizerVersion::ALL
            .into_iter()
            .find(|version| version.as_str() == name)
            .ok_or_else(|| UnknownVersion(name.to_owned()))
    }
}
