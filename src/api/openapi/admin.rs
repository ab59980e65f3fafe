//! `/admin/v1`: its operations, the types of its fields, and its answers.

use serde_json::{Value, json};

use super::{
    operations::{Answer, Operation, Parameter, get, post},
    schema::{constant, flag, integer, list, map_of, object, or_null, reference, text, words},
};
use crate::api::fields::{
    ADMIN_EXPLANATION, ADMIN_KEY_ROTATION, ADMIN_KEYS, ADMIN_QUOTAS, ADMIN_SHARE_GROUP, ADMIN_TENANTS,
};

const TAG: &str = "Administration";

pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        id: "listKeys",
        tag: TAG,
        summary: "API keys without their secrets, newest first.",
        query: KEY_LIST,
        answer: Answer::Json("AdminKeyList"),
        ..get("/admin/v1/keys")
    },
    Operation {
        id: "createKey",
        tag: TAG,
        summary: "Makes an API key. Its secret is in this answer only.",
        required: &["name", "roles"],
        answer: Answer::Json("CreatedAdminKey"),
        ..post("/admin/v1/keys", &ADMIN_KEYS)
    },
    Operation {
        id: "getKey",
        tag: TAG,
        summary: "An API key without its secret.",
        answer: Answer::Json("AdminKey"),
        ..get("/admin/v1/keys/{id}")
    },
    Operation {
        id: "deleteKey",
        tag: TAG,
        summary: "Ends an API key at once, and what its bearers are being answered.",
        method: "delete",
        answer: Answer::Json("AdminKey"),
        ..get("/admin/v1/keys/{id}")
    },
    Operation {
        id: "revokeKey",
        tag: TAG,
        summary: "The same for clients that have no DELETE.",
        method: "post",
        answer: Answer::Json("AdminKey"),
        ..get("/admin/v1/keys/{id}/revoke")
    },
    Operation {
        id: "rotateKey",
        tag: TAG,
        summary: "Makes an API key in place of another. Its secret is in this answer only.",
        answer: Answer::Json("CreatedAdminKey"),
        ..post("/admin/v1/keys/{id}/rotate", &ADMIN_KEY_ROTATION)
    },
    Operation {
        id: "listTenants",
        tag: TAG,
        summary: "Tenants, by name.",
        answer: Answer::Json("AdminTenantList"),
        ..get("/admin/v1/tenants")
    },
    Operation {
        id: "createTenant",
        tag: TAG,
        summary: "Makes a tenant.",
        required: &["name"],
        answer: Answer::Json("AdminTenant"),
        ..post("/admin/v1/tenants", &ADMIN_TENANTS)
    },
    Operation {
        id: "getTenant",
        tag: TAG,
        summary: "One tenant.",
        answer: Answer::Json("AdminTenant"),
        ..get("/admin/v1/tenants/{name}")
    },
    Operation {
        id: "deleteTenant",
        tag: TAG,
        summary: "Deletes a tenant, ends its keys and erases what it has stored.",
        method: "delete",
        answer: Answer::Json("DeletedAdminTenant"),
        ..get("/admin/v1/tenants/{name}")
    },
    Operation {
        id: "shareTenant",
        tag: TAG,
        summary: "Has a tenant share cached prefixes with those of a group.",
        method: "put",
        required: &["share_group"],
        answer: Answer::Json("AdminTenant"),
        ..post("/admin/v1/tenants/{name}/share_group", &ADMIN_SHARE_GROUP)
    },
    Operation {
        id: "unshareTenant",
        tag: TAG,
        summary: "Has a tenant share cached prefixes with nobody.",
        method: "delete",
        answer: Answer::Json("AdminTenant"),
        ..get("/admin/v1/tenants/{name}/share_group")
    },
    Operation {
        id: "listRoles",
        tag: TAG,
        summary: "The roles, and what the policies in force let each of them do.",
        answer: Answer::Json("AdminRoleList"),
        ..get("/admin/v1/roles")
    },
    Operation {
        id: "getPolicies",
        tag: TAG,
        summary: "The policies in force.",
        answer: Answer::Json("AdminPolicies"),
        ..get("/admin/v1/policies")
    },
    Operation {
        id: "reloadPolicies",
        tag: TAG,
        summary: "Reads the policies again; wrong ones change nothing.",
        method: "post",
        answer: Answer::Json("AdminPolicies"),
        ..get("/admin/v1/policies/reload")
    },
    Operation {
        id: "explainPolicies",
        tag: TAG,
        summary: "May somebody do something, and by which policy?",
        required: &["action", "resource"],
        answer: Answer::Json("AdminDecision"),
        ..post("/admin/v1/policies/explain", &ADMIN_EXPLANATION)
    },
    Operation {
        id: "getGuardrails",
        tag: TAG,
        summary: "The guardrails in force.",
        answer: Answer::Json("AdminGuardrails"),
        ..get("/admin/v1/guardrails")
    },
    Operation {
        id: "reloadGuardrails",
        tag: TAG,
        summary: "Reads the guardrails again; wrong ones change nothing.",
        method: "post",
        answer: Answer::Json("AdminGuardrails"),
        ..get("/admin/v1/guardrails/reload")
    },
    Operation {
        id: "listQuotas",
        tag: TAG,
        summary: "What keys, tenants and models may be asked for.",
        query: QUOTA_LIST,
        answer: Answer::Json("AdminQuotaList"),
        ..get("/admin/v1/quotas")
    },
    Operation {
        id: "setQuota",
        tag: TAG,
        summary: "Limits a key, a tenant, a model, or several of them together, in place of what limited exactly these.",
        method: "put",
        answer: Answer::Json("AdminQuota"),
        ..post("/admin/v1/quotas", &ADMIN_QUOTAS)
    },
    Operation {
        id: "deleteQuota",
        tag: TAG,
        summary: "Limits exactly these no more.",
        method: "delete",
        query: QUOTA_LIST,
        answer: Answer::Json("DeletedAdminQuota"),
        ..get("/admin/v1/quotas")
    },
    Operation {
        id: "listUsage",
        tag: TAG,
        summary: "Tokens used of budgets by day and month, the latest first.",
        query: QUOTA_LIST,
        answer: Answer::Json("AdminUsageList"),
        ..get("/admin/v1/usage")
    },
    Operation {
        id: "listAuditRecords",
        tag: TAG,
        summary: "Records of the audit log, oldest first.",
        query: AUDIT_LIST,
        answer: Answer::Json("AdminAuditList"),
        ..get("/admin/v1/audit")
    },
    Operation {
        id: "verifyAudit",
        tag: TAG,
        summary: "Is the audit log what was written?",
        answer: Answer::Json("AdminAuditVerification"),
        ..get("/admin/v1/audit/verify")
    },
    Operation {
        id: "exportSubject",
        tag: TAG,
        summary: "Everything that is held about a person, one thing after the other. Two at once; one more answers 429.",
        query: SUBJECT,
        answer: Answer::Json("AdminSubject"),
        ..get("/admin/v1/subjects")
    },
    Operation {
        id: "deleteSubject",
        tag: TAG,
        summary: "Deletes everything that is held about a person; records of the audit log stay, without content.",
        method: "delete",
        query: SUBJECT,
        answer: Answer::Json("DeletedAdminSubject"),
        ..get("/admin/v1/subjects")
    },
    Operation {
        id: "getStatus",
        tag: TAG,
        summary: "The server at a glance.",
        answer: Answer::Json("AdminStatus"),
        ..get("/admin/v1/status")
    },
];

