//! A disk that is full: a small file system where this machine lets its users mount one, else a limit on the size of files.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use tramontane::governance::audit::{Evidence, verify};

use crate::cli::{
    checkpoint,
    serve::{Server, answer},
    tramontane,
};

const SIZE_KIB: u64 = 512;

/// A server whose audit log has little room.
struct Cramped {
    server: Server,
    /// Where the log is, as this process sees it.
    log: PathBuf,
    has_own_file_system: bool,
}

fn serve(model: &Path, directory: &Path, on_failure: &str) -> Cramped {
    let (model, log) = (model.to_str().unwrap(), directory.to_str().unwrap());
    let served = tramontane(&["serve", model, "--audit", "on", "--audit-dir", log, "--audit-on-failure", on_failure]);
    let has_own_file_system =
        Command::new("unshare").args(["-rm", "true"]).status().is_ok_and(|status| status.success());
    let mut command = Command::new(if has_own_file_system { "unshare" } else { "sh" });
    if has_own_file_system {
        let mount = format!("mount -t tmpfs -o size={SIZE_KIB}k none '{log}' && exec \"$@\"");
        command.args(["-rm", "sh", "-c", &mount, "sh"]);
    } else {
        command.args(["-c", &format!("trap '' XFSZ; ulimit -f {}; exec \"$@\"", 2 * SIZE_KIB), "sh"]);
    }
    command.arg(served.get_program()).args(served.get_args()).env_clear();
    command.envs(served.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    let server = Server::start_as(command, &[], &[]);
    let log = match has_own_file_system {
        true => PathBuf::from(format!("/proc/{}/root{log}", server.id())),
        false => directory.to_owned(),
    };
    Cramped { server, log, has_own_file_system }
}

impl Cramped {
    fn status(&self, model: &Path) -> String {
        let name = model.file_name().unwrap().to_str().unwrap();
        let body = format!(r#"{{"model": "{name}", "prompt": "Hello", "max_tokens": 1}}"#);
        answer(self.server.post("/v1/completions", &body))
    }

    /// Takes all the room that is left, or that files may have.
    fn fill(&self) {
        if self.has_own_file_system {
            let mut ballast = fs::File::create(self.log.join("ballast")).unwrap();
            while ballast.write_all(&[0; 64]).is_ok() {}
        } else {
            self.limit("1");
        }
    }

    fn make_room(&self) {
        if self.has_own_file_system {
            fs::remove_file(self.log.join("ballast")).unwrap();
        } else {
            self.limit("unlimited");
        }
    }

    fn limit(&self, bytes: &str) {
        let limited =
            Command::new("prlimit").args(["--pid", &self.server.id(), &format!("--fsize={bytes}:unlimited")]).status();
        assert!(limited.unwrap().success());
    }

    fn lost(&self) -> bool {
        let metrics = self.server.get("/metrics");
        let line = metrics.lines().find(|line| line.starts_with("tramontane:audit_records_lost_total")).unwrap();
        !line.ends_with(" 0")
    }
}

#[test]
fn nobody_is_answered_on_a_full_disk_and_everybody_once_there_is_room() {
    let (model, directory) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    checkpoint::write(model.path());
    let cramped = serve(model.path(), directory.path(), "refuse");
    assert!(cramped.status(model.path()).starts_with("HTTP/1.1 200"));
    cramped.fill();
    // What is left of the last page may hold a record or two.
    let refused =
        (0..20).map(|_| cramped.status(model.path())).find(|answer| answer.starts_with("HTTP/1.1 503")).unwrap();
    assert!(refused.contains("audit log") && refused.to_lowercase().contains("retry-after"), "{refused}");
    for _ in 0..5 {
        assert!(cramped.status(model.path()).starts_with("HTTP/1.1 503"));
    }
    // What is there is still a log.
    verify(&cramped.log, &Evidence::default()).unwrap();
    cramped.make_room();
    assert!(cramped.status(model.path()).starts_with("HTTP/1.1 200"));
    let report = verify(&cramped.log, &Evidence::default()).unwrap();
    assert!(report.unfinished <= 1, "what had begun has its end by now: {report:?}");
}

/// Files may have no bytes when it starts, and as many as they like later.
#[test]
fn a_server_that_may_go_on_without_a_log_starts_without_one_and_opens_it_later() {
    let (model, directory) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    checkpoint::write(model.path());
    let log = directory.path().join("audit");
    let flags = |on_failure| ["--audit", "on", "--audit-dir", log.to_str().unwrap(), "--audit-on-failure", on_failure];
    let cramped = |on_failure| {
        let serving = Server::command(model.path(), &flags(on_failure));
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' XFSZ; ulimit -S -f 0; exec \"$@\"", "sh"]);
        command.arg(serving.get_program()).args(serving.get_args()).env_clear();
        command.envs(serving.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.current_dir(env!("CARGO_MANIFEST_DIR"));
        command
    };
    let refused = crate::cli::run(&mut cramped("refuse"));
    assert!(refused.code == 1 && refused.err.contains("audit"), "{}", refused.err);
    let mut server = Cramped { server: Server::of(&mut cramped("continue")), log, has_own_file_system: false };
    assert!(server.status(model.path()).starts_with("HTTP/1.1 200"));
    assert!(server.lost(), "it is counted");
    server.make_room();
    server.server.log_until("the audit log is open");
    assert!(server.status(model.path()).starts_with("HTTP/1.1 200"));
    let report = verify(&server.log, &Evidence::default()).unwrap();
    assert!(report.records >= 2, "{report:?}");
}

#[test]
fn an_operator_may_prefer_answers_without_records() {
    let (model, directory) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    checkpoint::write(model.path());
    let cramped = serve(model.path(), directory.path(), "continue");
    cramped.fill();
    for _ in 0..20 {
        assert!(cramped.status(model.path()).starts_with("HTTP/1.1 200"));
    }
    assert!(cramped.lost(), "it is counted");
    cramped.make_room();
    assert!(cramped.status(model.path()).starts_with("HTTP/1.1 200"));
    verify(&cramped.log, &Evidence::default()).unwrap();
}
