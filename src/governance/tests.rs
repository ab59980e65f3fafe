mod many;

use std::{fs, os::unix::fs::PermissionsExt};

use futures_util::FutureExt;

use super::*;

const NOW: u64 = 1_800_000_000;

/// What whoever has the machine may do, as the command line does it.
pub(super) fn command_line(governance: &Governance) -> Administration<'_> {
    governance.administered_by(&Actor::CommandLine)
}

fn governance() -> Governance {
    Governance::in_memory().expect("memory")
}

fn new_key(name: &str, roles: &[Role]) -> NewKey {
    NewKey {
        name: name.to_owned(),
        tenant: DEFAULT_TENANT.to_owned(),
        roles: roles.iter().copied().collect(),
        attributes: [("team".to_owned(), "red".to_owned())].into(),
        expires_at: None,
    }
}

fn refusal(governance: &Governance, token: &str, now: u64) -> Option<Refusal> {
    match governance.authenticate(token, now) {
        Ok(_) => None,
        Err(GovernanceError::Refused(refusal)) => Some(refusal),
        Err(error) => panic!("{error}"),
    }
}

fn message<T>(result: Result<T, GovernanceError>) -> String {
    result.err().expect("it fails").to_string()
}

#[test]
fn a_key_is_its_bearer() {
    let governance = governance();
    assert!(!governance.is_configured().expect("it can be read"));
    let created = command_line(&governance)
        .create_key(&new_key("app", &[Role::Service, Role::Developer]), NOW)
        .expect("it is made");
    assert!(governance.is_configured().expect("it can be read"));
    assert!(created.secret.starts_with(&format!("{}_", created.key.id)));
    assert_eq!(created.secret.len(), "tmk_".len() + 10 + 1 + 40);
    let principal = governance.authenticate(&created.secret, NOW).expect("it is known");
    let who = &principal.asker;
    assert_eq!((who.id.as_str(), who.name.as_str()), (created.key.id.as_str(), "app"));
    assert_eq!(who.roles, ["developer", "service"]);
    assert_eq!(who.attributes["team"], "red");
    assert_eq!(command_line(&governance).keys().expect("they can be read"), [created.key]);
}

#[test]
fn what_is_no_key_is_nobody() {
    let governance = governance();
    let created = command_line(&governance).create_key(&new_key("app", &[Role::Service]), NOW).expect("it is made");
    let secret = created.secret;
    let (shorter, longer) = (&secret[..secret.len() - 1], format!("{secret}x"));
    let (upper, other) = (secret.to_uppercase(), secret.replace("tmk_", "tmk-"));
    for token in ["", "tmk_", &created.key.id, shorter, &longer, &upper, &other, &format!(" {secret}")] {
        assert_eq!(refusal(&governance, token, NOW), Some(Refusal::UnknownKey), "{token}");
    }
}

#[test]
fn a_key_ends_with_its_time() {
    let governance = governance();
    let new = NewKey { expires_at: Some(NOW + 60), ..new_key("app", &[Role::Service]) };
    let created = command_line(&governance).create_key(&new, NOW).expect("it is made");
    assert_eq!(refusal(&governance, &created.secret, NOW + 59), None);
    assert_eq!(refusal(&governance, &created.secret, NOW + 60), Some(Refusal::Expired));
    let past = NewKey { expires_at: Some(NOW), ..new };
    let expected = format!("expires = \"{NOW}\": expected a time to come");
    assert_eq!(message(command_line(&governance).create_key(&past, NOW)), expected);
}

#[test]
fn a_revoked_key_is_refused_and_its_bearers_learn_it() {
    let governance = governance();
    let created = command_line(&governance).create_key(&new_key("app", &[Role::Service]), NOW).expect("it is made");
    let other = command_line(&governance).create_key(&new_key("other", &[Role::Service]), NOW).expect("it is made");
    let bearer = governance.authenticate(&created.secret, NOW).expect("it is known");
    let stranger = governance.authenticate(&other.secret, NOW).expect("it is known");
    assert!(bearer.until_over().now_or_never().is_none());
    let revoked = command_line(&governance).revoke_key("app", NOW + 1).expect("it is there");
    assert_eq!((revoked.revoked_at, revoked.state(NOW + 1)), (Some(NOW + 1), KeyState::Revoked));
    assert_eq!(refusal(&governance, &created.secret, NOW + 1), Some(Refusal::Revoked));
    assert_eq!(bearer.until_over().now_or_never(), Some(Refusal::Revoked));
    assert!(stranger.until_over().now_or_never().is_none());
    let again = command_line(&governance).revoke_key(&created.key.id, NOW + 9).expect("it is there");
    assert_eq!(again.revoked_at, Some(NOW + 1));
    assert!(governance.is_configured().expect("it can be read"), "the server does not open when the last key ends");
}

