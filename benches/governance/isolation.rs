//! What caches that tenants do not share cost: tokens of prompts that are computed again.

use std::collections::BTreeMap;

use axum::{
    body::{Body, to_bytes},
    http::{Request, header},
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tower::ServiceExt;
use tramontane::{
    api::app,
    governance::{Actor, Governance, NewKey, Role},
};

use super::model;

const TENANTS: usize = 8;
const REQUESTS: usize = 20;

/// Every tenant asks about the same long beginning.
pub fn measure(runtime: &Runtime) {
    println!("\n| caches of {TENANTS} tenants | tokens of prompts | of them computed |\n|---|---:|---:|");
    for (name, group) in [("apart", None), ("one share group", Some("all"))] {
        let (tokens, cached) = runtime.block_on(ask_all(group));
        println!("| {name} | {tokens} | {} |", tokens - cached);
    }
}

async fn ask_all(group: Option<&str>) -> (u64, u64) {
    let governance = Governance::in_memory().expect("memory");
    let administration = Actor::CommandLine;
    let administration = governance.administered_by(&administration);
    let mut secrets = Vec::new();
    for number in 0..TENANTS {
        let tenant = format!("tenant-{number}");
        administration.create_tenant(&tenant, group, 0).expect("a tenant");
        let new = NewKey {
            name: tenant.clone(),
            tenant,
            roles: [Role::Service].into(),
            attributes: BTreeMap::new(),
            expires_at: None,
        };
        secrets.push(administration.create_key(&new, 0).expect("a key").secret);
    }
    let router = app(model::state(governance));
    let shared = "All of this is the same for everybody who asks, and it is long. ".repeat(48);
    let (mut tokens, mut cached) = (0, 0);
    for request in 0..REQUESTS {
        for secret in &secrets {
            let body = json!({ "model": "none", "prompt": format!("{shared}Question {request}"), "max_tokens": 1 });
            let request = Request::post("/v1/completions")
                .header(header::CONTENT_TYPE, "application/json")
                .header(header::AUTHORIZATION, format!("Bearer {secret}"))
                .body(Body::from(body.to_string()))
                .expect("a valid request");
            let Ok(response) = router.clone().oneshot(request).await;
            assert!(response.status().is_success(), "{}", response.status());
            let body = to_bytes(response.into_body(), 1 << 20).await.expect("a body");
            let usage = &serde_json::from_slice::<Value>(&body).expect("JSON")["usage"];
            tokens += usage["prompt_tokens"].as_u64().expect("a count");
            cached += usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0);
        }
    }
    (tokens, cached)
}
