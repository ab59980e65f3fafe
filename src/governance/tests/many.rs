//! Very many keys, and what the time of a look-up tells.

use std::{
    hint::black_box,
    sync::mpsc,
    time::{Duration, Instant},
};

use super::{super::keys, *};

const KEYS: usize = 100_000;

/// Adds keys as another process would, all at once. Their secrets are their numbers.
fn add_keys(directory: &Path) {
    let mut connection = Connection::open(directory.join(DATABASE)).expect("it opens beside");
    let transaction = connection.transaction().expect("it may write");
    let insert = "INSERT INTO keys (id, name, hash, tenant, roles, attributes, created_at)
                  VALUES (?1, 'app', ?2, 'default', 'service', '{}', 1)";
    let mut insert = transaction.prepare(insert).expect("there is such a table");
    for number in 0..KEYS {
        let secret = number.to_string();
        insert.execute((&format!("tmk_{number:010}"), keys::hash(&secret))).expect("it is new");
    }
    drop(insert);
    transaction.commit().expect("it is written");
}

/// Prints how long it takes: `cargo test -p tramontane --lib -- --nocapture very_many_keys`.
#[test]
fn very_many_keys_are_read_while_everybody_goes_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let governance = Governance::open(directory.path()).expect("it opens");
    let secret = governance.create_key(&new_key("app", &[Role::Service]), NOW).expect("it is made").secret;
    add_keys(directory.path());
    // As whoever reads them holds it, for as long as that takes.
    let reading = governance.reader();
    let (sender, receiver) = mpsc::channel();
    let looks = governance.clone();
    let looking = std::thread::spawn(move || {
        let began = Instant::now();
        let is_current = looks.is_current().expect("it can be read");
        let is_known = looks.roll().authenticate(&secret, NOW).is_ok();
        sender.send((is_current, is_known, began.elapsed())).expect("the test listens");
    });
    let looked = receiver.recv_timeout(Duration::from_secs(20)).expect("a look waits for nobody who reads");
    assert_eq!((looked.0, looked.1), (false, true));
    looking.join().expect("no panic");
    drop(reading);
    let began = Instant::now();
    governance.refresh().expect("they can be read");
    let took = began.elapsed();
    assert!(governance.is_current().expect("it can be read"));
    assert!(governance.roll().authenticate("99999", NOW).is_ok());
    println!("{KEYS} keys are read in {took:?}; a look beside it took {:?}", looked.2);
}

#[test]
fn what_was_used_has_nothing_read_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let governance = Governance::open(directory.path()).expect("it opens");
    let beside = Governance::open(directory.path()).expect("it opens beside");
    governance.refresh().expect("it can be read");
    let use_some = |connection: &mut Connection, number: usize| {
        let insert = "INSERT INTO quota_usage (key, tenant, model, period, tokens) VALUES ('', 'default', ?1, 'p', 1)";
        connection.execute(insert, [number.to_string()])
    };
    governance.change_aside(|connection| use_some(connection, 1)).expect("it is written");
    assert!(governance.is_current().expect("it can be read"));
    // What another process changes meanwhile is seen all the same.
    let meanwhile = |connection: &mut Connection| {
        beside.create_key(&new_key("app", &[Role::Service]), NOW).expect("it is made");
        use_some(connection, 2)
    };
    governance.change_aside(meanwhile).expect("it is written");
    assert!(!governance.is_current().expect("it can be read"));
    governance.refresh().expect("it can be read");
    governance.change_aside(|connection| use_some(connection, 3)).expect("it is written");
    assert!(governance.is_current().expect("it can be read"));
}

/// Nobody can guess a key by the time of refusals: what is looked up is a hash of what was sent, so a guess that is nearly right
/// is as wrong as any other. The look-ups of both kinds alternate, and medians are compared, so that others on the machine
/// disturb both alike.
#[test]
fn a_guess_that_is_nearly_right_takes_as_long_as_any_other() {
    const ROUNDS: usize = 300;
    const LOOKUPS: usize = 40;
    let governance = governance();
    let secret = governance.create_key(&new_key("app", &[Role::Service]), NOW).expect("it is made").secret;
    let (right, last) = secret.split_at(secret.len() - 1);
    let near = format!("{right}{}", if last == "x" { "y" } else { "x" });
    let far: String = secret.chars().map(|c| if c == 'q' { 'z' } else { 'q' }).collect();
    let hashes = [&secret, &near, &far].map(|token| keys::hash(token));
    assert!(hashes[0][..8] != hashes[1][..8] && hashes[0][..8] != hashes[2][..8], "a hash tells nothing of its text");
    let roll = governance.roll();
    let time = |guess: &str| {
        let began = Instant::now();
        for _ in 0..LOOKUPS {
            assert!(black_box(roll.authenticate(black_box(guess), NOW)).is_err());
        }
        began.elapsed().as_nanos() as f64
    };
    let (mut nears, mut fars) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        // Neither is always the first.
        if round % 2 == 0 {
            nears.push(time(&near));
            fars.push(time(&far));
        } else {
            fars.push(time(&far));
            nears.push(time(&near));
        }
    }
    let median = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let ratio = median(nears) / median(fars);
    println!("a guess that is nearly right takes {ratio:.3} of the time of another");
    assert!((0.75..1.33).contains(&ratio), "{ratio}");
}