#[test]
fn a_replaced_key_is_good_for_a_while() {
    let governance = governance();
    let old = command_line(&governance).create_key(&new_key("app", &[Role::Developer]), NOW).expect("it is made");
    let new = command_line(&governance).rotate_key("app", 3600, None, NOW).expect("it is there");
    assert_eq!((new.key.name.as_str(), &new.key.roles), ("app", &old.key.roles));
    assert_eq!(new.key.attributes, old.key.attributes);
    assert_eq!(refusal(&governance, &old.secret, NOW + 3599), None);
    assert_eq!(refusal(&governance, &old.secret, NOW + 3600), Some(Refusal::Expired));
    assert_eq!(refusal(&governance, &new.secret, NOW + 3600), None);
    assert_eq!(command_line(&governance).key("app").expect("the newest").id, new.key.id);
    let twice = message(command_line(&governance).rotate_key(&old.key.id, 9, None, NOW));
    assert_eq!(twice, format!("the key {} is replaced and cannot be replaced: create another", old.key.id));
    command_line(&governance).revoke_key(&new.key.id, NOW).expect("it is there");
    let ended = message(command_line(&governance).rotate_key(&new.key.id, 9, None, NOW));
    assert_eq!(ended, format!("the key {} is revoked and cannot be replaced: create another", new.key.id));
}

#[test]
fn a_name_is_revoked_with_all_its_keys() {
    let governance = governance();
    let new = NewKey { expires_at: Some(NOW + 90), ..new_key("app", &[Role::Developer]) };
    let old = command_line(&governance).create_key(&new, NOW).expect("it is made");
    let next = command_line(&governance).rotate_key("app", 3600, None, NOW + 10).expect("it is there");
    assert_eq!(next.key.expires_at, Some(NOW + 100), "it lasts as long as the one before");
    let last = command_line(&governance).rotate_key("app", 3600, Some(NOW + 50), NOW + 20).expect("it is there");
    assert_eq!(last.key.expires_at, Some(NOW + 50));
    for _ in ["once", "twice"] {
        command_line(&governance).revoke_key("app", NOW + 30).expect("it is there");
    }
    for key in [&old, &next, &last] {
        assert_eq!(refusal(&governance, &key.secret, NOW + 30), Some(Refusal::Revoked));
    }
    // An id is that key's alone.
    let old = command_line(&governance).create_key(&new_key("other", &[Role::Developer]), NOW).expect("it is made");
    let next = command_line(&governance).rotate_key("other", 3600, None, NOW).expect("it is there");
    command_line(&governance).revoke_key(&next.key.id, NOW).expect("it is there");
    assert_eq!(refusal(&governance, &old.secret, NOW), None);
    command_line(&governance).create_key(&new_key("app", &[Role::Developer]), NOW + 40).expect("it is made");
    assert_eq!(command_line(&governance).key("app").expect("the one that is not revoked").created_at, NOW + 40);
}

#[tokio::test(start_paused = true)]
async fn bearers_learn_that_the_time_of_their_key_is_over() {
    let governance = governance();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let new = NewKey { expires_at: Some(now + 3600), ..new_key("app", &[Role::Service]) };
    let created = command_line(&governance).create_key(&new, now).expect("it is made");
    let bearer = governance.authenticate(&created.secret, now).expect("it is known");
    assert!(bearer.until_over().now_or_never().is_none());
    command_line(&governance).rotate_key("app", 0, None, now).expect("it is there");
    assert_eq!(bearer.until_over().now_or_never(), Some(Refusal::Expired), "its end has come nearer");
}

