//! A hub on the loopback interface: one repository, small files served in place, large ones by a redirect to
//! a second host, with the faults that a test asks for. Records what it was asked.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::StreamExt;
use serde_json::json;
use sha1::{Digest, Sha1};
use sha2::Sha256;

pub(super) const REPOSITORY: &str = "owner/model";
pub(super) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub(super) const TOKEN: &str = "hf_only_for_this_test";

/// What the hub does wrong, or insists on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    /// Answer 401 to requests without the token.
    pub(super) gated: bool,
    /// Break each connection after this many bytes of a large file.
    pub(super) cut_after: Option<usize>,
    /// Change one byte of every large file.
    pub(super) corrupt_large: bool,
    /// Change one byte of every small file.
    pub(super) corrupt_small: bool,
}

/// A request to the second host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LargeRequest {
    pub(super) range: String,
    pub(super) authorized: bool,
}

pub(super) struct File {
    pub(super) name: &'static str,
    pub(super) content: Vec<u8>,
    large: bool,
}

struct Shared {
    files: Vec<File>,
    faults: Mutex<Faults>,
    hub_requests: Mutex<usize>,
    large_requests: Mutex<Vec<LargeRequest>>,
    storage: SocketAddr,
}

/// Runs until dropped.
pub(super) struct MockHub {
    pub(super) endpoint: String,
    shared: Arc<Shared>,
    _runtime: tokio::runtime::Runtime,
}

impl MockHub {
    pub(super) fn start(faults: Faults) -> MockHub {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let bind = || runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let (hub, storage) = (bind(), bind());
        let endpoint = format!("http://{}", hub.local_addr().unwrap());
        let shared = Arc::new(Shared {
            files: files(),
            faults: Mutex::new(faults),
            hub_requests: Mutex::default(),
            large_requests: Mutex::default(),
            storage: storage.local_addr().unwrap(),
        });
        let listing = Router::new()
            .route("/api/models/{owner}/{name}/revision/{revision}", get(listing))
            .route("/{owner}/{name}/resolve/{revision}/{file}", get(resolve))
            .with_state(shared.clone());
        let large = Router::new().route("/{file}", get(large)).with_state(shared.clone());
        runtime.spawn(async { axum::serve(hub, listing).await });
        runtime.spawn(async { axum::serve(storage, large).await });
        MockHub { endpoint, shared, _runtime: runtime }
    }

    pub(super) fn set(&self, faults: Faults) {
        *self.shared.faults.lock().unwrap() = faults;
    }

    pub(super) fn files(&self) -> &[File] {
        &self.shared.files
    }

    /// Requests to the hub itself so far.
    pub(super) fn hub_requests(&self) -> usize {
        *self.shared.hub_requests.lock().unwrap()
    }

    /// Requests to the second host since the last call.
    pub(super) fn take_large_requests(&self) -> Vec<LargeRequest> {
        std::mem::take(&mut *self.shared.large_requests.lock().unwrap())
    }
}

