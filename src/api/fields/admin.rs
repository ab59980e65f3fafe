//! The rows of `/admin/v1`.

use super::{Field, Table, honoured};

const EXPIRES_IN: Field = honoured(
    "expires_in",
    r#""expires_in": 7776000"#,
    r#""expires_in": 0"#,
    "Seconds after which it is refused; never if absent. A key in place of another lasts as long as that if absent.",
);

/// `POST /admin/v1/keys`.
pub static ADMIN_KEYS: Table = Table {
    resource: "POST /admin/v1/keys",
    groups: &[&[
        honoured(
            "name",
            r#""name": "app""#,
            r#""name": "a b""#,
            "For people: 1 to 64 letters, digits, `-`, `_` or `.`; several keys may have it.",
        ),
        honoured(
            "tenant",
            r#""tenant": "default""#,
            r#""tenant": "nobody""#,
            "Whose it is; the caller's own tenant if absent.",
        ),
        honoured(
            "roles",
            r#""roles": ["developer", "service"]"#,
            r#""roles": ["boss"]"#,
            "At least one of `admin`, `operator`, `auditor`, `developer` and `service`; policies must let the caller give each.",
        ),
        honoured(
            "attributes",
            r#""attributes": {"team": "red"}"#,
            r#""attributes": {"team": 1}"#,
            "What policies may ask for: up to 32 texts of at most 256 bytes; policies must let the caller give each.",
        ),
        EXPIRES_IN,
    ]],
};

/// `POST /admin/v1/keys/{id}/rotate`.
pub static ADMIN_KEY_ROTATION: Table = Table {
    resource: "POST /admin/v1/keys/{id}/rotate",
    groups: &[&[
        honoured(
            "overlap",
            r#""overlap": 3600"#,
            r#""overlap": -1"#,
            "Seconds that the old key is still good for; 86400 if absent.",
        ),
        EXPIRES_IN,
    ]],
};

/// `POST /admin/v1/tenants`.
pub static ADMIN_TENANTS: Table = Table {
    resource: "POST /admin/v1/tenants",
    groups: &[&[
        honoured(
            "name",
            r#""name": "acme""#,
            r#""name": "../acme""#,
            "1 to 64 letters, digits, `-`, `_` or `.`, the first a letter or a digit.",
        ),
        SHARE_GROUP,
    ]],
};

/// `PUT /admin/v1/tenants/{name}/share_group`.
pub static ADMIN_SHARE_GROUP: Table =
    Table { resource: "PUT /admin/v1/tenants/{name}/share_group", groups: &[&[SHARE_GROUP]] };

const SHARE_GROUP: Field = honoured(
    "share_group",
    r#""share_group": "friends""#,
    r#""share_group": """#,
    "Tenants of one group share cached prefixes, and can tell by the time of an answer what another has asked.",
);

/// `POST /admin/v1/policies/explain`.
pub static ADMIN_EXPLANATION: Table = Table {
    resource: "POST /admin/v1/policies/explain",
    groups: &[&[
        honoured("action", r#""action": "infer""#, r#""action": "fly""#, "What is done, as policies have it."),
        honoured(
            "resource",
            r#""resource": "tiny""#,
            r#""resource": 1"#,
            "The model's name, the kind of thing, the role, or the attribute as `NAME=VALUE`.",
        ),
        honoured("roles", r#""roles": ["service"]"#, r#""roles": "service""#, "Of whoever asks; none if absent."),
        honoured("tenant", r#""tenant": "acme""#, r#""tenant": 1"#, "Of whoever asks; the caller's own if absent."),
        honoured("attributes", r#""attributes": {"team": "red"}"#, r#""attributes": []"#, "Of whoever asks."),
        honoured("purpose", r#""purpose": "support""#, r#""purpose": 1"#, "What the request says of itself."),
        honoured(
            "data_classification",
            r#""data_classification": "personal""#,
            r#""data_classification": 1"#,
            "What the request says of itself.",
        ),
        honoured("consent", r#""consent": "c-17""#, r#""consent": 1"#, "What the request says of itself."),
        honoured(
            "route",
            r#""route": "/v1/chat/completions""#,
            r#""route": 1"#,
            "Where it is sent, with parameters in braces.",
        ),
    ]],
};

/// `PUT /admin/v1/quotas`.
pub static ADMIN_QUOTAS: Table = Table {
    resource: "PUT /admin/v1/quotas",
    groups: &[
        &[
            honoured(
                "key",
                r#""key": "subject""#,
                r#""key": """#,
                "Who is limited, alone or with `tenant` and `model`: a key's id, the beginning of that or its name, or the subject of a token.",
            ),
            honoured(
                "tenant",
                r#""tenant": "*""#,
                r#""tenant": "nobody""#,
                "Who is limited; `*` is every tenant's own limit, where a tenant has none itself.",
            ),
            honoured(
                "model",
                r#""model": "tiny""#,
                r#""model": """#,
                "What is limited, by the first name that it is served under.",
            ),
        ],
        &[
            honoured(
                "requests_per_minute",
                r#""requests_per_minute": 60"#,
                r#""requests_per_minute": -1"#,
                "Requests admitted in any 60 seconds. At least one limit must be given.",
            ),
            honoured(
                "tokens_per_minute",
                r#""tokens_per_minute": 100000"#,
                r#""tokens_per_minute": 1.5"#,
                "Tokens of prompts and answers admitted in any 60 seconds.",
            ),
            honoured(
                "concurrent_requests",
                r#""concurrent_requests": 8"#,
                r#""concurrent_requests": "8""#,
                "Requests that are being answered.",
            ),
            honoured(
                "tokens_per_day",
                r#""tokens_per_day": 1000000"#,
                r#""tokens_per_day": -1"#,
                "Tokens of a day in UTC.",
            ),
            honoured(
                "tokens_per_month",
                r#""tokens_per_month": 50000000"#,
                r#""tokens_per_month": -1"#,
                "Tokens of a month in UTC.",
            ),
        ],
    ],
};
