//! What a crash, a full disk and time do to a log.

use std::{fs, io::Write, os::unix::fs::PermissionsExt};

use super::{
    super::{Kind, chain::Chain, line::now_us, query},
    *,
};

#[test]
fn what_a_crash_left_unfinished_is_cut_and_told() {
    let (folder, anchor) = sample();
    let directory = folder.path().join("audit");
    let last = segments(&directory).pop().expect("a segment");
    for torn in [&b"{"[..], b"{\"seq\":99,\"prev\":\"00", &[0; 4096]] {
        fs::OpenOptions::new().append(true).open(&last).and_then(|mut file| file.write_all(torn)).expect("torn");
        broken(check(&directory));
        open(&directory, options()).close();
        let report = check_anchored(&directory, &anchor).expect("it was mended");
        let told =
            query::find_last(&directory, &query::Query { kinds: vec![Kind::Recovered], ..Default::default() }, 1);
        let told = told.expect("records").pop().expect("it is told");
        assert_eq!(told.members["cut_bytes"], torn.len());
        assert_eq!(report.signed_through, report.last);
    }
}

#[test]
fn a_segment_that_was_never_begun_is_no_segment() {
    let (folder, _) = sample();
    let directory = folder.path().join("audit");
    let number = segments(&directory).len() + 1;
    fs::write(directory.join(format!("{number:08}.jsonl")), b"{\"seq\":1").expect("torn");
    broken(check(&directory));
    open(&directory, options()).close();
    check(&directory).expect("it was mended");
}

#[test]
fn a_log_whose_last_line_was_changed_is_not_appended_to() {
    let (_folder, directory) = changed_sample();
    let opened = Audit::open(&directory, options(), AuditMetrics::default());
    assert!(matches!(opened, Err(AuditError::Broken(_))), "{opened:?}");
}

#[test]
fn retention_removes_whole_segments_and_the_rest_still_verifies() {
    let (folder, anchor) = sample();
    let directory = folder.path().join("audit");
    let before = check(&directory).expect("a log");
    let mut chain = Chain::open(&directory, options()).expect("a log");
    assert_eq!(chain.prune(0).expect("nothing is that old").0, 0);
    let (removed, _) = chain.prune(now_us()).expect("all but the last are old");
    assert_eq!(removed as u64, before.segments - 1);
    drop(chain);
    open(&directory, options()).close(); // signs
    let report = check_anchored(&directory, &anchor).expect("what is missing is told");
    assert_eq!(report.pruned_through, Some(report.first - 1));
    assert!(report.anchored_but_pruned > 0);
    // The same without being told.
    let (other, _) = sample();
    let other = other.path().join("audit");
    fs::remove_file(&segments(&other)[0]).expect("removed");
    let found = broken(check(&other));
    assert!(found.reason.contains("no record says that retention removed them"), "{found}");
}

#[test]
fn what_is_left_of_removed_segments_after_a_crash_does_no_harm() {
    let (folder, _) = sample();
    let directory = folder.path().join("audit");
    let files = segments(&directory);
    let kept: Vec<_> =
        files[1..files.len() - 1].iter().map(|path| (path, fs::read(path).expect("a segment"))).collect();
    let mut chain = Chain::open(&directory, options()).expect("a log");
    chain.prune(now_us()).expect("all but the last are old");
    for (path, bytes) in kept {
        fs::write(path, bytes).expect("as if it had not been removed yet");
    }
    check(&directory).expect("they are still what they were");
    assert!(chain.prune(now_us()).expect("removed").0 > 0);
    check(&directory).expect("and are not missed");
}

#[test]
fn secrets_and_records_are_for_this_user_alone() {
    let (folder, _) = sample();
    let directory = folder.path().join("audit");
    let mode = |path: &Path| fs::metadata(path).expect("a file").permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    for name in ["signing.key", "hash.key", "00000001.jsonl", "lock"] {
        assert_eq!(mode(&directory.join(name)), 0o600, "{name}");
    }
}

#[test]
fn hashes_of_texts_are_each_tenants_own() {
    let folder = TempDir::new().expect("a folder");
    let audit = open(folder.path(), options());
    let hash = |tenant: &str, ids: &[u32]| {
        let mut running = audit.hasher(tenant).expect("it is on").begin("answer");
        ids.iter().for_each(|id| running.tokens(&[*id]));
        running.finish()
    };
    let mut at_once = audit.hasher("a").expect("it is on").begin("answer");
    at_once.tokens(&[1, 2]);
    assert_eq!(hash("a", &[1, 2]), at_once.finish());
    assert_ne!(hash("a", &[1, 2]), hash("b", &[1, 2]));
    assert_ne!(hash("a", &[1, 2]), hash("a", &[2, 1]));
    let again = open(folder.path(), options());
    assert_eq!(
        again.hasher("a").expect("it is on").hash("subject", b"x"),
        audit.hasher("a").expect("on").hash("subject", b"x")
    );
}
