//! What the store promises batches: results become files within the room that they have, once, whenever it stops.

use tramontane::store::{
    Batch, BatchEnd, BatchRequest, BatchState, FileDetails, Line, NewLine, Outcome, Progress, Store, StoreError,
};

use super::{storage::reopened, support::memory};

const RESULT_BYTES: usize = 50 << 10;
const STEP_BYTES: usize = 256 << 10;

pub fn request(input_files: Vec<String>, expires_at: u64) -> BatchRequest {
    BatchRequest {
        endpoint: "/v1/chat/completions".to_owned(),
        model: None,
        input_files,
        window: "24h".to_owned(),
        metadata: None,
        created_at: 1,
        expires_at,
        dialect: None,
        owns_input: false,
        keep_output_s: None,
        behalf: None,
    }
}

/// A batch with so many lines to do, and none of them asked.
async fn batch_of(store: &Store, count: u64) -> Batch {
    let batch = store.create_batch(request(Vec::new(), u64::MAX >> 1), 10).await.expect("a batch");
    let line = |number: u64| {
        NewLine::ToDo(Line { number, custom_id: format!("line-{number}"), request: "{}".to_owned(), subject: None })
    };
    store.add_lines(&batch.id, (1..=count).map(line).collect()).await.expect("lines");
    batch
}

/// What becomes of a line in these tests.
fn result(number: u64) -> (Outcome, String) {
    let outcome = if number.is_multiple_of(5) { Outcome::Failed } else { Outcome::Completed };
    (outcome, format!("{number} {}", "x".repeat(RESULT_BYTES)))
}

async fn answer(store: &Store, batch: &Batch, numbers: std::ops::RangeInclusive<u64>) {
    store.start_batch(&batch.id, 2).await.expect("it begins");
    for number in numbers {
        let (outcome, result) = result(number);
        store.record_line(&batch.id, number, outcome, result).await.expect("there is room");
    }
    store.finalize_batch(&batch.id, None, 3).await.expect("it has room");
}

async fn move_some(store: &Store, batch: &Batch) -> Progress {
    let given_up = |custom_id: Option<&str>| format!("given up: {}", custom_id.unwrap_or_default());
    store.move_results(&batch.id, 4, STEP_BYTES, given_up).await.expect("it needs no room")
}

async fn end(store: &Store, batch: &Batch) -> Batch {
    let file = |name: &str| FileDetails {
        filename: name.to_owned(),
        purpose: "batch_output".to_owned(),
        expires_at: u64::MAX >> 1,
    };
    let (state, at, delete_at, errors) = (BatchState::Completed, 5, u64::MAX >> 1, None);
    let end = BatchEnd { state, at, delete_at, errors, output: file("output"), error: file("error") };
    store.end_batch(&batch.id, STEP_BYTES, end).await.expect("it ends");
    store.batch(&batch.id).await.expect("it is there")
}

async fn content(store: &Store, file: Option<String>) -> String {
    let file = file.expect("a file");
    let mut content = Vec::new();
    for part in 0.. {
        let Some(data) = store.file_part(&file, part).await.expect("the file is there") else { break };
        content.extend(data);
    }
    assert_eq!(store.file(&file).await.expect("it is shown").bytes, content.len() as u64);
    String::from_utf8(content).expect("UTF-8")
}

fn lines_with(outcome: Outcome, numbers: std::ops::RangeInclusive<u64>) -> String {
    let results = numbers.map(result).filter(|(of, _)| *of == outcome);
    results.map(|(_, result)| result + "\n").collect()
}

#[tokio::test]
async fn results_become_files_within_the_room_they_have() {
    let count = 40;
    let store = Store::in_memory(count * (RESULT_BYTES as u64) * 3 / 2).expect("memory");
    let batch = batch_of(&store, count).await;
    answer(&store, &batch, 1..=count).await;
    let mut steps = 0;
    while move_some(&store, &batch).await == Progress::Partial {
        steps += 1;
        assert_eq!(store.batch(&batch.id).await.expect("a batch").output_file, None, "it is not whole");
    }
    assert!((7..=8).contains(&steps), "{steps} steps of {STEP_BYTES} bytes");
    let ended = end(&store, &batch).await;
    assert_eq!((ended.counts.total, ended.counts.completed, ended.counts.failed), (40, 32, 8));
    let output = content(&store, ended.output_file).await;
    assert!(output == lines_with(Outcome::Completed, 1..=count), "each result once and in order");
    assert!(content(&store, ended.error_file).await == lines_with(Outcome::Failed, 1..=count));
}

