//! `/admin/v1`: who may, what it changes, and what it does not.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use axum::{
    body::{Body, Bytes},
    http::{
        Method, Request,
        header::{AUTHORIZATION, CONTENT_TYPE},
    },
};
use futures_util::stream;
use serde_json::{Value, json};
use tramontane::{
    api::{fields::Table, openapi},
    governance::{Act, ActLog, DEFAULT_TENANT, Governance, Role, policy::Policies},
};

use super::{
    fields::Prepared,
    support::{Answer, Harness, Script, chat, command_line, merged, new_key, says, send},
};

impl Harness {
    /// With a key, whose bearer governs and sends every request that has no credential.
    pub fn administered(script: Script) -> Self {
        let governance = Governance::in_memory().expect("memory");
        let secret = new_key(&governance, "admin", DEFAULT_TENANT, Role::Admin).secret;
        let mut harness = Self::governed(script, governance);
        harness.credential = Some(format!("Bearer {secret}"));
        harness
    }
}

/// A key that a request can be about.
pub(super) async fn admin_key(harness: &Harness) -> String {
    let made = harness.post("/admin/v1/keys", &json!({ "name": "app", "roles": ["service"] })).await;
    assert_eq!(made.status, 200, "{}", made.body);
    made.json()["id"].as_str().expect("an id").to_owned()
}

/// A request of a table of fields with these members; what it names is there, and what it makes is not.
pub(super) async fn prepared(harness: &Harness, table: &Table, more: Value) -> Prepared {
    static TENANTS: AtomicU32 = AtomicU32::new(0);
    let (method, path) = table.resource.split_once(' ').expect("a method and a path");
    let key = if path.contains("{id}") { admin_key(harness).await } else { String::new() };
    let base = match path {
        "/admin/v1/keys" => json!({ "name": "app", "roles": ["service"] }),
        "/admin/v1/tenants" => {
            if let Some(name) = more["name"].as_str().filter(|name| *name == "acme") {
                harness.delete(&format!("/admin/v1/tenants/{name}")).await;
            }
            json!({ "name": format!("t{}", TENANTS.fetch_add(1, Ordering::Relaxed)) })
        }
        "/admin/v1/tenants/{name}/share_group" => json!({ "share_group": "friends" }),
        "/admin/v1/policies/explain" => json!({ "action": "infer", "resource": "tiny" }),
        // Of what nobody else asks for.
        "/admin/v1/quotas" => json!({ "model": "another", "tokens_per_minute": 1000 }),
        _ => json!({}),
    };
    let method = method.parse::<Method>().expect("a method");
    let path = path.replace("{id}", &key).replace("{name}", DEFAULT_TENANT);
    Prepared { method, path, body: merged(base, more) }
}

/// Somebody with a key.
pub(super) struct Bearer<'a> {
    harness: &'a Harness,
    pub(super) secret: String,
}

impl<'a> Bearer<'a> {
    pub(super) fn of(harness: &'a Harness, governance: &Governance, tenant: &str, role: Role) -> Self {
        Self { harness, secret: new_key(governance, role.name(), tenant, role).secret }
    }

    /// With a key that is there already.
    pub(super) fn with(harness: &'a Harness, secret: &str) -> Self {
        Self { harness, secret: secret.to_owned() }
    }

    pub(super) async fn ask(&self, method: &str, path: &str, body: Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = Request::builder().method(method).uri(path).header(CONTENT_TYPE, "application/json");
        let request = request.header(AUTHORIZATION, format!("Bearer {}", self.secret)).body(Body::from(body));
        send(self.harness.app(), request.expect("a valid request")).await
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, Value::Null).await
    }

    /// The answer, which must be one.
    pub(super) async fn does(&self, method: &str, path: &str, body: Value) -> Value {
        let answer = self.ask(method, path, body).await;
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.body);
        answer.json()
    }
}

pub(super) fn governance() -> Governance {
    let governance = Governance::in_memory().expect("memory");
    command_line(&governance).create_tenant("acme", None, 1).expect("it is made");
    governance
}

