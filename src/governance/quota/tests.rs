use proptest::{collection::vec, prelude::*};

use super::*;
use crate::governance::{Actor, DEFAULT_TENANT, Governance, GovernanceError};

const BY: Actor = Actor::CommandLine;

/// A Saturday in November 2026, a day and a bit before the month ends.
const NOW: u64 = 1_795_868_000_000;

fn quota(tenant: &str, limits: Limits) -> Quota {
    Quota { scope: Scope { tenant: Some(tenant.to_owned()), ..Scope::default() }, limits }
}

fn of(tenant: &str) -> Subject {
    Subject { key: Some("tmk_a".to_owned()), tenant: tenant.to_owned(), model: "tiny".to_owned() }
}

fn with(quotas: Vec<Quota>) -> Quotas {
    let made = Quotas::default();
    made.state().quotas = quotas;
    made
}

fn one(tokens: u64) -> Amount {
    Amount { requests: 1, tokens }
}

fn used(quotas: &Quotas, tokens: u64, now_ms: u64) {
    let reservation = quotas.reserve(&of("a"), one(tokens), now_ms).expect("it fits").expect("it is limited");
    reservation.begin(tokens);
}

#[test]
fn what_was_not_used_is_given_back() {
    let quotas = with(vec![quota("a", Limits { tokens_per_minute: Some(100), ..Limits::default() })]);
    let reservation = quotas.reserve(&of("a"), one(90), NOW).expect("it fits").expect("it is limited");
    let refused = quotas.reserve(&of("a"), one(20), NOW).map(drop).expect_err("90 are reserved");
    assert_eq!((refused.kind, refused.used, refused.needed), (LimitKind::TokensPerMinute, 90, 20));
    assert_eq!(
        refused.to_string(),
        "tokens_per_minute of tenant a is limited to 100: 90 are used, and this request needs 20"
    );
    reservation.begin(10);
    reservation.count(5);
    drop(reservation);
    let (_, tokens) = quotas.standing(&of("a"), NOW);
    assert_eq!(tokens, Some(Standing { limit: 100, remaining: 85, reset_ms: 61_000 }));
    // Of one that never began nothing is left.
    drop(quotas.reserve(&of("a"), one(80), NOW));
    assert_eq!(quotas.standing(&of("a"), NOW).1.map(|standing| standing.remaining), Some(85));
}

/// What is given back belongs to its own second; once that counts no more, it is nobody else's.
#[test]
fn what_ends_late_gives_back_nothing_of_others() {
    let quotas = with(vec![quota("a", Limits { tokens_per_minute: Some(10_000), ..Limits::default() })]);
    let reserve = |tokens, now_ms| quotas.reserve(&of("a"), one(tokens), now_ms).expect("it fits");
    let early = reserve(9000, NOW).expect("it is limited");
    early.begin(100);
    let late = reserve(9000, NOW + 61_000).expect("it is limited");
    late.begin(9000);
    drop(early);
    assert_eq!(quotas.standing(&of("a"), NOW + 62_000).1.map(|standing| standing.remaining), Some(1000));
    drop(late);
    // Of what has begun to count at the same time as something else that is over, only its own.
    drop(reserve(500, NOW + 62_000));
    assert_eq!(quotas.standing(&of("a"), NOW + 62_000).1.map(|standing| standing.remaining), Some(1000));
}

#[test]
fn several_requests_are_taken_or_none() {
    let limits = Limits { requests_per_minute: Some(3), concurrent_requests: Some(4), ..Limits::default() };
    let quotas = with(vec![quota("a", limits)]);
    let several = |requests| quotas.reserve(&of("a"), Amount { requests, tokens: 1 }, NOW);
    let refused = several(5).map(drop).expect_err("more than can be");
    assert_eq!((refused.kind, refused.needed), (LimitKind::RequestsPerMinute, 5));
    let two = several(2).expect("two").expect("it is limited");
    assert_eq!(several(2).map(drop).expect_err("four").used, 2);
    drop(two); // never began
    assert!(several(3).is_ok());
}

#[test]
fn as_many_at_once_as_are_allowed() {
    let quotas = with(vec![quota("a", Limits { concurrent_requests: Some(2), ..Limits::default() })]);
    let first = quotas.reserve(&of("a"), one(1), NOW).expect("one");
    let _second = quotas.reserve(&of("a"), one(1), NOW).expect("two");
    assert_eq!(quotas.reserve(&of("a"), one(1), NOW).map(drop).expect_err("three").kind, LimitKind::ConcurrentRequests);
    drop(first);
    assert!(quotas.reserve(&of("a"), one(1), NOW).is_ok());
    assert!(quotas.reserve(&of("b"), one(1), NOW).expect("nothing limits it").is_none());
}

#[test]
fn a_tenants_own_quota_replaces_everybodys() {
    let limit = |limit| Limits { requests_per_minute: Some(limit), ..Limits::default() };
    let quotas = with(vec![quota(EVERY_TENANT, limit(1)), quota("a", limit(2))]);
    let is_admitted = |tenant| {
        let reserved = quotas.reserve(&of(tenant), one(1), NOW);
        reserved.map(|reservation| reservation.inspect(|reservation| reservation.begin(1))).is_ok()
    };
    assert_eq!(["a", "b", "c", "a", "b", "a"].map(is_admitted), [true, true, true, true, false, false]);
}

