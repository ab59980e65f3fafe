//! `kill -9` under load: whoever has seen a byte of an answer has a record, and the log is whole after each restart.

use std::{
    collections::HashSet,
    io::Read,
    net::TcpStream,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use tramontane::{
    governance::audit::{
        Audit, AuditOptions, Evidence, Kind,
        query::{self, Query},
        verify,
    },
    telemetry::AuditMetrics,
};

use crate::cli::{checkpoint, serve::Server};

/// Servers that are killed at the same time, and how often each is.
const SERVERS: usize = 4;
const KILLS: usize = 50;
const CLIENTS: usize = 6;
/// A server lives at most so long once it is ready, in milliseconds.
const LONGEST_LIFE_MS: u64 = 60;

#[test]
fn two_hundred_kills_lose_no_record_of_an_answer_that_somebody_saw() {
    let model = tempfile::tempdir().unwrap();
    checkpoint::write(model.path());
    let (seen, torn) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for number in 0..SERVERS {
            let (model, seen, torn) = (model.path(), &seen, &torn);
            scope.spawn(move || {
                let directory = tempfile::tempdir().unwrap();
                let mut life = Lives { model, data: directory.path(), number, seen: HashSet::new() };
                (0..KILLS).for_each(|kill| life.live(kill));
                seen.fetch_add(life.seen.len(), Relaxed);
                torn.fetch_add(life.check(), Relaxed);
            });
        }
    });
    let seen = seen.into_inner();
    println!("{} kills, {seen} answers seen, {} torn records cut", SERVERS * KILLS, torn.into_inner());
    assert!(seen > SERVERS * KILLS, "hardly anything was asked: {seen}");
}

struct Lives<'a> {
    model: &'a Path,
    data: &'a Path,
    number: usize,
    /// Ids of requests of which a client saw a byte of the answer.
    seen: HashSet<String>,
}

impl Lives<'_> {
    /// One life of the server, from its start to its kill.
    fn live(&mut self, kill: usize) {
        let data = self.data.to_str().unwrap();
        let audit = ["--audit", "on", "--audit-segment", "64KiB", "--ephemeral=off", "--data-dir", data];
        let mut server = Server::start(self.model, &[&audit[..], &["--threads", "1", "--log-level", "info"]].concat());
        // What the one before has left is mended by now.
        verify(&self.data.join("audit"), &Evidence::default()).unwrap_or_else(|error| panic!("kill {kill}: {error}"));
        let name = self.model.file_name().unwrap().to_str().unwrap().to_owned();
        let (seen, is_over) = (Mutex::new(Vec::new()), AtomicBool::new(false));
        thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (server, name, seen, is_over) = (server.address.clone(), &name, &seen, &is_over);
                let begins = format!("server{}-kill{kill}-client{client}", self.number);
                scope.spawn(move || {
                    for request in 0.. {
                        if is_over.load(Relaxed) {
                            return;
                        }
                        let id = format!("{begins}-{request}");
                        if ask(&server, name, &id, request % 2 == 0) {
                            seen.lock().unwrap().push(id);
                        }
                    }
                });
            }
            let life = rand::random_range(0..LONGEST_LIFE_MS);
            thread::sleep(Duration::from_millis(life));
            server.kill();
            is_over.store(true, Relaxed);
        });
        self.seen.extend(seen.into_inner().unwrap());
    }

    /// Fails if an answer that was seen has no record. Says how many records were torn.
    fn check(&self) -> usize {
        let log = self.data.join("audit");
        Audit::open(&log, AuditOptions::default(), AuditMetrics::default()).unwrap().close(); // mends the last kill
        verify(&log, &Evidence::default()).unwrap();
        let (mut begun, mut recovered) = (HashSet::new(), 0);
        let mut read = |record: query::Record| {
            recovered += usize::from(record.kind == Kind::Recovered);
            if record.kind == Kind::Begun {
                begun.extend(record.members["request"].as_str().map(str::to_owned));
            }
            true
        };
        query::visit(&log, &Query::default(), &mut read).unwrap();
        let missing: Vec<_> = self.seen.difference(&begun).collect();
        assert!(missing.is_empty(), "seen without a record: {missing:?}");
        recovered
    }
}

/// True if a byte of an answer came.
fn ask(server: &str, model: &str, id: &str, streams: bool) -> bool {
    use std::io::Write;
    let body = format!(
        r#"{{"model": "{model}", "prompt": "Hello", "max_tokens": 12, "ignore_eos": true, "stream": {streams}}}"#
    );
    let head = format!("Host: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nX-Request-Id: {id}");
    let Ok(mut stream) = TcpStream::connect(server) else { return false };
    let length = body.len();
    let sent = write!(stream, "POST /v1/completions HTTP/1.1\r\n{head}\r\nContent-Length: {length}\r\n\r\n{body}");
    let mut answer = Vec::new();
    let read = sent.and_then(|()| stream.read_to_end(&mut answer));
    drop(read); // a kill breaks it off
    answer.starts_with(b"HTTP/1.1 200")
}
