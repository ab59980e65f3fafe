//! What was captured: that it is there whole, and goes when it is to go.

use std::{fs::File, io::Read, time::SystemTime};

use super::{
    super::{
        Content, ContentName, Contents, Kind, OnFailure, SUBJECT_HASH, SubjectRecords, TextHasher, content::NewContent,
        query,
    },
    *,
};
use crate::types::unix_seconds;

fn content() -> Content {
    Content { prompts: vec![vec![1, 2, 3]], parameters: None, answers: vec![vec![4], vec![5]] }
}

fn store(contents: &Contents, place: &str, until: Option<u64>) -> String {
    let name = ContentName::new(place, until);
    contents.store(&NewContent { name: name.clone(), content: content() }).expect("it is written");
    name.to_string()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn it_can_be_deleted_and_the_log_stays() {
    let folder = TempDir::new().expect("a folder");
    let audit = open(folder.path(), options());
    let name = ContentName::new("default", None);
    let begun = audit.begin(&json!({ "content": name.to_string() })).expect("room").expect("it is on");
    audit.end(&begun, &json!({}), Some((name.clone(), content())));
    audit.close();
    let report = check(folder.path()).expect("a log");
    assert_eq!(report.unfinished, 0, "the record follows the content");
    let (contents, name) = (Contents::of(folder.path()), name.to_string());
    assert_eq!(contents.read(&name).expect("a file"), Some(content()));
    assert!(contents.erase(&name).expect("deleted"));
    assert!(!contents.erase(&name).expect("it is gone"));
    assert_eq!(contents.read(&name).expect("no file"), None);
    for other in ["../../signing.key", "default/../../signing.key", "../0000000000-0123456789abcdef0123456789abcdef"] {
        assert!(contents.read(other).is_err() && contents.erase(other).is_err(), "{other}");
    }
    check(folder.path()).expect("the chain has only hashes");
}

/// Neither what a crash left half-written, nor what it left overwritten, is held for long or takes anything else with it.
#[test]
fn what_is_not_finished_is_deleted_as_well() {
    let folder = TempDir::new().expect("a folder");
    let contents = Contents::of(folder.path());
    let name = store(&contents, "default", None);
    let part = contents.part(&ContentName::parse(&name).expect("a name"));
    fs::rename(part.with_extension("json"), &part).expect("as a crash leaves it");
    assert!(contents.erase(&name).expect("deleted"));
    assert!(files(folder.path()).is_empty(), "{:?}", files(folder.path()));
    let name = store(&contents, "default", None);
    let [path] = &files(folder.path())[..] else { panic!("one file") };
    fs::write(path, [0; 99]).expect("as a crash leaves it");
    assert_eq!(contents.read(&name).expect("it is as good as deleted"), None);
}

#[test]
fn one_file_that_cannot_be_deleted_keeps_no_other() {
    let folder = TempDir::new().expect("a folder");
    let audit = open(folder.path(), options());
    let hash = audit.hasher("default").expect("it is on").hash(SUBJECT_HASH, b"ada");
    let names = [ContentName::new("default", None), ContentName::new("default", None)];
    for name in &names {
        let fields = json!({ "tenant": "default", "subject": hash, "content": name.to_string() });
        let begun = audit.begin(&fields).expect("room").expect("it is on");
        audit.end(&begun, &json!({}), Some((name.clone(), content())));
    }
    audit.settle_captured().expect("it is written");
    let (contents, first) = (Contents::of(folder.path()), names[0].to_string());
    let file = contents.part(&names[0]).with_extension("json");
    fs::remove_file(&file).and_then(|()| fs::create_dir(&file)).expect("what is no file cannot be overwritten");
    let records =
        SubjectRecords::of(folder.path(), ("default", "default"), "ada").expect("a log").expect("it is there");
    assert!(records.erase().is_err(), "{first} is still there");
    assert_eq!(contents.read(&names[1].to_string()).expect("no file"), None);
}

#[test]
fn it_goes_when_its_time_is_over_or_the_logs() {
    let folder = TempDir::new().expect("a folder");
    let contents = Contents::of(folder.path());
    assert_eq!(contents.prune(0, None).expect("there is nothing"), 0);
    let now = unix_seconds();
    let short = store(&contents, "default", Some(now + 60));
    let long = store(&contents, "acme", None);
    assert_eq!(contents.prune(now + 59, None).expect("nothing is over"), 0);
    // Whoever has the file open, as a disk would, has nothing of it.
    let path = files(&folder.path().join("content/default")).pop().expect("a file");
    let mut open = File::open(&path).expect("it is there");
    assert_eq!(contents.prune(now + 60, None).expect("one is over"), 1);
    let mut left = Vec::new();
    open.read_to_end(&mut left).expect("it is still open");
    assert!(!left.is_empty() && left.iter().all(|byte| *byte == 0), "it is overwritten");
    assert_eq!(contents.read(&short).expect("no file"), None);
    assert_eq!(contents.prune(now + 60, Some(now - 60)).expect("none is that old"), 0);
    assert_eq!(contents.read(&long).expect("a file"), Some(content()));
    assert_eq!(contents.prune(now, Some(now + 60)).expect("all is older"), 1);
    assert_eq!(contents.read(&long).expect("no file"), None);
    let over = store(&contents, "default", Some(now - 1));
    assert_eq!(contents.read(&over).expect("a file"), None, "nobody sees it although nobody has deleted it yet");
}

#[test]
fn of_a_tenant_that_is_gone_nothing_is_left_nor_written() {
    let folder = TempDir::new().expect("a folder");
    let audit = open(folder.path(), options());
    let (contents, _) = audit.contents().expect("it is on");
    let kept = store(&contents, "default", None);
    store(&contents, "acme", None);
    store(&contents, "acme", Some(unix_seconds() + 60));
    let begun = audit.begin(&json!({})).expect("room").expect("it is on");
    assert_eq!(contents.erase_place("acme").expect("erased"), 2);
    // An answer that was under way.
    audit.end(&begun, &json!({}), Some((ContentName::new("acme", None), content())));
    audit.close();
    assert!(!folder.path().join("content/acme").exists());
    assert_eq!(contents.read(&kept).expect("a file"), Some(content()));
    assert_eq!(contents.erase_place("acme").expect("there is nothing"), 0);
}

#[test]
fn a_crash_leaves_nothing_that_is_taken_for_content() {
    let folder = TempDir::new().expect("a folder");
    let contents = Contents::of(folder.path());
    let name = store(&contents, "default", None);
    let path = files(folder.path()).pop().expect("a file");
    let part = contents.part(&ContentName::parse(&name).expect("a name"));
    let kept = store(&contents, "default", None);
    assert_eq!(part.parent(), path.parent(), "nothing is moved to another folder, which a sandbox may deny");
    let age = || {
        let old = SystemTime::now() - Duration::from_secs(2 * 3600);
        File::options().write(true).open(&part).and_then(|file| file.set_modified(old)).expect("it is ours");
    };
    let is_left = |contents: &Contents, expected: u64, why: &str| {
        assert_eq!(contents.read(&name).expect("no file"), None);
        assert_eq!(contents.prune(unix_seconds(), None).expect(why), expected, "{why}");
        assert_eq!(part.exists(), expected == 0);
    };
    fs::rename(&path, &part).expect("as if it had not been finished");
    // By what was started after the crash; in a folder in which nothing is due.
    let started = Contents::of(folder.path());
    is_left(&started, 0, "it may still be written");
    is_left(&started, 0, "it may still be written");
    age();
    is_left(&started, 1, "nobody writes it any more");
    fs::write(&part, "{").expect("another");
    age();
    is_left(&started, 0, "what is left by others is found at the next start");
    is_left(&Contents::of(folder.path()), 1, "which looks everywhere at once");
    assert_eq!(started.read(&kept).expect("a file"), Some(content()));
}

#[test]
fn what_could_not_be_written_nor_removed_goes_later() {
    let folder = TempDir::new().expect("a folder");
    let contents = Contents::of(folder.path());
    let now = unix_seconds();
    store(&contents, "default", None);
    assert_eq!(contents.prune(now, None).expect("nothing is due"), 0);
    // What is in the way is no file, so that neither is possible.
    let name = ContentName::new("default", None);
    let part = contents.part(&name);
    fs::create_dir_all(&part).expect("it is made");
    assert!(contents.store(&NewContent { name, content: content() }).is_err());
    fs::remove_dir(&part).and_then(|()| fs::write(&part, "{")).expect("as if the disk had failed");
    let old = SystemTime::now() - Duration::from_secs(2 * 3600);
    File::options().write(true).open(&part).and_then(|file| file.set_modified(old)).expect("it is ours");
    assert_eq!(contents.prune(now, None).expect("it is known where it is"), 1);
    assert!(!part.exists());
}

#[test]
fn links_go_and_what_they_lead_to_stays() {
    let folder = TempDir::new().expect("a folder");
    let contents = Contents::of(folder.path());
    store(&contents, "acme", None);
    let kept = folder.path().join("kept");
    fs::write(&kept, "ours").expect("it is written");
    let link = folder.path().join("content/acme/link");
    std::os::unix::fs::symlink(&kept, &link).expect("it is linked");
    assert_eq!(contents.erase_place("acme").expect("it goes"), 2);
    assert!(!link.exists());
    assert_eq!(fs::read_to_string(&kept).expect("it stays"), "ours");
}

#[test]
fn a_secret_of_hashes_that_is_missing_is_not_made_anew() {
    let folder = TempDir::new().expect("a folder");
    assert!(TextHasher::of_directory(folder.path()).expect("there is no log").is_none());
    open(folder.path(), options()).close();
    assert!(TextHasher::of_directory(folder.path()).expect("it is right").is_some());
    fs::remove_file(folder.path().join("hash.key")).expect("it was there");
    assert!(matches!(TextHasher::of_directory(folder.path()), Err(AuditError::Key { .. })));
    let opened = Audit::open(folder.path(), options(), AuditMetrics::default());
    assert!(matches!(opened, Err(AuditError::Key { .. })), "{opened:?}");
    assert!(!folder.path().join("hash.key").exists());
}

#[test]
fn a_log_of_which_only_what_was_captured_is_left_was_removed() {
    let folder = TempDir::new().expect("a folder");
    let contents = Contents::of(folder.path());
    let name = store(&contents, "default", None);
    let emptied = |error: AuditError| matches!(&error, AuditError::Broken(found) if found.reason.contains("removed"));
    for on_failure in [OnFailure::Refuse, OnFailure::Continue] {
        let opened = Audit::open(folder.path(), AuditOptions { on_failure, ..options() }, AuditMetrics::default());
        assert!(emptied(opened.expect_err("it is no new log")));
    }
    assert!(emptied(check(folder.path()).expect_err("it is no whole log")));
    assert!(emptied(TextHasher::of_directory(folder.path()).expect_err("nobody is found in it")));
    assert!(segments(folder.path()).is_empty() && !folder.path().join("signing.key").exists(), "nothing is begun");
    contents.erase(&name).expect("it goes");
    open(folder.path(), options()).close();
    check(folder.path()).expect("folders without files were no log");

    // While somebody writes it, too.
    let audit = open(folder.path(), options());
    store(&contents, "default", None);
    segments(folder.path()).iter().for_each(|path| fs::remove_file(path).expect("it was there"));
    let records = SubjectRecords::of(folder.path(), ("default", "default"), "ada").expect("its secret is there");
    assert!(records.expect("there was a log").erase().is_err_and(emptied), "nobody is found in it");
    assert!(audit.act_blocking(&act(1)).is_err_and(emptied));
    assert!(segments(folder.path()).is_empty());
}

#[test]
fn the_end_does_not_wait_for_ever_for_a_disk_that_hangs() {
    let folder = TempDir::new().expect("a folder");
    let registry = prometheus::Registry::new();
    let metrics = AuditMetrics::default();
    metrics.register(&registry).expect("they are new");
    let options = AuditOptions { capture_patience: Duration::from_millis(50), ..options() };
    let audit = Audit::open(folder.path(), options, metrics).expect("a log");
    // A pipe in place of the file takes nothing until somebody reads it, as a disk that hangs.
    let name = ContentName::new("default", None);
    let (contents, _) = audit.contents().expect("it is on");
    let pipe = contents.part(&name);
    fs::create_dir_all(pipe.parent().expect("a folder")).expect("it is made");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("it runs").success());
    for name in [name, ContentName::new("default", None)] {
        let begun = audit.begin(&json!({ "content": name.to_string() })).expect("room").expect("it is on");
        audit.end(&begun, &json!({}), Some((name, content())));
    }
    audit.close();
    assert_eq!(check(folder.path()).expect("a log").unfinished, 0, "each has its end");
    let ended = query::Query { kinds: vec![Kind::Ended], ..query::Query::default() };
    assert_eq!(query::find_last(folder.path(), &ended, 9).expect("records").len(), 2);
    let told = || prometheus::TextEncoder::new().encode_to_string(&registry.gather()).expect("text");
    assert!(told().contains("\ntramontane:audit_captures_lost_total 2\n"), "{}", told());
    // The thread goes on and ends, and counts nothing twice.
    drop(File::options().read(true).write(true).open(&pipe).expect("it is there"));
    assert!(audit.inner().expect("it was on").capturing.ends_within(Duration::from_secs(60)), "the disk answers again");
    assert!(told().contains("\ntramontane:audit_captures_lost_total 2\n"), "{}", told());
}