#[test]
fn budgets_are_free_again_when_their_period_is_over() {
    let quotas = with(vec![quota("a", Limits { tokens_per_day: Some(100), ..Limits::default() })]);
    used(&quotas, 100, NOW);
    let refused = quotas.reserve(&of("a"), one(1), NOW).map(drop).expect_err("it is used up");
    let free_in = refused.free_in_ms.expect("tomorrow");
    assert!(refused.kind.is_budget() && (1..=86_400_000).contains(&free_in));
    assert!(quotas.reserve(&of("a"), one(1), NOW + free_in - 1).is_err());
    used(&quotas, 100, NOW + free_in);
    assert_eq!(quotas.reserve(&of("a"), one(101), NOW).map(drop).expect_err("never").free_in_ms, None);
}

#[test]
fn what_was_used_is_known_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let subject = of(DEFAULT_TENANT);
    let limits = Limits { tokens_per_month: Some(100), ..Limits::default() };
    let governance = Governance::open(directory.path()).expect("it opens");
    let beside = Governance::open(directory.path()).expect("it opens twice");
    beside.administered_by(&BY).set_quota(&quota(DEFAULT_TENANT, limits), 0).expect("it is set");
    governance.refresh().expect("it sees it");
    let reservation = governance.quotas().reserve(&subject, one(70), NOW).expect("it fits").expect("it is limited");
    reservation.begin(60);
    drop(reservation);
    governance.write_quota_usage().expect("it is written");
    let usage = beside.administered_by(&BY).quota_usage(&QuotaFilter::default()).expect("it is read");
    assert!(usage.iter().any(|usage| usage.period == "2026-11" && usage.tokens == 60), "{usage:?}");
    drop((governance, beside));
    let governance = Governance::open(directory.path()).expect("it opens again");
    let refused = governance.quotas().reserve(&subject, one(41), NOW).map(drop).expect_err("60 are used");
    assert_eq!((refused.kind, refused.used), (LimitKind::TokensPerMonth, 60));
    governance.administered_by(&BY).unset_quota(&quota(DEFAULT_TENANT, limits).scope, 0).expect("it was set");
    assert!(governance.quotas().reserve(&subject, one(41), NOW).expect("nothing limits it").is_none());
}

#[test]
fn what_is_no_quota_is_refused() {
    let governance = Governance::in_memory().expect("memory");
    let limits = Limits { tokens_per_day: Some(1), ..Limits::default() };
    let nobody = Quota { scope: Scope::default(), limits };
    assert!(matches!(
        governance.administered_by(&BY).set_quota(&nobody, 0),
        Err(GovernanceError::Invalid { field: "scope", .. })
    ));
    let nothing = quota(DEFAULT_TENANT, Limits::default());
    assert!(matches!(
        governance.administered_by(&BY).set_quota(&nothing, 0),
        Err(GovernanceError::Invalid { field: "limits", .. })
    ));
    assert!(matches!(
        governance.administered_by(&BY).set_quota(&quota("nobody", limits), 0),
        Err(GovernanceError::Missing { .. })
    ));
    let unset = governance.administered_by(&BY).unset_quota(&quota(DEFAULT_TENANT, limits).scope, 0);
    assert!(matches!(unset, Err(GovernanceError::Missing { .. })));
}

proptest! {
    /// Whatever comes when, no 60 seconds have more than the limits, and in the end nothing is reserved.
    #[test]
    fn no_minute_has_more_than_the_limit(asked in vec((0..20_000u64, 1..60u64, any::<bool>(), 0..200_000u64), 1..80)) {
        let limits = Limits { requests_per_minute: Some(7), tokens_per_minute: Some(100), ..Limits::default() };
        let quotas = with(vec![quota("a", limits)]);
        let (mut now, mut admitted, mut under_way) = (NOW, Vec::new(), Vec::new());
        for (pause, tokens, begins, takes) in asked {
            now += pause;
            under_way.retain(|(until, _)| *until > now);
            if let Ok(Some(reservation)) = quotas.reserve(&of("a"), one(tokens), now)
                && begins
            {
                reservation.begin(tokens);
                admitted.push((now, tokens));
                under_way.push((now + takes, reservation));
            }
        }
        for &(start, _) in &admitted {
            let minute = admitted.iter().filter(|(time, _)| (start..start + 60_000).contains(time));
            let (requests, tokens) = minute.fold((0, 0), |(n, sum), (_, tokens)| (n + 1, sum + tokens));
            prop_assert!(requests <= 7 && tokens <= 100, "{requests} requests, {tokens} tokens");
        }
        let (requests, tokens) = quotas.standing(&of("a"), now + 61_000);
        prop_assert_eq!(requests.map(|standing| standing.remaining), Some(7));
        prop_assert_eq!(tokens.map(|standing| standing.remaining), Some(100));
    }
}
