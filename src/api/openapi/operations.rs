//! Every operation, in the order of the document. A test compares them with the routes.

use super::{admin, agents, responses, whole_texts};
use crate::api::fields::{BATCH_JOBS, BATCHES, CHAT, COMPLETIONS, DETOKENIZE, FILES, FIM, TOKENIZE, Table};

/// One method of one path.
pub(super) struct Operation {
    /// In lower case.
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    /// Names of methods in generated clients.
    pub(super) id: &'static str,
    pub(super) tag: &'static str,
    pub(super) summary: &'static str,
    pub(super) query: &'static [Parameter],
    pub(super) body: Body,
    /// Fields of the body that must be there.
    pub(super) required: &'static [&'static str],
    pub(super) answer: Answer,
}

/// A parameter of the query.
pub(super) struct Parameter {
    pub(super) name: &'static str,
    /// JSON schema.
    pub(super) schema: &'static str,
    pub(super) note: &'static str,
}

pub(super) enum Body {
    None,
    Json(&'static Table),
    /// In OpenAI's dialect, and in Mistral's.
    Either(&'static Table, &'static Table),
    Form(&'static Table),
}

/// What the answer is when all goes well; names are those of `answers`.
pub(super) enum Answer {
    Json(&'static str),
    /// One object, or events of the second name if the request says `stream`.
    JsonOrEvents(&'static str, &'static str),
    /// One of two, by the dialect.
    Either(&'static str, &'static str),
    /// The same; the second also as events.
    EitherOrEvents(&'static str, &'static str, &'static str),
    Text,
    Bytes,
    /// 204.
    Nothing,
    /// 200 in OpenAI's dialect, 204 in Mistral's.
    JsonOrNothing(&'static str),
    /// It is always refused, with a sentence that says why.
    Never,
}

/// All of them.
pub(super) fn all() -> impl Iterator<Item = &'static Operation> {
    [
        GENERATION,
        whole_texts::OPERATIONS,
        responses::OPERATIONS,
        agents::OPERATIONS,
        MODELS,
        STORED,
        TOKENIZER,
        OPERATION,
        admin::OPERATIONS,
    ]
    .into_iter()
    .flatten()
}

const GENERATION: &[Operation] = &[
    Operation {
        id: "createChatCompletion",
        tag: "Generation",
        summary: "Answers a conversation, in either dialect.",
        required: &["messages"],
        answer: Answer::JsonOrEvents("ChatCompletion", "ChatCompletionEvent"),
        ..post("/v1/chat/completions", &CHAT)
    },
    Operation {
        id: "createCompletion",
        tag: "Generation",
        summary: "Continues texts or token ids.",
        required: &["prompt"],
        answer: Answer::JsonOrEvents("Completion", "CompletionEvent"),
        ..post("/v1/completions", &COMPLETIONS)
    },
    Operation {
        id: "createFimCompletion",
        tag: "Generation",
        summary: "Fills the gap between two texts (Mistral's API).",
        required: &["prompt"],
        answer: Answer::JsonOrEvents("ChatCompletion", "ChatCompletionEvent"),
        ..post("/v1/fim/completions", &FIM)
    },
];

const MODELS: &[Operation] = &[
    Operation {
        id: "listModels",
        tag: "Models",
        summary: "What is served.",
        answer: Answer::Json("ModelList"),
        ..get("/v1/models")
    },
    Operation {
        id: "getModel",
        tag: "Models",
        summary: "One served name.",
        answer: Answer::Json("Model"),
        ..get("/v1/models/{model}")
    },
    Operation {
        id: "deleteModel",
        tag: "Models",
        summary: "Not served: what is served is decided when the server starts.",
        method: "delete",
        answer: Answer::Never,
        ..get("/v1/models/{model}")
    },
];

const STORED: &[Operation] = &[
    Operation {
        id: "uploadFile",
        tag: "Files",
        summary: "Stores a file.",
        body: Body::Form(&FILES),
        required: &["file", "purpose"],
        answer: Answer::Json("File"),
        ..post("/v1/files", &FILES)
    },
    Operation {
        id: "listFiles",
        tag: "Files",
        summary: "Stored files, newest first.",
        query: FILE_LIST,
        answer: Answer::Json("FileList"),
        ..get("/v1/files")
    },
    Operation {
        id: "getFile",
        tag: "Files",
        summary: "What is known of a file.",
        answer: Answer::Json("File"),
        ..get("/v1/files/{id}")
    },
    Operation {
        id: "deleteFile",
        tag: "Files",
        summary: "Deletes a file.",
        method: "delete",
        answer: Answer::Json("Deleted"),
        ..get("/v1/files/{id}")
    },
    Operation {
        id: "downloadFile",
        tag: "Files",
        summary: "The content of a file.",
        answer: Answer::Bytes,
        ..get("/v1/files/{id}/content")
    },
    Operation {
        id: "createBatch",
        tag: "Batches",
        summary: "Answers the requests of a file behind everybody else's (OpenAI's API).",
        required: &["input_file_id", "endpoint", "completion_window"],
        answer: Answer::Json("Batch"),
        ..post("/v1/batches", &BATCHES)
    },
    Operation {
        id: "listBatches",
        tag: "Batches",
        summary: "Batches, newest first.",
        query: PAGE,
        answer: Answer::Json("BatchList"),
        ..get("/v1/batches")
    },
    Operation {
        id: "getBatch",
        tag: "Batches",
        summary: "One batch as it is now.",
        answer: Answer::Json("Batch"),
        ..get("/v1/batches/{id}")
    },
    Operation {
        id: "cancelBatch",
        tag: "Batches",
        summary: "Lines that are not done will not be.",
        method: "post",
        answer: Answer::Json("Batch"),
        ..get("/v1/batches/{id}/cancel")
    },
    Operation {
        id: "createBatchJob",
        tag: "Batches",
        summary: "Answers the requests of files, or of the body, behind everybody else's (Mistral's API).",
        required: &["endpoint"],
        answer: Answer::Json("BatchJob"),
        ..post("/v1/batch/jobs", &BATCH_JOBS)
    },
    Operation {
        id: "listBatchJobs",
        tag: "Batches",
        summary: "Jobs, newest first.",
        query: JOB_LIST,
        answer: Answer::Json("BatchJobList"),
        ..get("/v1/batch/jobs")
    },
    Operation {
        id: "getBatchJob",
        tag: "Batches",
        summary: "One job as it is now.",
        query: &[Parameter {
            name: "inline",
            schema: r#"{ "type": "boolean" }"#,
            note: "True puts the results into `outputs`, if they are not too long for that.",
        }],
        answer: Answer::Json("BatchJob"),
        ..get("/v1/batch/jobs/{id}")
    },
    Operation {
        id: "deleteBatchJob",
        tag: "Batches",
        summary: "Deletes a job that has ended, with its results.",
        method: "delete",
        answer: Answer::Json("Deleted"),
        ..get("/v1/batch/jobs/{id}")
    },
    Operation {
        id: "cancelBatchJob",
        tag: "Batches",
        summary: "Lines that are not done will not be.",
        method: "post",
        answer: Answer::Json("BatchJob"),
        ..get("/v1/batch/jobs/{id}/cancel")
    },
];

const TOKENIZER: &[Operation] = &[
    Operation {
        id: "tokenize",
        tag: "Tokenizer",
        summary: "A text or a conversation as token ids.",
        answer: Answer::Json("Tokenized"),
        ..post("/tokenize", &TOKENIZE)
    },
    Operation {
        id: "detokenize",
        tag: "Tokenizer",
        summary: "Token ids as text.",
        required: &["tokens"],
        answer: Answer::Json("Detokenized"),
        ..post("/detokenize", &DETOKENIZE)
    },
];

const OPERATION: &[Operation] = &[
    Operation { id: "getHealth", summary: "Does the server take work?", ..health("/health") },
    Operation { id: "getLiveness", summary: "Does the process answer?", ..health("/health/live") },
    Operation { id: "getReadiness", summary: "Does the server take work?", ..health("/health/ready") },
    Operation {
        id: "getLoad",
        tag: "Operation",
        summary: "Requests being handled.",
        answer: Answer::Json("Load"),
        ..get("/load")
    },
    Operation {
        id: "getVersion",
        tag: "Operation",
        summary: "What is running.",
        answer: Answer::Json("Version"),
        ..get("/version")
    },
    Operation {
        id: "getMetrics",
        tag: "Operation",
        summary: "Prometheus' text format.",
        answer: Answer::Text,
        ..get("/metrics")
    },
    Operation {
        id: "getOpenApi",
        tag: "Operation",
        summary: "This document.",
        answer: Answer::Json("Document"),
        ..get("/openapi.json")
    },
];

pub(super) const LIMIT: Parameter = Parameter {
    name: "limit",
    schema: r#"{ "type": "integer", "minimum": 1, "maximum": 100 }"#,
    note: "Most objects of one answer.",
};
pub(super) const AFTER: Parameter =
    Parameter { name: "after", schema: r#"{ "type": "string" }"#, note: "The id behind which the list goes on." };
pub(super) const ORDER: Parameter = Parameter {
    name: "order",
    schema: r#"{ "type": "string", "enum": ["asc", "desc"] }"#,
    note: "By the time of creation; `desc` if absent.",
};
pub(super) const PAGE_NUMBER: Parameter = Parameter {
    name: "page",
    schema: r#"{ "type": "integer", "minimum": 0, "maximum": 4294967296 }"#,
    note: "Mistral's: counted from 0.",
};
pub(super) const PAGE_SIZE: Parameter = Parameter {
    name: "page_size",
    schema: r#"{ "type": "integer", "minimum": 1, "maximum": 1000 }"#,
    note: "Mistral's: most objects of one answer.",
};
pub(super) const PAGE: &[Parameter] = &[LIMIT, AFTER, ORDER, PAGE_NUMBER, PAGE_SIZE];

const FILE_LIST: &[Parameter] = &[
    Parameter {
        name: "limit",
        schema: r#"{ "type": "integer", "minimum": 1, "maximum": 10000 }"#,
        note: "Most objects of one answer.",
    },
    AFTER,
    ORDER,
    PAGE_NUMBER,
    PAGE_SIZE,
    Parameter { name: "purpose", schema: r#"{ "type": "string" }"#, note: "Only files with this purpose." },
    Parameter {
        name: "search",
        schema: r#"{ "type": "string" }"#,
        note: "Mistral's: only files with this text in their names, letters of ASCII in whatever case.",
    },
    Parameter {
        name: "source",
        schema: r#"{ "type": "array", "items": { "type": "string", "enum": ["upload", "repository", "mistral"] } }"#,
        note: "Mistral's: only files with one of these.",
    },
    Parameter {
        name: "sample_type",
        schema: r#"{ "type": "array", "items": { "type": "string",
            "enum": ["pretrain", "instruct", "batch_request", "batch_result", "batch_error"] } }"#,
        note: "Mistral's: only files with one of these.",
    },
    Parameter {
        name: "include_total",
        schema: r#"{ "type": "boolean" }"#,
        note: "Mistral's: false leaves `total` null.",
    },
];

const JOB_LIST: &[Parameter] = &[
    LIMIT,
    AFTER,
    ORDER,
    PAGE_NUMBER,
    PAGE_SIZE,
    Parameter {
        name: "order_by",
        schema: r#"{ "type": "string", "enum": ["created", "-created"] }"#,
        note: "Mistral's name of `order`.",
    },
    Parameter { name: "model", schema: r#"{ "type": "string" }"#, note: "Only jobs of this model." },
    Parameter {
        name: "status",
        schema: r#"{ "type": "array", "items": { "type": "string", "enum": ["QUEUED", "RUNNING", "SUCCESS", "FAILED",
            "TIMEOUT_EXCEEDED", "CANCELLATION_REQUESTED", "CANCELLED"] } }"#,
        note: "Only jobs with one of these.",
    },
    Parameter {
        name: "created_after",
        schema: r#"{ "type": "string", "format": "date-time" }"#,
        note: "Only jobs created after this time (UTC).",
    },
    Parameter {
        name: "created_by_me",
        schema: r#"{ "const": false }"#,
        note: "The server does not tell its users apart.",
    },
];

pub(super) const fn get(path: &'static str) -> Operation {
    Operation {
        method: "get",
        path,
        id: "",
        tag: "",
        summary: "",
        query: &[],
        body: Body::None,
        required: &[],
        answer: Answer::Text,
    }
}

pub(super) const fn post(path: &'static str, table: &'static Table) -> Operation {
    Operation { method: "post", body: Body::Json(table), ..get(path) }
}

const fn health(path: &'static str) -> Operation {
    Operation { tag: "Operation", answer: Answer::Json("Health"), ..get(path) }
}