/// Every method of every administrative path, with things that are there in place of its parameters, and a body that would do.
fn operations(key: &str) -> Vec<(String, String, Value)> {
    let document = openapi::document();
    let mut operations = Vec::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        let body = match path.as_str() {
            "/admin/v1/keys" => json!({ "name": "other", "roles": ["service"] }),
            "/admin/v1/keys/{id}/rotate" => json!({}),
            "/admin/v1/tenants" => json!({ "name": "other" }),
            "/admin/v1/tenants/{name}/share_group" => json!({ "share_group": "friends" }),
            "/admin/v1/policies/explain" => json!({ "action": "infer", "resource": "tiny" }),
            "/admin/v1/quotas" => json!({ "model": "another", "tokens_per_minute": 1000 }),
            _ => Value::Null,
        };
        let filled = path.replace("{id}", key).replace("{name}", "acme");
        for method in methods.as_object().expect("methods").keys().filter(|_| path.starts_with("/admin/")) {
            let query = match (method.as_str(), path.as_str()) {
                // It was set just before.
                ("delete", "/admin/v1/quotas") => "?model=another",
                (_, "/admin/v1/subjects") => "?subject=ada",
                _ => "",
            };
            operations.push((method.to_uppercase(), format!("{filled}{query}"), body.clone()));
        }
    }
    operations
}

/// What each role may do, of all that there is. Those that may do nothing with it come first, so that they are told so of
/// what is there.
#[tokio::test]
async fn every_route_says_no_to_whoever_may_not() {
    let governance = governance();
    let key = new_key(&governance, "app", "acme", Role::Service).key.id;
    let keys = Role::ALL.map(|role| (role, new_key(&governance, role.name(), DEFAULT_TENANT, role).secret));
    let harness = Harness::governed(says("Hi"), governance.clone());
    let all = operations(&key);
    assert!(all.len() > 18, "{}", all.len());
    let held = |governance: &Governance| {
        format!(
            "{:?} {:?}",
            command_line(governance).keys().expect("they are there"),
            command_line(governance).tenants().expect("they are there")
        )
    };
    let before = held(&governance);
    for (method, path, body) in &all {
        let anonymous = harness.ask(method.parse().expect("a method"), path, body).await;
        assert_eq!(anonymous.status, 401, "{method} {path}: {}", anonymous.body);
        let reads = method == "GET" || path.ends_with("/explain");
        let is_of = |kinds: &[&str]| kinds.iter().any(|kind| path.starts_with(&format!("/admin/v1/{kind}")));
        for (role, secret) in &keys {
            let allowed = match role {
                Role::Admin => continue,
                Role::Operator => is_of(&["policies", "guardrails", "quotas"]) || is_of(&["status", "usage"]) && reads,
                Role::Auditor => reads,
                Role::Developer | Role::Service => false,
            };
            let answer = Bearer::with(&harness, secret).ask(method, path, body.clone()).await;
            assert_eq!(answer.status, if allowed { 200 } else { 403 }, "{role:?} {method} {path}: {}", answer.body);
        }
    }
    assert_eq!(held(&governance), before, "an auditor has changed something");
    let (_, admin) = &keys[0];
    for (method, path, body) in all.iter().filter(|(method, ..)| method != "DELETE") {
        let answer = Bearer::with(&harness, admin).ask(method, path, body.clone()).await;
        // The key is revoked before it is replaced.
        let expected = if path.ends_with("/rotate") { 409 } else { 200 };
        assert_eq!(answer.status, expected, "{method} {path}: {}", answer.body);
    }
}

