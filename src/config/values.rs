//! The types of settings: how each is written, read and described.

use std::{net::SocketAddr, path::PathBuf};

use super::{ByteSize, Span};

/// A value that text can hold. `to_toml` is the inverse of `parse`.
pub(super) trait Setting: Sized {
    /// What a valid value looks like, to follow the word "expected".
    const EXPECTED: &'static str;
    fn parse(text: &str) -> Option<Self>;
    fn to_toml(&self) -> String;
}

/// A closed list of words.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $expected:literal, { $($(#[$variant_doc:meta])* $variant:ident = $word:literal $(| $other:literal)*),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $(Self::$variant => $word),+ })
            }
        }

        impl Setting for $name {
            const EXPECTED: &'static str = $expected;

            fn parse(text: &str) -> Option<Self> {
                match text { $($word $(| $other)* => Some(Self::$variant),)+ _ => None }
            }

            fn to_toml(&self) -> String {
                $crate::config::values::quoted(&self.to_string())
            }
        }
    };
}

pub(super) use words;

words! {
    /// Type of weights and activations.
    Dtype, "auto, f32, bf16 or f16", {
        /// What the checkpoint has, or f32 where this machine computes that faster.
        Auto = "auto",
        /// 32-bit floats.
        F32 = "f32" | "float32",
        /// bfloat16.
        Bf16 = "bf16" | "bfloat16",
        /// IEEE half precision.
        F16 = "f16" | "float16",
    }
}

/// Which device computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU that this build has kernels for, else the CPU.
    Auto,
    /// This machine's processor.
    Cpu,
    /// The NVIDIA GPU of this number.
    Cuda(usize),
}

impl Setting for DeviceChoice {
    const EXPECTED: &'static str = "auto, cpu, cuda or cuda:N";

    fn parse(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self::Auto),
            "cpu" => Some(Self::Cpu),
            "cuda" => Some(Self::Cuda(0)),
            _ => text.strip_prefix("cuda:")?.parse().ok().map(Self::Cuda),
        }
    }

    fn to_toml(&self) -> String {
        match self {
            Self::Auto => quoted("auto"),
            Self::Cpu => quoted("cpu"),
            Self::Cuda(ordinal) => quoted(&format!("cuda:{ordinal}")),
        }
    }
}

words! {
    /// Whether weights are quantized when they are loaded.
    Quantize, "none, q8 or q4", {
        /// Held in the dtype.
        None = "none",
        /// 8 bits and a scale per 32 of them.
        Q8 = "q8",
        /// 4 bits and a scale per 32 of them; 8 bits in the matrix of the logits.
        Q4 = "q4",
    }
}

/// Where quantized weights are kept between starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuantizeCache {
    /// Nowhere.
    Off,
    /// In a file beside the model.
    On,
    /// In a directory for such files.
    Directory(PathBuf),
}

impl Setting for QuantizeCache {
    const EXPECTED: &'static str = "off, on or a directory";

    fn parse(text: &str) -> Option<Self> {
        match Switch::parse(text) {
            Some(Switch::Off) => Some(Self::Off),
            Some(Switch::On) => Some(Self::On),
            None => (!text.trim().is_empty()).then(|| Self::Directory(text.into())),
        }
    }

    fn to_toml(&self) -> String {
        match self {
            Self::Off => quoted("off"),
            Self::On => quoted("on"),
            Self::Directory(path) => path.to_toml(),
        }
    }
}

words! {
    /// Whether tokens are guessed ahead.
    Speculation, "auto or off", {
        /// When it pays.
        Auto = "auto",
        /// Never.
        Off = "off",
    }
}

words! {
    /// Which orders of roles a conversation may have.
    MessageOrder, "lenient or strict", {
        /// Those of mistral-common: neighbours of one role are joined.
        Lenient = "lenient",
        /// One system message at most, then user and assistant in turns.
        Strict = "strict",
    }
}

words! {
    /// Whether clients must show a certificate.
    ClientAuth, "required or optional", {
        /// Whoever has none cannot connect.
        Required = "required",
        /// Whoever has none must be known by something else.
        Optional = "optional",
    }
}

words! {
    /// Where the chat format comes from.
    TemplateChoice, "auto, native or jinja", {
        /// The tokenizer version's own where there is one, else the checkpoint's template.
        Auto = "auto",
        /// The format that the tokenizer's version defines.
        Native = "native",
        /// The checkpoint's Jinja template.
        Jinja = "jinja",
    }
}

words! {
    /// Version of Mistral's prompt format, as tokenizer files state it.
    TokenizerVersion, "v1, v2, v3, v7, v11, v13 or v15", {
        /// 7B v0.1 and v0.2.
        V1 = "v1",
        /// Control tokens for instructions.
        V2 = "v2",
        /// 7B v0.3, Nemo.
        V3 = "v3",
        /// Large 2411, Small 3.
        V7 = "v7",
        /// Small 3.2.
        V11 = "v11",
        /// Ministral 3.
        V13 = "v13",
        /// Small 4.
        V15 = "v15",
    }
}

