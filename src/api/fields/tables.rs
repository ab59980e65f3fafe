//! The rows: OpenAI's fields first, then vLLM's, then Mistral's.

use super::{Field, Table, agents, honoured, label, neutral};

/// `POST /v1/chat/completions`.
pub static CHAT: Table = Table {
    resource: "POST /v1/chat/completions",
    groups: &[CHAT_ONLY, CHAT_LOGPROBS, TEMPLATE, MODEL, GENERATION, LABELS],
};

/// `POST /v1/agents/completions`.
pub static AGENT_COMPLETIONS: Table = Table {
    resource: "POST /v1/agents/completions",
    groups: &[agents::ASKED, CHAT_ONLY, CHAT_LOGPROBS, TEMPLATE, GENERATION, LABELS],
};

/// `POST /v1/completions`.
pub static COMPLETIONS: Table =
    Table { resource: "POST /v1/completions", groups: &[COMPLETIONS_ONLY, MODEL, GENERATION, LABELS] };

/// `POST /v1/fim/completions`.
pub static FIM: Table =
    Table { resource: "POST /v1/fim/completions", groups: &[FIM_ONLY, CHAT_LOGPROBS, MODEL, GENERATION, LABELS] };

/// `POST /tokenize`.
pub static TOKENIZE: Table = Table { resource: "POST /tokenize", groups: &[SERVED_MODEL, TOKENIZE_ONLY, TEMPLATE] };

