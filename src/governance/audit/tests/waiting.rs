//! A log that cannot be opened yet, and an anchor that does not answer.

use std::{net::TcpListener, thread, time::Instant};

use super::{
    super::{Kind, OnFailure, query},
    *,
};
use crate::governance::{Act, ActKind, ActLog, ActedBy};

#[test]
fn a_log_that_cannot_be_opened_is_opened_when_it_can() {
    let folder = TempDir::new().expect("a folder");
    let in_the_way = folder.path().join("audit");
    fs::write(&in_the_way, "").expect("a file");
    let directory = in_the_way.join("log");
    let refusing = Audit::open(&directory, options(), AuditMetrics::default());
    assert!(matches!(refusing, Err(AuditError::File { .. })), "{refusing:?}");
    let options = AuditOptions { on_failure: OnFailure::Continue, ..options() };
    let registry = prometheus::Registry::new();
    let metrics = AuditMetrics::default();
    metrics.register(&registry).expect("they are new");
    let told = || prometheus::TextEncoder::new().encode_to_string(&registry.gather()).expect("text");
    let audit = Audit::open(&directory, options, metrics).expect("it goes on without");
    assert!(!audit.is_on() && audit.is_wanted() && !audit.is_asleep());
    assert!(audit.begin(&json!({})).expect("it goes on").is_none());
    audit.act_blocking(&act(1)).expect("it goes on");
    let by = ActedBy {
        source: "command_line",
        id: String::new(),
        name: String::new(),
        tenant: String::new(),
        roles: vec![],
    };
    let administered =
        Act { kind: ActKind::CreateKey, subject: String::new(), tenant: None, details: json!({}), by, at: 1 };
    assert!(audit.record(&administered).is_err(), "nobody administers without a record");
    assert!(told().contains("\ntramontane:audit_records_lost_total 2\n"), "{}", told());
    fs::remove_file(&in_the_way).expect("it is out of the way");
    while !audit.is_on() {
        thread::yield_now();
    }
    audit.act_blocking(&act(2)).expect("on disk");
    audit.close();
    check(&directory).expect("a log");
    let acts = query::Query { kinds: vec![Kind::Act], ..query::Query::default() };
    let acts = query::find_last(&directory, &acts, 9).expect("records");
    let actions: Vec<_> = acts.iter().map(|record| record.members["action"].clone()).collect();
    assert!(actions.contains(&json!("audit.open")) && actions.contains(&json!("test")), "{actions:?}");
}

#[test]
fn a_log_that_turns_out_to_be_changed_is_not_gone_on_without_any_more() {
    let (folder, directory) = changed_sample();
    let aside = folder.path().join("aside");
    fs::rename(&directory, &aside).expect("it is moved");
    fs::write(&directory, "").expect("something is in the way");
    let options = AuditOptions { on_failure: OnFailure::Continue, ..options() };
    let audit = Audit::open(&directory, options, AuditMetrics::default()).expect("it goes on without");
    audit.check().expect("nothing is known to be changed");
    fs::remove_file(&directory).and_then(|()| fs::rename(&aside, &directory)).expect("it is back");
    while audit.check().is_ok() {
        thread::yield_now();
    }
    assert!(!audit.is_on() && audit.begin(&json!({})).is_err());
    audit.close();
}

#[test]
fn a_log_that_was_changed_is_never_gone_on_without() {
    let (_folder, directory) = changed_sample();
    let options = AuditOptions { on_failure: OnFailure::Continue, ..options() };
    let opened = Audit::open(&directory, options, AuditMetrics::default());
    assert!(matches!(opened, Err(AuditError::Broken(_))), "{opened:?}");
}

#[test]
fn the_end_waits_for_an_anchor_only_as_long_as_was_agreed() {
    let folder = TempDir::new().expect("a folder");
    // It takes connections, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/", silent.local_addr().expect("an address"));
    let patience = Duration::from_millis(100);
    let options = AuditOptions {
        anchors: vec![AuditAnchor::Url(url)],
        anchor_patience: patience,
        checkpoint_records: 1,
        ..options()
    };
    let audit = open(folder.path(), options);
    for number in 0..3 {
        audit.act_blocking(&act(number)).expect("on disk, whatever the anchor does");
    }
    let began = Instant::now();
    audit.close();
    // The anchor alone would take ten seconds for each.
    assert!((patience..Duration::from_secs(5)).contains(&began.elapsed()), "{:?}", began.elapsed());
    check(folder.path()).expect("a log");
}