words! {
    /// What logs look like.
    LogFormat, "auto, human or json", {
        /// Human on a terminal, JSON otherwise.
        Auto = "auto",
        /// For people.
        Human = "human",
        /// One JSON object a line.
        Json = "json",
    }
}

words! {
    /// Does the server confine itself?
    SandboxChoice, "auto, on or off", {
        /// As far as the system can.
        Auto = "auto",
        /// It must.
        On = "on",
        /// No.
        Off = "off",
    }
}

words! {
    /// On or off.
    Switch, "on or off", {
        /// Enabled.
        On = "on" | "true" | "1",
        /// Disabled.
        Off = "off" | "false" | "0",
    }
}

impl Switch {
    /// True for `On`.
    pub fn is_on(self) -> bool {
        self == Switch::On
    }
}

/// A model as named: a directory or a hub id. Which of the two is decided when it is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelName(String);

impl ModelName {
    /// Takes any text; what is typed as a setting is not blank.
    pub fn from_text(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The name as typed.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Setting for ModelName {
    const EXPECTED: &'static str = "a directory, or a hub id such as mistralai/Mistral-7B-Instruct-v0.3";

    fn parse(text: &str) -> Option<Self> {
        (!text.trim().is_empty()).then(|| Self(text.to_owned()))
    }

    fn to_toml(&self) -> String {
        quoted(&self.0)
    }
}

/// Names of one model, in order of preference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(Vec<String>);

impl Names {
    /// The names.
    pub fn as_slice(&self) -> &[String] {
        &self.0
    }
}

impl Setting for Names {
    const EXPECTED: &'static str = "names separated by commas, none of them blank";

    /// Nothing at all is the empty list, which a file writes as `[]`.
    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::default());
        }
        let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
        names.iter().all(|name| !name.is_empty()).then_some(Self(names))
    }

    fn to_toml(&self) -> String {
        format!("[{}]", self.0.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", "))
    }
}

/// Longest sequence in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContextLength {
    /// What the model allows and the memory holds.
    Auto,
    /// This many tokens.
    Tokens(usize),
}

impl Setting for ContextLength {
    const EXPECTED: &'static str = "auto, or a number of tokens of at least 2";

    fn parse(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self::Auto),
            _ => text.parse().ok().filter(|tokens| *tokens >= 2).map(Self::Tokens),
        }
    }

    fn to_toml(&self) -> String {
        match self {
            Self::Auto => quoted("auto"),
            Self::Tokens(tokens) => tokens.to_toml(),
        }
    }
}

/// A level, or directives by module, as `tracing-subscriber` reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    pub(super) fn from_level(level: &'static str) -> Self {
        Self(level.into())
    }

    /// The directives, known to parse.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Setting for LogFilter {
    const EXPECTED: &'static str = "error, warn, info, debug or trace, or a filter such as info,tramontane=debug";

    fn parse(text: &str) -> Option<Self> {
        let valid = text.split(',').all(|directive| {
            let level = directive.rsplit('=').next().unwrap_or(directive);
            ["off", "error", "warn", "info", "debug", "trace"].contains(&level)
        });
        (valid && tracing_subscriber::EnvFilter::try_new(text).is_ok()).then(|| Self(text.to_owned()))
    }

    fn to_toml(&self) -> String {
        quoted(&self.0)
    }
}

impl Setting for SocketAddr {
    const EXPECTED: &'static str = "an address and a port, such as 127.0.0.1:8000 or [::1]:8000";

    fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix("localhost:") {
            Some(port) => Some(SocketAddr::from(([127, 0, 0, 1], port.parse().ok()?))),
            None => text.parse().ok(),
        }
    }

    fn to_toml(&self) -> String {
        quoted(&self.to_string())
    }
}

impl Setting for ByteSize {
    const EXPECTED: &'static str = "a size above zero, such as 512MiB or 2GiB";

    fn parse(text: &str) -> Option<Self> {
        ByteSize::parse(text).filter(|size| size.bytes() > 0)
    }

    fn to_toml(&self) -> String {
        quoted(&self.to_string())
    }
}

impl Setting for Span {
    const EXPECTED: &'static str = "a time, such as 30s, 10m or 1h";

    fn parse(text: &str) -> Option<Self> {
        Span::parse(text)
    }

    fn to_toml(&self) -> String {
        quoted(&self.to_string())
    }
}

impl Setting for usize {
    const EXPECTED: &'static str = "a whole number of at least 1";

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok().filter(|number| *number > 0)
    }

    /// Integers of TOML end at 2^63 - 1.
    fn to_toml(&self) -> String {
        if i64::try_from(*self).is_ok() { self.to_string() } else { quoted(&self.to_string()) }
    }
}

impl Setting for PathBuf {
    const EXPECTED: &'static str = "the path of a file";

    fn parse(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| PathBuf::from(text))
    }

    fn to_toml(&self) -> String {
        quoted(&self.to_string_lossy())
    }
}

pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