fn files() -> Vec<File> {
    let bytes = |n: u32| (0..n).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect::<Vec<u8>>();
    let file = |name, content, large| File { name, content, large };
    vec![
        file("config.json", b"{\"model_type\": \"mistral\"}\n".to_vec(), false),
        file("tokenizer.model.v3", bytes(3_000), true),
        file("model.safetensors", bytes(10_000), true),
        file("consolidated.safetensors", bytes(10_001), true),
        file("pytorch_model.bin", bytes(10_002), true),
        file("notes.txt", b"not needed\n".to_vec(), false),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

fn git_blob(content: &[u8]) -> String {
    hex(&Sha1::new_with_prefix(format!("blob {}\0", content.len())).chain_update(content).finalize())
}

/// Counts the request and refuses it if it lacks the token.
fn admit(shared: &Shared, headers: &HeaderMap) -> Result<Faults, StatusCode> {
    *shared.hub_requests.lock().unwrap() += 1;
    let faults = *shared.faults.lock().unwrap();
    let authorized = headers.get(header::AUTHORIZATION).is_some_and(|value| value == &format!("Bearer {TOKEN}"));
    if faults.gated && !authorized { Err(StatusCode::UNAUTHORIZED) } else { Ok(faults) }
}

async fn listing(
    State(shared): State<Arc<Shared>>,
    Path((owner, name, revision)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Result<Response, StatusCode> {
    admit(&shared, &headers)?;
    let known = ["main", COMMIT].contains(&revision.as_str());
    if format!("{owner}/{name}") != REPOSITORY || !known {
        return Err(StatusCode::NOT_FOUND);
    }
    let siblings = shared.files.iter().map(|file| {
        let mut sibling =
            json!({"rfilename": file.name, "size": file.content.len(), "blobId": git_blob(&file.content)});
        if file.large {
            sibling["lfs"] = json!({"sha256": sha256(&file.content), "size": file.content.len(), "pointerSize": 134});
        }
        sibling
    });
    Ok(Json(json!({"id": REPOSITORY, "sha": COMMIT, "siblings": siblings.collect::<Vec<_>>()})).into_response())
}

async fn resolve(
    State(shared): State<Arc<Shared>>,
    Path((_, _, _, name)): Path<(String, String, String, String)>,
    headers: HeaderMap,
) -> Result<Response, StatusCode> {
    let faults = admit(&shared, &headers)?;
    let file = shared.files.iter().find(|file| file.name == name).ok_or(StatusCode::NOT_FOUND)?;
    let commit = ("x-repo-commit", COMMIT.to_owned());
    if file.large {
        // A name instead of the address: to the client this is another host.
        let location = format!("http://localhost:{}/{name}?signature=secret", shared.storage.port());
        let linked = ("x-linked-etag", format!("\"{}\"", sha256(&file.content)));
        return Ok((StatusCode::FOUND, [commit, linked, ("location", location)]).into_response());
    }
    let mut content = file.content.clone();
    if faults.corrupt_small {
        content[0] ^= 1;
    }
    let etag = ("etag", format!("\"{}\"", git_blob(&file.content)));
    Ok(([commit, etag], ranged(&content, &headers, None)?).into_response())
}

async fn large(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, StatusCode> {
    let faults = *shared.faults.lock().unwrap();
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let request = LargeRequest {
        range: text(header::RANGE).unwrap_or_default(),
        authorized: text(header::AUTHORIZATION).is_some(),
    };
    shared.large_requests.lock().unwrap().push(request);
    let file = shared.files.iter().find(|file| file.name == name).ok_or(StatusCode::NOT_FOUND)?;
    let mut content = file.content.clone();
    if faults.corrupt_large {
        content[17] ^= 1;
    }
    ranged(&content, &headers, faults.cut_after)
}

/// `bytes=A-` and `bytes=A-B`; a cut answer announces all its bytes and breaks off.
fn ranged(content: &[u8], headers: &HeaderMap, cut_after: Option<usize>) -> Result<Response, StatusCode> {
    let range = headers.get(header::RANGE).and_then(|value| value.to_str().ok()?.strip_prefix("bytes="));
    let (start, end) = range.and_then(|range| range.split_once('-')).unwrap_or(("0", ""));
    let start: usize = start.parse().map_err(|_| StatusCode::BAD_REQUEST)?;
    let end = end.parse().map_or(content.len(), |last: usize| (last + 1).min(content.len()));
    if start >= content.len() {
        return Err(StatusCode::RANGE_NOT_SATISFIABLE);
    }
    let part = content[start..end].to_vec();
    let headers = [
        (header::CONTENT_RANGE, format!("bytes {start}-{}/{}", end - 1, content.len())),
        (header::CONTENT_LENGTH, part.len().to_string()),
    ];
    let body = match cut_after {
        Some(limit) if part.len() > limit => {
            // A pause between the two, or the server never sends the first.
            let cut = futures_util::stream::once(async {
                tokio::task::yield_now().await;
                Err(std::io::Error::other("cut"))
            });
            Body::from_stream(futures_util::stream::iter([Ok(part[..limit].to_vec())]).chain(cut))
        }
        _ => Body::from(part),
    };
    Ok((StatusCode::PARTIAL_CONTENT, headers, body).into_response())
}
