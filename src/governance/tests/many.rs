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
    let secret =
        command_line(&governance).create_key(&new_key("app", &[Role::Service]), NOW).expect("it is made").secret;
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
        command_line(&beside).create_key(&new_key("app", &[Role::Service]), NOW).expect("it is made");
        use_some(connection, 2)
    };
    governance.change_aside(meanwhile).expect("it is written");
    assert!(!governance.is_current().expect("it can be read"));
    governance.refresh().expect("it can be read");
    governance.change_aside(|connection| use_some(connection, 3)).expect("it is written");
    assert!(governance.is_current().expect("it can be read"));
}

/// Nobody can guess a key by the time of refusals: what is looked up is a hash of all that was sent, so a guess that is nearly
/// right is as wrong as any other. The look-ups of both kinds alternate, and what counts is how often one took longer than the
/// other, so that others on the machine disturb both alike. A third of a standard deviation shows, which is some percent of a
/// look-up; as a control, a comparison that stops at the first letter that is wrong does.
#[test]
fn a_guess_that_is_nearly_right_takes_as_long_as_any_other() {
    let governance = governance();
    let secret =
        command_line(&governance).create_key(&new_key("app", &[Role::Service]), NOW).expect("it is made").secret;
    let guesses = Guesses::of(&secret);
    let hashes = [&secret, &guesses.near[0], &guesses.far[0]].map(|token| keys::hash(token));
    assert!(hashes[0][..8] != hashes[1][..8] && hashes[0][..8] != hashes[2][..8], "a hash tells nothing of its text");
    let roll = governance.roll();
    let look_up = |guess: &str| assert!(black_box(roll.authenticate(black_box(guess), NOW)).is_err());
    let longer = guesses.near_takes_longer(look_up);
    println!("a guess that is nearly right takes longer than another in {longer:.3} of all pairs");
    assert!((0.4..0.6).contains(&longer), "{longer}");
    let longer = guesses.near_takes_longer(|guess| {
        look_up(guess);
        let right = black_box(guess).bytes().zip(secret.bytes()).take_while(|(one, other)| one == other).count();
        assert!(black_box(right) < secret.len());
    });
    println!("where a comparison stops at the first letter that is wrong, in {longer:.3}");
    assert!(longer > 0.75, "{longer}");
}

/// Many of each kind, as one may lie better in memory than another.
struct Guesses {
    near: Vec<String>,
    far: Vec<String>,
}

impl Guesses {
    const KINDS: usize = 50;

    /// Those with another last letter than a secret, and those with others all through.
    fn of(secret: &str) -> Self {
        let letters = || ('a'..='z').chain('A'..='Z').filter(|letter| !secret.ends_with(*letter)).take(Self::KINDS);
        let near = letters().map(|letter| format!("{}{letter}", &secret[..secret.len() - 1]));
        let shifted = |letter: char| move |c: char| if c == letter { '-' } else { letter };
        let far = letters().map(|letter| secret.chars().map(shifted(letter)).collect());
        Self { near: near.collect(), far: far.collect() }
    }

    /// Of all pairs of a near guess and a far one, the part in which the near one takes longer.
    fn near_takes_longer(&self, look_up: impl Fn(&str)) -> f64 {
        const ROUNDS: usize = 2000;
        const LOOKUPS: usize = 8;
        let time = |guess: &str| {
            let began = Instant::now();
            (0..LOOKUPS).for_each(|_| look_up(guess));
            began.elapsed()
        };
        let mut times = Vec::with_capacity(2 * ROUNDS);
        for round in 0..ROUNDS {
            let kind = round / 2 % Self::KINDS;
            let (near, far) = (&self.near[kind], &self.far[kind]);
            // Neither is always the first.
            if round % 2 == 0 {
                times.push((time(near), true));
                times.push((time(far), false));
            } else {
                times.push((time(far), false));
                times.push((time(near), true));
            }
        }
        share_of_longer(times)
    }
}

/// Mann and Whitney's U, as a part of all pairs; those of equal times count half.
fn share_of_longer(mut times: Vec<(Duration, bool)>) -> f64 {
    times.sort_unstable();
    let (mut far_before, mut near_before, mut longer) = (0.0, 0.0, 0.0);
    for equal in times.chunk_by(|one, other| one.0 == other.0) {
        let near = equal.iter().filter(|(_, is_near)| *is_near).count() as f64;
        let far = equal.len() as f64 - near;
        longer += near * (far_before + far / 2.0);
        (far_before, near_before) = (far_before + far, near_before + near);
    }
    longer / (near_before * far_before)
}

#[test]
fn the_share_of_pairs_is_counted_right() {
    let times = |near: &[u64], far: &[u64]| {
        let of = |is_near: bool| move |nanos: &u64| (Duration::from_nanos(*nanos), is_near);
        share_of_longer(near.iter().map(of(true)).chain(far.iter().map(of(false))).collect())
    };
    assert_eq!(times(&[3, 4], &[1, 2]), 1.0);
    assert_eq!(times(&[1, 2], &[3, 4]), 0.0);
    assert_eq!(times(&[1, 4], &[2, 3]), 0.5);
    assert_eq!(times(&[5], &[5, 5]), 0.5);
}
