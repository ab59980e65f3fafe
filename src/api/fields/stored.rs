//! The rows of what is stored: files and batches.

use super::{Field, Table, honoured, neutral};

/// `POST /v1/files`, whose fields are those of a form.
pub static FILES: Table = Table {
    resource: "POST /v1/files",
    groups: &[&[
        honoured("file", r#""file": "{}""#, r#""file": """#, "The content, as a part of the form with a filename."),
        honoured(
            "purpose",
            r#""purpose": "batch""#,
            r#""purpose": "fine-tune""#,
            "`batch`; nothing else would be done with a file here.",
        ),
        honoured(
            "expires_after",
            r#""expires_after": {"anchor": "created_at", "seconds": 3600}"#,
            r#""expires_after": {"anchor": "created_at", "seconds": 0}"#,
            "OpenAI's: seconds, at most `--retention`, after which the file is deleted.",
        ),
        honoured("expiry", r#""expiry": 24"#, r#""expiry": 0"#, "Mistral's: hours, at most `--retention`."),
        neutral(
            "visibility",
            &[r#""workspace""#],
            r#""visibility": "user""#,
            "The server does not tell its users apart.",
        ),
    ]],
};

/// `POST /v1/batches`.
pub static BATCHES: Table = Table {
    resource: "POST /v1/batches",
    groups: &[
        &[
            honoured(
                "input_file_id",
                r#""input_file_id": "file-abc123""#,
                r#""input_file_id": "file-unknown""#,
                "A file with the purpose `batch`, a request on each line.",
            ),
            honoured(
                "completion_window",
                r#""completion_window": "24h""#,
                r#""completion_window": "1h""#,
                "`24h`: lines that are not answered by then never will be.",
            ),
        ],
        BOTH,
        &[honoured(
            "output_expires_after",
            r#""output_expires_after": {"anchor": "created_at", "seconds": 3600}"#,
            r#""output_expires_after": {"anchor": "created_at", "seconds": 0}"#,
            "Seconds, at most `--retention`, after which the result files are deleted, counted from the batch's end.",
        )],
    ],
};

/// `POST /v1/batch/jobs`.
pub static BATCH_JOBS: Table = Table {
    resource: "POST /v1/batch/jobs",
    groups: &[
        &[
            honoured(
                "input_files",
                r#""input_files": ["file-abc123"]"#,
                r#""input_files": ["file-unknown"]"#,
                "Files with the purpose `batch`; or give `requests`.",
            ),
            honoured(
                "requests",
                r#""requests": [{"custom_id": "a", "body": {"messages": [{"role": "user", "content": "Hello"}]}}]"#,
                r#""requests": [{"custom_id": "a"}]"#,
                "The requests themselves; one without `custom_id` is known by its index.",
            ),
            honoured("model", r#""model": "tiny""#, r#""model": 1"#, "One of the served names; any other answers 404."),
            honoured("timeout_hours", r#""timeout_hours": 24"#, r#""timeout_hours": 0"#, "1 to 168; 24 if absent."),
        ],
        BOTH,
        &[neutral("agent_id", &[], r#""agent_id": "a""#, "Batches ask models, not agents.")],
    ],
};

const BOTH: &[Field] = &[
    honoured(
        "endpoint",
        r#""endpoint": "/v1/chat/completions""#,
        r#""endpoint": "/v1/rerank""#,
        "`/v1/chat/completions`, `/v1/completions`, `/v1/fim/completions`, `/v1/embeddings`, `/v1/moderations`, \
         `/v1/chat/moderations` or `/v1/responses`.",
    ),
    honoured(
        "metadata",
        r#""metadata": {"a": "b"}"#,
        r#""metadata": {"a": 1}"#,
        "Kept and given back: up to 16 strings of at most 512 characters.",
    ),
];
