//! A log that is read while others append to it, begin files and remove them.

use std::{
    cell::Cell,
    io::Write,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use super::{
    super::{
        Kind, SubjectRecords,
        chain::{Chain, Entry, Sign},
        line::now_us,
        query::{self, Query},
    },
    *,
};

/// Rounds of a file that is begun and others that are removed.
const ROUNDS: usize = 60;

#[test]
fn nobody_misses_a_file_or_sees_a_break_that_is_none() {
    let folder = TempDir::new().expect("a folder");
    let options = AuditOptions { segment_age: Duration::ZERO, ..options() };
    let mut chain = Chain::open(folder.path(), options).expect("a log");
    let commit = |chain: &mut Chain| {
        let entries = [Entry { kind: Kind::Act, fields: r#"{"action":"test"}"#.to_owned(), about: None }];
        chain.commit(&entries, Sign::Now).map(drop)
    };
    for _ in 0..10 {
        commit(&mut chain).expect("room");
    }
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..ROUNDS {
                commit(&mut chain).expect("room");
                if round % 2 == 0 {
                    chain.prune(now_us()).expect("removed");
                }
            }
            is_over.store(true, Ordering::Relaxed);
        });
        let mut seen = 0;
        while !is_over.load(Ordering::Relaxed) {
            let report = check(folder.path()).expect("it is what was written at every moment");
            assert!(report.last >= seen, "{report:?}");
            let found = query::find_last(folder.path(), &Query::default(), 1000).expect("records");
            let numbers: Vec<u64> = found.iter().map(|record| record.seq).collect();
            assert!(numbers.last().is_some_and(|last| *last >= report.last), "{numbers:?}");
            // What retention removes meanwhile may be missing, nothing else.
            let removed = check(folder.path()).expect("it is what was written").pruned_through.unwrap_or(0);
            let is_whole = |pair: &[u64]| pair[0] + 1 == pair[1] || (pair[0] < pair[1] && pair[1] <= removed + 1);
            assert!(numbers.windows(2).all(is_whole), "{numbers:?}, removed through {removed}");
            seen = report.last;
        }
        assert!(seen > 0, "it was read while others wrote");
    });
    assert!(check(folder.path()).expect("a log").pruned_through.is_some());
}

#[test]
fn what_is_behind_files_that_are_removed_meanwhile_is_found() {
    let folder = TempDir::new().expect("a folder");
    let mut chain =
        Chain::open(folder.path(), AuditOptions { segment_age: Duration::ZERO, ..options() }).expect("a log");
    let entry = || Entry { kind: Kind::Act, fields: r#"{"action":"test"}"#.to_owned(), about: None };
    let mut begin_files = |count| (0..count).for_each(|_| drop(chain.commit(&[entry()], Sign::Now).expect("room")));
    begin_files(3);
    let mut numbers = Vec::new();
    let visited = query::visit(folder.path(), &Query::default(), &mut |record| {
        if numbers.is_empty() {
            begin_files(2);
            let options = AuditOptions { segment_age: Duration::from_secs(3600), ..options() };
            Chain::open(folder.path(), options).and_then(|mut other| other.prune(now_us())).expect("removed");
        }
        numbers.push(record.seq);
        true
    });
    visited.expect("records");
    let last = check(folder.path()).expect("a log").last;
    assert_eq!((numbers.first(), numbers.last()), (Some(&1), Some(&last)), "{numbers:?}");
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
}

#[test]
fn what_a_crash_left_unfinished_hides_no_record() {
    let (folder, _) = sample();
    let directory = folder.path().join("audit");
    let before = query::find_last(&directory, &Query::default(), 1000).expect("records");
    let last = segments(&directory).pop().expect("a segment");
    fs::OpenOptions::new().append(true).open(last).and_then(|mut file| file.write_all(b"{\"seq\":")).expect("torn");
    assert_eq!(query::find_last(&directory, &Query::default(), 1000).expect("records"), before);
}

#[test]
fn a_log_to_which_nobody_appends_gets_old_as_well() {
    let folder = TempDir::new().expect("a folder");
    let options = AuditOptions {
        segment_age: Duration::from_millis(1),
        retention: Some(Duration::ZERO),
        ..AuditOptions::default()
    };
    let audit = open(folder.path(), options);
    audit.act_blocking(&act(1)).expect("on disk");
    let acts = Query { kinds: vec![Kind::Act], ..Query::default() };
    while !query::find_last(folder.path(), &acts, 9).expect("records").is_empty() {
        thread::yield_now();
    }
    audit.close();
    let report = check(folder.path()).expect("what is missing is told");
    assert!(report.pruned_through.is_some(), "{report:?}");
}

#[test]
fn what_somebody_hears_no_more_is_not_looked_for() {
    let (folder, _) = sample();
    let records = SubjectRecords::of(&folder.path().join("audit"), ("default", "default"), "ada").expect("a log");
    let records = records.expect("there is one");
    let asked_until = |most: usize| {
        let asked = Cell::new(0);
        let is_heard = || asked.replace(asked.get() + 1) < most;
        records.visit(&is_heard, &mut |record, _| panic!("{record:?} is about nobody")).expect("it can be read");
        asked.get()
    };
    assert_eq!(asked_until(0), 1);
    assert_eq!(asked_until(3), 4, "there is nothing about the subject, so it is asked at what is about others");
    let all = asked_until(usize::MAX);
    assert!(all > 10, "{all}: each record");
}
