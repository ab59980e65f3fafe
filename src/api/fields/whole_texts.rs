//! The rows of what is asked of whole texts: embeddings, similarities, classes and moderation.

use super::{
    Field, Table, honoured, neutral,
    tables::{CACHE_SALT, METADATA, PRIORITY, REQUEST_ID, USER},
};

/// `POST /v1/embeddings`.
pub static EMBEDDINGS: Table = Table {
    resource: "POST /v1/embeddings",
    groups: &[
        &[
            INPUT,
            MODEL,
            honoured(
                "dimensions",
                r#""dimensions": 4"#,
                r#""dimensions": 0"#,
                "Keeps so many of the vector's first values, at most as many as it has, and scales them to length 1 again.",
            ),
            honoured(
                "output_dimension",
                r#""output_dimension": 4"#,
                r#""output_dimension": 100000"#,
                "Mistral's name of it.",
            ),
            honoured(
                "encoding_format",
                r#""encoding_format": "base64""#,
                r#""encoding_format": "hex""#,
                "`float`, or `base64` of little-endian f32 (or of the bytes of `output_dtype`).",
            ),
            honoured(
                "output_dtype",
                r#""output_dtype": "int8""#,
                r#""output_dtype": "int4""#,
                "`float`, `int8`, `uint8`, `binary`, `ubinary`: see above.",
            ),
            honoured(
                "normalize",
                r#""normalize": false"#,
                r#""normalize": 1"#,
                "False leaves vectors at their length; by default they have length 1, unless the checkpoint's `modules.json` \
                 has no `Normalize`.",
            ),
        ],
        TOKENS,
        QUEUE,
        LABELS,
        &[
            neutral("messages", &[], r#""messages": [{"role": "user", "content": "a"}]"#, "Give the text as `input`."),
            neutral("chat_template", &[], r#""chat_template": "x""#, "Texts are embedded as they are."),
            neutral("embed_dtype", &[r#""float32""#], r#""embed_dtype": "float16""#, "Use `output_dtype`."),
            neutral(
                "endianness",
                &[r#""little""#, r#""native""#],
                r#""endianness": "big""#,
                "base64 is little-endian.",
            ),
            NO_IMAGES,
        ],
    ],
};

/// `POST /v1/rerank`.
pub static RERANK: Table = Table {
    resource: "POST /v1/rerank",
    groups: &[
        &[
            honoured("query", r#""query": "Hello""#, r#""query": ["Hello"]"#, "One text."),
            honoured(
                "documents",
                r#""documents": ["Hello", {"text": "Bye"}]"#,
                r#""documents": [{"title": "Hello"}]"#,
                "1 to 1,024 texts, or objects with a `text`.",
            ),
            MODEL,
            honoured("top_n", r#""top_n": 1"#, r#""top_n": -1"#, "Only so many of the best; 0 is all of them."),
            honoured(
                "return_documents",
                r#""return_documents": false"#,
                r#""return_documents": 1"#,
                "Sends their texts back; true by default.",
            ),
        ],
        TOKENS,
        QUEUE,
        LABELS,
        &[
            neutral("max_chunks_per_doc", &[], r#""max_chunks_per_doc": 2"#, "Documents are not cut into pieces."),
            neutral("max_tokens_per_doc", &[], r#""max_tokens_per_doc": 2"#, "Use `truncate_prompt_tokens`."),
            neutral("rank_fields", &[], r#""rank_fields": ["title"]"#, "Documents are texts."),
            NO_IMAGES,
        ],
    ],
};

/// `POST /v1/score`.
pub static SCORE: Table = Table {
    resource: "POST /v1/score",
    groups: &[
        &[
            honoured(
                "text_1",
                r#""text_1": "Hello", "queries": null"#,
                r#""text_1": 1, "queries": null"#,
                "One text, or as many as `text_2` has.",
            ),
            honoured(
                "text_2",
                r#""text_2": ["Hello", "Bye"], "documents": null"#,
                r#""text_2": [], "documents": null"#,
                "One text, or 1 to 1,024.",
            ),
            honoured("queries", r#""queries": ["Hello"]"#, r#""queries": ["a", "b", "c"]"#, "The same as `text_1`."),
            honoured("documents", r#""documents": ["Hello"]"#, r#""documents": [1]"#, "The same as `text_2`."),
            MODEL,
        ],
        TOKENS,
        QUEUE,
        LABELS,
        &[NO_IMAGES],
    ],
};

/// `POST /classify`.
pub static CLASSIFY: Table = Table {
    resource: "POST /classify",
    groups: &[
        &[
            INPUT,
            MODEL,
            honoured(
                "use_activation",
                r#""use_activation": false"#,
                r#""use_activation": 1"#,
                "False gives the head's scores as they are.",
            ),
        ],
        TOKENS,
        QUEUE,
        LABELS,
        &[
            neutral("messages", &[], r#""messages": [{"role": "user", "content": "a"}]"#, "Give the text as `input`."),
            NO_IMAGES,
        ],
    ],
};

/// `POST /v1/moderations`.
pub static MODERATIONS: Table = Table {
    resource: "POST /v1/moderations",
    groups: &[
        &[
            honoured(
                "input",
                r#""input": [{"type": "text", "text": "Hello"}]"#,
                r#""input": [{"type": "image_url", "image_url": {"url": "a"}}]"#,
                "A text, 1 to 32 texts, or one text in parts. Only text is judged.",
            ),
            MODEL,
        ],
        &[METADATA],
    ],
};

/// `POST /v1/chat/moderations`.
pub static CHAT_MODERATIONS: Table = Table {
    resource: "POST /v1/chat/moderations",
    groups: &[
        &[
            honoured(
                "input",
                r#""input": [[{"role": "user", "content": "Hello"}], [{"role": "user", "content": "Bye"}]]"#,
                r#""input": [{"role": "robot", "content": "Hello"}]"#,
                "A conversation, or 1 to 32 of them; the last message of each is judged.",
            ),
            MODEL,
        ],
        &[METADATA],
    ],
};

const INPUT: Field = honoured(
    "input",
    r#""input": ["Hello", "Bye"]"#,
    r#""input": [1, -1]"#,
    "A text, token ids, or a list of either; 1 to 2,048 of them. Texts get the tokens around them that the checkpoint's \
     tokenizer writes, token ids are taken as they are.",
);

const MODEL: Field =
    honoured("model", r#""model": "tiny""#, r#""model": 1"#, "One of the served names; any other answers 404.");

const NO_IMAGES: Field =
    neutral("mm_processor_kwargs", &["{}"], r#""mm_processor_kwargs": {"a": 1}"#, "Only text is served.");

/// How texts become tokens.
const TOKENS: &[Field] = &[
    honoured(
        "add_special_tokens",
        r#""add_special_tokens": false"#,
        r#""add_special_tokens": "no""#,
        "Writes the tokens around texts that the checkpoint's tokenizer writes; true by default.",
    ),
    honoured(
        "truncate_prompt_tokens",
        r#""truncate_prompt_tokens": 4"#,
        r#""truncate_prompt_tokens": 0"#,
        "Keeps so many tokens of each text, those around it included; -1 keeps what fits. Without it a longer text is refused.",
    ),
    honoured(
        "truncation_side",
        r#""truncate_prompt_tokens": 4, "truncation_side": "left""#,
        r#""truncation_side": "middle""#,
        "Which end is cut: `right` (default) or `left`.",
    ),
];

/// When it is computed.
const QUEUE: &[Field] = &[PRIORITY, REQUEST_ID, CACHE_SALT];

const LABELS: &[Field] = &[USER, METADATA];
