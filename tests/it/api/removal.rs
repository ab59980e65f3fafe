//! Deleting what is long: nobody sees it from the first moment, others are served meanwhile, and whatever a process that
//! ended has left of it is deleted by the next.

use std::path::Path;

use tramontane::{
    api::HttpLimits,
    store::{NewConversation, NewItem, NewResponse, ResponseState, Store, StoreError, StoredResponse},
};

use super::{
    storage::{is_on_disk, reopened},
    support::{Harness, babbles, soon},
};

const OWNER: &str = "openai";
const MARKER: &str = "thursday-marker-4712";
const RESPONSE: &str = "resp_1";
const NEVER: u64 = 1 << 40;

/// 25 MiB.
fn items() -> Vec<NewItem> {
    let body = MARKER.repeat((256 << 10) / MARKER.len());
    (0..100).map(|number| NewItem { id: format!("item-{number}"), body: body.clone() }).collect()
}

async fn conversation(store: &Store) -> String {
    let new = NewConversation {
        prefix: "conv_",
        owner: OWNER,
        created_at: 1,
        expires_at: NEVER,
        metadata: None,
        details: None,
    };
    store.create_conversation(new, items()).await.expect("created").id
}

async fn delete_response(store: &Store) -> Result<(), StoreError> {
    store.remove_response(store.hide_response(RESPONSE).await?).await
}

async fn response(store: &Store) {
    let response = StoredResponse {
        id: RESPONSE.to_owned(),
        state: ResponseState::Completed,
        previous: None,
        created_at: 1,
        body: MARKER.repeat(1000),
        attempts: 0,
        events: None,
    };
    let output = vec![NewItem { id: "output".to_owned(), body: MARKER.to_owned() }];
    let new = NewResponse { response, request: None, behalf: None, expires_at: NEVER, input: items(), output };
    store.store_response(new, None).await.expect("stored");
}

/// Asks while something is deleted, until it is, or `most` answers are there. Says how many there were.
async fn asked_meanwhile<T: std::fmt::Debug>(
    deleted: impl Future<Output = Result<(), StoreError>>,
    mut ask: impl AsyncFnMut() -> Result<T, StoreError>,
    most: usize,
) -> usize {
    let mut deleted = Box::pin(deleted);
    let mut answers = 0;
    while answers < most {
        tokio::select! {
            biased;
            done = &mut deleted => {
                done.expect("deleted");
                break;
            }
            other = ask() => {
                assert!(matches!(other, Err(StoreError::Missing { .. })), "{other:?}");
                answers += 1;
            }
        }
    }
    answers
}

#[tokio::test]
async fn others_are_served_while_what_is_long_is_deleted() {
    let store = Store::in_memory(64 << 20).expect("memory");
    let id = conversation(&store).await;
    let ask = async || store.conversation(OWNER, &id).await;
    let served = asked_meanwhile(store.delete_conversation(OWNER, &id), ask, usize::MAX).await;
    assert!(served >= 4, "{served} were served meanwhile");
    response(&store).await;
    let served = asked_meanwhile(delete_response(&store), async || store.response(RESPONSE).await, usize::MAX);
    let served = served.await;
    assert!(served >= 4, "{served} were served meanwhile");
    let again = delete_response(&store).await;
    assert!(matches!(again, Err(StoreError::Missing { kind: "response", .. })), "{again:?}");
}

#[tokio::test]
async fn what_a_process_had_not_deleted_to_its_end_is_deleted_by_the_next() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = reopened(directory.path()).await;
    let id = conversation(&store).await;
    response(&store).await;
    let ask = async || store.conversation(OWNER, &id).await;
    assert_eq!(asked_meanwhile(store.delete_conversation(OWNER, &id), ask, 1).await, 1);
    let ask = async || store.response(RESPONSE).await;
    assert_eq!(asked_meanwhile(delete_response(&store), ask, 1).await, 1);
    drop(store);

    let store = reopened(directory.path()).await;
    assert!(is_marked(directory.path()), "it was not deleted to its end");
    assert!(matches!(store.conversation(OWNER, &id).await, Err(StoreError::Missing { .. })));
    assert!(matches!(store.response(RESPONSE).await, Err(StoreError::Missing { .. })));
    let harness = Harness::storing(babbles(), HttpLimits::default(), store);
    let _worker = harness.worker();
    soon("all of it is overwritten", async || (!is_marked(directory.path())).then_some(())).await;
}

fn is_marked(directory: &Path) -> bool {
    is_on_disk(directory, MARKER.as_bytes())
}