#[test]
fn only_folders_in_which_something_may_be_due_are_opened() {
    let folder = TempDir::new().expect("a folder");
    let contents = Contents::of(folder.path());
    let now = unix_seconds();
    let until = |hours: u64| (now / 3600 + hours) * 3600 + 30;
    let names: Vec<String> = (1..=50).map(|hours| store(&contents, "default", Some(until(hours)))).collect();
    let kept = store(&contents, "acme", None);
    let prune = |at: u64, written_before: Option<u64>| {
        let mut opened = 0;
        let pruned = contents.prune_opening(at, written_before, &mut |_| opened += 1);
        (pruned.expect("they are there"), opened)
    };
    let always = 1 + 2; // all of it, and two places
    assert_eq!(prune(now, None), (0, always + 51), "the first time everywhere, as a crash may have left something");
    assert_eq!(prune(now, None), (0, always));
    assert_eq!(prune(until(1) - 30, None), (0, always + 1), "the hour has begun in which the first one goes");
    assert_eq!(prune(until(3), None), (3, always + 3));
    assert_eq!(prune(until(3), None), (0, always), "folders go with what was in them");
    assert!(
        contents.read(&names[2]).expect("no file").is_none() && contents.read(&names[3]).expect("a file").is_some()
    );
    // By the age of the log: what was begun in this hour is not looked at before that.
    let begun = now / 3600 * 3600;
    assert_eq!(prune(now, Some(begun)), (0, always));
    assert_eq!(prune(now, Some(now + 60)), (48, always + 48));
    assert_eq!((prune(until(50), None), contents.read(&kept).expect("no file")), ((0, always), None));
}

#[test]
fn what_an_earlier_version_has_captured_is_read_and_goes() {
    let folder = TempDir::new().expect("a folder");
    let contents = Contents::of(folder.path());
    let now = unix_seconds();
    let id = uuid::Uuid::new_v4().simple().to_string();
    let file = format!("{:010}-{id}", now + 60);
    let path = folder.path().join("content/default").join(&id[..2]).join(format!("{file}.json"));
    fs::create_dir_all(path.parent().expect("a folder")).expect("it is made");
    fs::write(&path, serde_json::to_vec(&content()).expect("JSON")).expect("it is written");
    assert_eq!(contents.read(&format!("default/{file}")).expect("a file"), Some(content()));
    assert_eq!(contents.prune(now, None).expect("nothing is over"), 0);
    assert_eq!(contents.prune(now + 60, None).expect("it is over"), 1);
    assert!(!path.exists());
}