#[tokio::test]
async fn an_open_server_is_administered_by_nobody() {
    let harness = Harness::new(says("Hi"));
    for (method, path, body) in operations("tmk_x") {
        let answer = harness.ask(method.parse().expect("a method"), &path, &body).await;
        assert_eq!(answer.error(), r#"403 null "no_identities""#, "{method} {path}");
        assert!(answer.body.contains("tramontane keys create NAME --role admin"), "{}", answer.body);
    }
    assert_eq!(harness.chat(json!({})).await.status, 200);
}

#[tokio::test]
async fn a_key_is_made_used_replaced_and_ended() {
    let governance = governance();
    let harness = Harness::governed(says("Hi"), governance.clone());
    let admin = Bearer::of(&harness, &governance, DEFAULT_TENANT, Role::Admin);
    let new = json!({ "name": "app", "tenant": "acme", "roles": ["developer"], "attributes": { "team": "red" },
                      "expires_in": 3600 });
    let made = admin.does("POST", "/admin/v1/keys", new).await;
    let (id, secret) = (made["id"].as_str().expect("an id"), made["key"].as_str().expect("a secret"));
    assert!(secret.starts_with(&format!("{id}_")));
    assert_eq!(
        (&made["state"], &made["tenant"], &made["attributes"]["team"]),
        (&json!("active"), &json!("acme"), &json!("red"))
    );
    assert_eq!(made["expires_at"].as_u64().expect("a time") - made["created_at"].as_u64().expect("a time"), 3600);
    let chats = async |secret: &str| {
        Bearer::with(&harness, secret).ask("POST", "/v1/chat/completions", chat(json!({}))).await.status
    };
    assert_eq!(chats(secret).await, 200);
    let path = format!("/admin/v1/keys/{id}");
    for shown in [&path, "/admin/v1/keys", &format!("/admin/v1/keys?prefix={}", &id[..8])] {
        let shown = admin.get(shown).await;
        assert!(shown.body.contains(id) && !shown.body.contains(secret), "{}", shown.body);
    }
    let next = admin.does("POST", &format!("{path}/rotate"), json!({ "overlap": 60 })).await;
    let next_secret = next["key"].as_str().expect("a secret");
    assert_eq!((chats(secret).await, chats(next_secret).await), (200, 200));
    assert_eq!(admin.get(&path).await.json()["replaced_by"], next["id"]);
    let again = admin.ask("POST", &format!("{path}/rotate"), json!({})).await;
    assert_eq!(again.error(), r#"409 null "conflict""#);
    let ended = admin.does("DELETE", &path, Value::Null).await;
    assert_eq!(ended["state"], "revoked");
    assert_eq!((chats(secret).await, chats(next_secret).await), (401, 200), "an id is that key's alone");
    assert_eq!(admin.get("/admin/v1/keys/tmk_nobody").await.error(), r#"404 "id" "not_found""#);
    assert_eq!(admin.get("/admin/v1/keys/app").await.status, 404, "a name is no id");
}

#[tokio::test]
async fn keys_are_listed_in_parts() {
    let governance = governance();
    let harness = Harness::governed(says("Hi"), governance.clone());
    let admin = Bearer::of(&harness, &governance, DEFAULT_TENANT, Role::Admin);
    for number in 0..5 {
        let tenant = if number % 2 == 0 { "acme" } else { DEFAULT_TENANT };
        let made = new_key(&governance, &format!("app-{number}"), tenant, Role::Service);
        if number > 2 {
            command_line(&governance).revoke_key(&made.key.id, 2).expect("it is there");
        }
    }
    let list = async |query: &str| {
        let list = admin.does("GET", &format!("/admin/v1/keys?{query}"), Value::Null).await;
        let names = list["data"].as_array().expect("a list").iter();
        let names: Vec<String> = names.map(|key| key["name"].as_str().expect("a name").to_owned()).collect();
        (names.join(" "), list)
    };
    assert_eq!(list("").await.0, "app-4 app-3 app-2 app-1 app-0 admin");
    assert_eq!(list("tenant=acme").await.0, "app-4 app-2 app-0");
    assert_eq!(list("tenant=acme&state=active").await.0, "app-2 app-0");
    assert_eq!(list("state=revoked").await.0, "app-4 app-3");
    assert_eq!(list("name=app-1").await.0, "app-1");
    let (names, first) = list("limit=2&tenant=acme").await;
    assert_eq!((names.as_str(), &first["has_more"]), ("app-4 app-2", &json!(true)));
    let (names, rest) = list(&format!("tenant=acme&after={}", first["last_id"].as_str().expect("an id"))).await;
    assert_eq!((names.as_str(), &rest["has_more"]), ("app-0", &json!(false)));
    for (query, error) in [
        ("after=tmk_nobody", r#"400 "after" "not_found""#),
        ("state=good", r#"400 "state" null"#),
        ("limit=0", r#"400 "limit" null"#),
        ("colour=red", r#"400 "colour" "unknown_parameter""#),
    ] {
        assert_eq!(admin.get(&format!("/admin/v1/keys?{query}")).await.error(), error, "{query}");
    }
}

/// Whoever may change keys can give no more than policies let him give: not with a new key, and not with one in its place.
#[tokio::test]
async fn nobody_gives_what_he_may_not_give() {
    let directory = tempfile::tempdir().expect("a directory");
    let policies = r#"
        permit (principal in Tramontane::Role::"admin", action, resource);
        permit (principal in Tramontane::Role::"operator",
                action in [Tramontane::Action::"readAdministration", Tramontane::Action::"changeAdministration"],
                resource == Tramontane::Kind::"keys");
        permit (principal in Tramontane::Role::"operator", action == Tramontane::Action::"grantRole",
                resource == Tramontane::Role::"service");
        permit (principal in Tramontane::Role::"operator", action == Tramontane::Action::"grantAttribute", resource)
        when { resource == Tramontane::Attribute::"team" && resource.value == "red" };
        permit (principal, action == Tramontane::Action::"infer", resource)
        when { principal.hasTag("clearance") && principal.getTag("clearance") == "high" };"#;
    std::fs::write(directory.path().join("own.cedar"), policies).expect("it can be written");
    let governance = governance().with_policies(Policies::open(directory.path()).expect("they are right"));
    let harness = Harness::governed(says("Hi"), governance.clone());
    let operator = Bearer::of(&harness, &governance, DEFAULT_TENANT, Role::Operator);
    let create = async |more: Value| {
        let new = merged(json!({ "name": "app", "roles": ["service"] }), more);
        operator.ask("POST", "/admin/v1/keys", new).await
    };
    assert_eq!(create(json!({ "attributes": { "team": "red" } })).await.status, 200);
    for (more, said) in [
        (json!({ "roles": ["admin"] }), "the role admin"),
        (json!({ "roles": ["service", "auditor"] }), "the role auditor"),
        (json!({ "roles": ["operator"] }), "the role operator"),
        (json!({ "attributes": { "clearance": "high" } }), "the attribute clearance"),
        (json!({ "attributes": { "team": "blue" } }), "the attribute team"),
    ] {
        let refused = create(more.clone()).await;
        assert_eq!(refused.error(), r#"403 null "permission_denied""#, "{more}");
        assert!(refused.body.contains(said), "{}", refused.body);
    }
    let admin = new_key(&governance, "boss", DEFAULT_TENANT, Role::Admin).key.id;
    let stolen = operator.ask("POST", &format!("/admin/v1/keys/{admin}/rotate"), json!({})).await;
    assert_eq!(stolen.error(), r#"403 null "permission_denied""#);
    assert_eq!(
        command_line(&governance).keys().expect("they are there").len(),
        3,
        "the operator's, the boss's, and the one that he may give"
    );
}

#[tokio::test]
async fn whoever_is_of_a_tenant_governs_that_tenants_keys_and_no_more() {
    let governance = governance();
    let harness = Harness::governed(says("Hi"), governance.clone());
    let theirs = Bearer::of(&harness, &governance, "acme", Role::Admin);
    let other = new_key(&governance, "app", DEFAULT_TENANT, Role::Service).key.id;
    let made = theirs.does("POST", "/admin/v1/keys", json!({ "name": "mine", "roles": ["admin"] })).await;
    assert_eq!(made["tenant"], "acme", "the caller's own");
    let listed = theirs.does("GET", "/admin/v1/keys", Value::Null).await;
    assert!(listed["data"].as_array().expect("a list").iter().all(|key| key["tenant"] == "acme"), "{listed}");
    assert_eq!(theirs.does("GET", "/admin/v1/keys?tenant=default", Value::Null).await["data"], json!([]));
    for (method, path) in [
        ("GET", format!("/admin/v1/keys/{other}")),
        ("DELETE", format!("/admin/v1/keys/{other}")),
        ("POST", format!("/admin/v1/keys/{other}/revoke")),
        ("POST", format!("/admin/v1/keys/{other}/rotate")),
        ("GET", "/admin/v1/tenants/default".to_owned()),
    ] {
        let body = if path.ends_with("rotate") { json!({}) } else { Value::Null };
        assert_eq!(theirs.ask(method, &path, body).await.status, 404, "{method} {path}");
    }
    for (method, path, body) in [
        ("POST", "/admin/v1/keys", json!({ "name": "app", "roles": ["service"], "tenant": "default" })),
        ("POST", "/admin/v1/keys", json!({ "name": "app", "roles": ["service"], "tenant": "nobody" })),
        ("POST", "/admin/v1/tenants", json!({ "name": "other" })),
        ("DELETE", "/admin/v1/tenants/acme", Value::Null),
        ("PUT", "/admin/v1/tenants/acme/share_group", json!({ "share_group": "friends" })),
        ("DELETE", "/admin/v1/tenants/acme/share_group", Value::Null),
        ("GET", "/admin/v1/policies", Value::Null),
        ("POST", "/admin/v1/policies/reload", Value::Null),
        ("POST", "/admin/v1/policies/explain", json!({ "action": "infer", "resource": "tiny" })),
        ("GET", "/admin/v1/guardrails", Value::Null),
        ("POST", "/admin/v1/guardrails/reload", Value::Null),
        ("GET", "/admin/v1/audit/verify", Value::Null),
        ("GET", "/admin/v1/status", Value::Null),
    ] {
        let refused = theirs.ask(method, path, body).await;
        assert_eq!(refused.error(), r#"403 null "permission_denied""#, "{method} {path}");
    }
    let tenants = theirs.does("GET", "/admin/v1/tenants", Value::Null).await;
    assert_eq!((tenants["data"].as_array().map(Vec::len), &tenants["data"][0]["name"]), (Some(1), &json!("acme")));
    assert_eq!(theirs.get("/admin/v1/roles").await.status, 200);
}

#[tokio::test]
async fn whoever_revokes_his_own_key_is_told_so() {
    let governance = governance();
    let harness = Harness::governed(says("Hi"), governance.clone());
    let admin = Bearer::of(&harness, &governance, DEFAULT_TENANT, Role::Admin);
    let id = admin.secret[..14].to_owned();
    assert_eq!(admin.does("DELETE", &format!("/admin/v1/keys/{id}"), Value::Null).await["state"], "revoked");
    assert_eq!(admin.get("/admin/v1/keys").await.error(), r#"401 null "revoked_api_key""#);
}

/// The request was let in while the key was good; what it asks for is asked too late.
#[tokio::test]
async fn a_key_that_is_revoked_meanwhile_changes_nothing_any_more() {
    let governance = governance();
    let harness = Harness::governed(says("Hi"), governance.clone());
    let admin = Bearer::of(&harness, &governance, DEFAULT_TENANT, Role::Admin);
    let (pieces, body) = tokio::sync::mpsc::channel::<Result<Bytes, io::Error>>(1);
    let body = stream::unfold(body, async |mut body| body.recv().await.map(|piece| (piece, body)));
    let request = Request::post("/admin/v1/tenants").header(CONTENT_TYPE, "application/json");
    let request = request.header(AUTHORIZATION, format!("Bearer {}", admin.secret)).body(Body::from_stream(body));
    let asked = send(harness.app(), request.expect("a valid request"));
    let revoked = async {
        // Whoever takes the second piece has taken the first, and has been let in.
        for piece in ["{", "\"name\": "] {
            pieces.send(Ok(piece.into())).await.expect("it is read");
        }
        command_line(&governance).revoke_key("admin", 2).expect("it is there");
        pieces.send(Ok("\"late\"}".into())).await.expect("it is read");
        drop(pieces);
    };
    let (answer, ()) = tokio::join!(asked, revoked);
    assert_eq!(answer.error(), r#"401 null "revoked_api_key""#);
    assert!(command_line(&governance).tenants().expect("they are there").iter().all(|tenant| tenant.name != "late"));
}

#[tokio::test]
async fn rules_are_shown_explained_and_read_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("own.cedar");
    std::fs::write(&file, r#"@id("all") permit (principal, action, resource);"#).expect("it can be written");
    let governance = governance().with_policies(Policies::open(directory.path()).expect("they are right"));
    let harness = Harness::governed(says("Hi"), governance.clone());
    let admin = Bearer::of(&harness, &governance, DEFAULT_TENANT, Role::Admin);
    let before = admin.does("GET", "/admin/v1/policies", Value::Null).await;
    assert_eq!((&before["policies"], &before["source"]), (&json!(["all"]), &json!(directory.path())));
    let asked = json!({ "action": "grantAttribute", "resource": "team=red", "roles": ["service"], "purpose": "x" });
    let decision = admin.does("POST", "/admin/v1/policies/explain", asked.clone()).await;
    assert_eq!((&decision["allowed"], &decision["policies"]), (&json!(true), &json!(["all"])));
    std::fs::write(&file, "permit (").expect("it can be written");
    let wrong = admin.ask("POST", "/admin/v1/policies/reload", Value::Null).await;
    assert_eq!(wrong.error(), r#"409 null "wrong_rules""#);
    assert!(wrong.body.contains("own.cedar, line 1"), "{}", wrong.body);
    assert_eq!(admin.does("GET", "/admin/v1/policies", Value::Null).await, before);
    let only_admins = r#"@id("admins") permit (principal in Tramontane::Role::"admin", action, resource);"#;
    std::fs::write(&file, only_admins).expect("it can be written");
    let after = admin.does("POST", "/admin/v1/policies/reload", Value::Null).await;
    assert_eq!(after["policies"], json!(["admins"]));
    assert_ne!(after["digest"], before["digest"]);
    assert_eq!(admin.does("POST", "/admin/v1/policies/explain", asked).await["allowed"], false);
    let roles = admin.does("GET", "/admin/v1/roles", Value::Null).await;
    let rights = |name: &str| {
        let role = roles["data"].as_array().expect("a list").iter().find(|role| role["name"] == name);
        role.expect("the role")["allowed"].as_array().expect("a list").len()
    };
    assert!(rights("admin") > 25 && rights("service") == 0, "{roles}");
    let status = admin.does("GET", "/admin/v1/status", Value::Null).await;
    assert_eq!(
        (&status["state"], &status["keys"]["active"], &status["tenants"]),
        (&json!("ready"), &json!(1), &json!(2))
    );
    assert_eq!(status["policies"]["digest"], after["digest"]);
}

/// Keeps acts, or fails to.
#[derive(Default)]
struct Written {
    acts: Mutex<Vec<Value>>,
    is_full: AtomicBool,
}

impl ActLog for Written {
    fn record(&self, act: &Act) -> io::Result<()> {
        if self.is_full.load(Ordering::Relaxed) {
            return Err(io::Error::other("the disk is full"));
        }
        self.acts.lock().expect("no panic").push(json!(act));
        Ok(())
    }
}

#[tokio::test]
async fn what_is_done_is_written_down_and_what_cannot_be_is_not_done() {
    let written = Arc::new(Written::default());
    let governance = governance().with_act_log(Arc::clone(&written) as Arc<dyn ActLog>);
    let harness = Harness::governed(says("Hi"), governance.clone());
    let admin = Bearer::of(&harness, &governance, DEFAULT_TENANT, Role::Admin);
    let made = admin.does("POST", "/admin/v1/keys", json!({ "name": "app", "roles": ["service"] })).await;
    let key = format!("/admin/v1/keys/{}", made["id"].as_str().expect("an id"));
    admin.does("POST", &format!("{key}/rotate"), json!({})).await;
    admin.does("DELETE", &key, Value::Null).await;
    admin.does("POST", "/admin/v1/tenants", json!({ "name": "new" })).await;
    admin.does("PUT", "/admin/v1/tenants/new/share_group", json!({ "share_group": "friends" })).await;
    admin.does("DELETE", "/admin/v1/tenants/new", Value::Null).await;
    admin.does("POST", "/admin/v1/policies/reload", Value::Null).await;
    let quota = json!({ "tenant": "acme", "tokens_per_day": 1000 });
    admin.does("PUT", "/admin/v1/quotas", quota.clone()).await;
    admin.does("DELETE", "/admin/v1/quotas?tenant=acme", Value::Null).await;
    admin.get("/admin/v1/keys").await;
    let acts = written.acts.lock().expect("no panic").clone();
    let kinds: Vec<&str> = acts.iter().map(|act| act["kind"].as_str().expect("a kind")).collect();
    let expected = "keys.create keys.create keys.rotate keys.revoke tenants.create tenants.share tenants.delete \
                    policies.reload quotas.set quotas.unset";
    assert_eq!(kinds.join(" "), expected);
    assert_eq!((&acts[0]["by"]["source"], &acts[1]["by"]["source"]), (&json!("command_line"), &json!("key")));
    assert_eq!((&acts[1]["by"]["name"], &acts[1]["subject"]), (&json!("admin"), &made["id"]));
    assert_eq!((&acts[6]["subject"], &acts[6]["tenant"]), (&json!("new"), &json!("new")));
    let secret = made["key"].as_str().expect("a secret");
    assert!(!json!(acts).to_string().contains(&secret[15..]), "a secret is written down");

    written.is_full.store(true, Ordering::Relaxed);
    let keys = command_line(&governance).keys().expect("they are there");
    let failed = admin.ask("POST", "/admin/v1/keys", json!({ "name": "lost", "roles": ["service"] })).await;
    assert_eq!(failed.status, 503, "{}", failed.body);
    assert_eq!(admin.ask("DELETE", "/admin/v1/tenants/acme", Value::Null).await.status, 503);
    assert_eq!(admin.ask("POST", "/admin/v1/policies/reload", Value::Null).await.status, 503);
    assert_eq!(admin.ask("PUT", "/admin/v1/quotas", quota).await.status, 503);
    assert_eq!(admin.does("GET", "/admin/v1/quotas", Value::Null).await["data"], json!([]));
    assert_eq!(command_line(&governance).keys().expect("they are there"), keys);
    assert!(governance.place("acme").expect("it can be read").is_some());
}