/// `POST /detokenize`.
pub static DETOKENIZE: Table = Table {
    resource: "POST /detokenize",
    groups: &[SERVED_MODEL, &[honoured("tokens", r#""tokens": [1, 2]"#, r#""tokens": [-1]"#, "Token ids.")]],
};

/// `model` where nothing is generated.
const SERVED_MODEL: &[Field] =
    &[honoured("model", r#""model": "tiny""#, r#""model": 1"#, "One of the served names; the served model if absent.")];

const TOKENIZE_ONLY: &[Field] = &[
    honoured("prompt", r#""prompt": "Hello""#, r#""prompt": 1"#, "Text to tokenize; or give `messages`."),
    honoured(
        "messages",
        r#""messages": [{"role": "user", "content": "Hello"}]"#,
        r#""messages": "Hello""#,
        "A conversation, tokenized as `/v1/chat/completions` would; needs `model`.",
    ),
    honoured(
        "tools",
        r#""messages": [{"role": "user", "content": "Hello"}], "tools": []"#,
        r#""messages": [{"role": "user", "content": "Hello"}], "tools": 1"#,
        "With `messages`: the tools offered.",
    ),
    honoured(
        "add_special_tokens",
        r#""add_special_tokens": false"#,
        r#""add_special_tokens": 1"#,
        "With `prompt`: begin with the beginning-of-sequence token; true by default.",
    ),
    honoured(
        "return_token_strs",
        r#""return_token_strs": true"#,
        r#""return_token_strs": "yes""#,
        "Adds `token_strs`.",
    ),
    neutral(
        "add_generation_prompt",
        &["true"],
        r#""add_generation_prompt": false"#,
        "Mistral's templates always end where the answer begins.",
    ),
    neutral(
        "continue_final_message",
        &["false"],
        r#""continue_final_message": true"#,
        "Use `prefix` on the last message.",
    ),
];

const CHAT_ONLY: &[Field] = &[
    honoured(
        "messages",
        r#""messages": [{"role": "user", "content": "Hello"}]"#,
        r#""messages": [{"role": "robot", "content": "Hello"}]"#,
        "Roles system, developer, user, assistant, tool; content as text or as text and thinking chunks. The model \
         continues an assistant message with `prefix: true` at the end.",
    ),
    honoured(
        "max_completion_tokens",
        r#""max_completion_tokens": 4"#,
        r#""max_completion_tokens": 0"#,
        "The same as `max_tokens`.",
    ),
    honoured(
        "tools",
        r#""tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]"#,
        r#""tools": [{"type": "retrieval"}]"#,
        "Functions only; with `strict` arguments are held to `parameters`.",
    ),
    honoured(
        "tool_choice",
        r#""tool_choice": "required", "tools": [{"type": "function", "function": {"name": "f"}}]"#,
        r#""tool_choice": "required""#,
        "`auto`, `none` (the tools are left out of the prompt), `required` or `any` (a tool is called), or one function.",
    ),
    honoured(
        "reasoning_effort",
        r#""reasoning_effort": null"#,
        r#""reasoning_effort": "utmost""#,
        "Where the tokenizer version has it; otherwise refused.",
    ),
    honoured(
        "parallel_tool_calls",
        r#""parallel_tool_calls": false, "tools": [{"type": "function", "function": {"name": "f"}}]"#,
        r#""parallel_tool_calls": 1"#,
        "False allows one call at most; true by default.",
    ),
    neutral("verbosity", &[r#""medium""#], r#""verbosity": "low""#, "Mistral's models have no such setting."),
    honoured(
        "prediction",
        r#""prediction": {"type": "content", "content": "Hello there!"}"#,
        r#""prediction": {"type": "tokens", "content": "x"}"#,
        "Text that the answer is expected to have: where tokens are guessed ahead, it comes sooner. The answer is the same.",
    ),
    neutral("modalities", &[r#"["text"]"#], r#""modalities": ["audio"]"#, "Only text is served."),
    neutral("audio", &[], r#""audio": {"voice": "a"}"#, "Only text is served."),
    neutral("web_search_options", &[], r#""web_search_options": {}"#, "The server has no web access."),
    neutral("moderation", &[], r#""moderation": {"model": "m"}"#, "Ask `/v1/moderations`."),
    neutral("functions", &["[]"], r#""functions": [{"name": "f"}]"#, "Deprecated by OpenAI: use `tools`."),
    neutral("function_call", &[], r#""function_call": "auto""#, "Deprecated by OpenAI: use `tool_choice`."),
    honoured(
        "continue_final_message",
        r#""messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "He"}], "continue_final_message": true, "add_generation_prompt": false"#,
        r#""continue_final_message": true"#,
        "The model continues the assistant message at the end; the same as `prefix` on that message.",
    ),
    honoured(
        "add_generation_prompt",
        r#""add_generation_prompt": true"#,
        r#""add_generation_prompt": false"#,
        "Mistral's templates always end where the answer begins; false needs `continue_final_message`.",
    ),
    honoured(
        "include_reasoning",
        r#""include_reasoning": false"#,
        r#""include_reasoning": 1"#,
        "False leaves `reasoning` out of the answer; its tokens still count.",
    ),
    neutral("echo", &["false"], r#""echo": true"#, "The answer never repeats the prompt."),
    neutral("add_special_tokens", &["false"], r#""add_special_tokens": true"#, "The template writes them."),
    neutral("documents", &["[]"], r#""documents": [{"text": "a"}]"#, "Put documents into a message."),
    neutral("media_io_kwargs", &["{}"], r#""media_io_kwargs": {"a": 1}"#, "Only text is served."),
    neutral("thinking_token_budget", &[], r#""thinking_token_budget": 10"#, "Thinking cannot be cut short."),
    honoured(
        "safe_prompt",
        r#""safe_prompt": true"#,
        r#""safe_prompt": "yes""#,
        "Puts Mistral's safety prompt in front of the conversation, or of its first system message.",
    ),
    honoured(
        "prompt_mode",
        r#""prompt_mode": null"#,
        r#""prompt_mode": "reasoning""#,
        "`reasoning` puts the checkpoint's `SYSTEM_PROMPT.txt` in front of the conversation; refused where there is none that \
         speaks of reasoning.",
    ),
    neutral("guardrails", &["[]"], r#""guardrails": [{"block_on_error": true}]"#, "Ask `/v1/moderations`."),
    honoured(
        "top_prompt_logprobs",
        r#""prompt_logprobs": true, "top_prompt_logprobs": 2"#,
        r#""top_prompt_logprobs": 2"#,
        "0 to 20; needs `prompt_logprobs` to be true.",
    ),
];

/// Log-probabilities in chat's form.
const CHAT_LOGPROBS: &[Field] = &[
    honoured(
        "logprobs",
        r#""logprobs": true"#,
        r#""logprobs": 3"#,
        "Log-probabilities of the chosen tokens, before any sampling parameter.",
    ),
    honoured(
        "top_logprobs",
        r#""logprobs": true, "top_logprobs": 2"#,
        r#""logprobs": true, "top_logprobs": 21"#,
        "0 to 20; needs `logprobs`.",
    ),
];

const COMPLETIONS_ONLY: &[Field] = &[
    honoured(
        "prompt",
        r#""prompt": ["Hello", "Bye"]"#,
        r#""prompt": [1, -1]"#,
        "A text, token ids, or a list of either.",
    ),
    honoured(
        "suffix",
        r#""suffix": " end""#,
        r#""suffix": 1"#,
        "Fill in the middle, where the model has it; needs one text as `prompt`.",
    ),
    honoured(
        "echo",
        r#""echo": true"#,
        r#""echo": "yes""#,
        "Begins the answer with the prompt; with `logprobs`, those of the prompt too; allows `max_tokens` 0.",
    ),
    honoured(
        "logprobs",
        r#""logprobs": 2"#,
        r#""logprobs": true"#,
        "0 to 20 most likely tokens at each position, before any sampling parameter.",
    ),
    honoured("best_of", r#""best_of": 2, "n": 2"#, r#""best_of": 2, "n": 1"#, "Only the same as `n`."),
    honoured(
        "add_special_tokens",
        r#""add_special_tokens": false"#,
        r#""add_special_tokens": "no""#,
        "Begin a text prompt with the beginning-of-sequence token; true by default.",
    ),
    neutral("prompt_embeds", &[], r#""prompt_embeds": "AAAA""#, "Prompts are text or token ids."),
];

const FIM_ONLY: &[Field] = &[
    honoured(
        "prompt",
        r#""prompt": "def add(a, b):""#,
        r#""prompt": ["a", "b"]"#,
        "The text before the gap. Where the tokenizer has no tokens for a gap it is refused.",
    ),
    honoured("suffix", r#""suffix": "return c""#, r#""suffix": 1"#, "The text after the gap; none if absent."),
];

/// Fields that would change how a conversation becomes a prompt.
const TEMPLATE: &[Field] = &[
    neutral("chat_template", &[], r#""chat_template": "x""#, "The template is the checkpoint's."),
    neutral("chat_template_kwargs", &["{}"], r#""chat_template_kwargs": {"a": 1}"#, "The template takes no arguments."),
    neutral("mm_processor_kwargs", &["{}"], r#""mm_processor_kwargs": {"a": 1}"#, "Only text is served."),
];

/// Who answers.
const MODEL: &[Field] =
    &[honoured("model", r#""model": "tiny""#, r#""model": 1"#, "One of the served names; any other answers 404.")];

/// Fields that shape generation, whatever the prompt was.
const GENERATION: &[Field] = &[
    honoured(
        "max_tokens",
        r#""max_tokens": 4"#,
        r#""max_tokens": -1"#,
        "At least 1; as many as fit the longest sequence if absent.",
    ),
    honoured("temperature", r#""temperature": 0.5"#, r#""temperature": 2.5"#, "0 (greedy) to 2."),
    honoured("top_p", r#""top_p": 0.5"#, r#""top_p": 0"#, "Above 0, at most 1."),
    honoured("n", r#""n": 2"#, r#""n": 0"#, "1 to 128 choices; with `seed`, choice i has seed + i."),
    honoured(
        "stop",
        r#""stop": ["a", "b"]"#,
        r#""stop": [1]"#,
        "Up to 16 texts; matched on the answer, not on reasoning or tool calls, after `min_tokens`.",
    ),
    honoured("seed", r#""seed": 7"#, r#""seed": "x""#, "The same seed and request give the same answer."),
    honoured("random_seed", r#""random_seed": 7"#, r#""random_seed": 7, "seed": 8"#, "Mistral's name of `seed`."),
    honoured("stream", r#""stream": true"#, r#""stream": "yes""#, "Server-sent events."),
    honoured(
        "stream_options",
        r#""stream": true, "stream_options": {"include_usage": true, "continuous_usage_stats": true}"#,
        r#""stream": true, "stream_options": {"include_obfuscation": true}"#,
        "`include_usage`, `continuous_usage_stats`, and `include_obfuscation` false.",
    ),
    honoured("frequency_penalty", r#""frequency_penalty": 0.5"#, r#""frequency_penalty": 3"#, "-2 to 2."),
    honoured("presence_penalty", r#""presence_penalty": 0.5"#, r#""presence_penalty": -3"#, "-2 to 2."),
    honoured(
        "logit_bias",
        r#""logit_bias": {"5": -100}"#,
        r#""logit_bias": {"x": 1}"#,
        "Token id to a number from -100 to 100.",
    ),
    honoured("top_k", r#""top_k": 5"#, r#""top_k": -2"#, "0 or -1 is off."),
    honoured("min_p", r#""min_p": 0.1"#, r#""min_p": 1.5"#, "0 to 1."),
    honoured("typical_p", r#""typical_p": 0.9"#, r#""typical_p": 0"#, "Above 0, at most 1; locally typical sampling."),
    honoured(
        "allowed_token_ids",
        r#""allowed_token_ids": [1, 2, 3]"#,
        r#""allowed_token_ids": []"#,
        "Only these ids can be chosen.",
    ),
    honoured(
        "bad_words",
        r#""bad_words": ["no"]"#,
        r#""bad_words": [""]"#,
        "Up to 128 texts that the answer never completes, as tokens.",
    ),
    honoured(
        "repetition_penalty",
        r#""repetition_penalty": 1.1"#,
        r#""repetition_penalty": 0"#,
        "Above 0, at most 10.",
    ),
    honoured(
        "stop_token_ids",
        r#""stop_token_ids": [5]"#,
        r#""stop_token_ids": [99999999]"#,
        "Further ids that end the answer.",
    ),
    honoured(
        "include_stop_str_in_output",
        r#""include_stop_str_in_output": true"#,
        r#""include_stop_str_in_output": 1"#,
        "Keeps the text of what ended the answer.",
    ),
    honoured(
        "ignore_eos",
        r#""ignore_eos": true, "max_tokens": 4"#,
        r#""ignore_eos": 1"#,
        "Generates past the end of sequence.",
    ),
    honoured(
        "min_tokens",
        r#""min_tokens": 2, "max_tokens": 4"#,
        r#""min_tokens": 5, "max_tokens": 4"#,
        "Nothing ends the answer before.",
    ),
    honoured(
        "skip_special_tokens",
        r#""skip_special_tokens": false"#,
        r#""skip_special_tokens": 0"#,
        "False gives the raw text with control tokens; nothing is parsed into tool calls or reasoning.",
    ),
    honoured(
        "truncate_prompt_tokens",
        r#""truncate_prompt_tokens": 4"#,
        r#""truncate_prompt_tokens": 0"#,
        "Keeps so many tokens of the prompt; -1 keeps what fits.",
    ),
    honoured(
        "truncation_side",
        r#""truncate_prompt_tokens": 4, "truncation_side": "right""#,
        r#""truncation_side": "middle""#,
        "Which end is cut: `left` (default) or `right`.",
    ),
    honoured(
        "prompt_logprobs",
        r#""prompt_logprobs": 1"#,
        r#""prompt_logprobs": 21"#,
        "0 to 20, or true; not with `stream`.",
    ),
    PRIORITY,
    REQUEST_ID,
    CACHE_SALT,
    honoured(
        "return_token_ids",
        r#""return_token_ids": true"#,
        r#""return_token_ids": 1"#,
        "Adds `prompt_token_ids` and `token_ids`.",
    ),
    honoured(
        "return_tokens_as_token_ids",
        r#""return_tokens_as_token_ids": true"#,
        r#""return_tokens_as_token_ids": 1"#,
        "Log-probabilities name tokens as `token_id:5`.",
    ),
    honoured(
        "response_format",
        r#""response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "integer"}}}"#,
        r#""response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"enum": []}}}"#,
        "`text`, `json_object` (an object), `json_schema`: a schema binds whether it is called `strict` or not.",
    ),
    honoured(
        "structured_outputs",
        r#""structured_outputs": {"regex": "[0-9]{3}"}"#,
        r#""structured_outputs": {"structural_tag": "a"}"#,
        "One of `json`, `json_object`, `regex`, `choice`, `grammar` (Lark, as llguidance reads it), `structural_tag` \
         (`structures` and `triggers`); with JSON `whitespace_pattern`.",
    ),
    neutral("use_beam_search", &["false"], r#""use_beam_search": true"#, "There is no beam search."),
    neutral("length_penalty", &["1.0", "1"], r#""length_penalty": 2"#, "There is no beam search."),
    neutral("logprob_token_ids", &[], r#""logprob_token_ids": [1]"#, "Only the most likely tokens are reported."),
    neutral(
        "spaces_between_special_tokens",
        &["true", "false"],
        r#""spaces_between_special_tokens": 1"#,
        "Mistral's tokenizers put no spaces there in either case.",
    ),
    neutral("watermarking", &["false"], r#""watermarking": true"#, "There is no watermark."),
    neutral("repetition_detection", &[], r#""repetition_detection": {}"#, "Use the penalties."),
    neutral("stream_interval", &["1"], r#""stream_interval": 4"#, "Every token is sent at once."),
    neutral("return_prompt_text", &["false"], r#""return_prompt_text": true"#, "Use `/tokenize` and `/detokenize`."),
    neutral("kv_transfer_params", &[], r#""kv_transfer_params": {}"#, "Keys and values stay in this server."),
    neutral("vllm_xargs", &["{}"], r#""vllm_xargs": {"a": 1}"#, "There are no extensions."),
];

pub(super) const PRIORITY: Field =
    honoured("priority", r#""priority": 1"#, r#""priority": 0.5"#, "Lower is scheduled earlier.");

pub(super) const REQUEST_ID: Field = honoured(
    "request_id",
    r#""request_id": "abc""#,
    r#""request_id": 1"#,
    "Becomes part of `id` and the answer's `x-request-id`.",
);

pub(super) const CACHE_SALT: Field = honoured(
    "cache_salt",
    r#""cache_salt": "abc""#,
    r#""cache_salt": """#,
    "1 to 1024 characters; prefixes are shared only within the same salt.",
);

/// Fields that say something about the request rather than ask for something.
const LABELS: &[Field] = &[
    USER,
    METADATA,
    label("safety_identifier", r#""safety_identifier": "u""#, r#""safety_identifier": 1"#, WHOM),
    label("session_id", r#""session_id": "u""#, r#""session_id": 1"#, "Not stored, not used."),
    label(
        "prompt_cache_key",
        r#""prompt_cache_key": "k""#,
        r#""prompt_cache_key": 1"#,
        "A hint that the prefix cache does not need; to keep caches apart use `cache_salt`.",
    ),
    neutral(
        "prompt_cache_retention",
        &[r#""in_memory""#, r#""in-memory""#],
        r#""prompt_cache_retention": "24h""#,
        "The prefix cache is in memory.",
    ),
    neutral(
        "prompt_cache_options",
        &["{}"],
        r#""prompt_cache_options": {"mode": "explicit"}"#,
        "The prefix cache has no settings per request.",
    ),
    neutral("store", &["false"], r#""store": true"#, "Nothing is stored."),
    neutral(
        "service_tier",
        &[r#""auto""#, r#""default""#, r#""standard_only""#],
        r#""service_tier": "priority""#,
        "There is one tier; see `priority`.",
    ),
];

pub(super) const USER: Field = label("user", r#""user": "u""#, r#""user": 1"#, WHOM);

const WHOM: &str = "Not stored; marks the audit's record of it where nothing else says whom it is about.";

pub(super) const METADATA: Field =
    label("metadata", r#""metadata": {"a": "b"}"#, r#""metadata": "x""#, "Not stored, not used.");