#[test]
fn a_tenant_that_is_made_again_is_another() {
    let governance = governance();
    let place = |governance: &Governance| governance.place("acme").expect("it can be read").expect("it is there");
    command_line(&governance).create_tenant("acme", None, NOW).expect("it is made");
    let first = place(&governance);
    command_line(&governance).delete_tenant("acme", NOW).expect("it is there");
    assert_eq!(governance.place("acme").expect("it can be read"), None);
    command_line(&governance).create_tenant("acme", None, NOW).expect("it is made");
    let second = place(&governance);
    assert!(first.id != second.id && first.cache_group != second.cache_group);
}

#[test]
fn keys_are_found_by_id_beginning_and_name() {
    let governance = governance();
    let one = command_line(&governance).create_key(&new_key("one", &[Role::Service]), NOW).expect("it is made").key;
    command_line(&governance).create_key(&new_key("two", &[Role::Service]), NOW).expect("it is made");
    command_line(&governance).create_key(&new_key("two", &[Role::Service]), NOW).expect("it is made");
    for name in ["one", &one.id, &one.id[..9]] {
        assert_eq!(command_line(&governance).key(name).expect("it is there"), one, "{name}");
    }
    assert_eq!(message(command_line(&governance).key("two")), "\"two\" is the name of 2 keys: say which by its id");
    assert_eq!(message(command_line(&governance).key("tmk_")), "there is no key \"tmk_\"");
}

#[test]
fn what_a_key_cannot_be() {
    let governance = governance();
    let long = "x".repeat(300);
    let attribute = |name: &str, value: &str| NewKey {
        attributes: [(name.to_owned(), value.to_owned())].into(),
        ..new_key("app", &[Role::Service])
    };
    let expected_name = "expected 1 to 64 letters, digits, '-', '_' or '.', the first a letter or a digit";
    let expected_value = "expected a value of at most 256 bytes without control characters";
    for (new, expected) in [
        (new_key("", &[Role::Service]), format!("name = \"\": {expected_name}")),
        (new_key("a b", &[Role::Service]), format!("name = \"a b\": {expected_name}")),
        (new_key("../x", &[Role::Service]), format!("name = \"../x\": {expected_name}")),
        (
            new_key("app", &[]),
            "role = \"\": expected at least one of admin, operator, auditor, developer, service".into(),
        ),
        (attribute("a=b", "c"), format!("attribute = \"a=b\": {expected_name}")),
        (attribute("a", &long), format!("attribute = \"a\": {expected_value}")),
        (attribute("a", "b\nc"), format!("attribute = \"a\": {expected_value}")),
        (
            NewKey { tenant: "nobody".into(), ..new_key("app", &[Role::Service]) },
            "there is no tenant \"nobody\"".into(),
        ),
    ] {
        assert_eq!(message(command_line(&governance).create_key(&new, NOW)), expected);
    }
    assert!(command_line(&governance).keys().expect("they can be read").is_empty());
}

#[test]
fn tenants_come_and_go() {
    let governance = governance();
    command_line(&governance).create_tenant("acme", None, NOW).expect("it is made");
    assert_eq!(
        message(command_line(&governance).create_tenant("acme", None, NOW)),
        "there is a tenant \"acme\" already"
    );
    let new = NewKey { tenant: "acme".into(), ..new_key("app", &[Role::Service]) };
    let created = command_line(&governance).create_key(&new, NOW).expect("it is made");
    let names = |governance: &Governance| {
        let tenants = command_line(governance).tenants().expect("they can be read");
        tenants.into_iter().map(|tenant| (tenant.name, tenant.keys)).collect::<Vec<_>>()
    };
    assert_eq!(names(&governance), [("acme".to_owned(), 1), (DEFAULT_TENANT.to_owned(), 0)]);
    let place = governance.place("acme").expect("it can be read").expect("it is there");
    let bearer = governance.authenticate(&created.secret, NOW).expect("it is known");
    let deleted = command_line(&governance).delete_tenant("acme", NOW).expect("it is there");
    assert_eq!((deleted.keys, &deleted.place), (1, &place.id));
    assert!(bearer.until_over().now_or_never().is_some(), "its bearers learn it");
    assert_eq!(governance.leaving().expect("it can be read"), [place.id.as_str()]);
    governance.erased(&place.id).expect("it is noted");
    assert!(governance.leaving().expect("it can be read").is_empty());
    assert_eq!(message(command_line(&governance).delete_tenant("acme", NOW)), "there is no tenant \"acme\"");
    assert_eq!(refusal(&governance, &created.secret, NOW), Some(Refusal::Revoked), "and its id is not free again");
    assert!(
        message(command_line(&governance).delete_tenant(DEFAULT_TENANT, NOW))
            .starts_with("tenant = \"default\": expected another")
    );
}

