//! Several who append, and a flood of refusals.

use std::{thread, time::Instant};

use super::{
    super::{Kind, query, refusals::RefusalLimit},
    *,
};

#[test]
fn two_processes_append_to_one_chain() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path();
    let options = AuditOptions { segment_bytes: 4000, checkpoint_records: 5, ..options() };
    let writers: Vec<_> = (0..3).map(|_| open(path, options.clone())).collect();
    thread::scope(|scope| {
        for audit in &writers {
            scope.spawn(move || {
                for number in 0..40 {
                    audit.act_blocking(&act(number)).expect("on disk");
                }
            });
        }
    });
    drop(writers);
    let report = check(path).expect("one chain");
    let acts = query::Query { kinds: vec![Kind::Act], ..query::Query::default() };
    assert_eq!(query::find_last(path, &acts, 1000).expect("records").len(), 120);
    assert!(report.segments > 3, "{report:?}");
}

#[tokio::test]
async fn whoever_waits_is_told_when_it_is_on_disk() {
    let folder = TempDir::new().expect("a folder");
    let audit = open(folder.path(), options());
    let begun: Vec<_> =
        (0..100).map(|n| audit.begin(&json!({ "request": format!("r{n}") })).expect("room").expect("on")).collect();
    for begun in &begun {
        begun.on_disk().await.expect("on disk");
    }
    // Without closing: it is there.
    let (found, next) =
        query::find(folder.path(), &query::Query { kinds: vec![Kind::Begun], ..Default::default() }, 60)
            .expect("records");
    assert_eq!(found.len(), 60);
    let rest = query::Query { kinds: vec![Kind::Begun], after: next, ..query::Query::default() };
    let (rest, next) = query::find(folder.path(), &rest, 60).expect("records");
    assert_eq!((rest.len(), next), (40, None));
    audit.end(&begun[7], &json!({ "request": "r7", "status": "done" }), None);
    audit.close();
    let of = query::Query { id: Some("r7".to_owned()), ..query::Query::default() };
    let of = query::find_last(folder.path(), &of, 9).expect("records");
    assert_eq!(of.iter().map(|record| record.kind).collect::<Vec<_>>(), [Kind::Begun, Kind::Ended]);
    assert_eq!(of[1].members["begun"], of[0].seq);
    let by_number = query::Query { id: Some(of[0].seq.to_string()), ..query::Query::default() };
    assert_eq!(query::find_last(folder.path(), &by_number, 9).expect("records"), of);
    assert!(matches!(audit.begin(&json!({})), Err(AuditError::Closed)));
}

#[test]
fn a_flood_of_refusals_is_counted_not_kept() {
    let folder = TempDir::new().expect("a folder");
    let audit = open(folder.path(), options());
    for _ in 0..5000 {
        audit.refuse(Refused::Stranger, &json!({ "status": 401 }));
    }
    audit.refuse(Refused::Known, &json!({ "status": 403 }));
    audit.close();
    let refused = query::Query { kinds: vec![Kind::Refused], ..query::Query::default() };
    let records = query::find_last(folder.path(), &refused, 10_000).expect("records");
    assert!((102..110).contains(&records.len()), "{}", records.len());
    let told: u64 = records.iter().filter_map(|record| record.members.get("left_out_before")?.as_u64()).sum();
    assert_eq!(told + records.len() as u64 - 2, 5000, "each is kept or counted; the last record only counts");
}

#[test]
fn the_limit_of_refusals_fills_again_with_time() {
    let now = Instant::now();
    let limit = RefusalLimit::new(now);
    assert_eq!((0..150).filter(|_| limit.admit(now).is_some()).count(), 100);
    assert_eq!(limit.admit(now + Duration::from_secs(2)), Some(50));
    assert_eq!(limit.admit(now + Duration::from_secs(2)), Some(0));
    assert_eq!(limit.admit(now + Duration::from_secs(2)), None);
}