#[tokio::test]
async fn a_process_that_ends_between_two_steps_loses_and_repeats_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = reopened(directory.path()).await;
    let batch = batch_of(&store, 20).await;
    answer(&store, &batch, 1..=18).await;
    drop(store);
    let mut moved = Progress::Partial;
    while moved == Progress::Partial {
        let store = reopened(directory.path()).await;
        moved = move_some(&store, &batch).await;
        drop(store);
    }
    let store = reopened(directory.path()).await;
    let ended = end(&store, &batch).await;
    assert_eq!((ended.counts.total, ended.counts.completed, ended.counts.failed), (20, 15, 3));
    assert!(content(&store, ended.output_file).await == lines_with(Outcome::Completed, 1..=18));
    let errors = content(&store, ended.error_file).await;
    assert!(errors == lines_with(Outcome::Failed, 1..=18) + "given up: line-19\ngiven up: line-20\n");
}

#[tokio::test]
async fn a_full_storage_says_so_and_lets_a_batch_end() {
    let store = Store::in_memory(1 << 20).expect("memory");
    let batch = batch_of(&store, 40).await;
    store.start_batch(&batch.id, 2).await.expect("it begins");
    let mut recorded = 0;
    let full = loop {
        let (outcome, result) = result(recorded + 1);
        match store.record_line(&batch.id, recorded + 1, outcome, result).await {
            Ok(()) => recorded += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, StoreError::Full) && (10..30).contains(&recorded), "{full} after {recorded}");
    store.finalize_batch(&batch.id, Some("[]".to_owned()), 3).await.expect("it has room for that");
    while move_some(&store, &batch).await == Progress::Partial {}
    let ended = end(&store, &batch).await;
    assert!(content(&store, ended.output_file).await == lines_with(Outcome::Completed, 1..=recorded));
    assert_eq!(content(&store, ended.error_file).await.matches("given up").count() as u64, 40 - recorded);
}

#[tokio::test]
async fn what_was_answered_is_kept_where_the_rest_has_no_place() {
    let store = Store::in_memory(2 << 20).expect("memory");
    let batch = batch_of(&store, 400).await;
    answer(&store, &batch, 386..=400).await;
    // What the lines before them are told does not fit.
    let full = loop {
        let given_up = |_: Option<&str>| "given up".repeat(2000);
        match store.move_results(&batch.id, 4, STEP_BYTES, given_up).await {
            Ok(Progress::Partial) => {}
            Ok(Progress::Complete) => panic!("the storage is larger than it may be"),
            Err(error) => break error,
        }
    };
    assert!(matches!(full, StoreError::Full), "{full}");
    let ended = end(&store, &batch).await;
    assert!(content(&store, ended.output_file).await == lines_with(Outcome::Completed, 386..=400));
    assert!(content(&store, ended.error_file).await.starts_with(&lines_with(Outcome::Failed, 386..=400)));
}

#[tokio::test]
async fn what_was_answered_and_not_moved_is_in_the_files_of_whatever_ends() {
    let store = memory();
    let batch = batch_of(&store, 20).await;
    answer(&store, &batch, 8..=20).await;
    let ended = end(&store, &batch).await;
    assert!(content(&store, ended.output_file).await == lines_with(Outcome::Completed, 8..=20));
    assert!(content(&store, ended.error_file).await == lines_with(Outcome::Failed, 8..=20));
}

#[tokio::test]
async fn a_batch_that_is_cancelled_while_it_is_read_counts_what_was_read() {
    let store = memory();
    let batch = batch_of(&store, 7).await;
    store.cancel_batch(&batch.id, 3).await.expect("it can be");
    while move_some(&store, &batch).await == Progress::Partial {}
    let ended = end(&store, &batch).await;
    assert_eq!((ended.counts.total, ended.counts.completed, ended.counts.failed), (7, 0, 0));
}

#[tokio::test]
async fn a_file_that_is_gone_has_no_end() {
    let store = memory();
    let file = store.begin_file(1).await.expect("a file");
    store.append_to_file(&file, vec![1; 100]).await.expect("a part");
    let details = FileDetails { filename: "a".to_owned(), purpose: "batch".to_owned(), expires_at: u64::MAX >> 1 };
    store.complete_file(&file, details).await.expect("complete");
    assert_eq!(store.file_part(&file, 0).await.expect("the first").map(|data| data.len()), Some(100));
    assert_eq!(store.file_part(&file, 1).await.expect("its end"), None);
    store.delete_file(&file).await.expect("deleted");
    assert!(matches!(store.file_part(&file, 1).await, Err(StoreError::Missing { .. })));
    assert!(matches!(store.delete_file(&file).await, Err(StoreError::Missing { .. })));
}

#[tokio::test]
async fn others_are_served_while_a_large_file_is_deleted() {
    let store = memory();
    let file = store.begin_file(1).await.expect("a file");
    for _ in 0..100 {
        store.append_to_file(&file, vec![1; 256 << 10]).await.expect("a part");
    }
    let mut deleted = Box::pin(store.delete_file(&file));
    let mut served = 0;
    loop {
        tokio::select! {
            biased;
            done = &mut deleted => break done.expect("deleted"),
            other = store.batch("batch_x") => {
                assert!(matches!(other, Err(StoreError::Missing { .. })));
                served += 1;
            }
        }
    }
    assert!(served >= 4, "{served} were served meanwhile");
}