#[test]
fn what_one_process_changes_the_other_sees_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let server = Governance::open(directory.path()).expect("it opens");
    let command = Governance::open(directory.path()).expect("it opens beside");
    assert!(!server.is_configured().expect("it can be read"));
    let created = command_line(&command).create_key(&new_key("app", &[Role::Service]), NOW).expect("it is made");
    assert!(server.is_configured().expect("it can be read"));
    let bearer = server.authenticate(&created.secret, NOW).expect("it is known");
    command_line(&command).revoke_key("app", NOW).expect("it is there");
    assert!(bearer.until_over().now_or_never().is_none(), "nobody has looked yet");
    server.refresh().expect("it can be read");
    assert_eq!(bearer.until_over().now_or_never(), Some(Refusal::Revoked));
    assert_eq!(refusal(&server, &created.secret, NOW), Some(Refusal::Revoked));
}

#[test]
fn files_are_private_and_hold_no_secret() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let governance = Governance::open(&data).expect("it opens");
    let created = command_line(&governance).create_key(&new_key("app", &[Role::Service]), NOW).expect("it is made");
    let secret = created.secret.strip_prefix(&created.key.id).expect("it begins so").as_bytes();
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    for entry in fs::read_dir(&data).expect("it is there") {
        let path = entry.expect("it can be read").path();
        let bytes = fs::read(&path).expect("it can be read");
        assert!(!bytes.windows(secret.len()).any(|window| window == secret), "{} has the secret", path.display());
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    drop(governance);
    let again = Governance::open(&data).expect("it opens again");
    assert_eq!(refusal(&again, &created.secret, NOW), None);
}

#[test]
fn a_change_that_waits_holds_nobody_up() {
    let directory = tempfile::tempdir().expect("a directory");
    let governance = Governance::open(directory.path()).expect("it opens");
    let secret =
        command_line(&governance).create_key(&new_key("app", &[Role::Service]), NOW).expect("it is made").secret;
    let other = Connection::open(directory.path().join(DATABASE)).expect("it opens beside");
    other.execute_batch("BEGIN IMMEDIATE").expect("nobody else writes");
    let changing = {
        let governance = governance.clone();
        std::thread::spawn(move || {
            command_line(&governance).create_key(&new_key("more", &[Role::Service]), NOW).map(drop)
        })
    };
    let waits = || matches!(governance.inner.database.try_lock(), Err(std::sync::TryLockError::WouldBlock));
    while !waits() {
        assert!(!changing.is_finished(), "a change waits for another process");
        std::thread::yield_now();
    }
    assert_eq!(refusal(&governance, &secret, NOW), None);
    assert!(governance.is_current().expect("it can be read"));
    assert!(waits(), "the change has to wait still");
    other.execute_batch("COMMIT").expect("it may write");
    changing.join().expect("no panic").expect("it is made in the end");
    assert_eq!(command_line(&governance).keys().expect("they can be read").len(), 2);
}

#[test]
fn what_another_process_changes_is_seen_at_the_next_look() {
    let directory = tempfile::tempdir().expect("a directory");
    let server = Governance::open(directory.path()).expect("it opens");
    let command = Governance::open(directory.path()).expect("it opens beside");
    server.refresh().expect("it can be read");
    assert!(server.is_current().expect("it can be read"));
    let key = command_line(&command).create_key(&new_key("app", &[Role::Service]), NOW).expect("it is made");
    assert!(!server.is_current().expect("it can be read"));
    server.refresh().expect("it can be read");
    assert!(server.is_current().expect("it can be read"));
    assert_eq!(refusal(&server, &key.secret, NOW), None);
    command_line(&server).revoke_key(&key.key.id, NOW).expect("it is there");
    assert_eq!(refusal(&server, &key.secret, NOW), Some(Refusal::Revoked));
    assert_eq!(refusal(&command, &key.secret, NOW), Some(Refusal::Revoked));
}