const KEY_LIST: &[Parameter] = &[
    Parameter { name: "prefix", schema: r#"{ "type": "string" }"#, note: "Only keys whose id begins so." },
    Parameter { name: "name", schema: r#"{ "type": "string" }"#, note: "Only keys of this name." },
    Parameter { name: "tenant", schema: r#"{ "type": "string" }"#, note: "Only keys of this tenant." },
    Parameter {
        name: "state",
        schema: r#"{ "type": "string", "enum": ["active", "expired", "revoked"] }"#,
        note: "Only keys that are so.",
    },
    Parameter { name: "after", schema: r#"{ "type": "string" }"#, note: "The id behind which the list goes on." },
    Parameter {
        name: "limit",
        schema: r#"{ "type": "integer", "minimum": 1, "maximum": 1000 }"#,
        note: "Most keys of one answer; 100 if absent.",
    },
];

const QUOTA_LIST: &[Parameter] = &[
    Parameter {
        name: "key",
        schema: r#"{ "type": "string" }"#,
        note: "A key's id, the beginning of that or its name, or the subject of a token.",
    },
    Parameter { name: "tenant", schema: r#"{ "type": "string" }"#, note: "A tenant, or `*`." },
    Parameter { name: "model", schema: r#"{ "type": "string" }"#, note: "A model." },
];

const AUDIT_LIST: &[Parameter] = &[
    Parameter { name: "id", schema: r#"{ "type": "string" }"#, note: "A request's id, or a sequence number." },
    Parameter { name: "tenant", schema: r#"{ "type": "string" }"#, note: "Only records of this tenant." },
    Parameter {
        name: "principal",
        schema: r#"{ "type": "string" }"#,
        note: "Only records of this principal, by its id.",
    },
    Parameter {
        name: "kind",
        schema: r#"{ "type": "array", "items": { "type": "string" } }"#,
        note: "Only records of these kinds, such as `begun`, `ended`, `act` or `refused`.",
    },
    Parameter {
        name: "from",
        schema: r#"{ "type": "string", "format": "date-time" }"#,
        note: "Not before this time (UTC).",
    },
    Parameter {
        name: "until",
        schema: r#"{ "type": "string", "format": "date-time" }"#,
        note: "Before this time (UTC).",
    },
    Parameter {
        name: "after",
        schema: r#"{ "type": "integer", "minimum": 0 }"#,
        note: "The sequence number behind which the list goes on: `next` of a part.",
    },
    Parameter {
        name: "limit",
        schema: r#"{ "type": "integer", "minimum": 1, "maximum": 1000 }"#,
        note: "Most records of one answer; 100 if absent.",
    },
];

const SUBJECT: &[Parameter] = &[
    Parameter {
        name: "subject",
        schema: r#"{ "type": "string", "minLength": 1 }"#,
        note: "Whom the data is about, as requests have named it; it must be there.",
    },
    Parameter {
        name: "tenant",
        schema: r#"{ "type": "string" }"#,
        note: "The tenant whose data it is; the caller's own if absent.",
    },
];

const ROLES: &[&str] = &["admin", "operator", "auditor", "developer", "service"];
const LIMITS: &[&str] =
    &["requests_per_minute", "tokens_per_minute", "concurrent_requests", "tokens_per_day", "tokens_per_month"];
/// A hundred years, in seconds.
const LONGEST: i64 = 100 * 365 * 24 * 60 * 60;

/// Types of fields.
pub(super) fn field(resource: &str, field: &str) -> Option<Value> {
    if !resource.contains("/admin/") {
        return None;
    }
    let name = json!({ "type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$" });
    let schema = match field {
        "name" | "share_group" => name,
        "roles" if resource.ends_with("/keys") => {
            json!({ "type": "array", "items": words(ROLES), "minItems": 1, "uniqueItems": true })
        }
        "roles" => list(text()),
        "attributes" => map_of(text()),
        "expires_in" => json!({ "type": "integer", "minimum": 1, "maximum": LONGEST }),
        "overlap" => json!({ "type": "integer", "minimum": 0, "maximum": LONGEST }),
        "key" | "model" => json!({ "type": "string", "minLength": 1 }),
        _ if LIMITS.contains(&field) => json!({ "type": "integer", "minimum": 0, "maximum": i64::MAX }),
        "tenant" | "action" | "resource" | "purpose" | "data_classification" | "consent" | "route" => text(),
        _ => return None,
    };
    Some(schema)
}

/// Answers.
pub(super) fn schemas() -> Vec<(&'static str, Value)> {
    let key = [
        ("object", constant("admin.key")),
        ("id", text()),
        ("name", text()),
        ("tenant", text()),
        ("roles", list(words(ROLES))),
        ("attributes", map_of(text())),
        ("created_at", integer()),
        ("expires_at", or_null(integer())),
        ("revoked_at", or_null(integer())),
        ("replaced_by", or_null(text())),
        ("state", words(&["active", "expired", "revoked"])),
    ];
    let list_of = |item: &str| object(&[("object", constant("list")), ("data", list(reference(item)))]);
    let right = object(&[("action", text()), ("resource", text()), ("policies", list(text()))]);
    let model = object(&[("name", text()), ("names", list(text())), ("digest", text()), ("since", integer())]);
    let counts = object(&[("active", integer()), ("expired", integer()), ("revoked", integer())]);
    let scope = [("key", or_null(text())), ("tenant", or_null(text())), ("model", or_null(text()))];
    let limits: Vec<(&str, Value)> = LIMITS.iter().map(|name| (*name, or_null(integer()))).collect();
    let of_scope =
        |kind: &str, more: &[(&str, Value)]| object(&[&[("object", constant(kind))], &scope[..], more].concat());
    vec![
        ("AdminQuota", of_scope("admin.quota", &limits)),
        ("AdminQuotaList", list_of("AdminQuota")),
        ("DeletedAdminQuota", of_scope("admin.quota.deleted", &[("deleted", flag())])),
        ("AdminUsage", of_scope("admin.usage", &[("period", text()), ("tokens", integer())])),
        ("AdminUsageList", list_of("AdminUsage")),
        ("AdminKey", object(&key)),
        ("CreatedAdminKey", object(&[&key[..], &[("key", text())]].concat())),
        (
            "AdminKeyList",
            object(&[
                ("object", constant("list")),
                ("data", list(reference("AdminKey"))),
                ("first_id", or_null(text())),
                ("last_id", or_null(text())),
                ("has_more", flag()),
            ]),
        ),
        (
            "AdminTenant",
            object(&[
                ("object", constant("admin.tenant")),
                ("name", text()),
                ("created_at", integer()),
                ("share_group", or_null(text())),
                ("keys", integer()),
            ]),
        ),
        ("AdminTenantList", list_of("AdminTenant")),
        (
            "DeletedAdminTenant",
            object(&[
                ("object", constant("admin.tenant.deleted")),
                ("name", text()),
                ("deleted", flag()),
                ("revoked_keys", integer()),
                ("erased", flag()),
            ]),
        ),
        (
            "AdminRole",
            object(&[
                ("object", constant("admin.role")),
                ("name", words(ROLES)),
                ("description", text()),
                ("allowed", list(right)),
            ]),
        ),
        ("AdminRoleList", list_of("AdminRole")),
        (
            "AdminPolicies",
            object(&[
                ("object", constant("admin.policies")),
                ("source", text()),
                ("digest", text()),
                ("policies", list(text())),
            ]),
        ),
        (
            "AdminDecision",
            object(&[
                ("object", constant("admin.decision")),
                ("allowed", flag()),
                ("policies", list(text())),
                ("errors", list(text())),
                ("considered", list(text())),
                ("digest", text()),
            ]),
        ),
        (
            "AdminGuardrails",
            object(&[
                ("object", constant("admin.guardrails")),
                ("source", or_null(text())),
                ("digest", or_null(text())),
                ("guardrails", list(text())),
            ]),
        ),
        (
            "AdminAuditList",
            object(&[
                ("object", constant("list")),
                ("recording", flag()),
                // What a record has beside these is told by its kind.
                ("data", list(json!({ "type": "object", "required": ["seq", "time", "kind", "prev", "hash"] }))),
                ("next", or_null(integer())),
                ("has_more", flag()),
            ]),
        ),
        (
            "AdminAuditVerification",
            object(&[
                ("object", constant("admin.audit.verification")),
                ("recording", flag()),
                ("intact", or_null(flag())),
                ("report", json!({ "type": ["object", "null"] })),
                ("break", json!({ "type": ["object", "null"] })),
            ]),
        ),
        (
            "AdminSubject",
            object(&[
                ("object", constant("list")),
                // What a thing has is told by its kind.
                ("data", list(object(&[("kind", text()), ("id", text()), ("content", json!({ "type": "object" }))]))),
            ]),
        ),
        (
            "DeletedAdminSubject",
            object(&[
                ("object", constant("admin.subject.deleted")),
                ("subject", text()),
                ("tenant", text()),
                ("deleted", map_of(integer())),
                ("being_read", list(text())),
            ]),
        ),
        (
            "AdminStatus",
            object(&[
                ("object", constant("admin.status")),
                ("version", text()),
                ("state", words(&["ready", "loading", "draining", "wedged"])),
                ("model", or_null(model)),
                ("in_flight", integer()),
                ("tenants", integer()),
                ("tenants_to_erase", integer()),
                ("keys", counts),
                ("policies", object(&[("digest", text())])),
                ("guardrails", object(&[("digest", or_null(text()))])),
            ]),
        ),
    ]
}
