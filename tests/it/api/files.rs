//! `/v1/files`: what comes in comes out, until it is deleted, and then it is gone.

use std::os::unix::fs::PermissionsExt;

use expect_test::expect;
use serde_json::{Value, json};
use tramontane::{
    api::{HttpLimits, StorageLimits},
    store::{FileDetails, Store, StoreError},
};

use super::{
    storage::{Part, form, is_on_disk},
    support::{Harness, babbles},
};

const MARKER: &[u8] = b"wednesday-marker-4711";

async fn ids(harness: &Harness, query: &str) -> Vec<String> {
    let answer = harness.get(&format!("/v1/files{query}")).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let answer = answer.json();
    let id = |file: &Value| file["id"].as_str().expect("an id").to_owned();
    answer["data"].as_array().expect("a list").iter().map(id).collect()
}

fn text<'a>(name: &'a str, value: &'a str) -> Part<'a> {
    (name, None, value.as_bytes())
}

fn attached<'a>(filename: &'a str, content: &'a [u8]) -> Part<'a> {
    ("file", Some(filename), content)
}

fn limited(file_bytes: usize) -> HttpLimits {
    HttpLimits { storage: StorageLimits { file_bytes, ..StorageLimits::default() }, ..HttpLimits::default() }
}

#[tokio::test]
async fn a_file_comes_out_as_it_went_in() {
    let harness = Harness::new(babbles());
    let content: Vec<u8> = (0..1_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    // The file first: its purpose is known only behind it.
    let parts: [Part; 2] = [("file", Some("a \u{fc}.bin"), &content), ("purpose", None, b"batch")];
    let file = harness.post_form("/v1/files", form(&parts)).await.json();
    let mut shown = file.clone();
    assert!(shown["id"].take().as_str().expect("an id").starts_with("file-"));
    assert_eq!(shown["expires_at"].take().as_u64(), shown["created_at"].take().as_u64().map(|at| at + 2_592_000));
    expect![[r#"{"id":null,"object":"file","bytes":1000000,"created_at":null,"expires_at":null,"filename":"a ü.bin","purpose":"batch","status":"processed","status_details":null,"source":"upload","sample_type":"batch_request","num_lines":null,"mimetype":null,"signature":null,"deleted":false}"#]]
    .assert_eq(&shown.to_string());
    let path = format!("/v1/files/{}", file["id"].as_str().expect("an id"));
    assert_eq!(harness.get(&path).await.json(), file);

    let request = axum::http::Request::get(format!("{path}/content")).body(axum::body::Body::empty()).expect("valid");
    let response = tower::ServiceExt::oneshot(harness.app(), request).await.expect("the router is infallible");
    assert_eq!(response.headers()["content-length"], "1000000");
    let came_out = http_body_util::BodyExt::collect(response.into_body()).await.expect("a whole body").to_bytes();
    assert!(came_out == content);

    let deleted = harness.delete(&path).await.json();
    assert_eq!(deleted, json!({ "id": file["id"], "object": "file", "deleted": true }));
    for path in [path.clone(), format!("{path}/content")] {
        assert_eq!(harness.get(&path).await.error(), r#"404 "id" "not_found""#);
    }
    assert_eq!(harness.delete(&path).await.error(), r#"404 "id" "not_found""#);
}

#[tokio::test]
async fn a_form_that_is_wrong_leaves_nothing() {
    let harness = Harness::storing(babbles(), limited(1000), Store::in_memory(8 << 20).expect("memory"));
    let file = attached("a.jsonl", b"{}");
    let purpose = text("purpose", "batch");
    let large = "x".repeat(1025);
    for (parts, error) in [
        (vec![purpose], r#"400 "file" null"#),
        (vec![file], r#"400 "purpose" null"#),
        (vec![file, text("purpose", "fine-tune")], r#"400 "purpose" null"#),
        (vec![file, text("purpose", "vision")], r#"400 "purpose" null"#),
        (vec![file, file, purpose], r#"400 "file" null"#),
        (vec![file, purpose, purpose], r#"400 "purpose" null"#),
        (vec![text("file", "{}"), purpose], r#"400 "file" null"#),
        (vec![attached("a", b""), purpose], r#"400 "file" null"#),
        (vec![file, purpose, text("colour", "red")], r#"400 "colour" "unknown_parameter""#),
        (vec![file, purpose, text("visibility", "user")], r#"400 "visibility" "unsupported_value""#),
        (vec![file, purpose, text("expires_after[seconds]", "60")], r#"400 "expires_after[anchor]" null"#),
        (vec![purpose, attached("a", large.as_bytes())], r#"413 "file" "file_too_large""#),
        (vec![file, text("purpose", &large)], r#"400 "purpose" null"#),
    ] {
        assert_eq!(harness.post_form("/v1/files", form(&parts)).await.error(), error);
    }
    let whole = form(&[file, purpose]);
    let broken = harness.post_form("/v1/files", whole[..whole.len() - 8].to_vec()).await;
    assert_eq!(broken.error(), r#"400 null "invalid_form""#);
    assert_eq!(harness.post("/v1/files", &json!({})).await.error(), r#"415 null "unsupported_media_type""#);
    assert!(ids(&harness, "").await.is_empty());
    harness.idle().await;
}

#[tokio::test]
async fn lists_come_in_parts_of_either_dialect() {
    let harness = Harness::new(babbles());
    let mut files = Vec::new();
    for _ in 0..5 {
        files.push(harness.upload(b"{}").await);
    }
    let some = |indices: &[usize]| indices.iter().map(|index| files[*index].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&harness, "").await, some(&[4, 3, 2, 1, 0]));
    assert_eq!(ids(&harness, "?order=asc&limit=2").await, some(&[0, 1]));
    assert_eq!(ids(&harness, &format!("?order=asc&limit=2&after={}", files[1])).await, some(&[2, 3]));
    assert_eq!(ids(&harness, &format!("?after={}", files[1])).await, some(&[0]));
    assert_eq!(ids(&harness, "?page=1&page_size=2&include_total=true").await, some(&[2, 1]));
    assert_eq!(ids(&harness, "?purpose=batch_output").await, some(&[]));
    let page = harness.get("/v1/files?limit=4").await.json();
    let ends = (&page["first_id"], &page["last_id"], &page["has_more"], &page["total"]);
    assert_eq!(ends, (&json!(files[4]), &json!(files[1]), &json!(true), &json!(5)));
    for (query, error) in [
        ("limit=0", r#"400 "limit" null"#),
        ("limit=x", r#"400 "limit" null"#),
        ("order=up", r#"400 "order" null"#),
        ("after=file-x", r#"400 "after" "not_found""#),
        ("limit=1&limit=2", r#"400 "limit" null"#),
        ("limit=1&page=0", r#"400 "page" null"#),
        ("colour=red", r#"400 "colour" "unknown_parameter""#),
        ("mimetypes=text/plain", r#"400 "mimetypes" "unsupported_value""#),
        ("source=upload&source=moon", r#"400 "source" null"#),
        ("sample_type=batch", r#"400 "sample_type" null"#),
    ] {
        assert_eq!(harness.get(&format!("/v1/files?{query}")).await.error(), error, "{query}");
    }
}

#[tokio::test]
async fn lists_are_filtered_as_mistrals_clients_ask() {
    let store = Store::in_memory(8 << 20).expect("memory");
    let harness = Harness::storing(babbles(), HttpLimits::default(), store.clone());
    let mut stored = Vec::new();
    // The first is an input, whatever it is called.
    for (filename, purpose) in
        [("My_error.jsonl", "batch"), ("batch_1_output.jsonl", "batch_output"), ("batch_1_error.jsonl", "batch_output")]
    {
        let id = store.begin_file(1).await.expect("a file");
        let (filename, purpose) = (filename.to_owned(), purpose.to_owned());
        let details = FileDetails { filename, purpose, expires_at: 1 << 40 };
        stored.push(store.complete_file(&id, details).await.expect("complete").id);
    }
    for (query, expected) in [
        ("sample_type=batch_request", &[0][..]),
        ("sample_type=batch_result", &[1]),
        ("sample_type=batch_error", &[2]),
        ("sample_type=batch_request&sample_type=batch_error", &[2, 0]),
        ("sample_type=instruct", &[]),
        ("source=mistral", &[2, 1]),
        ("source=upload&source=repository", &[0]),
        ("source=upload&sample_type=batch_error", &[]),
        ("source=&sample_type=&search=&mimetypes=&purpose=", &[2, 1, 0]),
        ("search=ERROR.json", &[2, 0]),
        ("search=my_&purpose=batch", &[0]),
        ("search=%25&purpose=batch", &[]),
        ("source=mistral&search=1&page=1&page_size=1", &[1]),
    ] {
        let expected: Vec<String> = expected.iter().map(|index: &usize| stored[*index].clone()).collect();
        assert_eq!(ids(&harness, &format!("?{query}")).await, expected, "{query}");
    }
    let counted = harness.get("/v1/files?source=mistral&page_size=1").await.json();
    assert_eq!((&counted["total"], &counted["has_more"]), (&json!(2), &json!(true)));
    assert_eq!(harness.get("/v1/files?include_total=False").await.json()["total"], Value::Null);
}

#[tokio::test]
async fn what_is_deleted_is_not_in_the_directory_any_more() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("new").join("data");
    let store = Store::open(&data, 64 << 20).expect("a store");
    let harness = Harness::storing(babbles(), HttpLimits::default(), store);
    let content = MARKER.repeat(20_000);
    let (kept, file) = (harness.upload(b"{}").await, harness.upload(&content).await);
    assert!(is_on_disk(&data, MARKER));
    assert_eq!(harness.delete(&format!("/v1/files/{file}")).await.status, 200);
    assert!(!is_on_disk(&data, MARKER));
    assert_eq!(ids(&harness, "").await, [kept]);

    let mode = |name: &str| std::fs::metadata(data.join(name)).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode("."), mode("tramontane.sqlite"), mode("tramontane.sqlite-wal")), (0o700, 0o600, 0o600));
    let second = Store::open(&data, 64 << 20).err().expect("one server at a time");
    assert!(matches!(second, StoreError::InUse { .. }), "{second}");
}

#[tokio::test]
async fn what_is_past_its_time_is_not_shown_and_then_deleted() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::open(directory.path(), 64 << 20).expect("a store");
    let harness = Harness::storing(babbles(), HttpLimits::default(), store.clone());
    let store_file = async |expires_at: u64| {
        let id = store.begin_file(1).await.expect("a file");
        store.append_to_file(&id, MARKER.to_vec()).await.expect("content");
        let details = FileDetails { filename: "f".to_owned(), purpose: "batch".to_owned(), expires_at };
        store.complete_file(&id, details).await.expect("complete").id
    };
    let (old, fresh) = (store_file(2).await, store_file(1 << 40).await);
    for path in ["", "/content"] {
        assert_eq!(harness.get(&format!("/v1/files/{old}{path}")).await.status, 404);
    }
    assert_eq!(ids(&harness, "").await, std::slice::from_ref(&fresh));
    let abandoned = store.begin_file(1).await.expect("a file");
    store.append_to_file(&abandoned, MARKER.to_vec()).await.expect("content");
    store.delete_file(&fresh).await.expect("deleted");
    assert!(is_on_disk(directory.path(), MARKER));
    store.sweep(1000, 1000).await.expect("swept");
    assert!(!is_on_disk(directory.path(), MARKER));
}

#[tokio::test]
async fn a_full_storage_says_so_and_takes_more_once_something_is_deleted() {
    let store = Store::in_memory(2 << 20).expect("memory");
    let harness = Harness::storing(babbles(), HttpLimits::default(), store);
    let content = vec![b'x'; 1 << 20];
    let first = harness.upload(&content).await;
    let parts: [Part; 2] = [("purpose", None, b"batch"), ("file", Some("input.jsonl"), &content)];
    let refused = harness.post_form("/v1/files", form(&parts)).await;
    assert_eq!(refused.error(), r#"507 null "storage_full""#);
    assert_eq!(ids(&harness, "").await, std::slice::from_ref(&first));
    assert_eq!(harness.delete(&format!("/v1/files/{first}")).await.status, 200);
    harness.upload(&content).await;
}
